"""What experts say of voxels: likelihood at every noise level, posterior weights, leave-one-out errors.

A voxel's offset, scale s and noise are integrated over: the offset by centring, s in closed form, tau on the grids of
`braincl.models.noise_levels` (Rasmussen & Williams 2006, sections 2.2 and 5.4.1). Experts that share eigenvectors are
asked together, so that a batch of voxels costs a few large products.

Axes: n context image, V voxel, c expert of a group, k eigenvector, h noise level.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from braincl.models.experts import Context, Expert, Projection
from braincl.models.noise_levels import (
    NoiseGrid,
    known_signal_grid,
    signal_shares,
    unknown_scale,
    unknown_signal_grid,
)

TINY = 1e-30  # a power that can be divided by
SOFTENED = 0.1  # added to squared residuals, whose mean is 1, before their logarithm is taken


@dataclass(frozen=True)
class ExpertGroup:
    """Experts of one context that share a system of eigenvectors, and whether they know the scale.

    Parameters
    ----------
    members : slice
        Their places among all experts.
    system : int
    gain, mean : tensor (c, k)
        As of `Expert`.
    ratio : tensor (c, h)
        tau, the noise levels.
    scale : tensor (c, 1), optional
        s; None where it is not known.
    scale_spread : float
        Relative variance of s once it is looked for.
    inverse : tensor (c, h, k)
        ``1 / (eigenvalues + tau)``.
    constant : tensor (c, h)
        What of the log likelihood does not depend on the responses.
    shares, freedom : tensor (c, h)
        Share of signal in a response, and degrees of freedom an image, at every noise level.
    mean_read_out : tensor (c, k + 1)
        mu in the coordinates of `read_out`.
    has_mean : bool
        Whether any of them has a mean.
    """

    members: slice
    system: int
    gain: Tensor
    mean: Tensor
    ratio: Tensor
    scale: Tensor | None
    scale_spread: float
    inverse: Tensor
    constant: Tensor
    shares: Tensor
    freedom: Tensor
    mean_read_out: Tensor
    has_mean: bool


class Evidence(NamedTuple):
    """What the experts of a group say of a batch of voxels.

    Parameters
    ----------
    values : tensor (V, k)
        Responses on the group's eigenvectors.
    log_likelihood : tensor (V, c, h)
        Voxels are last in memory, so that all arithmetic runs along them.
    scale : tensor (V, c, h) or (c, 1)
        s, expected at every noise level.
    """

    values: Tensor
    log_likelihood: Tensor
    scale: Tensor


class Solution(NamedTuple):
    """Posterior means of one expert, given weights over its noise levels.

    Parameters
    ----------
    dual : tensor (V, k)
        What weights are read out with, up to the expert's gain.
    mean_coefficient : tensor (V,)
        Of mu.
    """

    dual: Tensor
    mean_coefficient: Tensor


def group_experts(
    experts: Sequence[Expert],
    images: int,
    like: Tensor | None = None,
    grid: NoiseGrid | None = None,
    log_shares: Float[Tensor, "c h"] | None = None,
) -> list[ExpertGroup]:
    """Put experts together that can be asked at once.

    Parameters
    ----------
    experts : sequence of Expert
        Of one context, in the order of `in_groups`.
    images : int
        n, of the context.
    like : tensor, optional
        Whose precision and device the work per voxel has. None: those of the experts.
    grid : NoiseGrid, optional
        Of every expert. None: that of `make_grid`.
    log_shares : tensor (c, h), optional
        Log weights of every expert's noise levels before any evidence, which then holds them. None: all alike.

    Returns
    -------
    list of ExpertGroup
    """
    groups: list[ExpertGroup] = []
    for (system, _), run in itertools.groupby(experts, key=_alike):
        chosen, start = list(run), groups[-1].members.stop if groups else 0
        members = slice(start, start + len(chosen))
        eigenvalues, gain, mean = (
            torch.stack([getattr(expert, name) for expert in chosen]) for name in ("eigenvalues", "gain", "mean")
        )
        grids = [grid or make_grid(expert) for expert in chosen]
        shares = torch.stack([signal_shares(own) for own in grids])
        ratio = torch.stack([own.ratio for own in grids])
        scales = [own.scale for own in grids if own.scale is not None]
        scale = torch.stack(scales)[:, None] if scales else None
        inverse = 1 / (eigenvalues[:, None] + ratio[:, :, None])
        free = images - 1 - eigenvalues.shape[1]
        log_determinant = -inverse.log().sum(dim=2) + free * ratio.log()
        fit_of_mean = (inverse * mean.square()[:, None]).sum(dim=2)
        constant = -0.5 * (fit_of_mean + log_determinant)
        freedom = (eigenvalues[:, None] * inverse).sum(dim=2) / images
        mean_scale = torch.as_tensor([[expert.mean_scale] for expert in chosen]).to(mean)
        mean_read_out = torch.cat([mean / eigenvalues, mean_scale], dim=1)
        if scale is not None:
            constant = constant - (images - 1) * scale.log()
        tensors = [gain, mean, ratio, inverse, constant, shares, freedom, mean_read_out]
        if like is not None:
            tensors, scale = [tensor.to(like) for tensor in tensors], None if scale is None else scale.to(like)
        gain, mean, ratio, inverse, constant, shares, freedom, mean_read_out = tensors
        if log_shares is not None:
            constant = constant + log_shares[members]
        spread = 0.5 / max(images - 1, 1) if scale is None else 0.0
        groups.append(ExpertGroup(
            members, system, gain, mean, ratio, scale, spread, inverse, constant, shares, freedom, mean_read_out,
            has_mean=any(expert.mean_scale for expert in chosen),
        ))  # fmt: skip
    return groups


def in_groups(experts: Sequence[Expert]) -> list[Expert]:
    """Experts that can be asked at once side by side; else in their order, the first one first.

    Parameters
    ----------
    experts : sequence of Expert

    Returns
    -------
    list of Expert
    """
    kinds = list(dict.fromkeys(map(_alike, experts)))
    return sorted(experts, key=lambda expert: kinds.index(_alike(expert)))


def _alike(expert: Expert) -> tuple[int, bool]:
    return expert.system, bool(expert.signal)


def evidence(group: ExpertGroup, images: int, projections: Sequence[Projection]) -> Evidence:
    """Log marginal likelihood of standardised responses at every noise level.

    The offset has a flat prior and log s a flat one; priors over noise levels are the caller's.

    Parameters
    ----------
    group : ExpertGroup
    images : int
        n, of the context.
    projections : sequence of Projection
        Of the responses, from `Context.project`.

    Returns
    -------
    Evidence
    """
    projection, inverse, ratio, scale = projections[group.system], group.inverse, group.ratio, group.scale
    power = inverse.flatten(0, 1) @ projection.squares.T
    if images - 1 > inverse.shape[2]:
        power = power.addcmul_(projection.rest, 1 / ratio.flatten()[:, None])
    power = power.view(*ratio.shape, -1)
    cross = None
    if group.has_mean:
        cross = ((inverse * group.mean[:, None]).flatten(0, 1) @ projection.values.T).view_as(power)
    constant = group.constant[..., None]
    if scale is None:
        log_likelihood, expected = unknown_scale(power.clamp_(min=TINY), cross, max(images - 1, 1))
        return Evidence(projection.values, log_likelihood.add_(constant).movedim(-1, 0), expected.movedim(-1, 0))
    log_likelihood = torch.addcmul(constant, power, (-0.5 / scale.square())[..., None])
    if cross is not None:
        log_likelihood = log_likelihood.addcmul_(cross, (1 / scale)[..., None])
    return Evidence(projection.values, log_likelihood.movedim(-1, 0), scale)


def evidence_of_all(context: Context, groups: Sequence[ExpertGroup], Y: Float[Tensor, "n v"]) -> list[Evidence]:
    """What every group of experts says of standardised responses.

    Parameters
    ----------
    context : Context
    groups : sequence of ExpertGroup
        On this context.
    Y : tensor (n, V)

    Returns
    -------
    list of Evidence
    """
    projections = context.project(Y)
    return [evidence(group, len(Y), projections) for group in groups]


def make_grid(expert: Expert) -> NoiseGrid:
    """The noise levels of one expert, whose variance of the signal is known or not.

    Parameters
    ----------
    expert : Expert

    Returns
    -------
    NoiseGrid
    """
    if expert.signal:
        return known_signal_grid(expert.signal, dtype=expert.eigenvalues.dtype)
    return unknown_signal_grid(expert.eigenvalues.dtype)


def squared_scale(group: ExpertGroup, found: Evidence) -> Tensor:
    """``s^2``, expected at every noise level: what powers of signal and noise are multiples of.

    Parameters
    ----------
    group : ExpertGroup
    found : Evidence

    Returns
    -------
    tensor (V, c, h) or (c, 1)
    """
    return found.scale.square() * (1 + group.scale_spread)


def solve(group: ExpertGroup, found: Evidence, weights: Float[Tensor, "v c h"], c: int) -> Solution:
    """Posterior mean of ``s u``, averaged over noise levels, of one expert.

    Parameters
    ----------
    group : ExpertGroup
    found : Evidence
        What the group says of the voxels.
    weights : tensor (V, c, h)
        They need not sum to one.
    c : int
        Which expert of the group.

    Returns
    -------
    Solution
    """
    own, inverse = weights[:, c], group.inverse[c]
    dual = (own @ inverse).mul_(found.values)
    if not group.has_mean:
        return Solution(dual, torch.zeros_like(own[:, 0]))
    scaled = own * found.scale[..., c, :]
    return Solution(dual.addmm_(scaled, inverse * group.mean[c], alpha=-1), scaled.sum(dim=1))


def read_through(
    group: ExpertGroup, found: Evidence, weights: Float[Tensor, "v c h"]
) -> tuple[Float[Tensor, "v k"], Float[Tensor, "v c"]]:
    """What `solve` finds, summed over the experts: their gains included, without what each says alone.

    Parameters
    ----------
    group : ExpertGroup
    found : Evidence
    weights : tensor (V, c, h)

    Returns
    -------
    dual : tensor (V, k)
    mean_coefficient : tensor (V, c)
        Of mu.
    """
    levels = group.inverse * group.gain[:, None]
    dual = (weights.flatten(1) @ levels.flatten(0, 1)).mul_(found.values)
    if not group.has_mean:
        return dual, torch.zeros_like(weights[:, :, 0])
    scaled = weights * found.scale
    dual = dual.addmm_(scaled.flatten(1), (levels * group.mean[:, None]).flatten(0, 1), alpha=-1)
    return dual, scaled.sum(dim=2)


def read_out(group: ExpertGroup, solution: Solution, c: int) -> Float[Tensor, "v k_"]:
    """Weights of one expert, in coordinates that the experts of a system share.

    They are those of a query on ``Sigma A' vectors`` and, where there are means, on what mu has outside their span
    (`braincl.models.experts.Context.coordinates`).

    Parameters
    ----------
    group : ExpertGroup
    solution : Solution
        Of the expert.
    c : int
        Which expert of the group.

    Returns
    -------
    tensor (V, k) or (V, k + 1)
    """
    if not group.has_mean:
        return solution.dual * group.gain[c]
    weights = torch.outer(solution.mean_coefficient, group.mean_read_out[c])
    weights[:, :-1] += solution.dual  # experts with a mean have no gain
    return weights


class LeftOut(NamedTuple):
    """What experts miss of responses that are left out.

    Parameters
    ----------
    mean_square : tensor (c, V)
        Of the residuals.
    noise : tensor (n, 2), optional
        `noise_sums` of the first expert, where they were asked for.
    """

    mean_square: Tensor
    noise: Tensor | None


def leave_one_out(
    group: ExpertGroup,
    found: Evidence,
    weights: Float[Tensor, "v c h"],
    vectors: Float[Tensor, "n k"],
    Y: Float[Tensor, "n v"],
    noise: bool = False,
) -> LeftOut:
    """Leave-one-out residuals of every voxel under every expert.

    ``r_i = [Q y]_i / Q_ii`` with Q the inverse covariance after projecting out the offset (Dubrule 1983), evaluated at
    the posterior mean of Q.

    Parameters
    ----------
    group : ExpertGroup
    found : Evidence
    weights : tensor (V, c, h)
        They sum to one for each voxel and expert.
    vectors : tensor (n, k)
        Of the group's system.
    Y : tensor (n, V)
    noise : bool
        Also find `noise_sums` of the first expert.

    Returns
    -------
    LeftOut
    """
    (images, rank), ratio = vectors.shape, group.ratio
    scaled = weights * found.scale if group.has_mean else None
    by_share = group.inverse @ vectors.square().T
    if images - 1 > rank:  # what the eigenvectors do not span is noise
        by_share = by_share + (1 - 1 / images - vectors.square().sum(dim=1)) / ratio[:, :, None]
    by_share = by_share.clamp(min=1e-9)
    residuals, sums = [], None
    for c in range(len(ratio)):  # one expert at a time fits the processor's cache
        dual = (weights[:, c] @ group.inverse[c]).mul_(found.values)
        if scaled is not None:
            dual = dual.addmm_(scaled[:, c], group.inverse[c] * group.mean[c], alpha=-1)
        if images - 1 > rank:
            precision = (weights[:, c] @ (1 / ratio[c]))[:, None]
            alpha = (dual - precision * found.values) @ vectors.T + precision * Y.T
        else:
            alpha = dual @ vectors.T
        inverse_variance = weights[:, c] @ by_share[c]
        residual = alpha.div_(inverse_variance)
        residuals.append(torch.linalg.vector_norm(residual, dim=1).square() / images)
        if noise and not c:
            sums = noise_sums(residual, inverse_variance, Y)
    return LeftOut(torch.stack(residuals), sums)


def noise_sums(
    residual: Float[Tensor, "v n"], inverse_variance: Float[Tensor, "v n"], Y: Float[Tensor, "n v"]
) -> Float[Tensor, "n 2"]:
    """How the noise of a context goes with what is predicted, as sums over voxels; those of parts add up.

    With z the prediction of a response that is left out and x its squared residual over what was expected of it (mean 1
    for every voxel), ``z log(x + SOFTENED)``, the logarithm centred for every voxel, and ``z^2``: the sums of Harvey's
    regression (1976) for a variance that is the exponential of something linear. Softened, small residuals count
    little: a third of their noise goes. `braincl.estimators.mean_dependent_noise` fits what comes of it.

    Parameters
    ----------
    residual : tensor (V, n)
        Of standardised responses that are left out. Overwritten, which saves memory that a batch takes from the cache.
    inverse_variance : tensor (V, n)
        Of them, up to a factor of each voxel. Overwritten.
    Y : tensor (n, V)

    Returns
    -------
    tensor (n, 2)
    """
    level = inverse_variance.mul_(residual).mul_(residual)
    level.mul_(level.mean(dim=1, keepdim=True).clamp_(min=TINY).reciprocal_()).add_(SOFTENED).log_()
    level.sub_(level.mean(dim=1, keepdim=True))
    less_predicted, ones = residual.sub_(Y.T), level.new_ones(len(level))
    return torch.stack([-(ones @ level.mul_(less_predicted)), ones @ less_predicted.square_()], dim=1)
