"""What a model says about its token files, and where it keeps that: enough to read files, not to decode shapes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from safetensors.numpy import save_file

from setcore.files import atomic_path
from vat3d.bitstream.entropy import Tables
from vat3d.errors import CodecError

ID_BYTES = 4
COUNT_BITS = 13
"""Of a file's header for the number of tokens."""
TOKENS_FILE, CONFIG_FILE = "tokens.safetensors", "config.json"
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
        Shape of the latent grid (planes, rows, columns, channels), for files with a residual; empty if unknown.
    """

    model_id: str
    scales: tuple[int, ...]
    tables: Tables
    latent: tuple[int, ...] = ()

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

    def split(self, ids: np.ndarray) -> list[np.ndarray]:
        """Cut a prefix of ids, shape (count,), into one array per scale; the last one may be partial."""
        ends = np.minimum(np.cumsum(self.scales), ids.size)
        starts = np.concatenate([[0], ends[:-1]])
        return [ids[start:end] for start, end in zip(starts, ends, strict=True) if end > start]


def model_hash(tensors: Mapping[str, Any], scales: Sequence[int], tables: Tables) -> str:
    """The id of a model: a hash of everything that decoding depends on.

    Parameters
    ----------
    tensors : mapping of names to arrays or CPU tensors
        Decoder and codebook, in the precision in which they are stored.
    """
    digest = hashlib.sha256(repr(tuple(int(size) for size in scales)).encode())
    values = {f"tensors.{name}": np.asarray(value) for name, value in tensors.items()}
    values |= {f"tables.{name}": array for name, array in _arrays(tables).items()}
    for name in sorted(values):
        array = np.ascontiguousarray(values[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()[: 2 * ID_BYTES]


def _arrays(tables: Tables) -> dict[str, np.ndarray]:
    return {name: getattr(tables, name).astype(np.int32) for name in ("frequencies", "row", "parent", "bucket")}


def save_token_model(folder: str | Path, model: TokenModel) -> None:
    """Write `model` to ``tokens.safetensors`` in an existing model folder, atomically."""
    arrays = _arrays(model.tables) | {"scales": np.array(model.scales, dtype=np.int32)}
    with atomic_path(Path(folder) / TOKENS_FILE) as temporary:
        save_file(arrays, temporary, metadata={"model_id": model.model_id})


def load_token_model(folder: str | Path) -> TokenModel:
    """Read ``tokens.safetensors`` of a model folder.

    Raises
    ------
    CodecError
        The file is absent, damaged, or contradicts itself.
    """
    path = Path(folder) / TOKENS_FILE
    if not path.is_file():
        raise CodecError(f"{path} does not exist; a model folder of vat3d holds one")
    try:
        with safetensors.safe_open(path, "np") as file:
            model_id = (file.metadata() or {}).get("model_id", "")
            arrays = {name: file.get_tensor(name) for name in ("frequencies", "row", "parent", "bucket")}
            scales = tuple(int(size) for size in file.get_tensor("scales"))
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CodecError(f"{path} is not a readable table file ({error}); fetch it again") from error
    return TokenModel(model_id, scales, Tables(**arrays), _latent_shape(path.parent / CONFIG_FILE))


def _latent_shape(path: Path) -> tuple[int, ...]:
    """Shape of the latent grid by the model's configuration; empty where there is none."""
    try:
        config = json.loads(path.read_text())["config"]
        return 3, int(config["grid"]), int(config["grid"]), int(config["channels"])
    except (OSError, ValueError, KeyError, TypeError):
        return ()


@lru_cache(maxsize=1)
def embedded_models() -> dict[str, tuple[Path, TokenModel]]:
    """The folders and token models that the package carries, by id."""
    folders = [path.parent for path in sorted(WEIGHTS_FOLDER.glob(f"*/{TOKENS_FILE}"))]
    return {
        model.model_id: (folder, model) for folder, model in zip(folders, map(load_token_model, folders), strict=True)
    }


def embedded_model(model_id: str) -> tuple[Path, TokenModel]:
    """Folder and token model of the embedded model that wrote a file.

    Raises
    ------
    CodecError
        The package does not carry it.
    """
    if model_id not in embedded_models():
        raise CodecError(f"the file was written with model {model_id}, which is not here; name its model folder")
    return embedded_models()[model_id]
