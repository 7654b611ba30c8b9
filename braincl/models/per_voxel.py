"""The published network, BraInCoRL (arXiv 2505.15813).

One voxel is one task: a transformer reads (embedding, response) pairs and emits that voxel's linear encoder.
Axes: n context image, E feature, V voxel, v voxel of a batch, D width, L = n + 4 token, h head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from braincl.models.network import InContextNetwork, Summary, batches
from braincl.models.prior import Prior, isotropic_prior
from setcore.blocks import ResidualMLP, SelfAttentionBlock

LEARNED_TOKENS = 4
PUBLISHED_HEADS = 10  # not to be seen in the shapes of the tensors
TOKENS_AT_ONCE = 40_000  # context tokens; about 2 GB at the size of the published CLIP network


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


class EmittedVoxels(NamedTuple):
    """A context that the network has read: it emits all voxels at once, which takes long and is done once.

    Parameters
    ----------
    X : tensor (n, E)
    weights : tensor (V, E)
    bias : tensor (V,)
    residual : tensor (V,)
        Root mean square of the residuals in the context.
    """

    X: Tensor
    weights: Tensor
    bias: Tensor
    residual: Tensor

    def compact(self) -> EmittedVoxels:
        """All of it: nothing can be found anew.

        Returns
        -------
        EmittedVoxels
        """
        return self

    def part(self, voxels: slice) -> EmittedVoxels:
        """Some of the voxels.

        Parameters
        ----------
        voxels : slice

        Returns
        -------
        EmittedVoxels
        """
        return EmittedVoxels(self.X, self.weights[voxels], self.bias[voxels], self.residual[voxels])


class PerVoxelNetwork(InContextNetwork):
    """Context pairs of a voxel in, its weights and bias out; parameter names are those of the published checkpoints.

    Invariant to the order of the context. Responses are taken as they are: the first norm mixes them with the
    embedding, so the published network is not equivariant to their scale or offset.

    Parameters
    ----------
    config : PerVoxelConfig
    """

    architecture = "per_voxel"
    config_class = PerVoxelConfig

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
        """Emit weights and bias of every voxel; memory grows with V n D, so callers batch the voxels.

        Parameters
        ----------
        X : tensor (n, E)
        Y : tensor (n, V)

        Returns
        -------
        weights : tensor (V, E)
        bias : tensor (V,)
        """
        tokens = self._tokens(X, Y)
        for layer in self.transformer:
            tokens = layer(tokens)
        emitted = self.weight_pred[0](tokens[:, 0])
        return emitted[:, :-1], emitted[:, -1]

    def condition(
        self, X: Float[Tensor, "n e"], Y: Float[Tensor, "n v"], voxel_batch: int = 2048, summary: Summary | None = None
    ) -> EmittedVoxels:
        """Emit the weights of all voxels.

        Parameters
        ----------
        X : tensor (n, E)
        Y : tensor (n, V)
        voxel_batch : int
            Voxels that are worked on at once, at most; fewer where contexts are long.
        summary : Summary, optional
            Not looked at: every voxel is on its own.

        Returns
        -------
        EmittedVoxels

        Raises
        ------
        ModelError
            X has another width than the network takes.
        """
        self.check_features(X.shape[1])
        X = X.to(Y)
        parts = [self(X, Y[:, part]) for part in batches(Y.shape[1], min(voxel_batch, _voxels_at_once(len(X))))]
        weights, bias = (torch.cat(column) for column in zip(*parts, strict=True))
        return EmittedVoxels(X, weights, bias, (Y - X @ weights.T - bias).square().mean(dim=0).sqrt())

    def emit(
        self, conditioned: EmittedVoxels, Y: Float[Tensor, "n v"], voxels: slice,
        scale: Float[Tensor, "v"] | None = None, out: Tensor | None = None,
    ) -> tuple[Float[Tensor, "v e"], Float[Tensor, "v"]]:  # fmt: skip
        """Encoder weights and biases of a batch of voxels.

        Parameters
        ----------
        conditioned : EmittedVoxels
        Y : tensor (n, v)
            Not looked at again.
        voxels : slice
        scale : tensor (v,), optional
            Of the voxels' responses, whose units weights and biases get; None: they are for standardised responses.
        out : tensor (v, E), optional
            What weights are written to.

        Returns
        -------
        weights : tensor (v, E)
        bias : tensor (v,)
        """
        weights, bias = conditioned.weights[voxels], conditioned.bias[voxels]
        if scale is not None:
            weights, bias = weights * scale[:, None], bias * scale
        return weights if out is None else out.copy_(weights), bias

    def ask(self, conditioned: EmittedVoxels, queries: Float[Tensor, "t e"]) -> Float[Tensor, "t e"]:
        """New pictures, where the network is.

        Parameters
        ----------
        conditioned : EmittedVoxels
        queries : tensor (t, E)

        Returns
        -------
        tensor (t, E)
        """
        return queries.to(conditioned.weights)

    def tell(self, conditioned: EmittedVoxels, Y: Float[Tensor, "n v"], voxels: slice) -> EmittedVoxels:
        """A batch of the voxels.

        Parameters
        ----------
        conditioned : EmittedVoxels
        Y : tensor (n, v)
            Not looked at again.
        voxels : slice

        Returns
        -------
        EmittedVoxels
        """
        return conditioned.part(voxels)

    def predictive_moments(
        self, told: EmittedVoxels, asked: Float[Tensor, "t e"]
    ) -> tuple[Float[Tensor, "t v"], Float[Tensor, "t v"]]:
        """Prediction, and mean squared residual in the context: the network knows no uncertainty of its own.

        Parameters
        ----------
        told : EmittedVoxels
        asked : tensor (t, E)

        Returns
        -------
        mean, variance : tensor (t, v)
        """
        mean = asked @ told.weights.T + told.bias
        return mean, told.residual.square().expand_as(mean)

    def context_shares(
        self, conditioned: EmittedVoxels, Y: Float[Tensor, "n v"], voxels: slice
    ) -> Float[Tensor, "v n"]:
        """Attention of the read-out token over the context images in the last layer, mean over heads.

        What falls on the learned tokens is left out and the rest scaled to a sum of one.

        Parameters
        ----------
        conditioned : EmittedVoxels
        Y : tensor (n, v)
            Of these voxels only.
        voxels : slice

        Returns
        -------
        tensor (v, n)
        """
        parts = batches(Y.shape[1], _voxels_at_once(len(Y)))
        shares = torch.cat([self.context_attention(conditioned.X, Y[:, part]).mean(dim=1) for part in parts])
        return shares / shares.sum(dim=1, keepdim=True)

    def context_attention(self, X: Float[Tensor, "n E"], Y: Float[Tensor, "n V"]) -> Float[Tensor, "V h n"]:
        """Attention of the read-out token over the context images in the last layer.

        Parameters
        ----------
        X : tensor (n, E)
        Y : tensor (n, V)

        Returns
        -------
        tensor (V, h, n)
        """
        tokens = self._tokens(X, Y)
        for layer in self.transformer[:-1]:
            tokens = layer(tokens)
        last = cast(SelfAttentionBlock, self.transformer[-1])
        return last.attention_map(tokens)[:, :, 0, LEARNED_TOKENS:]

    def gaussian_prior(self) -> Prior | None:
        """None: the network holds no population prior.

        Returns
        -------
        None
        """
        return None

    def starting_prior(self, features: int) -> Prior:
        """An isotropic prior: what the network expects of tuning cannot be read off its weights.

        Parameters
        ----------
        features : int
            E, of the embeddings at hand.

        Returns
        -------
        Prior

        Raises
        ------
        ModelError
            The network takes embeddings of another width.
        """
        self.check_features(features)
        return isotropic_prior(features)

    def _tokens(self, X: Tensor, Y: Tensor) -> Float[Tensor, "V L D"]:
        voxels = Y.shape[1]
        pairs = torch.cat([X.expand(voxels, -1, -1), Y.T.unsqueeze(-1)], dim=-1)
        return torch.cat([self.cls_token.expand(voxels, -1, -1), self.early_layers[0](pairs)], dim=1)


def _voxels_at_once(images: int) -> int:
    return max(1, TOKENS_AT_ONCE // images)
