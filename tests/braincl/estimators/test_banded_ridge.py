"""Banded ridge against himalaya, scikit-learn and its own definition; how strengths are chosen."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from braincl.data.splits import grouped_folds
from braincl.errors import ModelError, ResponseError
from braincl.estimators.banded_ridge import BandedRidgeCV, candidate_bands
from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.prior import Prior

WIDTHS = (5, 9)
STRENGTHS = (0.7, 0.02)


def arrays(images=40, voxels=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((images, sum(WIDTHS))) * 2 + 1
    return X, X @ rng.standard_normal((sum(WIDTHS), voxels)) + rng.standard_normal((images, voxels))


@pytest.mark.parametrize("images", [8, 60])
def test_at_given_strengths_it_is_himalayas_weighted_kernel_ridge(images):
    pytest.importorskip("himalaya", reason="himalaya, the rival that this is compared with, is not installed")
    from himalaya.kernel_ridge import WeightedKernelRidge

    X, Y = arrays(images + 10)
    seen, asked = X[:images], X[images:]
    mean = seen.mean(axis=0)
    parts = [seen[:, :5] - mean[:5], seen[:, 5:] - mean[5:]]
    asked_parts = [asked[:, :5] - mean[:5], asked[:, 5:] - mean[5:]]
    kernels = np.stack([part @ part.T for part in parts])
    rival = WeightedKernelRidge(
        alpha=1, deltas=np.log(STRENGTHS), kernels="precomputed", solver_params={"tol": 1e-12, "max_iter": 20_000}
    )
    y_mean = Y[:images].mean(axis=0)
    rival.fit(kernels, Y[:images] - y_mean)
    expected = y_mean + rival.predict(np.stack([a @ p.T for a, p in zip(asked_parts, parts, strict=True)]))
    encoder = BandedRidgeCV(WIDTHS, strengths=STRENGTHS).fit(seen, Y[:images])
    np.testing.assert_allclose(encoder.predict(asked), expected, atol=1e-5)


def test_at_given_strengths_it_is_ridge_on_scaled_features():
    X, Y = arrays()
    scale = np.sqrt(np.repeat(STRENGTHS, WIDTHS))
    expected = Ridge(alpha=1).fit(X * scale, Y)
    encoder = BandedRidgeCV(WIDTHS, strengths=STRENGTHS).fit(X, Y)
    np.testing.assert_allclose(encoder.coef_, expected.coef_ * scale, rtol=1e-8)
    np.testing.assert_allclose(encoder.intercept_, expected.intercept_, rtol=1e-8)
    np.testing.assert_array_equal(encoder.strengths_, np.repeat(np.array(STRENGTHS)[:, None], 6, axis=1))


def test_under_a_prior_it_is_the_gaussian_posterior_mean():
    rng = np.random.default_rng(1)
    X, Y = arrays()
    root, mean = rng.standard_normal((5, 5)), rng.standard_normal(5)
    prior = Prior(np.zeros(1), mean[None], (root @ root.T)[None])
    encoder = BandedRidgeCV(WIDTHS, priors=[prior, None], strengths=STRENGTHS).fit(X, Y)
    moment = np.zeros((14, 14))
    moment[:5, :5] = STRENGTHS[0] * (root @ root.T + np.outer(mean, mean))
    moment[5:, 5:] = STRENGTHS[1] * np.eye(9)
    A = X - X.mean(axis=0)
    expected = moment @ A.T @ np.linalg.solve(A @ moment @ A.T + np.eye(40), Y - Y.mean(axis=0))
    np.testing.assert_allclose(encoder.coef_.T, expected, rtol=1e-7, atol=1e-9)


def test_every_voxel_takes_the_space_that_it_is_of():
    rng = np.random.default_rng(2)
    X = rng.standard_normal((200, 14))
    Y = np.hstack([X[:, :5] @ rng.standard_normal((5, 4)), X[:, 5:] @ rng.standard_normal((9, 3))])
    Y += rng.standard_normal(Y.shape)
    encoder = BandedRidgeCV(WIDTHS).fit(X, Y)
    first, second = encoder.strengths_
    assert (first[:4] > 5 * second[:4]).all()
    assert (second[4:] > 5 * first[4:]).all()
    both = encoder.predict_by_space(X).sum(axis=0) + encoder.intercept_
    np.testing.assert_allclose(both, encoder.predict(X), rtol=1e-9)


def test_units_of_spaces_and_voxels_do_not_matter():
    X, Y = arrays()
    encoder = BandedRidgeCV(WIDTHS).fit(X, Y)
    scaled = BandedRidgeCV(WIDTHS).fit(X * np.repeat([100.0, 0.01], WIDTHS), 7 * Y - 3)
    np.testing.assert_allclose(
        scaled.predict(X * np.repeat([100.0, 0.01], WIDTHS)), 7 * encoder.predict(X) - 3, rtol=1e-6
    )


def test_candidates_are_on_the_simplex():
    bands = candidate_bands(3, 7)
    np.testing.assert_allclose(bands.sum(axis=1), 1)
    assert bands.shape == (11, 3)
    np.testing.assert_array_equal(bands[1:4], np.eye(3))
    np.testing.assert_array_equal(candidate_bands(1, 7), [[1]])


def test_groups_stay_whole_and_folds_are_even():
    groups = np.repeat(["a", "b", "c", "d", "e"], [9, 3, 4, 3, 5])
    folds = grouped_folds(24, 3, groups)
    assert sorted(np.concatenate(folds)) == list(range(24))
    for fold in folds:
        assert not set(groups[fold]) & set(np.delete(groups, fold))
        assert 6 <= len(fold) <= 9
    assert [len(fold) for fold in grouped_folds(23, 5)] == [5, 5, 5, 4, 4]
    assert len(grouped_folds(24, 9, groups)) == 5


def test_wrong_input_names_both_sides():
    X, Y = arrays()
    with pytest.raises(ResponseError, match=r"spaces of 5 \+ 8 features, X has 14"):
        BandedRidgeCV((5, 8)).fit(X, Y)
    with pytest.raises(ResponseError, match=r"feature space 1 .* does not vary"):
        BandedRidgeCV(WIDTHS).fit(X * np.repeat([1.0, 0.0], WIDTHS), Y)
    with pytest.raises(ResponseError, match="give 2 numbers, 0 or more"):
        BandedRidgeCV(WIDTHS, strengths=(1.0,)).fit(X, Y)
    for options, message in (
        ({"bands": -1}, "bands is -1; give a whole number, 0 or more"),
        ({"bands": 2.5}, "bands is 2.5; give a whole number"),
        ({"cv": 1}, "cv is 1; give a whole number, 2 or more"),
        ({"widths": 14}, r"widths are 14; give the number of features of each space, such as \(512, 30\)"),
        ({"strengths": "ab"}, "strengths are 'ab'; give 2 numbers"),
    ):
        with pytest.raises(ResponseError, match=message):
            BandedRidgeCV(**({"widths": WIDTHS} | options)).fit(X, Y)
    with pytest.raises(ModelError, match="1 priors for 2 feature spaces"):
        BandedRidgeCV(WIDTHS, priors=[None]).fit(X, Y)
    with pytest.raises(ModelError, match=r"a prior is PriorRidge; give a Prior, such as"):
        BandedRidgeCV(WIDTHS, priors=[PriorRidge(), None]).fit(X, Y)
    with pytest.raises(ResponseError, match=r"widths are \[8.5, 5.5\]"):
        BandedRidgeCV([8.5, 5.5]).fit(X, Y)
    with pytest.raises(ModelError, match="the prior has 9 features, its feature space 5"):
        BandedRidgeCV(WIDTHS, priors=[Prior(np.zeros(1), np.zeros((1, 9)), np.eye(9)[None]), None]).fit(X, Y)
    with pytest.raises(ResponseError, match="all 40 images are in the one group"):
        BandedRidgeCV(WIDTHS).fit(X, Y, groups=np.zeros(40))
    with pytest.raises(ResponseError, match="each of the 40 groups has one member"):
        BandedRidgeCV(WIDTHS).fit(X, Y, groups=np.arange(40))
    with pytest.raises(ResponseError, match=r"groups have shape \(39,\), there are 40 images"):
        BandedRidgeCV(WIDTHS).fit(X, Y, groups=np.arange(39))
