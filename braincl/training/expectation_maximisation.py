"""Expectation-maximisation of a population prior over voxel weights, from the voxels of training subjects.

The model is that of `braincl.models.prior`; each voxel's share of signal is integrated out on the grid of
`SIGNAL_SHARES`. How many iterations, components and how much shrinkage are chosen in
`braincl.training.population_prior`.

Axes: i image, E feature, V voxel, c component, h share of signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from braincl.errors import ResponseError
from braincl.models.noise_levels import SIGNAL_SHARES
from braincl.models.prior import Prior, isotropic_prior
from setcore.seeding import numpy_generator

Array = NDArray[np.float64]
MIXTURE_WIDTH, MIXTURE_AXES = 640, 320  # a mixture for embeddings wider than the first is fitted in fewer axes
STARTS, FIRST_ITERATIONS = 8, 3  # of a mixture; the start that is likeliest after the first iterations goes on


class Moments(NamedTuple):
    """One data set as fitting needs it.

    Parameters
    ----------
    gram : Array, shape (E, E)
        Of centred X.
    cross : Array, shape (E, V)
        Of centred X and standardised Y.
    images : int
        Count of images.
    """

    gram: Array
    cross: Array
    images: int


def moments(X: NDArray[Any], Y: NDArray[Any]) -> Moments:
    """Moments of embeddings and responses; voxels that are constant are left out.

    Parameters
    ----------
    X : array of shape (i, E)
    Y : array of shape (i, V)

    Returns
    -------
    Moments
    """
    X = np.asarray(X, np.float64) - np.mean(X, axis=0, dtype=np.float64)
    Y = np.asarray(Y, np.float64) - np.mean(Y, axis=0, dtype=np.float64)
    deviation = Y.std(axis=0)
    Y = Y[:, deviation > 1e-8] / deviation[deviation > 1e-8]
    return Moments(X.T @ X, X.T @ Y, len(X))


class _Posterior(NamedTuple):
    log_evidence: Array  # (V,)
    deviation: Array  # (E, V) posterior mean of u - mu
    basis: Array  # (E, E)
    shrink: Array  # (E, V): the posterior covariance of voxel v is basis diag(shrink[:, v]) basis'
    shares: Array  # (h, V) posterior over the grid


def _posterior(data: Moments, mean: Array, covariance: Array, log_shares: Array) -> _Posterior:
    """Posterior of every voxel's u under one Gaussian, its share of signal integrated out on the grid."""
    size = len(mean)
    jitter = 1e-9 * np.trace(covariance) / size
    factor = np.linalg.cholesky(covariance + jitter * np.eye(size))
    eigenvalues, vectors = np.linalg.eigh(factor.T @ data.gram @ factor)
    eigenvalues, basis = np.maximum(eigenvalues, 0), factor @ vectors
    projected = basis.T @ data.cross
    mean_gram = data.gram @ mean
    mean_projected, mean_cross, mean_power = basis.T @ mean_gram, mean @ data.cross, mean @ mean_gram
    log_likelihood = np.empty((len(SIGNAL_SHARES), data.cross.shape[1]))
    for index, share in enumerate(SIGNAL_SHARES):
        scale, noise = np.sqrt(share), 1 - share
        residual = data.images - 2 * scale * mean_cross + share * mean_power  # |y - s X mu|^2, and |y|^2 = images
        gain = projected - scale * mean_projected[:, None]
        explained = (share / (noise * (eigenvalues * share + noise))) @ gain**2
        log_likelihood[index] = -0.5 * (
            residual / noise - explained + np.log1p(eigenvalues * share / noise).sum() + data.images * np.log(noise)
        )
    log_likelihood += log_shares[:, None]
    top = log_likelihood.max(axis=0)
    weights = np.exp(log_likelihood - top)
    log_evidence = top + np.log(weights.sum(axis=0))
    weights /= weights.sum(axis=0)
    share = np.exp(weights.T @ np.log(SIGNAL_SHARES))
    scale, noise = np.sqrt(share), 1 - share
    shrink = noise / (eigenvalues[:, None] * share + noise)
    deviation = basis @ (shrink * (projected - scale * mean_projected[:, None]) * scale / noise)
    return _Posterior(log_evidence, deviation, basis, shrink, weights)


