"""What the set transformer sees of every (voxel, expert) pair, and of the context as a whole.

Axes: n context image, V voxel, c expert, h noise level.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from braincl.models.config import KINDS, SharedContextConfig
from braincl.models.evidence import Evidence, ExpertGroup, leave_one_out
from braincl.models.experts import Expert
from braincl.models.noise_levels import posterior

LOCAL, GLOBAL = 5, 4  # features of a (voxel, expert) pair, and of the context
VOXEL_COUNT = LOCAL + 1  # where `common_features` says how many voxels there are


class PairFeatures(NamedTuple):
    """Features of voxels under every expert, and what the experts are scored by.

    Parameters
    ----------
    features : tensor (LOCAL, c, V)
        Log evidence and leave-one-out gain over the first expert, the gain itself, signal share, degrees of freedom
        an image.
    log_evidence, log_predictive : tensor (V, c)
        Log evidence, and leave-one-out log likelihood of the context's responses.
    noise : tensor (n, 2)
        `braincl.models.evidence.noise_sums` of the first expert: voxels' noise goes with what any expert predicts.
    """

    features: Tensor
    log_evidence: Tensor
    log_predictive: Tensor
    noise: Tensor


def pair_features(
    context: Context,
    groups: list[ExpertGroup],
    found: list[Evidence],
    Y: Float[Tensor, "n v"],
    predictive: bool = False,
) -> PairFeatures:
    """Features of a batch of voxels.

    Parameters
    ----------
    context : Context
    groups : list of ExpertGroup
    found : list of Evidence
        Of these voxels, by group.
    Y : tensor (n, V)
        Of these voxels.
    predictive : bool
        Whether experts are scored by their predictions: else the gain counts in place of the predictive likelihood.

    Returns
    -------
    PairFeatures
    """
    parts: list[Tensor] = []
    noise = Y.new_zeros(len(Y), 2)
    for group, of_group in zip(groups, found, strict=True):
        weights, log_evidence = posterior(of_group.log_likelihood)
        vectors = context.systems[group.system].vectors
        residual, sums = leave_one_out(group, of_group, weights, vectors, Y, noise=not parts)
        noise = noise if sums is None else sums
        levels = torch.stack([group.shares, group.freedom], dim=2)
        share, free = (weights.transpose(0, 1) @ levels).unbind(dim=2)
        parts.append(torch.stack([log_evidence.T, residual, share, free]))
    likely, residual, share, free = torch.cat(parts, dim=1)
    left_out = -0.5 * len(Y) * residual.clamp(min=1e-6).log()
    gains = (1 - residual).clamp(min=-1)
    over_first = (left_out - left_out[:1]) / 10 if predictive else gains - gains[:1]
    features = [((likely - likely[:1]) / 10).clamp(-5, 5), gains, over_first.clamp(-5, 5), share, free]
    return PairFeatures(torch.stack(features), likely.T, left_out.T, noise)


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
    return torch.cat([mean_features, torch.cat([sizes.expand(len(kinds), -1), kinds], dim=1).to(mean_features)], dim=1)
