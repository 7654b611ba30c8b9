"""Bayes-optimal predictions for simulated voxels, whose population is known: the most that any predictor can reach.

The population is that of `braincl.simulation.subjects`: ``y = b + s (sqrt(h) x u + e)``, ``u ~ sum_c p_c N(mu_c,
Sigma_c)``, ``e ~ N(0, 1 - h)``. One optimum knows b, s and h of each voxel; the other knows only the population and
integrates over them, with flat priors on b and log s and a log-uniform one on h. Both are exact (Rasmussen & Williams
2006, section 2.2), the second up to its grid, and share no code with the predictors that they are compared to. Axes: n
context image, t query image, E feature, V voxel, c component, h share of signal, s scale.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braincl.models.prior import Prior

Array = NDArray[np.float64]
SHARES, SCALES = 40, 61  # points of the grid


class Prediction(NamedTuple):
    """New responses as an optimum predicts them.

    Parameters
    ----------
    mean, variance : array of shape (t, V)
        Noise included.
    """

    mean: Array
    variance: Array


def knowing_optimum(
    X: NDArray[Any], Y: NDArray[Any], queries: NDArray[Any], prior: Prior, *, offset: Array, scale: Array, share: Array
) -> Prediction:
    """The posterior predictive of a population whose voxels' offset, scale and share of signal are known.

    Parameters
    ----------
    X : array of shape (n, E)
        Embeddings minus the centre of the simulation.
    Y : array of shape (n, V)
    queries : array of shape (t, E)
        As X.
    prior : Prior
        The population.
    offset, scale, share : array of shape (V,)

    Returns
    -------
    Prediction
    """
    y = np.asarray(Y, np.float64) - offset
    weights = np.zeros((1, 1))
    mean, variance = _predictive(prior, np.asarray(X, np.float64), y, queries, share[None], scale[None], weights)
    return Prediction(mean + offset, variance + scale**2 * (1 - share))


def integrating_optimum(
    X: NDArray[Any], Y: NDArray[Any], queries: NDArray[Any], prior: Prior, *, signal_shares: tuple[float, float]
) -> Prediction:
    """The posterior predictive of a known population, integrated over each voxel's offset, scale and share of signal.

    Parameters
    ----------
    X : array of shape (n, E)
        Embeddings, centred or not; n is 3 or more.
    Y : array of shape (n, V)
    queries : array of shape (t, E)
        As X.
    prior : Prior
        The population.
    signal_shares : (low, high)
        Range of the log-uniform distribution of h.

    Returns
    -------
    Prediction
    """
    X, Y = np.asarray(X, np.float64), np.asarray(Y, np.float64)
    images, voxels = Y.shape
    edges = np.geomspace(*signal_shares, SHARES + 1)
    shares = np.repeat(np.sqrt(edges[1:] * edges[:-1])[:, None], voxels, axis=1)
    width = 0.8 + 4 / np.sqrt(2 * (images - 1))  # a voxel's signal may be stronger or weaker than the population's
    scales = Y.std(axis=0) * np.exp(np.linspace(-width, width, SCALES))[:, None]
    # A flat prior on the offset: only contrasts between images tell anything, n - 1 orthonormal ones.
    contrasts = np.linalg.svd(np.eye(images) - 1 / images)[0][:, :-1].T
    mean, variance = _predictive(
        prior, contrasts @ X, contrasts @ Y, queries - X.mean(axis=0), shares, scales, np.zeros((SHARES, 1)), images
    )
    return Prediction(mean + Y.mean(axis=0), variance)


def _predictive(
    prior: Prior,
    A: Array,
    y: Array,
    queries: NDArray[Any],
    shares: Array,
    scales: Array,
    log_shares: Array,
    offset_images: int | None = None,
) -> tuple[Array, Array]:
    """Mean and variance (t, V) of responses without offset, averaged over components, shares (h, V) and scales (s, V).

    `offset_images`: number of images that an unknown offset is averaged over; the variance then holds the noise of the
    new response and of the offset. None: the variance is that of the signal.
    """
    queries = np.asarray(queries, np.float64)
    terms = [_Component.of(A, y, queries, *pair) for pair in zip(prior.means, prior.covariances, strict=True)]
    log_posterior = np.stack([[term.log_likelihood(share, scales) for share in shares] for term in terms])
    log_posterior += prior.log_weights[:, None, None, None] + log_shares[None, :, :, None]  # (c, h, s, V)
    posterior = np.exp(log_posterior - log_posterior.max(axis=(0, 1, 2)))
    posterior /= posterior.sum(axis=(0, 1, 2))
    first, second = np.zeros((2, len(queries), y.shape[1]))
    for c, term in enumerate(terms):
        for h, share in enumerate(shares):
            moments = [(posterior[c, h] * scales**power).sum(axis=0) for power in range(3)]
            fixed, scaled, spread = term.predict(share)  # mean = fixed + scale * scaled, variance = scale^2 * spread
            if offset_images is not None:
                spread = spread + (1 - share) * (1 + 1 / offset_images)
            first += moments[0] * fixed + moments[1] * scaled
            second += moments[0] * fixed**2 + 2 * moments[1] * fixed * scaled + moments[2] * (scaled**2 + spread)
    return first, second - first**2


class _Component(NamedTuple):
    """One Gaussian on the eigenvectors of ``A Sigma A'``."""

    eigenvalues: Array  # (n,)
    projected: Array  # (n, V) of y
    mean: Array  # (n,) of A mu
    cross: Array  # (t, n) of queries Sigma A'
    query_mean: Array  # (t,)
    query_variance: Array  # (t,)

    @classmethod
    def of(cls, A: Array, y: Array, queries: Array, mean: Array, covariance: Array) -> _Component:
        eigenvalues, vectors = np.linalg.eigh(A @ covariance @ A.T)
        carried = queries @ covariance
        return cls(
            eigenvalues.clip(min=0),
            vectors.T @ y,
            vectors.T @ (A @ mean),
            carried @ A.T @ vectors,
            queries @ mean,
            (carried * queries).sum(axis=1),
        )

    def log_likelihood(self, share: Array, scales: Array) -> Array:
        """(s, V) for share (V,) and scales (s, V), up to a constant."""
        precision = 1 / (share * self.eigenvalues[:, None] + 1 - share)
        mean = np.sqrt(share) * self.mean[:, None]
        power = [
            (precision * a * b).sum(axis=0) for a, b in ((self.projected,) * 2, (self.projected, mean), (mean,) * 2)
        ]
        quadratic = power[0] / scales**2 - 2 * power[1] / scales + power[2]
        return np.asarray(0.5 * np.log(precision).sum(axis=0) - 0.5 * quadratic - len(precision) * np.log(scales))

    def predict(self, share: Array) -> tuple[Array, Array, Array]:
        """Parts of the mean that do not and that do grow with the scale, and variance at scale one: (t, V) each."""
        precision = 1 / (share * self.eigenvalues[:, None] + 1 - share)
        mean = np.sqrt(share) * self.mean[:, None]
        fixed = share * (self.cross @ (precision * self.projected))
        scaled = np.sqrt(share) * self.query_mean[:, None] - share * (self.cross @ (precision * mean))
        spread = share * (self.query_variance[:, None] - share * (self.cross**2 @ precision))
        return fixed, scaled, spread
