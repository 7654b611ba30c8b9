"""What a model says about its token files, and where it keeps that: enough to read files, not to decode shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray
from safetensors.numpy import save

from setcore.files import write_bytes
from vat3d.bitstream.entropy import Tables
from vat3d.bitstream.header import COUNT_BITS, ID_BYTES
from vat3d.errors import CodecError

TABLES_FILE = "tables.safetensors"
BEFORE_RELEASE = "tokens.safetensors"
"""What versions before the first release called it."""
WEIGHTS_FOLDER = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True, eq=False)
class TokenModel:
    """Id, scales and entropy tables of a model.

    Parameters
    ----------
    model_id : str
        Eight hexadecimal digits, from `model_hash`.
    scales : tuple of int
        Tokens in each scale, coarse to fine.
    tables : Tables
    latent : tuple of int
        Shape of the latent grid (planes, rows, columns, channels), which a residual has.

    Raises
    ------
    CodecError
        The parts contradict each other.
    """

    model_id: str
    scales: tuple[int, ...]
    tables: Tables
    latent: tuple[int, ...]

    def __post_init__(self) -> None:
        try:
            good = len(bytes.fromhex(self.model_id)) == ID_BYTES
        except ValueError:
            good = False
        if not good:
            raise CodecError(f"model id {self.model_id!r} is not {2 * ID_BYTES} hexadecimal digits")
        if not self.scales or min(self.scales) < 1 or sum(self.scales) != self.tables.tokens:
            raise CodecError(f"scales {self.scales} do not add up to the {self.tables.tokens} tokens of the tables")
        if self.tables.tokens >= 1 << COUNT_BITS:
            raise CodecError(f"{self.tables.tokens} tokens are more than a file can count")

    def split(self, ids: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Cut a prefix of ids into scales.

        Parameters
        ----------
        ids : array of shape (count,)

        Returns
        -------
        list of arrays
            One for each scale that begins within the prefix; the last one may be partial.
        """
        ends = np.minimum(np.cumsum(self.scales), ids.size)
        starts = np.concatenate([[0], ends[:-1]])
        return [ids[start:end] for start, end in zip(starts, ends, strict=True) if end > start]

    def check_ids(self, ids: Sequence[NDArray[np.int64]]) -> None:
        """Refuse ids that are no prefix of this model's tokens.

        Parameters
        ----------
        ids : sequence of arrays
            One for each scale.

        Raises
        ------
        CodecError
        """
        sizes = [part.size for part in ids]
        whole = list(self.scales[: len(sizes)])
        if not sizes or len(sizes) > len(self.scales) or sizes[:-1] != whole[:-1] or not 0 < sizes[-1] <= whole[-1]:
            raise CodecError(f"ids come in scales of {sizes}, but the model's are {list(self.scales)}")
        flat = np.concatenate(ids)
        if flat.min() < 0 or flat.max() >= self.tables.codes:
            raise CodecError(f"a token id lies outside 0..{self.tables.codes - 1}")


def model_hash(tensors: Mapping[str, Any], scales: Sequence[int], tables: Tables) -> str:
    """The id of a model: a hash of everything that decoding depends on.

    Parameters
    ----------
    tensors : mapping of names to arrays or CPU tensors
        Decoder and codebook, in the precision in which they are stored.
    scales : sequence of int
        Tokens in each scale.
    tables : Tables

    Returns
    -------
    str
        Eight hexadecimal digits.
    """
    digest = hashlib.sha256(repr(tuple(int(size) for size in scales)).encode())
    values = {f"tensors.{name}": np.asarray(value) for name, value in tensors.items()}
    values |= {f"tables.{name}": array for name, array in _arrays(tables).items()}
    for name in sorted(values):
        array = np.ascontiguousarray(values[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()[: 2 * ID_BYTES]


def _arrays(tables: Tables) -> dict[str, NDArray[np.int32]]:
    return {name: getattr(tables, name).astype(np.int32) for name in ("frequencies", "row", "parent", "bucket")}


def save_token_model(folder: str | Path, model: TokenModel) -> None:
    """Write a token model into an existing model folder, atomically.

    Parameters
    ----------
    folder : path
    model : TokenModel
    """
    arrays = _arrays(model.tables)
    arrays |= {"scales": np.array(model.scales, np.int32), "latent": np.array(model.latent, np.int32)}
    write_bytes(Path(folder) / TABLES_FILE, save(arrays, metadata={"model_id": model.model_id}))


def load_token_model(folder: str | Path) -> TokenModel:
    """Read the token model of a model folder.

    Parameters
    ----------
    folder : path

    Returns
    -------
    TokenModel

    Raises
    ------
    CodecError
        Its file is absent, damaged, or contradicts itself.
    """
    path = Path(folder) / TABLES_FILE
    if not path.is_file():
        if path.with_name(BEFORE_RELEASE).is_file():
            raise CodecError(f"{folder} was made by a version before the first release; train the model again")
        raise CodecError(f"{path} does not exist; a model folder of vat3d holds one")
    try:
        with safetensors.safe_open(path, "np") as file:
            model_id = (file.metadata() or {}).get("model_id", "")
            arrays = {name: file.get_tensor(name) for name in ("frequencies", "row", "parent", "bucket")}
            scales, latent = (tuple(int(size) for size in file.get_tensor(name)) for name in ("scales", "latent"))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CodecError(f"{path} is not a readable table file ({error}); fetch it again") from error
    return TokenModel(model_id, scales, Tables(**arrays), latent)


@lru_cache(maxsize=1)
def embedded_models() -> dict[str, Path]:
    """Folders of the models that the package carries, by id.

    Returns
    -------
    dict
    """
    folders = [path.parent for path in sorted(WEIGHTS_FOLDER.glob(f"*/{TABLES_FILE}"))]
    return {load_token_model(folder).model_id: folder for folder in folders}


@lru_cache(maxsize=1)
def embedded_model(model_id: str) -> TokenModel:
    """The embedded model that wrote a file.

    Parameters
    ----------
    model_id : str

    Returns
    -------
    TokenModel

    Raises
    ------
    CodecError
        The package does not carry it.
    """
    if model_id not in embedded_models():
        raise CodecError(f"the file was written with model {model_id}, which is not here; name its model folder")
    return load_token_model(embedded_models()[model_id])
