"""Model folders: the network, its token model and what is known of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from setcore.checkpoint import WEIGHTS_FILE, build_network, load_config, load_tensors
from setcore.errors import CheckpointError, naming
from setcore.model_lookup import find_model_folder
from vat3d.bitstream.token_model import TokenModel, embedded_models, load_token_model, model_hash
from vat3d.errors import CodecError
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.config import CodecConfig

DEFAULT_MODEL = "default"
DECODING = ("decoder.", "field.", "quantizer.")
"""Prefixes of the tensors that decoding depends on; the model id covers these."""


def load_pretrained(path_or_name: str | Path | None = None) -> tuple[CodecNetwork, TokenModel, dict[str, Any]]:
    """A tokenizer's parts.

    Parameters
    ----------
    path_or_name : path or str, optional
        A model folder, the name or id of an embedded model, or (None) the embedded default.

    Returns
    -------
    network : CodecNetwork
        In float32, frozen.
    model : TokenModel
    facts : dict
        Of its training.

    Raises
    ------
    CheckpointError, CodecError
        There is no such model, or something of it is missing, damaged, or belongs to another model.
    """
    embedded = {name: folder for key, folder in embedded_models().items() for name in (folder.name, key)}
    folder = find_model_folder(path_or_name, embedded, DEFAULT_MODEL, CodecError)
    with naming(folder):
        token_model = load_token_model(folder)
    config, extra = load_config(folder, CodecConfig)
    tensors = load_tensors(folder / WEIGHTS_FILE)
    network = build_network(lambda: CodecNetwork(config), tensors, str(folder / WEIGHTS_FILE))
    decoding = {name: tensor for name, tensor in tensors.items() if name.startswith(DECODING)}
    if model_hash(decoding, config.scales, token_model.tables) != token_model.model_id:
        raise CheckpointError(f"{folder}: weights and tables are not of one model; fetch the folder again")
    return network.requires_grad_(False), token_model, extra.get("facts", {})
