"""The noise levels that a voxel may have, and how one of them, or weights over all, follow from its responses.

A voxel standardised on its context obeys ``y = s A u + e`` with noise of variance ``s^2 tau``. A prior over tuning u
(`braincl.models.experts`) gives the likelihood of the responses at every noise level. The scale s is either known or
integrated over in closed form (`unknown_scale`). `posterior` integrates over noise levels, as the networks do;
`most_likely_level` takes one for each voxel, as population-prior ridge does (empirical Bayes).

Axes: V voxel, c expert, h noise level.
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
LEAST_NOISE, MOST_NOISE = 0.02, 2.0  # range of the noise variance, where the variance of the signal is known
LEAST_LOG_WEIGHT = -40.0  # against the largest: smaller weights become denormal numbers, which take ten times as long
SCALE_RANGE = 6.25  # standard errors of log s that its flat prior is spread over


class NoiseGrid(NamedTuple):
    """Noise levels (h) that a voxel's noise is looked for at.

    Parameters
    ----------
    ratio : tensor (h,)
        tau, noise over signal in the units of the prior.
    scale : tensor (), optional
        s; None where it is not known.
    """

    ratio: Tensor
    scale: Tensor | None = None


def unknown_signal_grid(dtype: torch.dtype = torch.float64) -> NoiseGrid:
    """Shares of signal as in `SIGNAL_SHARES`, at any scale.

    A share is that of the pictures that the prior is normalised on, where ``X u`` has variance 1 in the mean. That of
    the context would be another one for every component of a mixture, by the pictures that a short one happens to have.

    Parameters
    ----------
    dtype : torch.dtype

    Returns
    -------
    NoiseGrid
        ``tau = (1 - h) / h``.
    """
    shares = torch.as_tensor(SIGNAL_SHARES, dtype=dtype)
    return NoiseGrid((1 - shares) / shares)


def known_signal_grid(signal: float, levels: int = len(SIGNAL_SHARES), dtype: torch.dtype = torch.float64) -> NoiseGrid:
    """Noise variances from `MOST_NOISE` down to `LEAST_NOISE`, where the variance of the signal is known.

    Parameters
    ----------
    signal : float
        Variance of the signal in a standardised response.
    levels : int
    dtype : torch.dtype

    Returns
    -------
    NoiseGrid
    """
    noise = torch.logspace(math.log10(MOST_NOISE), math.log10(LEAST_NOISE), levels, dtype=dtype)
    return NoiseGrid(noise / signal, torch.tensor(math.sqrt(signal), dtype=dtype))


def signal_shares(grid: NoiseGrid) -> Float[Tensor, "h"]:
    """Share of signal in a response at every noise level of a grid, on the pictures that the prior is normalised on.

    Parameters
    ----------
    grid : NoiseGrid

    Returns
    -------
    tensor (h,)
    """
    return 1 / (1 + grid.ratio)


class ScalePosterior(NamedTuple):
    """What is known of a voxel's scale after the responses were seen.

    Parameters
    ----------
    log_likelihood : tensor
        Of the responses, integrated over s, up to a constant that is alike for all experts.
    mean : tensor
        Of s.
    """

    log_likelihood: Tensor
    mean: Tensor


def unknown_scale(power: Tensor, cross: Tensor | None, freedom: int) -> ScalePosterior:
    """Integrate a Gaussian likelihood over its scale.

    The likelihood ``s^-m exp(-power / (2 s^2) + cross / s)`` under a flat prior of log s is almost a Gaussian in log s;
    Laplace's method about its mode (Tierney & Kadane 1986) is exact up to a constant where `cross` is 0.

    Parameters
    ----------
    power : tensor
        Above 0.
    cross : tensor, optional
        Of the same shape; None: 0.
    freedom : int
        m.

    Returns
    -------
    ScalePosterior
    """
    if cross is None:
        mode = (power / freedom).sqrt_()
        return ScalePosterior(mode.log().mul_(-freedom).add_(_RANGE - 0.5 * freedom), mode * (1 + 0.75 / freedom))
    twice = 2 * power  # cross^2 is at most 14 times 4 m power (Cauchy and Schwarz; share .98): the sum loses no digits
    inverse = torch.addcmul(2 * freedom * twice, cross, cross).sqrt_().add_(cross).div_(twice)  # 1 / s at the mode
    precision = (cross * inverse).add_(2 * freedom)  # of log s
    log_likelihood = torch.add(0.5 * precision, inverse.log(), alpha=freedom)
    log_likelihood.add_(precision.log(), alpha=-0.5).add_(_RANGE - 1.5 * freedom + 0.5 * math.log(2 * freedom))
    variance = precision.reciprocal_()
    mean = (2 - freedom * variance).mul_(variance).add_(1).div_(inverse)  # with the skew of log s
    return ScalePosterior(log_likelihood, mean)


_RANGE = math.log(math.sqrt(2 * math.pi) / SCALE_RANGE)


class Posterior(NamedTuple):
    """What is known of every expert's noise after the responses were seen.

    Parameters
    ----------
    weights : tensor (V, c, h)
    log_evidence : tensor (V, c)
        Log of the sum of what the weights were before they were scaled.
    """

    weights: Tensor
    log_evidence: Tensor


def posterior(log_weights: Float[Tensor, "v c h"], mass: Float[Tensor, "v c"] | None = None) -> Posterior:
    """Weights over all noise levels that sum to one, or to a mass, for every voxel and expert.

    Parameters
    ----------
    log_weights : tensor (V, c, h)
        Log likelihood plus log prior; a constant of each voxel and expert is free.
    mass : tensor (V, c), optional
        Of every expert; None: 1.

    Returns
    -------
    Posterior
    """
    levels = log_weights.movedim(0, -1)  # voxels last, as they lie in memory
    top = levels.detach().amax(dim=1, keepdim=True)
    weights = (levels - top).clamp_(min=LEAST_LOG_WEIGHT).mul_(1 / math.log(2)).exp2_()  # a third of exp's time
    total = weights.sum(dim=1, keepdim=True)
    weights = weights * (1 / total if mass is None else mass.T[:, None] / total)
    return Posterior(weights.movedim(-1, 0), (top + total.log())[:, 0].T)


def most_likely_level(log_likelihood: Float[Tensor, "v c h"]) -> Float[Tensor, "v c h"]:
    """All weight on the noise level at which each voxel's responses are most likely.

    Parameters
    ----------
    log_likelihood : tensor (V, c, h)

    Returns
    -------
    tensor (V, c, h)
        Zeros and ones.
    """
    best = log_likelihood.argmax(dim=2, keepdim=True)
    return torch.zeros_like(log_likelihood).scatter_(2, best, 1.0)
