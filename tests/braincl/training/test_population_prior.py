"""Folds of the training subjects, and the choice of a mixture."""

import numpy as np

from braincl.estimators.prior_ridge import PriorRidge
from braincl.training.population_prior import Subject, _make_folds, _mixture_predict, fit_population
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
