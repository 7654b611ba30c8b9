"""A model on disk: `config.json` with a card, and `model.safetensors`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from braincl.data.torch_settings import plain_torch
from braincl.errors import ModelError
from braincl.models.network import InContextNetwork
from braincl.models.per_voxel import PerVoxelNetwork
from braincl.models.shared_context import SharedContextNetwork
from setcore.checkpoint import CONFIG_FILE, WEIGHTS_FILE, build_network, load_config, load_tensors, save_model
from setcore.errors import CheckpointError
from setcore.files import read_json
from setcore.model_lookup import embedded_models, find_model_folder

EMBEDDED = Path(__file__).parents[1] / "weights"
DEFAULT_MODEL = "agnostic"
NETWORKS: dict[str, type[InContextNetwork]] = {
    kind.architecture: kind for kind in (SharedContextNetwork, PerVoxelNetwork)
}


@dataclass
class ModelCard:
    """What a model folder says beside its weights.

    Parameters
    ----------
    training_subjects : list of str
        Names of the subjects that the model was trained on.
    prior_reason : str
        Why the model holds no population prior; empty where it does.
    backbone : str
        The image encoder that the model is bound to; empty where it takes any, or where nobody recorded it.
    standardize : bool
        Whether responses are to be standardised on the context.
    training : dict
        Plain JSON values: seed, configuration, and the best validation.
    training_images : list of str
        `short_ids` of the pictures that the model was trained on; empty where nobody recorded them.
    """

    training_subjects: list[str] = field(default_factory=list)
    prior_reason: str = ""
    backbone: str = ""
    standardize: bool = True
    training: dict[str, Any] = field(default_factory=dict)
    training_images: list[str] = field(default_factory=list)


def find_model(path_or_name: str | Path | None) -> Path:
    """The folder of a model.

    Parameters
    ----------
    path_or_name : path or str, optional
        A model folder, or the name of an embedded model; None: the embedded default.

    Returns
    -------
    Path

    Raises
    ------
    ModelError
        It is neither.
    """
    return find_model_folder(path_or_name, embedded_models(EMBEDDED), DEFAULT_MODEL, ModelError)


@plain_torch()
def load_model(folder: Path) -> tuple[InContextNetwork, ModelCard]:
    """Network and card of a model folder.

    Parameters
    ----------
    folder : path
        See `find_model`.

    Returns
    -------
    network : InContextNetwork
        In evaluation mode; its attribute `card` is the card.
    card : ModelCard

    Raises
    ------
    CheckpointError
        The folder is damaged or of another architecture.
    """
    kind = NETWORKS[architecture_of(folder)]
    config: Any
    config, extra = load_config(folder, kind.config_class)
    path = folder / WEIGHTS_FILE
    network = build_network(lambda: kind(config), load_tensors(path), str(path))
    card = ModelCard(**{name: value for name, value in extra.items() if name in ModelCard.__dataclass_fields__})
    network.card = card
    return network, card


def architecture_of(folder: Path) -> str:
    """What `config.json` names as the architecture.

    Parameters
    ----------
    folder : path

    Returns
    -------
    str
        A key of `NETWORKS`.

    Raises
    ------
    CheckpointError
        There is no such file, or it names another one.
    """
    path = folder / CONFIG_FILE
    values = read_json(path) if path.is_file() else {}
    architecture = values.get("architecture") if isinstance(values, dict) else None
    if architecture not in NETWORKS:
        raise CheckpointError(
            f"{folder} is not a model folder of braincl: {CONFIG_FILE} names architecture {architecture!r}, expected "
            f"{' or '.join(map(repr, NETWORKS))}"
        )
    return str(architecture)


def save_encoder(folder: str | Path, network: InContextNetwork, card: ModelCard, *, half: bool = False) -> None:
    """Write a model folder that `InContextEncoder.from_pretrained` reads.

    Parameters
    ----------
    folder : path
        An existing one.
    network : InContextNetwork
    card : ModelCard
    half : bool
        Store weights as fp16.
    """
    save_model(folder, network.config, network, half=half, architecture=network.architecture, **asdict(card))


def short_ids(image_ids: Iterable[str]) -> list[str]:
    """Pictures by eight hexadecimal digits each, so that a model can say which ones it has seen.

    Parameters
    ----------
    image_ids : iterable of str

    Returns
    -------
    list of str
        In the order of `image_ids`.
    """
    return [hashlib.sha256(str(image_id).encode()).hexdigest()[:8] for image_id in image_ids]
