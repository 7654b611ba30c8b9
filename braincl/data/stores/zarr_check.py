"""Whether a Zarr store can be read: what its metadata say is looked at before anything is decoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from braincl.errors import ResponseError

CODECS = (
    "blosc", "bytes", "bz2", "crc32c", "delta", "fixedscaleoffset", "gzip", "lz4", "shuffle", "transpose", "vlen-bytes",
    "vlen-utf8", "zlib", "zstd",
)  # fmt: skip
METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
LARGEST_CHUNK = 1 << 30  # bytes, decoded


def check_zarr(path: str | Path) -> None:
    """Refuse a Zarr store that is cut short, would run code, or has chunks that do not fit.

    Parameters
    ----------
    path : path of a folder

    Raises
    ------
    ResponseError
    """
    import zarr

    folder = Path(path)
    files = [file for file in folder.rglob("*") if file.name in METADATA[:3]]
    if not files:
        raise ResponseError(
            f"{path} is not a file but a folder without Zarr metadata; name a NetCDF-4 file or a Zarr store"
        )
    for file in files:
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ResponseError(f"{path}: {file.name} is damaged ({error}); fetch or write the store again") from error
        codecs = _codecs(found)
        for codec in codecs:
            if codec not in CODECS:
                raise ResponseError(f"{path}: codec {codec!r} of {file.parent.name!r} is not one that is read here")
        if codecs[-1:] == ["blosc"] or codecs == ["bytes", "blosc"]:
            _check_blosc(path, file.parent)
    for name, array in zarr.open_group(folder, mode="r").arrays():
        size = array.dtype.itemsize
        for length in array.chunks:
            size *= length
        if size > LARGEST_CHUNK:
            raise ResponseError(f"{path}: chunks of {name!r} have {size / 1e9:.3g} GB; write it in smaller ones")
        if (there := array.nchunks_initialized) < array.nchunks and array.dtype.kind == "f":
            raise ResponseError(
                f"{path}: {array.nchunks - there} of {array.nchunks} chunks of {name!r} are missing: the store was cut "
                "short; fetch or write it again"
            )


def _check_blosc(path: str | Path, array: Path) -> None:
    """Refuse chunks of another size than they state: Blosc would read beyond their end."""
    for chunk in array.rglob("*"):
        if not chunk.is_file() or chunk.name in METADATA:
            continue
        with open(chunk, "rb") as file:
            header = file.read(16)
        if len(header) < 16 or int.from_bytes(header[12:], "little") != chunk.stat().st_size:
            raise ResponseError(
                f"{path}: chunk {chunk.name!r} of {array.name!r} is cut short; fetch or write the store again"
            )


def _codecs(metadata: Any) -> list[str]:
    """Names of all codecs, compressors and filters that array metadata of format 2 or 3 name."""
    if not isinstance(metadata, dict):
        return []
    named = [*(metadata.get("filters") or []), metadata.get("compressor"), *(metadata.get("codecs") or [])]
    return [str(codec.get("id", codec.get("name"))).removeprefix("numcodecs.") for codec in named if codec]
