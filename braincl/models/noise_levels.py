"""The noise levels that a voxel may have, and how one of them, or weights over all, follow from its responses.

A voxel standardised on its context obeys ``y = s A u + e`` with noise of variance ``s^2 tau``. A prior over tuning u
(`braincl.models.experts`) gives the likelihood of the responses at every point of a grid of noise levels and scales.
`posterior` integrates over the grid, as the networks do; `most_likely_level` takes one noise level for each
voxel, as population-prior ridge does (empirical Bayes).

Axes: V voxel, h noise level, q relative scale.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

# Even in log-odds: 0.011 .. 0.982
SIGNAL_SHARES: NDArray[np.float64] = 1 / (1 + np.exp(-np.linspace(-4.5, 4.0, 16)))
SCALES = 5  # grid points for the relative scale
LEAST_NOISE, MOST_NOISE = 0.02, 2.0  # variance beside a signal that is known


class NoiseGrid(NamedTuple):
    """Points (h, q) that a voxel's noise and scale are looked for at.

    Parameters
    ----------
    scale : tensor (h, q)
        s; q is 1 where the signal's scale is known.
    ratio : tensor (h,)
        tau, noise over signal in the units of the prior.
    """

    scale: Tensor
    ratio: Tensor


def unknown_signal_grid(variance: Tensor, images: int) -> NoiseGrid:
    """Shares of signal as in `SIGNAL_SHARES`, and scales within 2.5 standard errors of the context's own.

    Parameters
    ----------
    variance : tensor ()
        v, the mean variance of ``A u`` over the context; its precision is that of the grid.
    images : int
        Number of images in the context.

    Returns
    -------
    NoiseGrid
        ``s^2 = h q^2 / v`` and ``s^2 tau = (1 - h) q^2``, for `SCALES` relative scales q.
    """
    shares = torch.as_tensor(SIGNAL_SHARES, dtype=variance.dtype)
    width = 2.5 / math.sqrt(2 * max(images - 1, 1))
    relative = torch.exp(torch.linspace(-width, width, SCALES, dtype=variance.dtype))
    return NoiseGrid((shares / variance).sqrt()[:, None] * relative, (1 - shares) / shares * variance)


def known_signal_grid(signal: float, levels: int = len(SIGNAL_SHARES), dtype: torch.dtype = torch.float64) -> NoiseGrid:
    """Noise variances from `MOST_NOISE` down to `LEAST_NOISE`, beside a signal whose variance is known.

    Parameters
    ----------
    signal : float
        Variance of the signal in a standardised response.
    levels : int
    dtype : torch.dtype

    Returns
    -------
    NoiseGrid
        Of one scale.
    """
    noise = torch.logspace(math.log10(MOST_NOISE), math.log10(LEAST_NOISE), levels, dtype=dtype)
    return NoiseGrid(torch.full((levels, 1), math.sqrt(signal), dtype=dtype), noise / signal)


def signal_shares(grid: NoiseGrid, variance: Tensor) -> Float[Tensor, "h"]:
    """Share of signal in a response at every noise level of a grid.

    Parameters
    ----------
    grid : NoiseGrid
    variance : tensor ()
        v, the mean variance of ``A u`` over the context.

    Returns
    -------
    tensor (h,)
    """
    return 1 / (1 + grid.ratio / variance)


class Posterior(NamedTuple):
    """What is known of every expert's noise after the responses were seen.

    Parameters
    ----------
    weights : tensor (V, c, h, q)
    log_evidence : tensor (V, c)
        Log of the sum of what the weights were before they were scaled.
    """

    weights: Tensor
    log_evidence: Tensor


def posterior(log_weights: Float[Tensor, "v c h q"], mass: Float[Tensor, "v c"] | None = None) -> Posterior:
    """Weights over all points of the grid that sum to one, or to a mass, for every voxel and expert.

    Parameters
    ----------
    log_weights : tensor (V, c, h, q)
        Log likelihood plus log prior; a constant of each voxel and expert is free.
    mass : tensor (V, c), optional
        Of every expert; None: 1.

    Returns
    -------
    Posterior
    """
    points = log_weights.movedim(0, -1).flatten(1, 2)  # voxels last, as they lie in memory
    top = points.detach().amax(dim=1, keepdim=True)
    weights = (points - top).mul_(1 / math.log(2)).exp2_()  # a third of exp's time
    total = weights.sum(dim=1, keepdim=True)
    weights = weights * (1 / total if mass is None else mass.T[:, None] / total)
    in_shape = weights.view(*log_weights.shape[1:], len(log_weights)).movedim(-1, 0)
    return Posterior(in_shape, (top + total.log())[:, 0].T)


def most_likely_level(log_likelihood: Float[Tensor, "v c h 1"]) -> Float[Tensor, "v c h 1"]:
    """All weight on the noise level at which each voxel's responses are most likely.

    Parameters
    ----------
    log_likelihood : tensor (V, c, h, 1)

    Returns
    -------
    tensor (V, c, h, 1)
        Zeros and ones.
    """
    best = log_likelihood.argmax(dim=2, keepdim=True)
    return torch.zeros_like(log_likelihood).scatter_(2, best, 1.0)