def fit_prior(
    datasets: Sequence[Moments], components: int = 1, iterations: int = 2, *, pooling: float = 10.0, seed: int = 0
) -> list[Prior]:
    """Expectation-maximisation of a population prior; element t is the prior after t + 1 iterations.

    The start is isotropic (Gaussian), or, for a mixture, k-means of the posterior mean weights under the Gaussian
    after two iterations, from several seeds: many a start ends with two groups in one component, and the one under
    which the voxels are likeliest after a few iterations goes on. A component's covariance is pooled with that of the
    whole population as if the latter had been seen in `pooling` voxels, since a component rarely has more voxels than
    there are features.

    Parameters
    ----------
    datasets : sequence of Moments
        One per subject or session.
    components, iterations : int
    pooling : float
        In voxels.
    seed : int
        Of the k-means starts.

    Returns
    -------
    list of Prior, of length `iterations`
    """
    size = len(datasets[0].gram)
    images = sum(data.images for data in datasets)
    feature_covariance = np.sum([data.gram for data in datasets], axis=0) / images
    if components == 1:
        starts = [isotropic_prior(size)]
    else:
        starts = _mixture_starts(datasets, components, feature_covariance, seed)

    def climb(path: list[Prior], count: int) -> tuple[list[Prior], float]:
        """The path with some iterations more, and how likely the data are under its last prior but one."""
        likely = 0.0
        for _ in range(count):
            prior, likely = _em_step(datasets, path[-1], pooling)
            path = [*path, prior.normalised(feature_covariance)]
        return path, likely

    first = min(FIRST_ITERATIONS, iterations)
    paths = [climb([start.normalised(feature_covariance)], first) for start in starts]
    path, _ = climb(max(paths, key=itemgetter(1))[0], iterations - first)
    return [replace(prior, embedding_covariance=feature_covariance) for prior in path[1:]]


def fit_mixture(
    datasets: Sequence[Moments],
    components: int,
    iterations: int,
    *,
    width: int = MIXTURE_WIDTH,
    axes: int = MIXTURE_AXES,
    seed: int = 0,
) -> list[Prior]:
    """`fit_prior` of a mixture; for embeddings wider than `width`, in the `axes` leading axes of the population.

    One E^3 step for each component, data set and iteration takes too long in wide embeddings, and components have too
    few voxels for them. The axes are those eigenvectors of the population's covariance along which voxels respond
    most; in the other directions all components are alike, with the mean variance of the population there.

    Parameters
    ----------
    datasets : sequence of Moments
        One per subject or session.
    components, iterations : int
    width, axes : int
        Features.
    seed : int
        Of the k-means starts.

    Returns
    -------
    list of Prior, of length `iterations`
    """
    if len(datasets[0].gram) <= width:
        return fit_prior(datasets, components, iterations, seed=seed)
    feature_covariance = np.sum([data.gram for data in datasets], axis=0) / sum(data.images for data in datasets)
    values, vectors = np.linalg.eigh(fit_prior(datasets, 1, 2)[-1].covariances[0])
    order = np.argsort(values * np.einsum("ek,ef,fk->k", vectors, feature_covariance, vectors, optimize=True))
    leading, others = vectors[:, order[-axes:]], vectors[:, order[:-axes]]
    rest = values[order[:-axes]].mean() * others @ others.T
    narrow = [Moments(leading.T @ data.gram @ leading, leading.T @ data.cross, data.images) for data in datasets]
    path = []
    for prior in fit_prior(narrow, components, iterations, seed=seed):
        wide = replace(prior, means=prior.means @ leading.T, covariances=leading @ prior.covariances @ leading.T + rest)
        path.append(replace(wide.normalised(feature_covariance), embedding_covariance=feature_covariance))
    return path


