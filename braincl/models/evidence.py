"""What an expert says of voxels: likelihood at every noise level, posterior weights, leave-one-out errors.

A voxel's offset, scale s and noise are integrated over: the offset by centring, s and tau on the grids of
`braincl.models.noise_levels` (Rasmussen & Williams 2006, sections 2.2 and 5.4.1).

Axes: n context image, V voxel, c expert, k eigenvector, h signal share, q relative scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from braincl.models import noise_levels
from braincl.models.experts import Context, Expert, Projection
from braincl.models.noise_levels import NoiseGrid


class Evidence(NamedTuple):
    """What one expert says of a batch of voxels.

    Parameters
    ----------
    projection : Projection
        Responses on the expert's eigenvectors, shared by the experts of a system.
    log_likelihood : tensor (V, h, q)
    inverse : tensor (h, k)
        ``1 / (eigenvalues + tau)``.
    grid : NoiseGrid
    """

    projection: Projection
    log_likelihood: Tensor
    inverse: Tensor
    grid: NoiseGrid


class Solution(NamedTuple):
    """Posterior means, given weights over the grid.

    Parameters
    ----------
    total : tensor (V, h)
        Sum of the weights over scales.
    dual : tensor (V, k)
        What weights are read out with.
    mean_coefficient : tensor (V,)
        Of mu.
    """

    total: Tensor
    dual: Tensor
    mean_coefficient: Tensor


def evidence(expert: Expert, images: int, projections: Sequence[Projection], grid: NoiseGrid | None = None) -> Evidence:
    """Log marginal likelihood of standardised responses at every point of the grid.

    The offset has a flat prior and log s a flat one; priors over the grid are the caller's.

    Parameters
    ----------
    expert : Expert
    images : int
        n, of the context.
    projections : sequence of Projection
        Of the responses, from `Context.project`.
    grid : NoiseGrid, optional
        None: that of `make_grid`.

    Returns
    -------
    Evidence
    """
    projection = projections[expert.system]
    free = images - 1 - len(expert.eigenvalues)
    grid = grid or make_grid(expert, images)
    inverse = 1 / (expert.eigenvalues + grid.ratio[:, None])
    s = grid.scale
    power = projection.squares @ inverse.T
    if free:
        power = power + projection.rest[:, None] / grid.ratio
    own = inverse @ expert.mean.square()
    log_determinant = -inverse.log().sum(dim=1) + free * grid.ratio.log()
    constant = -0.5 * (own + log_determinant)[:, None] - (images - 1) * s.log()
    log_likelihood = torch.addcmul(constant, power[:, :, None], -0.5 / s.square())
    if expert.mean_scale:
        cross = projection.values @ (inverse * expert.mean).T
        log_likelihood = torch.addcmul(log_likelihood, cross[:, :, None], 1 / s)
    return Evidence(projection, log_likelihood, inverse, grid)


def evidence_of_all(context: Context, experts: Sequence[Expert], Y: Float[Tensor, "n v"]) -> list[Evidence]:
    """What every expert says of standardised responses.

    Parameters
    ----------
    context : Context
    experts : sequence of Expert
        On this context.
    Y : tensor (n, V)

    Returns
    -------
    list of Evidence
    """
    projections = context.project(Y)
    return [evidence(expert, len(Y), projections) for expert in experts]


def make_grid(expert: Expert, images: int) -> NoiseGrid:
    """The noise levels of one expert: beside a signal that it takes for known, or with both unknown.

    Parameters
    ----------
    expert : Expert
    images : int
        n, of the context.

    Returns
    -------
    NoiseGrid
    """
    if expert.signal:
        return noise_levels.known_signal_grid(expert.signal, dtype=expert.eigenvalues.dtype)
    return noise_levels.unknown_signal_grid(_mean_variance(expert, images), images)


def signal_shares(expert: Expert, grid: NoiseGrid, images: int) -> Float[Tensor, "h"]:
    """Share of signal in a response at every noise level of the grid.

    Parameters
    ----------
    expert : Expert
    grid : NoiseGrid
    images : int
        n, of the context.

    Returns
    -------
    tensor (h,)
    """
    return noise_levels.signal_shares(grid, _mean_variance(expert, images))


def _mean_variance(expert: Expert, images: int) -> Tensor:
    """v, the mean variance of ``A u`` over the context."""
    return (expert.eigenvalues.sum() + expert.mean.square().sum()) / (images - 1)


def solve(expert: Expert, found: Evidence, weights: Float[Tensor, "v h q"]) -> Solution:
    """Posterior mean of ``s u``, averaged over the grid.

    Parameters
    ----------
    expert : Expert
    found : Evidence
        What the expert says of the voxels.
    weights : tensor (V, h, q)
        They need not sum to one.

    Returns
    -------
    Solution
    """
    total, scaled = _over_scales(found, weights)
    dual = (total @ found.inverse) * found.projection.values
    if expert.mean_scale:
        dual.addmm_(scaled, found.inverse * expert.mean, alpha=-1)
    return Solution(total, dual, scaled.sum(dim=1))


def _over_scales(found: Evidence, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over q of weights, and of weights times s, (V, h) each: a matrix product, since short sums are slow."""
    scale = found.grid.scale
    columns = (
        torch.stack([torch.ones_like(scale), scale])[:, :, :, None] * torch.eye(len(scale), dtype=scale.dtype)[:, None]
    )
    total, scaled = columns.flatten(1, 2)
    return weights.flatten(1) @ total, weights.flatten(1) @ scaled


def leave_one_out(
    expert: Expert,
    found: Evidence,
    weights: Float[Tensor, "v h q"],
    vectors: Float[Tensor, "n k"],
    Y: Float[Tensor, "n v"],
) -> tuple[Float[Tensor, "v"], Float[Tensor, "v h"]]:
    """Mean squared leave-one-out residual of every voxel.

    ``r_i = [Q y]_i / Q_ii`` with Q the inverse covariance after projecting out the offset (Dubrule 1983), evaluated at
    the posterior mean of Q.

    Parameters
    ----------
    expert : Expert
    found : Evidence
    weights : tensor (V, h, q)
        They sum to one for each voxel.
    vectors : tensor (n, k)
        Of the expert's system.
    Y : tensor (n, V)

    Returns
    -------
    residual : tensor (V,)
    total : tensor (V, h)
        Sums of the weights over scales.
    """
    images, rank = vectors.shape
    total, dual, _ = solve(expert, found, weights)
    by_share = found.inverse @ vectors.square().T
    if images - 1 > rank:  # what the eigenvectors do not span is noise
        precision = (total @ (1 / found.grid.ratio))[:, None]
        by_share = by_share + (1 - 1 / images - vectors.square().sum(dim=1)) / found.grid.ratio[:, None]
        alpha = (dual - precision * found.projection.values) @ vectors.T + precision * Y.T
    else:
        alpha = dual @ vectors.T
    residual = alpha / (total @ by_share.clamp(min=1e-9))
    return torch.linalg.vector_norm(residual, dim=1).square() / images, total
