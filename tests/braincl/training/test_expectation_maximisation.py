"""Expectation-maximisation of population priors: against brute force, and recovery of known populations."""

import numpy as np
import pytest

from braincl.errors import ResponseError
from braincl.models.noise_levels import SIGNAL_SHARES
from braincl.training.expectation_maximisation import Moments, _posterior, fit_mixture, fit_prior, moments


def test_posterior_equals_dense_bayes_with_the_share_summed_over_the_grid():
    rng = np.random.default_rng(0)
    images, features, voxels = 23, 5, 3
    X, Y = rng.standard_normal((images, features)), rng.standard_normal((images, voxels))
    mean, root = rng.standard_normal(features), rng.standard_normal((features, features))
    covariance, log_shares = root @ root.T, np.log(rng.dirichlet(np.ones(len(SIGNAL_SHARES))))
    found = _posterior(moments(X, Y), mean, covariance, log_shares)
    A, y = X - X.mean(axis=0), (Y - Y.mean(axis=0)) / Y.std(axis=0)
    densities = []
    for share in SIGNAL_SHARES:
        spread = share * A @ covariance @ A.T + (1 - share) * np.eye(images)
        rest = y - np.sqrt(share) * (A @ mean)[:, None]
        densities.append(-0.5 * (rest * np.linalg.solve(spread, rest)).sum(axis=0) - 0.5 * np.linalg.slogdet(spread)[1])
    joint = np.array(densities) + log_shares[:, None]
    np.testing.assert_allclose(found.log_evidence, np.log(np.exp(joint).sum(axis=0)), rtol=1e-6)
    posterior = np.exp(joint - np.log(np.exp(joint).sum(axis=0)))
    np.testing.assert_allclose(found.shares, posterior, atol=1e-6)
    share = np.exp(posterior.T @ np.log(SIGNAL_SHARES))
    for v in range(voxels):
        precision = np.linalg.inv(covariance) + share[v] / (1 - share[v]) * A.T @ A
        pull = np.sqrt(share[v]) / (1 - share[v]) * A.T @ (y[:, v] - np.sqrt(share[v]) * A @ mean)
        np.testing.assert_allclose(found.deviation[:, v], np.linalg.solve(precision, pull), rtol=1e-5, atol=1e-7)
        own = found.basis * found.shrink[:, v] @ found.basis.T
        np.testing.assert_allclose(own, np.linalg.inv(precision), rtol=1e-5, atol=1e-7)


def test_every_iteration_raises_the_evidence(population):
    _, data = population(1, 6, 40, 50, 2)
    stored = [moments(*pair) for pair in data]

    def total(prior):
        return sum(
            _posterior(m, prior.means[0], prior.covariances[0], np.log(prior.shares)).log_evidence.sum() for m in stored
        )

    values = [total(prior) for prior in fit_prior(stored, 1, 6)]
    assert np.all(np.diff(values) > 0)


def test_a_mixture_finds_the_components(population):
    means, data = population(4, 12, 250, 300, 2)
    fitted = fit_prior([moments(*pair) for pair in data], 4, 10)[-1]
    cosine = (fitted.means @ means.T) / np.outer(np.linalg.norm(fitted.means, axis=1), np.linalg.norm(means, axis=1))
    assert sorted(cosine.argmax(axis=1)) == [0, 1, 2, 3]
    assert cosine.max(axis=1).min() > 0.98
    np.testing.assert_allclose(np.exp(fitted.log_weights), 0.25, atol=0.06)


@pytest.mark.parametrize("seed", range(4))
def test_a_mixture_goes_on_from_the_likeliest_of_its_starts(population, seed):
    """A single k-means ends with two of these groups in one component for two of these seeds."""
    means, data = population(7, 12, 250, 300, 2)
    fitted = fit_prior([moments(*pair) for pair in data], 7, 8, seed=seed)[-1]
    cosine = (fitted.means @ means.T) / np.outer(np.linalg.norm(fitted.means, axis=1), np.linalg.norm(means, axis=1))
    assert sorted(cosine.argmax(axis=1)) == list(range(7))
    assert cosine.max(axis=1).min() > 0.97


def test_a_mixture_in_a_narrow_embedding_is_that_of_fit_prior(population):
    _, data = population(3, 6, 40, 50, 2)
    given = [moments(X, Y) for X, Y in data]
    for left, right in zip(fit_mixture(given, 3, 2, width=6), fit_prior(given, 3, 2), strict=True):
        for name, value in vars(left).items():
            np.testing.assert_array_equal(value, getattr(right, name))


def test_a_mixture_in_a_wide_embedding_finds_the_axes_that_voxels_respond_along(population):
    """Six features turned into eleven, five of them without any variance: responses have the prior of the six."""
    _, data = population(3, 6, 60, 80, 2)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((11, 11)))[0][:6]
    narrow = fit_prior([moments(X, Y) for X, Y in data], 3, 2)[-1]
    wide = fit_mixture([moments(X @ turn, Y) for X, Y in data], 3, 2, width=6, axes=6)[-1]
    X = data[0][0].astype(float)
    np.testing.assert_allclose(wide.log_weights, narrow.log_weights, atol=1e-5)
    np.testing.assert_allclose(X @ turn @ wide.means.T, X @ narrow.means.T, atol=1e-4)
    for left, right in zip(wide.covariances, narrow.covariances, strict=True):
        np.testing.assert_allclose(X @ turn @ left @ turn.T @ X.T, X @ right @ X.T, atol=1e-3)
        assert np.linalg.eigvalsh(left)[0] > 0


def test_priors_are_normalised_to_unit_response_variance(population):
    _, data = population(3, 7, 90, 60, 2)
    stored = [moments(*pair) for pair in data]
    spread = np.sum([m.gram for m in stored], axis=0) / sum(m.images for m in stored)
    for components in (1, 3):
        prior = fit_prior(stored, components, 2)[-1]
        variance = [np.trace(c @ spread) + m @ spread @ m for m, c in zip(prior.means, prior.covariances, strict=True)]
        assert np.exp(prior.log_weights) @ variance == pytest.approx(1)
        assert np.exp(prior.log_weights).sum() == pytest.approx(1)


def test_constant_voxels_do_not_count(population):
    _, data = population(1, 6, 9, 30, 1)
    X, Y = data[0]
    with_constant = np.column_stack([Y, np.full(len(Y), 3.5, "f4")])
    for left, right in zip(moments(X, Y), moments(X, with_constant), strict=True):
        np.testing.assert_array_equal(left, right)


def test_too_many_components_is_an_error_that_says_so():
    stored = [Moments(np.eye(3), np.ones((3, 2)), 10)]
    with pytest.raises(ResponseError, match="mixture of 4 components needs at least"):
        fit_prior(stored, 4, 1)
