"""Model folders: the network, its token model and what is known of its training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from setcore.checkpoint import WEIGHTS_FILE, load_config, load_state, load_tensors
from setcore.errors import CheckpointError
from vat3d.bitstream.token_model import (
    TokenModel,
    embedded_models,
    load_token_model,
    model_hash,
)
from vat3d.errors import CodecError
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.config import CodecConfig

if TYPE_CHECKING:
    pass


DECODING = ("decoder.", "field.", "quantizer.")
"""Prefixes of the tensors that decoding depends on; the model id covers these."""


def load_release(folder: str | Path) -> tuple[CodecNetwork, TokenModel, dict[str, Any]]:
    """Network (float32, frozen), token model and facts of a model folder.

    Raises
    ------
    CheckpointError, CodecError
        Something is missing, damaged, or belongs to another model.
    """
    config, extra = load_config(folder, CodecConfig)
    token_model = load_token_model(folder)
    network = CodecNetwork(config)
    tensors = load_tensors(Path(folder) / WEIGHTS_FILE)
    load_state(network, tensors, str(Path(folder) / WEIGHTS_FILE))
    decoding = {name: tensor for name, tensor in tensors.items() if name.startswith(DECODING)}
    if model_hash(decoding, config.scales, token_model.tables) != token_model.model_id:
        raise CheckpointError(f"{folder}: weights and tables are not of one model; fetch the folder again")
    return network.eval().requires_grad_(False), token_model, extra.get("facts", {})


DEFAULT_MODEL = "default-5"


def model_folder(path_or_name: str | Path | None) -> Path:
    """Folder of a model: an embedded one by name or id, or any folder.

    Raises
    ------
    CodecError
        It is neither.
    """
    name = DEFAULT_MODEL if path_or_name is None else str(path_or_name)
    embedded = {known: folder for key, (folder, _) in embedded_models().items() for known in (folder.name, key)}
    if name in embedded:
        return embedded[name]
    if Path(name).is_dir():
        return Path(name)
    raise CodecError(f"{name} is neither a model folder nor an embedded model ({', '.join(embedded) or 'none'})")
