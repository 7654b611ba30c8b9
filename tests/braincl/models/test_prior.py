"""The population prior: expectation-maximisation against brute force, and recovery of known populations."""

import numpy as np
import pytest

from braincl.errors import ResponseError
from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.prior import SIGNAL_SHARES, Moments, Prior, _posterior, fit_mixture, fit_prior, moments
from braincl.training.population_prior import Subject, fit_population, make_folds, mixture_predict
from setcore.evaluation.metrics import explained_variance


def population(components, features, voxels, images, subjects, seed=0):
    """Voxels of several subjects from one mixture whose components differ in mean and covariance."""
    rng = np.random.default_rng(seed)
    means = rng.standard_normal((components, features))
    roots = rng.standard_normal((components, features, features)) * np.geomspace(1, 0.05, features) / 3
    data = []
    for _ in range(subjects):
        label = rng.integers(components, size=voxels)
        weights = means[label] + np.einsum("vij,vj->vi", roots[label], rng.standard_normal((voxels, features)))
        X = rng.standard_normal((images, features))
        signal = X @ weights.T
        share = rng.uniform(0.05, 0.6, voxels)
        noise = rng.standard_normal((images, voxels))
        Y = np.sqrt(share) * signal / signal.std(axis=0) + np.sqrt(1 - share) * noise
        data.append((X.astype("f4"), Y.astype("f4")))
    return means, data


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


def test_every_iteration_raises_the_evidence():
    _, data = population(1, 6, 40, 50, 2)
    stored = [moments(*pair) for pair in data]

    def total(prior):
        return sum(
            _posterior(m, prior.means[0], prior.covariances[0], np.log(prior.shares)).log_evidence.sum() for m in stored
        )

    values = [total(prior) for prior in fit_prior(stored, 1, 6)]
    assert np.all(np.diff(values) > 0)


def test_a_mixture_finds_the_components():
    means, data = population(4, 12, 250, 300, 2)
    fitted = fit_prior([moments(*pair) for pair in data], 4, 10)[-1]
    cosine = (fitted.means @ means.T) / np.outer(np.linalg.norm(fitted.means, axis=1), np.linalg.norm(means, axis=1))
    assert sorted(cosine.argmax(axis=1)) == [0, 1, 2, 3]
    assert cosine.max(axis=1).min() > 0.98
    np.testing.assert_allclose(np.exp(fitted.log_weights), 0.25, atol=0.06)


def test_a_mixture_in_a_narrow_embedding_is_that_of_fit_prior():
    _, data = population(3, 6, 40, 50, 2)
    given = [moments(X, Y) for X, Y in data]
    for left, right in zip(fit_mixture(given, 3, 2, width=6), fit_prior(given, 3, 2), strict=True):
        for name, value in vars(left).items():
            np.testing.assert_array_equal(value, getattr(right, name))


def test_a_mixture_in_a_wide_embedding_finds_the_axes_that_voxels_respond_along():
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


def test_priors_are_normalised_to_unit_response_variance():
    _, data = population(3, 7, 90, 60, 2)
    stored = [moments(*pair) for pair in data]
    spread = np.sum([m.gram for m in stored], axis=0) / sum(m.images for m in stored)
    for components in (1, 3):
        prior = fit_prior(stored, components, 2)[-1]
        variance = [np.trace(c @ spread) + m @ spread @ m for m, c in zip(prior.means, prior.covariances, strict=True)]
        assert np.exp(prior.log_weights) @ variance == pytest.approx(1)
        assert np.exp(prior.log_weights).sum() == pytest.approx(1)


def test_shrinkage_keeps_the_trace_and_ends_at_the_identity():
    _, data = population(1, 6, 40, 50, 1)
    prior = fit_prior([moments(*pair) for pair in data])[-1]
    assert np.trace(prior.shrunk(0.3).covariances[0]) == pytest.approx(np.trace(prior.covariances[0]))
    level = np.trace(prior.covariances[0]) / 6
    np.testing.assert_allclose(prior.shrunk(1.0).covariances[0], level * np.eye(6), atol=1e-12)


