"""Folds of the training subjects, and the choice of a mixture."""

import numpy as np
import pytest

from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.noise_levels import SIGNAL_SHARES
from braincl.models.prior import Prior
from braincl.simulation.bayes_optimum import integrating_optimum
from braincl.training import population_prior
from braincl.training.population_prior import Subject, _make_folds, _mixture_predict, fit_population, load_or_fit
from setcore.evaluation.metrics import explained_variance


class TestFolds:
    subjects = tuple(Subject(name, np.zeros((5, 2), "f4"), np.zeros((5, 6), "f4")) for name in "aab")

    def test_whole_subjects_are_left_out(self):
        assert [fold.datasets for fold in _make_folds(self.subjects)] == [(0, 1), (2,)]

    def test_sessions_where_there_is_one_subject(self):
        assert [fold.datasets for fold in _make_folds(self.subjects[:2])] == [(0,), (1,)]

    def test_halves_of_the_voxels_where_there_is_one_session(self):
        folds = _make_folds(self.subjects[:1])
        assert [fold.voxels[0].tolist() for fold in folds] == [[0, 2, 4], [1, 3, 5]]


def test_a_mixture_is_chosen_where_it_predicts_the_left_out_subject_better(population):
    _, data = population(4, 10, 300, 200, 2)
    subjects = [Subject(f"s{i}", *pair) for i, pair in enumerate(data)]
    fit = fit_population(subjects)
    assert fit.report["components"] == 4
    assert len(fit.folds) == 2
    _, (new,) = population(4, 10, 100, 400, 1)  # the same population: the seed draws the components first
    X, Y = new
    gaussian = PriorRidge(fit.gaussian).fit(X[:30], Y[:30]).predict(X[30:])
    mixture = _mixture_predict(fit.mixture, X[:30], Y[:30], X[30:])
    assert explained_variance(Y[30:], mixture).mean() > explained_variance(Y[30:], gaussian).mean()


def test_a_fit_that_was_killed_goes_on_and_ends_the_same(population, tmp_path, monkeypatch):
    _, data = population(2, 6, 150, 60, 2)
    subjects, path = [Subject(f"s{i}", *pair) for i, pair in enumerate(data)], tmp_path / "population.safetensors"
    whole = load_or_fit(tmp_path / "whole.safetensors", subjects, 3)
    real, calls = population_prior.fit_prior, []

    def second_call_is_killed(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(population_prior, "fit_prior", second_call_is_killed)
    with pytest.raises(KeyboardInterrupt):
        load_or_fit(path, subjects, 3)
    assert [part.name for part in path.with_suffix("").iterdir()] == ["gaussian-0.safetensors"]
    found = load_or_fit(path, subjects, 3)
    assert len(calls) == 4  # not the first fold again
    assert not path.with_suffix("").exists()
    assert found.report == whole.report
    np.testing.assert_array_equal(found.gaussian.covariances, whole.gaussian.covariances)
    again = load_or_fit(path, subjects, 3)
    assert len(calls) == 4
    for (_, left, _), (_, right, _) in zip(again.folds, whole.folds, strict=True):
        np.testing.assert_array_equal(left.means, right.means)


def test_a_mixture_predicts_as_the_optimum_that_integrates_over_offset_scale_and_noise():
    """From nine pictures on which every group's tuning has a variance of its own, which says nothing of its noise."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((60, 7)) * np.array([3, 2, 1, 1, 0.7, 0.5, 0.3])
    covariances = np.stack([np.diag(rng.permutation([4.0, 2, 1, 0.3, 0.1, 0.1, 0.05])) for _ in range(3)])
    shares = np.where((SIGNAL_SHARES > 0.09) & (SIGNAL_SHARES < 0.66), 1 - SIGNAL_SHARES, 1e-6)  # log-uniform
    log_weights, means = np.log([0.5, 0.3, 0.2]), rng.standard_normal((3, 7))
    prior = Prior(log_weights, means, covariances, shares / shares.sum()).normalised(X.T @ X / 60)
    groups = rng.choice(3, 40, p=np.exp(log_weights))
    tuning = np.stack([rng.multivariate_normal(prior.means[c], prior.covariances[c]) for c in groups])
    share = np.exp(rng.uniform(np.log(0.1), np.log(0.6), 40))
    Y = np.sqrt(share) * (X @ tuning.T) + np.sqrt(1 - share) * rng.standard_normal((60, 40))
    optimum = integrating_optimum(X[:9], Y[:9], X[9:], prior, signal_shares=(0.1, 0.6)).mean
    difference = _mixture_predict(prior, X[:9], Y[:9], X[9:]) - optimum
    assert np.mean(difference**2) < 0.01 * np.var(optimum - optimum.mean(axis=0))
