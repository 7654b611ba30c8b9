"""A variance that depends on the predicted mean: two numbers a subject, from responses that were left out.

The noise of spike counts grows with their mean (their Fano factor, variance over mean, is about 1; Tolhurst, Movshon &
Dean 1983), and what a linear encoder misses grows with it. A variance that is alike for all pictures is then too large
where little is predicted and too small where much is. So the predictive variance of a standardised response whose mean
is z is multiplied by ``exp(level + slope z)``. The slope is found by regression on the logarithm of squared residuals
(Harvey 1976, "Estimating regression models with multiplicative heteroscedasticity", Econometrica 44:461), of all voxels
of a subject together, and shrunk towards 0 by its own uncertainty. Its standard error is over pictures, not over
residuals: voxels share what a picture evokes beyond its embedding (White 1980, Econometrica 48:817; Liang & Zeger 1986,
Biometrika 73:13). The level keeps the mean of the variance over pictures, which the network has learned.

Axes: n context image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from braincl.models.evidence import SOFTENED

EXPECTED_SLOPE = 0.3  # standard deviation of slopes before anything is seen: a third more variance for z = 1
LARGEST = 2.0  # of the logarithm of the factor, either way: pictures beyond those of the context are guessed at
# d E log(x + c) / d log E x where x is the square of a Gaussian and has mean 1
ATTENUATION = 1 - math.sqrt(0.5 * math.pi * SOFTENED) * math.exp(0.5 * SOFTENED) * math.erfc(math.sqrt(0.5 * SOFTENED))


class MeanDependence(NamedTuple):
    """Factor ``exp(level + slope z)`` on the variance of a response, z its predicted mean, standardised on the context.

    Parameters
    ----------
    level, slope : float
        0 and 0: the variance does not depend on the mean.
    """

    level: float = 0.0
    slope: float = 0.0

    def of_std(self, mean: Tensor) -> Tensor:
        """Factor on the standard deviation.

        Parameters
        ----------
        mean : tensor
            Predicted, standardised on the context.

        Returns
        -------
        tensor
            Of the same shape.
        """
        level = mean.new_full((), 0.5 * self.level)
        return torch.add(level, mean, alpha=0.5 * self.slope).clamp_(-0.5 * LARGEST, 0.5 * LARGEST).exp_()


def fit_mean_dependence(sums: Float[Tensor, "n 2"]) -> MeanDependence:
    """Level and slope of a subject.

    The slope b has the posterior mean under a Gaussian prior of standard deviation `EXPECTED_SLOPE`. The level keeps
    the mean variance: ``-b^2 Var(z) / 2``, as for Gaussian predictions.

    Parameters
    ----------
    sums : tensor (n, 2)
        Averages over voxels of `braincl.models.evidence.noise_sums`.

    Returns
    -------
    MeanDependence
        Of no dependence where the pictures are too few or all predictions alike.
    """
    sums = sums.cpu().double()
    with_level, with_itself = sums.unbind(dim=1)
    images, power = len(sums), float(with_itself.sum())
    if images < 3 or not power > 0 or not bool(torch.isfinite(sums).all()):
        return MeanDependence()
    slope = float(with_level.sum()) / power
    residual = with_level - slope * with_itself
    error = float(residual.square().sum()) * images / (images - 2) / power**2
    found, variance = slope / ATTENUATION, error / ATTENUATION**2
    shrunk = found * EXPECTED_SLOPE**2 / (EXPECTED_SLOPE**2 + variance)
    return MeanDependence(-0.5 * shrunk**2 * power / images, shrunk)
