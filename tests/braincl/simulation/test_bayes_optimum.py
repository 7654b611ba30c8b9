"""The optimal predictors against brute-force integration in low dimension, and against each other in simulation."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.prior import Prior
from braincl.simulation.bayes_optimum import integrating_optimum, knowing_optimum
from braincl.simulation.subjects import category_prior, gaussian_prior, simulate_subject
from setcore.evaluation.metrics import explained_variance


def density(x, mean, covariance):
    """Gaussian density of x (..., E)."""
    away = x - mean
    power = np.einsum("...i,ij,...j->...", away, np.linalg.inv(covariance), away)
    return np.exp(-0.5 * power) / np.sqrt(np.linalg.det(2 * np.pi * covariance))


def mixture(features):
    rng = np.random.default_rng(features)
    roots = rng.standard_normal((2, features, features))
    covariances = 0.3 * roots @ roots.transpose(0, 2, 1) + 0.2 * np.eye(features)
    return Prior(np.log([0.3, 0.7]), rng.standard_normal((2, features)), covariances)


def prior_density(prior, grid):
    parts = zip(np.exp(prior.log_weights), prior.means, prior.covariances, strict=True)
    return sum(weight * density(grid, mean, covariance) for weight, mean, covariance in parts)


def test_the_optimum_that_knows_equals_integration_over_two_weights():
    prior, rng = mixture(2), np.random.default_rng(0)
    X, queries = rng.standard_normal((4, 2)), rng.standard_normal((3, 2))
    offset, scale, share = 0.7, 1.3, 0.4
    y = offset + scale * rng.standard_normal(4)
    axis = np.linspace(-7, 7, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    residual = y - offset - scale * np.sqrt(share) * grid @ X.T
    posterior = prior_density(prior, grid) * np.exp(-0.5 * (residual**2).sum(axis=-1) / (scale**2 * (1 - share)))
    posterior /= posterior.sum()
    responses = offset + scale * np.sqrt(share) * grid @ queries.T
    mean = (posterior[..., None] * responses).sum(axis=(0, 1))
    variance = (posterior[..., None] * responses**2).sum(axis=(0, 1)) - mean**2 + scale**2 * (1 - share)
    known = {name: np.array([value]) for name, value in (("offset", offset), ("scale", scale), ("share", share))}
    found = knowing_optimum(X, y[:, None], queries, prior, **known)
    np.testing.assert_allclose(found.mean[:, 0], mean, rtol=1e-6)
    np.testing.assert_allclose(found.variance[:, 0], variance, rtol=1e-6)


def test_the_optimum_that_integrates_equals_integration_over_weight_offset_scale_and_share(monkeypatch):
    monkeypatch.setattr("braincl.simulation.bayes_optimum.SHARES", 5)
    monkeypatch.setattr("braincl.simulation.bayes_optimum.SCALES", 21)
    prior, rng = mixture(1), np.random.default_rng(1)
    X, queries = rng.standard_normal((6, 1)), rng.standard_normal((3, 1))
    y = 2 + 1.5 * rng.standard_normal(6)
    found = integrating_optimum(X, y[:, None], queries, prior, signal_shares=(0.1, 0.8))
    edges = np.geomspace(0.1, 0.8, 6)
    width = 0.8 + 4 / np.sqrt(10)
    weight, offset = np.linspace(-6, 6, 121)[:, None], np.linspace(-10, 14, 241)
    total, first, second = 0.0, np.zeros(3), np.zeros(3)
    for share in np.sqrt(edges[1:] * edges[:-1]):
        for scale in y.std() * np.exp(np.linspace(-width, width, 21)):
            noise = scale**2 * (1 - share)
            tuning = scale * np.sqrt(share) * weight
            power = sum((y_i - offset - tuning * x_i) ** 2 for x_i, y_i in zip(X[:, 0], y, strict=True))
            mass = prior_density(prior, weight[:, :, None]) * np.exp(-0.5 * power / noise) * noise**-3
            total += mass.sum()
            for t, query in enumerate(queries[:, 0]):
                response = offset + tuning * query
                first[t] += (mass * response).sum()
                second[t] += (mass * (response**2 + noise)).sum()
    np.testing.assert_allclose(found.mean[:, 0], first / total, rtol=1e-5)
    np.testing.assert_allclose(found.variance[:, 0], second / total - (first / total) ** 2, rtol=1e-4)


@pytest.mark.parametrize("make", [gaussian_prior, partial(category_prior, components=3)], ids=["gaussian", "mixture"])
def test_knowing_more_predicts_better_and_both_predictives_are_calibrated(make):
    rng = np.random.default_rng(2)
    X = rng.standard_normal((130, 12)) * np.linspace(2, 0.5, 12)
    prior = make(X, seed=3)
    simulation = simulate_subject(X, prior, 120, signal_shares=(0.1, 0.6), seed=4)
    Y = simulation.dataset["response"].values.astype(float)
    context, query = slice(0, 30), slice(30, 130)
    centred = X - simulation.centre
    truth = {"offset": simulation.offset, "scale": simulation.scale, "share": simulation.share}
    knowing = knowing_optimum(centred[context], Y[context], centred[query], prior, **truth)
    integrating = integrating_optimum(X[context], Y[context], X[query], prior, signal_shares=(0.1, 0.6))
    ridge = PriorRidge(prior if len(prior.means) == 1 else None).fit(X[context], Y[context]).predict(X[query])
    scores = [explained_variance(Y[query], p).mean() for p in (knowing.mean, integrating.mean, ridge)]
    ceiling = explained_variance(Y[query], simulation.signal[query]).mean()
    assert ceiling > scores[0] > scores[1] > scores[2]
    for found in (knowing, integrating):
        z = (Y[query] - found.mean) / np.sqrt(found.variance)
        assert abs((np.abs(z) < 1.645).mean() - 0.9) < 0.01
