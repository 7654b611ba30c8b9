"""Published checkpoints of BraInCoRL, turned into model folders."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from braincl.models.model_folder import ModelCard, save_encoder
from braincl.models.per_voxel import PUBLISHED_HEADS, PerVoxelConfig, PerVoxelNetwork
from setcore.checkpoint import check_state
from setcore.errors import CheckpointError, InputError


def convert_published(published: str | Path, out: str | Path) -> PerVoxelConfig:
    """Turn a published checkpoint into a model folder, which appears whole or not at all.

    Parameters
    ----------
    published : path of a PyTorch file that holds one dictionary of tensors and nothing else
    out : folder to make; it must not hold anything

    Returns
    -------
    PerVoxelConfig
        Sizes read from the shapes of the tensors.

    Raises
    ------
    CheckpointError
        The file is damaged, holds more than tensors, or is not of this architecture.
    InputError
        `out` is not empty or cannot be made.

    Examples
    --------
    >>> import braincl
    >>> import torch
    >>> from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
    >>> network = PerVoxelNetwork(PerVoxelConfig(16, width=40, layers=1, hidden=32))  # stands in for a published one
    >>> torch.save(network.state_dict(), "published.pth")
    >>> braincl.convert_published("published.pth", "model").features
    16
    >>> braincl.InContextEncoder.from_pretrained("model").standardize  # published networks take responses as they are
    False
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder; name a new folder")
    if not out.absolute().parent.is_dir():
        raise InputError(f"folder {out.absolute().parent} does not exist; create it first")
    state = _read_published(published)
    config = _config_from_shapes(state, str(published))
    with torch.device("meta"):
        network = PerVoxelNetwork(config)
    check_state(network, state, str(published))
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        reason = "a converted checkpoint brings no population prior"
        save_encoder(folder, network, ModelCard(prior_reason=reason, standardize=False))
        try:
            folder.rename(out)
        except OSError as error:
            raise InputError(f"cannot make {out}: {error.strerror}") from error
    return config


def _read_published(path: str | Path) -> dict[str, Tensor]:
    """The dictionary of tensors in a file, read without running any code that it may hold.

    What PyTorch puts before names is taken off: ``module.`` of parallel training, ``_orig_mod.`` of compiled networks.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file")
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # refused globals, truncated archives and foreign formats each raise their own
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is not a PyTorch file of raw tensors ({reason}); it is damaged or holds code, which is never run"
        ) from error
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path} holds a {type(state).__name__}; expected a dictionary of tensors")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise CheckpointError(f"{path}: entry {name!r} is not a floating point tensor; pass the bare state dict")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name!r} holds NaN or inf; fetch the file again")
    return {re.sub(r"^((module|_orig_mod)\.)+", "", str(name)): tensor for name, tensor in state.items()}


def _config_from_shapes(state: dict[str, Tensor], where: str) -> PerVoxelConfig:
    """The sizes of a published network, from the shapes of its tensors."""
    layers = {int(match[1]) for name in state if (match := re.match(r"transformer\.(\d+)\.", str(name)))}
    try:
        width, pair = state["early_layers.0.bypass.weight"].shape
        hidden = state["transformer.0.ffn.linear2.weight"].shape[1]
        return PerVoxelConfig(pair - 1, width, len(layers), PUBLISHED_HEADS, hidden)
    except KeyError as error:
        raise CheckpointError(
            f"{where}: tensor {error} is missing; this is not a published BraInCoRL network"
        ) from None
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"{where}: {error}; this is not a published BraInCoRL network") from error