def _em_step(datasets: Sequence[Moments], prior: Prior, pooling: float) -> tuple[Prior, float]:
    """The next prior, and the log likelihood of the data under this one."""
    likely = 0.0
    components, size = prior.means.shape
    counts, sums = np.zeros(components), np.zeros((components, size))
    seconds, shares = np.zeros((components, size, size)), np.zeros(len(SIGNAL_SHARES))
    log_shares = np.log(prior.shares)
    for data in datasets:
        posteriors = [
            _posterior(data, mean, covariance, log_shares)
            for mean, covariance in zip(prior.means, prior.covariances, strict=True)
        ]
        evidence = np.stack([posterior.log_evidence for posterior in posteriors]) + prior.log_weights[:, None]
        top = evidence.max(axis=0)
        belongs = np.exp(evidence - top)
        likely += float((top + np.log(belongs.sum(axis=0))).sum())
        belongs /= belongs.sum(axis=0)
        for c, posterior in enumerate(posteriors):
            weights = prior.means[c][:, None] + posterior.deviation
            counts[c] += belongs[c].sum()
            sums[c] += weights @ belongs[c]
            seconds[c] += (weights * belongs[c]) @ weights.T
            seconds[c] += (posterior.basis * (posterior.shrink @ belongs[c])) @ posterior.basis.T
            shares += posterior.shares @ belongs[c]
    means = sums / np.maximum(counts, 1e-9)[:, None]
    scatter = seconds - counts[:, None, None] * means[:, :, None] * means[:, None, :]
    if components > 1:
        pooled = scatter.sum(axis=0) / counts.sum()
        covariances = (scatter + pooling * pooled) / (counts + pooling)[:, None, None]
    else:
        covariances = scatter / counts.sum()
    log_weights = np.log((counts + 1) / (counts + 1).sum())
    shares = shares / shares.sum() + 1e-3
    return Prior(log_weights, means, covariances, shares / shares.sum()), likely


def _mixture_starts(datasets: Sequence[Moments], components: int, feature_covariance: Array, seed: int) -> list[Prior]:
    gaussian = fit_prior(datasets, 1, 2)[-1]
    flat = np.zeros(len(SIGNAL_SHARES))
    weights = np.concatenate(
        [_posterior(data, gaussian.means[0], gaussian.covariances[0], flat).deviation.T for data in datasets]
    )
    weights += gaussian.means[0]
    root = np.linalg.cholesky(feature_covariance + 1e-9 * np.trace(feature_covariance) * np.eye(len(gaussian.means[0])))
    points = weights @ root  # distances between responses
    found = [_k_means(points, components, numpy_generator(seed, "mixture start", start)) for start in range(STARTS)]
    return [_of_groups(weights, labels, components, gaussian.covariances[0]) for labels in found]


def _of_groups(weights: Array, labels: NDArray[np.int64], components: int, covariance: Array) -> Prior:
    """Groups of voxels with a mean each, and alike in what is left of the population's covariance."""
    counts = np.bincount(labels, minlength=components)
    means = np.stack([weights[labels == c].mean(axis=0) if counts[c] else weights.mean(axis=0)
                      for c in range(components)])  # fmt: skip
    within = covariance - np.cov(means[labels].T, bias=True)
    values, vectors = np.linalg.eigh(within)
    within = (vectors * np.maximum(values, 0.05 * values.mean())) @ vectors.T
    log_weights = np.log((counts + 1) / (counts + 1).sum())
    return Prior(log_weights, means, np.repeat(within[None], components, axis=0))


def _k_means(points: Array, clusters: int, rng: np.random.Generator, rounds: int = 30) -> NDArray[np.int64]:
    """Labels of a k-means clustering with k-means++ seeds (Arthur & Vassilvitskii 2007)."""
    if len(points) < clusters:
        raise ResponseError(f"a mixture of {clusters} components needs at least as many voxels, got {len(points)}")
    centres = points[[rng.integers(len(points))]]
    power = (points**2).sum(axis=1)
    for _ in range(clusters - 1):
        distance = (power[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)).min(axis=1).clip(min=1e-12)
        centres = np.vstack([centres, points[rng.choice(len(points), p=distance / distance.sum())]])
    for _ in range(rounds):
        labels = np.argmin((centres**2).sum(axis=1) - 2 * points @ centres.T, axis=1)
        for c in range(clusters):
            if np.any(labels == c):
                centres[c] = points[labels == c].mean(axis=0)
    return np.asarray(labels)
