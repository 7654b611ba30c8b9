"""What the set transformer sees of every (voxel, expert) pair, and of the context as a whole.

Axes: n context image, V voxel, c expert, h signal share, q relative scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from braincl.models.config import KINDS, SharedContextConfig
from braincl.models.evidence import Evidence, leave_one_out, signal_shares
from braincl.models.experts import Context, Expert
from braincl.models.noise_levels import posterior_weights

LOCAL, GLOBAL = 5, 4  # features of a (voxel, expert) pair, and of the context


class PairFeatures(NamedTuple):
    """Features of voxels under every expert, and what the experts are scored by.

    Parameters
    ----------
    features : tensor (V, c, LOCAL)
        Log evidence and leave-one-out gain over the first expert, the gain itself, signal share, degrees of freedom an
        image.
    log_evidence, log_predictive : tensor (V, c)
        Log evidence, and leave-one-out log likelihood of the context's responses.
    """

    features: Tensor
    log_evidence: Tensor
    log_predictive: Tensor


def pair_features(
    context: Context,
    experts: list[Expert],
    found: list[Evidence],
    Y: Float[Tensor, "n v"],
    log_shares: Float[Tensor, "c h"] | None = None,
) -> PairFeatures:
    """Features of a batch of voxels.

    Parameters
    ----------
    context : Context
    experts : list of Expert
    found : list of Evidence
        Of these voxels, by expert.
    Y : tensor (n, V)
        Of these voxels.
    log_shares : tensor (c, h), optional
        Log weights of noise levels before any evidence, for experts that are scored by their predictions. None: all
        alike, and the gain counts in place of the predictive likelihood.

    Returns
    -------
    PairFeatures
    """
    log_evidence, residuals, share, freedom = [], [], [], []
    before = torch.zeros(len(experts), 1) if log_shares is None else log_shares
    for expert, of_expert, log_prior in zip(experts, found, before, strict=True):
        log_likelihood = of_expert.log_likelihood + log_prior[:, None]
        weights = posterior_weights(log_likelihood)
        top = log_likelihood.flatten(1).max(dim=1, keepdim=True)
        # The evidence is the likelihood at the best point over its posterior weight.
        evidence = (top.values - weights.flatten(1).gather(1, top.indices).log())[:, 0]
        log_evidence.append(evidence - math.log(of_expert.grid.scale.shape[1]))  # scales are alike before it
        vectors = context.systems[expert.system].vectors
        residual, total = leave_one_out(expert, of_expert, weights, vectors, Y)
        residuals.append(residual)
        share.append(total @ signal_shares(expert, of_expert.grid, len(Y)))
        freedom.append((total @ (expert.eigenvalues * of_expert.inverse).sum(dim=1)) / len(Y))
    likely, residual = torch.stack(log_evidence, dim=1), torch.stack(residuals, dim=1)
    predictive = -0.5 * len(Y) * residual.clamp(min=1e-6).log()
    gains = (1 - residual).clamp(min=-1)
    over_first = gains - gains[:, :1] if log_shares is None else (predictive - predictive[:, :1]) / 10
    parts = (
        ((likely - likely[:, :1]) / 10).clamp(-5, 5), gains, over_first.clamp(-5, 5),
        torch.stack(share, dim=1), torch.stack(freedom, dim=1),
    )  # fmt: skip
    return PairFeatures(torch.stack(parts, dim=-1), likely, predictive)


def common_width(config: SharedContextConfig) -> int:
    """Number of features of `common_features`.

    Parameters
    ----------
    config : SharedContextConfig

    Returns
    -------
    int
    """
    return LOCAL + GLOBAL + len(KINDS) + 3 + 2 * bool(config.scales or config.signals)


def common_features(
    config: SharedContextConfig, experts: list[Expert], mean_features: Float[Tensor, "c l"], images: int, voxels: int
) -> Float[Tensor, "c f"]:
    """Features of the experts that are alike for all voxels: averages over voxels, sizes, and what each expert is.

    Parameters
    ----------
    config : SharedContextConfig
        Of the network that the experts belong to.
    experts : list of Expert
    mean_features : tensor (c, LOCAL)
        `pair_features`, averaged over the voxels of the context.
    images, voxels : int
        Of the context.

    Returns
    -------
    tensor (c, common_width)
    """
    rank = len(experts[-1].eigenvalues)  # rank: E counts empty directions
    sizes = torch.tensor([math.log(images) / 5, math.log(voxels) / 8, math.log(rank) / 6, math.log(images / rank)])
    kinds = torch.zeros(len(experts), common_width(config) - LOCAL - GLOBAL)
    for c, expert in enumerate(experts):
        kinds[c, KINDS.index(expert.kind)] = 1
        kinds[c, len(KINDS) : len(KINDS) + 3] = torch.tensor([expert.strength, expert.mean_scale, float(c == 0)])
        if expert.signal:
            level = expert.signal if expert.kind == "generic" else config.scales[c]
            kinds[c, -2:] = torch.tensor([1.0, math.log2(level)])
    return torch.cat([mean_features, sizes.expand(len(kinds), -1), kinds], dim=1)
