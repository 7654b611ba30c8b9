"""A model on disk: `config.json` with a card, and `model.safetensors`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from braincl.errors import ModelError
from braincl.models.config import SharedContextConfig
from braincl.models.per_voxel import ARCHITECTURE as PER_VOXEL
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.models.shared_context import SharedContextNetwork
from setcore.checkpoint import CONFIG_FILE, WEIGHTS_FILE, load_config, load_state, load_tensors, save_model
from setcore.errors import CheckpointError
from setcore.files import read_json

SHARED_CONTEXT = "shared_context"
EMBEDDED = Path(__file__).parents[1] / "weights"
DEFAULT_MODEL = "agnostic"


@dataclass
class ModelCard:
    """What a model folder says beside its weights.

    `backbone` is the image encoder that the model is bound to; empty where it takes any, or where nobody recorded it.
    """

    training_subjects: list[str] = field(default_factory=list)
    prior_reason: str = ""
    backbone: str = ""
    standardize: bool = True
    training: dict[str, Any] = field(default_factory=dict)


def find_model(path_or_name: str | Path | None) -> Path:
    """The folder of a model.

    Raises
    ------
    ModelError
    """
    if path_or_name is None:
        return EMBEDDED / DEFAULT_MODEL
    folder = Path(path_or_name)
    if folder.is_dir():
        return folder
    names = sorted(path.parent.name for path in EMBEDDED.glob(f"*/{WEIGHTS_FILE}"))
    if str(path_or_name) in names:
        return EMBEDDED / str(path_or_name)
    raise ModelError(
        f"{path_or_name} is neither a model folder nor an embedded model; embedded are: {', '.join(names)}"
    )


def load_model(folder: Path) -> tuple[SharedContextNetwork | PerVoxelNetwork, ModelCard]:
    """Network and card of a model folder.

    Raises
    ------
    CheckpointError
    """
    network: SharedContextNetwork | PerVoxelNetwork
    if architecture_of(folder) == PER_VOXEL:
        published, extra = load_config(folder, PerVoxelConfig)
        network = PerVoxelNetwork(published)
    else:
        config, extra = load_config(folder, SharedContextConfig)
        network = SharedContextNetwork(config)
    path = folder / WEIGHTS_FILE
    load_state(network, load_tensors(path), str(path))
    card = {name: value for name, value in extra.items() if name in ModelCard.__dataclass_fields__}
    return network.eval(), ModelCard(**card)


def architecture_of(folder: Path) -> str:
    """What `config.json` names as the architecture.

    Raises
    ------
    CheckpointError
    """
    path = folder / CONFIG_FILE
    values = read_json(path) if path.is_file() else {}
    architecture = values.get("architecture") if isinstance(values, dict) else None
    if architecture not in (PER_VOXEL, SHARED_CONTEXT):
        raise CheckpointError(
            f"{folder} is not a model folder of braincl: {CONFIG_FILE} names architecture {architecture!r}, expected "
            f"{SHARED_CONTEXT!r} or {PER_VOXEL!r}"
        )
    return architecture


def save_encoder(folder: str | Path, network: SharedContextNetwork, card: ModelCard, *, half: bool = False) -> None:
    """Write a model folder that `InContextEncoder.from_pretrained` reads."""
    save_model(
        folder, network.config, network, half=half, architecture=SHARED_CONTEXT,
        training_subjects=card.training_subjects, prior_reason=card.prior_reason, backbone=card.backbone,
        standardize=card.standardize, training=card.training,
    )  # fmt: skip