def test_constant_voxels_do_not_count():
    _, data = population(1, 6, 9, 30, 1)
    X, Y = data[0]
    with_constant = np.column_stack([Y, np.full(len(Y), 3.5, "f4")])
    for left, right in zip(moments(X, Y), moments(X, with_constant), strict=True):
        np.testing.assert_array_equal(left, right)


def test_too_many_components_is_an_error_that_says_so():
    stored = [Moments(np.eye(3), np.ones((3, 2)), 10)]
    with pytest.raises(ResponseError, match="mixture of 4 components needs at least"):
        fit_prior(stored, 4, 1)


class TestFolds:
    subjects = tuple(Subject(name, np.zeros((5, 2), "f4"), np.zeros((5, 6), "f4")) for name in "aab")

    def test_whole_subjects_are_left_out(self):
        assert [fold.datasets for fold in make_folds(self.subjects)] == [(0, 1), (2,)]

    def test_sessions_where_there_is_one_subject(self):
        assert [fold.datasets for fold in make_folds(self.subjects[:2])] == [(0,), (1,)]

    def test_halves_of_the_voxels_where_there_is_one_session(self):
        folds = make_folds(self.subjects[:1])
        assert [fold.voxels[0].tolist() for fold in folds] == [[0, 2, 4], [1, 3, 5]]


def test_a_mixture_is_chosen_where_it_predicts_the_left_out_subject_better():
    _, data = population(4, 10, 300, 200, 2)
    subjects = [Subject(f"s{i}", *pair) for i, pair in enumerate(data)]
    fit = fit_population(subjects)
    assert fit.report["components"] == 4
    assert len(fit.folds) == 2
    _, (new,) = population(4, 10, 100, 400, 1)  # the same population: the seed draws the components first
    X, Y = new
    gaussian = PriorRidge(fit.gaussian).fit(X[:30], Y[:30]).predict(X[30:])
    mixture = mixture_predict(fit.mixture, X[:30], Y[:30], X[30:])
    assert explained_variance(Y[30:], mixture).mean() > explained_variance(Y[30:], gaussian).mean()


def test_prior_ridge_is_ridge_in_the_metric_of_the_prior():
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((19, 6)), rng.standard_normal(19)
    root = rng.standard_normal((6, 6))
    prior = Prior(np.zeros(1), rng.standard_normal((1, 6)) * 0.2, (root @ root.T / 20)[None])
    fitted = PriorRidge(prior).fit(X, y)
    share, A, z = prior.shares @ SIGNAL_SHARES, X - X.mean(axis=0), (y - y.mean()) / y.std()
    best = (-np.inf, None)
    basis = np.linalg.eigh(np.eye(19) - 1 / 19)[1][:, 1:]
    for noise in np.geomspace(0.02, 2, 30):
        spread = basis.T @ (share * A @ prior.covariances[0] @ A.T + noise * np.eye(19)) @ basis
        rest = basis.T @ (z - np.sqrt(share) * A @ prior.means[0])
        density = -0.5 * rest @ np.linalg.solve(spread, rest) - 0.5 * np.linalg.slogdet(spread)[1]
        gain = share * prior.covariances[0] @ A.T @ basis @ np.linalg.solve(spread, rest)
        best = max(best, (density, noise), key=lambda pair: pair[0]) if best[1] is not None else (density, noise)
        if best[1] == noise:
            weights = y.std() * (np.sqrt(share) * prior.means[0] + gain)
            inner = share * prior.covariances[0] @ A.T @ basis
            left = share * prior.covariances[0] - inner @ np.linalg.solve(spread, inner.T)
            variance = noise * (1 + 1 / 19)
    np.testing.assert_allclose(fitted.coef_[0], weights, rtol=1e-6)
    queries = rng.standard_normal((4, 6))
    mean, std = fitted.predict(queries, return_std=True)
    np.testing.assert_allclose(mean, y.mean() + (queries - X.mean(axis=0)) @ weights, rtol=1e-6)
    centred = queries - X.mean(axis=0)
    expected = y.std() * np.sqrt((centred @ left * centred).sum(axis=1) + variance)
    np.testing.assert_allclose(std, expected, rtol=1e-6)
