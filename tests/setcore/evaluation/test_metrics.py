"""Scores against scikit-learn, scipy, written-out sums and simulations with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import explained_variance_score

from setcore.errors import InputError
from setcore.evaluation.metrics import (
    explained_variance,
    gaussian_nll,
    interval_coverage,
    normalized_explained_variance,
    pearson_r,
)

IMAGES, VOXELS = 31, 7


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y = rng.normal(3, 2, (IMAGES, VOXELS))
    return y, 0.5 * y + rng.normal(size=y.shape)


def test_explained_variance_equals_scikit_learn(pair):
    expected = explained_variance_score(*pair, multioutput="raw_values")
    np.testing.assert_allclose(explained_variance(*pair), expected, rtol=1e-12)
    assert explained_variance(pair[0][:, 0], pair[1][:, 0]) == pytest.approx(expected[0], rel=1e-12)


def test_pearson_r_equals_scipy(pair):
    expected = [stats.pearsonr(y, p).statistic for y, p in zip(*(values.T for values in pair), strict=True)]
    np.testing.assert_allclose(pearson_r(*pair), expected, rtol=1e-12)


def test_float32_is_computed_in_float64(pair):
    y, p = (values.astype(np.float32) + np.float32(1e4) for values in pair)
    assert explained_variance(y, p).dtype == pearson_r(y, p).dtype == np.float64
    np.testing.assert_array_equal(pearson_r(y, p), pearson_r(y.astype(np.float64), p.astype(np.float64)))


def test_scores_of_constant_voxels_are_nan_and_of_constant_predictions_zero(pair):
    y, p = pair
    y[:, 2], p[:, 4] = 0.1, 0.7  # 0.1 and 0.7 are not representable: their means are rounded
    y[:, 5] = p[:, 5] = 0.1
    r, ev = pearson_r(y, p), explained_variance(y, p)
    assert np.isnan(r[[2, 5]]).all()
    assert np.isnan(ev[[2, 5]]).all()
    assert r[4] == 0
    assert ev[4] == pytest.approx(0, abs=1e-14)
    assert np.isfinite(r[[0, 1, 3, 6]]).all()


def test_pearson_r_is_invariant_to_extreme_scales(pair):
    y, p = pair
    np.testing.assert_allclose(pearson_r(1e-150 * y, 1e150 * p), pearson_r(y, p), rtol=1e-10)


@pytest.mark.parametrize("score", [explained_variance, pearson_r])
def test_shape_errors_are_typed(score):
    with pytest.raises(InputError, match="equal"):
        score(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(InputError, match="no image"):
        score(np.zeros((0, 3)), np.zeros((0, 3)))


def test_normalized_explained_variance_is_a_ratio_of_sums_over_counted_voxels():
    ev, ceiling = np.array([0.2, 0.1, 9.0, np.nan, 9.0]), np.array([0.5, 0.1, 0.05, 0.5, np.nan])
    assert normalized_explained_variance(ev, ceiling) == pytest.approx(0.3 / 0.6)
    assert normalized_explained_variance(ev, ceiling, threshold=0.2) == pytest.approx(0.2 / 0.5)
    assert np.isnan(normalized_explained_variance(ev, np.zeros(5)))


def test_gaussian_nll_equals_scipy(pair, rng):
    std = rng.uniform(0.5, 2, pair[0].shape)
    expected = -stats.norm.logpdf(pair[0], pair[1], std).mean(axis=0)
    np.testing.assert_allclose(gaussian_nll(*pair, std), expected, rtol=1e-12)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_interval_coverage_counts_what_scipys_interval_holds(pair, rng, level):
    y, mean = pair
    std = rng.uniform(0.2, 2, y.shape)
    low, high = stats.norm.interval(level, mean, std)
    np.testing.assert_allclose(interval_coverage(y, mean, std, level), ((low <= y) & (y <= high)).mean(axis=0))


def test_degenerate_std_is_nan_and_a_wrong_one_an_error(pair):
    std = np.ones(pair[0].shape)
    std[:, 3] = 0
    for score in (gaussian_nll, interval_coverage):
        assert np.flatnonzero(np.isnan(score(*pair, std))).tolist() == [3]
        with pytest.raises(InputError, match="std"):
            score(*pair, -std)
    with pytest.raises(InputError, match="level"):
        interval_coverage(*pair, std, 90)
