"""The binary side of glTF: containers, buffers, views and accessors."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import MeshError

MAX_ELEMENTS = 60_000_000
"""Most elements of an accessor that no data stand behind."""
_KINDS = {5120: "i1", 5121: "u1", 5122: "i2", 5123: "u2", 5125: "u4", 5126: "f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
_JSON, _BIN = 0x4E4F534A, 0x004E4942


def open_gltf(data: bytes) -> tuple[Any, bytes | None]:
    """The JSON tree of a glTF file and, of a GLB, its binary chunk.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    tree : dict
    chunk : bytes or None

    Raises
    ------
    MeshError
        The header does not fit the file, or the JSON is none.
    """
    text, chunk = _glb_chunks(data) if data.startswith(b"glTF") else (data, None)
    try:
        tree = json.loads(text)
        if not isinstance(tree, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as error:
        raise MeshError(f"the file is no glTF: its JSON part is damaged ({str(error)[:80]}); export it again") from None
    return tree, chunk


def _glb_chunks(data: bytes) -> tuple[bytes, bytes | None]:
    if len(data) < 20:
        raise MeshError("the GLB file ends within its header; it is cut off")
    version, length, size, kind = struct.unpack_from("<IIII", data, 4)
    if version != 2 or length != len(data) or kind != _JSON or 20 + size > len(data):
        raise MeshError(f"the GLB header (version {version}, {length} bytes) does not fit a file of {len(data)} bytes")
    if 28 + size > len(data):
        return data[20 : 20 + size], None
    room, kind = struct.unpack_from("<II", data, 20 + size)
    if 28 + size + room > len(data):
        raise MeshError(f"the GLB file claims {room} bytes of data and ends before; it is cut off")
    return data[20 : 20 + size], data[28 + size : 28 + size + room] if kind == _BIN else None


class Buffers:
    """What the accessors of a glTF file hold; every claim is checked against the bytes that are there.

    Parameters
    ----------
    tree : dict
        The JSON part.
    chunk : bytes, optional
        The binary chunk of a GLB file.
    folder : Path, optional
        Where files lie that the buffers may name. By default none may be named.
    """

    def __init__(self, tree: dict[str, Any], chunk: bytes | None, folder: Path | None = None) -> None:
        self._tree, self._chunk, self._folder = tree, chunk, folder
        self._loaded: dict[int, bytes] = {}

    def accessor(self, index: int) -> NDArray[Any]:
        """The values of an accessor.

        Parameters
        ----------
        index : int

        Returns
        -------
        array of shape (count,) or (count, width)
            Normalised integers as float64 of -1 to 1, others in their own type. Matrices as 16 columns.

        Raises
        ------
        MeshError
            The values reach beyond the data.
        """
        found = _entry(self._tree["accessors"], index)
        count, kind = _whole(found["count"]), _KINDS[found["componentType"]]
        width = _WIDTHS[found["type"]]
        if "bufferView" in found:
            values = self._rows(found["bufferView"], _whole(found.get("byteOffset", 0)), count, kind, width)
        elif "sparse" not in found and "extensions" in found:
            raise MeshError("the GLB file has data in the extension " + ", ".join(found["extensions"]))
        elif count > MAX_ELEMENTS:
            raise MeshError(f"an accessor of the GLB file claims {count} items, more than there are")
        else:
            values = np.zeros((count, width), "<" + kind)
        if "sparse" in found:
            values = self._replaced(values, found["sparse"])
        if found.get("normalized") and values.dtype.kind in "iu":
            values = np.maximum(values / np.iinfo(values.dtype).max, -1.0)
        return values[:, 0] if width == 1 else values

    def _replaced(self, values: NDArray[Any], sparse: dict[str, Any]) -> NDArray[Any]:
        """Values, some of which stand in a list of their own."""
        count, at, new = _whole(sparse["count"]), sparse["indices"], sparse["values"]
        offsets = _whole(at.get("byteOffset", 0)), _whole(new.get("byteOffset", 0))
        rows = self._rows(at["bufferView"], offsets[0], count, _KINDS[at["componentType"]], 1)[:, 0]
        if count and int(rows.max()) >= len(values):
            raise MeshError("a sparse accessor of the GLB file replaces an item that is not there; it is damaged")
        values = values.copy()
        values[rows] = self._rows(new["bufferView"], offsets[1], count, values.dtype.str[1:], values.shape[1])
        return values

    def _rows(self, view: int, offset: int, count: int, kind: str, width: int) -> NDArray[Any]:
        found = _entry(self._tree["bufferViews"], view)
        data = self._buffer(found["buffer"], found)
        start, size = _whole(found.get("byteOffset", 0)), _whole(found["byteLength"])
        if start + size > len(data):
            raise MeshError("a buffer view of the GLB file reaches beyond its data; it is cut off or damaged")
        row = np.dtype((f"<{kind}", (width,)))
        stride = _whole(found.get("byteStride", 0)) or row.itemsize
        if stride < row.itemsize:
            raise MeshError("the items of a buffer view of the GLB file overlap; it is damaged")
        if count and offset + stride * (count - 1) + row.itemsize > size:
            raise MeshError(f"an accessor of the GLB file claims {count} items, more than there are")
        return np.ndarray((count, width), f"<{kind}", data, start + offset, (stride, row.base.itemsize))

    def _buffer(self, index: int, view: dict[str, Any]) -> bytes:
        if index not in self._loaded:
            found = _entry(self._tree["buffers"], index)
            extensions = {**found.get("extensions", {}), **view.get("extensions", {})}
            data = self._chunk if index == 0 and "uri" not in found else self._outside(found.get("uri"), extensions)
            need = _whole(found["byteLength"])
            if data is None or len(data) < need:
                raise MeshError(f"a buffer of the GLB file claims {need} bytes, there are {len(data or b'')}: cut off")
            self._loaded[index] = data
        return self._loaded[index]

    def _outside(self, uri: Any, extensions: dict[str, Any]) -> bytes:
        """The bytes of a data URI, or of a file in the same folder."""
        if uri is None:
            raise MeshError(
                f"the GLB file keeps its data by {', '.join(extensions) or 'no known way'}: export it plainly"
            )
        scheme, _, rest = uri.partition(":")
        if scheme.lower() == "data" and "," in rest:
            kind, _, text = rest.partition(",")
            if not kind.lower().endswith(";base64"):
                return unquote_to_bytes(text)
            try:
                return base64.b64decode("".join(unquote(text).split()), validate=True)
            except binascii.Error:
                raise MeshError("a data URI of the GLB file is no base64; it is damaged") from None
        where = "lies outside"
        if self._folder is not None:
            where = "is no file beside it"
            for name in (uri, unquote(uri)):
                with suppress(OSError, ValueError):
                    path = self._folder / name
                    if Path(name).parent == Path() and not path.is_symlink() and path.is_file():
                        return path.read_bytes()
        raise MeshError(f"the file refers to {uri[:60]!r}, which {where}; embed everything and export it again")


def _entry(entries: Any, index: Any) -> Any:
    """An entry of a list by its index, which may not count from the end."""
    return entries[_whole(index)]


def _whole(number: Any) -> int:
    """A count or an offset."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise ValueError(f"{str(number)[:20]} is no count")
    return number
