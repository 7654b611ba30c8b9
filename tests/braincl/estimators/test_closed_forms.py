"""The ensemble and the kernels under a population prior, against the same written out."""

from dataclasses import replace

import numpy as np
import pytest

from braincl.estimators.prior_ensemble import PriorEnsemble
from braincl.estimators.prior_kernel import BENDS, OWN_TRUST, PriorKernelRidge
from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.noise_levels import SIGNAL_SHARES
from braincl.models.prior import Prior

IMAGES, FEATURES, VOXELS, QUERIES = 19, 6, 5, 4


@pytest.fixture
def case():
    rng = np.random.default_rng(3)
    roots = rng.standard_normal((2, FEATURES, FEATURES))
    covariances = np.einsum("cij,ckj->cik", roots, roots) / 20
    mean = 0.2 * rng.standard_normal((1, FEATURES))
    prior = Prior(np.zeros(1), mean, covariances[:1], embedding_covariance=covariances[1])
    X = rng.standard_normal((IMAGES, FEATURES))
    Y = np.sin(X @ rng.standard_normal((FEATURES, VOXELS))) + 0.3 * rng.standard_normal((IMAGES, VOXELS))
    return prior, X, Y, rng.standard_normal((QUERIES, FEATURES))


def variants(prior: Prior, pictures: np.ndarray) -> list[np.ndarray]:
    values, vectors = np.linalg.eigh(pictures)
    own, root = prior.covariances[0], (vectors * np.sqrt(values)) @ vectors.T
    others = [root * np.trace(own) / np.trace(root), np.eye(FEATURES) * np.trace(own) / FEATURES]
    return [own] + [(1 - w) * own + w * other for other in others for w in (0.1, 0.3, 0.6)]


@pytest.mark.parametrize("known", [True, False])
def test_the_ensemble_is_the_mean_of_fourteen_ridges(case, known):
    prior, X, Y, queries = case
    pictures = prior.embedding_covariance if known else np.cov(X.T)
    fits = [
        PriorRidge(replace(prior, means=scale * prior.means, covariances=covariance[None])).fit(X, Y)
        for covariance in variants(prior, pictures)
        for scale in (0.5, 1.0)
    ]
    assert len(fits) == 14
    fitted = PriorEnsemble(prior if known else replace(prior, embedding_covariance=None)).fit(X, Y)
    np.testing.assert_allclose(fitted.coef_, np.mean([fit.coef_ for fit in fits], axis=0), rtol=1e-9, atol=1e-12)
    mean, std = fitted.predict(queries, return_std=True)
    means, stds = zip(*(fit.predict(queries, return_std=True) for fit in fits), strict=True)
    np.testing.assert_allclose(mean, np.mean(means, axis=0), rtol=1e-9)
    np.testing.assert_allclose(std, np.sqrt(np.mean(np.square(stds), axis=0)), rtol=1e-9)


def member(prior, covariance, scale, bend, X, z, queries):
    """Mean and variance of a voxel under one kernel, and its leave-one-out score, with dense matrices."""
    share, A, new = prior.shares @ SIGNAL_SHARES, X - X.mean(axis=0), queries - X.mean(axis=0)
    everything = np.vstack([A, new])
    linear = everything @ covariance @ everything.T
    power = np.diag(linear)
    distance = power[:, None] + power - 2 * linear
    centre = np.eye(len(everything))
    centre[:, :IMAGES] -= 1 / IMAGES  # from everything, the mean over the context
    unit = 2 / distance[:IMAGES, :IMAGES].mean()
    kernel = centre @ (np.exp(-0.5 * bend * unit * distance) if bend else linear) @ centre.T
    kernel *= np.trace((centre @ linear @ centre.T)[:IMAGES, :IMAGES]) / np.trace(kernel[:IMAGES, :IMAGES])
    basis = np.linalg.eigh(np.eye(IMAGES) - 1 / IMAGES)[1][:, 1:]
    rest = z - np.sqrt(share) * scale * A @ prior.means[0]
    best = None
    for noise in np.geomspace(2, 0.02, 30):
        inverse = np.linalg.inv(basis.T @ (share * kernel[:IMAGES, :IMAGES] + noise * np.eye(IMAGES)) @ basis)
        precision = basis @ inverse @ basis.T
        density = -0.5 * rest @ precision @ rest + 0.5 * np.linalg.slogdet(inverse)[1]
        if best is None or density > best[0]:
            best = density, noise, precision
    _, noise, precision = best
    cross = share * kernel[IMAGES:, :IMAGES]
    mean = np.sqrt(share) * scale * new @ prior.means[0] + cross @ precision @ rest
    explained = np.einsum("ti,ij,tj->t", cross, precision, cross)
    variance = share * np.diag(kernel)[IMAGES:] - explained + noise * (1 + 1 / IMAGES)
    residual = np.mean((precision @ rest / np.diag(precision)) ** 2)
    return mean, variance, -0.5 * IMAGES * np.log(residual)


def test_the_kernels_are_gaussian_processes_weighted_by_what_they_predict(case):
    prior, X, Y, queries = case
    Z = (Y - Y.mean(axis=0)) / Y.std(axis=0)
    found = [
        [
            member(prior, covariance, scale, bend, X, Z[:, voxel], queries)
            for covariance in variants(prior, prior.embedding_covariance)
            for bend in BENDS
            for scale in (0.5, 1.0)
        ]
        for voxel in range(VOXELS)
    ]
    assert len(found[0]) == 42
    means, variances, scores = (np.array([[one[part] for one in voxel] for voxel in found]) for part in range(3))
    log_weights = scores.mean(axis=0) + OWN_TRUST * scores
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    mean, std = PriorKernelRidge(prior).fit(X, Y).predict(queries, return_std=True)
    expected = np.einsum("vc,vct->tv", weights, means) * Y.std(axis=0) + Y.mean(axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-7)
    np.testing.assert_allclose(std, np.sqrt(np.einsum("vc,vct->tv", weights, variances)) * Y.std(axis=0), rtol=1e-7)


def test_a_fit_in_parts_is_the_fit_to_all_voxels(case):
    prior, X, Y, queries = case
    encoder, parts = PriorKernelRidge(prior), [Y[:, :2], Y[:, 2:]]
    summary = encoder.summarise(X, parts[0]) + encoder.summarise(X, parts[1])
    found = np.hstack([PriorKernelRidge(prior).fit(X, part, summary).predict(queries) for part in parts])
    np.testing.assert_allclose(found, encoder.fit(X, Y).predict(queries), rtol=1e-10)
    alone = np.hstack([PriorKernelRidge(prior).fit(X, part).predict(queries) for part in parts])
    assert not np.allclose(alone, found, rtol=1e-4)
