"""The published network, BraInCoRL (arXiv 2505.15813), and the reading of its checkpoints.

One voxel is one task: a transformer reads (embedding, response) pairs and emits that voxel's linear encoder.
Axes: n context image, E feature, V voxel, D width, L = n + 4 token, h head.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from setcore.blocks import ResidualMLP, SelfAttentionBlock
from setcore.checkpoint import check_state, save_model
from setcore.errors import CheckpointError, InputError

ARCHITECTURE = "per_voxel"
LEARNED_TOKENS = 4
PUBLISHED_HEADS = 10  # not to be seen in the shapes of the tensors


@dataclass(frozen=True)
class PerVoxelConfig:
    """Sizes of a `PerVoxelNetwork`; the defaults are those of the published CLIP network.

    Parameters
    ----------
    features : int
        Embedding width E.
    width : int
        Token width D.
    layers, heads : int
    hidden : int
        Inner width of the gated feed-forward layers.
    """

    features: int = 512
    width: int = 560
    layers: int = 20
    heads: int = PUBLISHED_HEADS
    hidden: int = 2048

    def __post_init__(self) -> None:
        if min(self.features, self.width, self.layers, self.heads, self.hidden) < 1:
            raise ValueError(f"all sizes must be 1 or more, got {self}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by {self.heads} heads")


class PerVoxelNetwork(nn.Module):
    """Context pairs of a voxel in, its weights and bias out; parameter names are those of the published checkpoints.

    Invariant to the order of the context. Responses are taken as they are: the first norm mixes them with the
    embedding, so the published network is not equivariant to their scale or offset.
    """

    def __init__(self, config: PerVoxelConfig) -> None:
        super().__init__()
        self.config = config
        pair, width = config.features + 1, config.width
        self.cls_token = nn.Parameter(torch.randn(1, LEARNED_TOKENS, width) / (width + 1) ** 0.5)
        self.early_layers = nn.ModuleList([ResidualMLP(pair, 2 * width, width)])
        self.transformer = nn.ModuleList(
            SelfAttentionBlock(width, config.heads, config.hidden, log_length=True) for _ in range(config.layers)
        )
        self.weight_pred = nn.ModuleList([ResidualMLP(width, 2 * width, pair)])

    def forward(
        self, X: Float[Tensor, "n E"], Y: Float[Tensor, "n V"]
    ) -> tuple[Float[Tensor, "V E"], Float[Tensor, " V"]]:
        """Emit weights and bias of every voxel; memory grows with V n D, so callers batch the voxels."""
        tokens = self._tokens(X, Y)
        for layer in self.transformer:
            tokens = layer(tokens)
        emitted = self.weight_pred[0](tokens[:, 0])
        return emitted[:, :-1], emitted[:, -1]

    def context_attention(self, X: Float[Tensor, "n E"], Y: Float[Tensor, "n V"]) -> Float[Tensor, "V h n"]:
        """Attention of the read-out token over the context images in the last layer."""
        tokens = self._tokens(X, Y)
        for layer in self.transformer[:-1]:
            tokens = layer(tokens)
        last = cast(SelfAttentionBlock, self.transformer[-1])
        return last.attention_map(tokens)[:, :, 0, LEARNED_TOKENS:]

    def _tokens(self, X: Tensor, Y: Tensor) -> Float[Tensor, "V L D"]:
        voxels = Y.shape[1]
        pairs = torch.cat([X.expand(voxels, -1, -1), Y.T.unsqueeze(-1)], dim=-1)
        return torch.cat([self.cls_token.expand(voxels, -1, -1), self.early_layers[0](pairs)], dim=1)


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
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder; name a new folder")
    if not out.absolute().parent.is_dir():
        raise InputError(f"folder {out.absolute().parent} does not exist; create it first")
    state = read_published(published)
    config = config_from_shapes(state, str(published))
    with torch.device("meta"):
        network = PerVoxelNetwork(config)
    check_state(network, state, str(published))
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.absolute().parent) as temporary:
        folder = Path(temporary) / "model"
        folder.mkdir()
        save_model(
            folder, config, network, architecture=ARCHITECTURE, standardize=False, training_subjects=[],
            prior_reason="a converted checkpoint brings no population prior",
        )  # fmt: skip
        try:
            folder.rename(out)
        except OSError as error:
            raise InputError(f"cannot make {out}: {error.strerror}") from error
    return config


def read_published(path: str | Path) -> dict[str, Tensor]:
    """Read a dictionary of tensors without running any code that the file may hold.

    Raises
    ------
    CheckpointError
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
    return state


def config_from_shapes(state: dict[str, Tensor], where: str) -> PerVoxelConfig:
    """The sizes of a published network, from the shapes of its tensors.

    Raises
    ------
    CheckpointError
    """
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
