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
    noise_ceiling_from_ncsnr,
    noise_ceiling_from_repeats,
    normalized_explained_variance,
    pearson_r,
    split_half_reliability,
)

IMAGES, REPEATS, VOXELS = 31, 5, 7


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    y = rng.normal(3, 2, (IMAGES, VOXELS))
    return y, 0.5 * y + rng.normal(size=y.shape)


def simulated_trials(rng: np.random.Generator, images: int, repeats: int, noise: np.ndarray) -> np.ndarray:
    signal = rng.normal(size=(images, 1, len(noise)))
    return 1e3 + signal + noise * rng.normal(size=(images, repeats, len(noise)))


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


def test_ceiling_from_ncsnr_is_the_share_of_signal_in_the_average():
    ncsnr = np.array([0.0, 0.5, 2.0])
    np.testing.assert_allclose(noise_ceiling_from_ncsnr(ncsnr, 3), ncsnr**2 / (ncsnr**2 + 1 / 3))
    unequal = ncsnr**2 / (ncsnr**2 + (2 / 3 + 1 / 2 + 1) / 4)  # two images of three trials, one of two, one of one
    np.testing.assert_allclose(noise_ceiling_from_ncsnr(ncsnr, [3, 2, 1, 3]), unequal)
    with pytest.raises(InputError, match="n_repeats"):
        noise_ceiling_from_ncsnr(ncsnr, [3, 0])
    with pytest.raises(InputError, match="negative"):
        noise_ceiling_from_ncsnr([-1.0], 3)


def test_ceiling_from_balanced_repeats_is_one_minus_one_over_f(rng):
    trials = simulated_trials(rng, IMAGES, REPEATS, np.linspace(0.3, 1.5, VOXELS))
    f = [stats.f_oneway(*trials[:, :, voxel]).statistic for voxel in range(VOXELS)]
    np.testing.assert_allclose(noise_ceiling_from_repeats(trials), 1 - 1 / np.array(f), rtol=1e-9)


def unbalanced_ceiling(trials: np.ndarray) -> float:
    """One voxel, written out with a list for each image."""
    groups = [row[~np.isnan(row)] for row in trials]
    groups = [group for group in groups if len(group)]
    n = np.array([len(group) for group in groups])
    grand = np.concatenate(groups).mean()
    within = sum(((group - group.mean()) ** 2).sum() for group in groups) / (n.sum() - len(n))
    between = sum(len(group) * (group.mean() - grand) ** 2 for group in groups) / (len(n) - 1)
    signal = (between - within) / ((n.sum() - (n**2).sum() / n.sum()) / (len(n) - 1))
    return max(0.0, signal / (signal + within * (1 / n).mean())) if signal > 0 else 0.0


def test_ceiling_from_unbalanced_repeats_equals_written_out_analysis_of_variance(rng):
    trials = simulated_trials(rng, IMAGES, REPEATS, np.linspace(0.3, 5, VOXELS))
    trials[rng.random(trials.shape) < 0.4] = np.nan  # other trials in other voxels, and images without any
    expected = [unbalanced_ceiling(trials[:, :, voxel]) for voxel in range(VOXELS)]
    np.testing.assert_allclose(noise_ceiling_from_repeats(trials), expected, rtol=1e-9)


def test_ceilings_find_the_simulated_share(rng):
    noise = np.array([0.5, 1.0, 2.0, 4.0])
    trials = simulated_trials(rng, 4000, REPEATS, noise)
    missing = rng.random((4000, REPEATS)) < 0.3
    missing[:, 0] = False
    trials[missing] = np.nan
    truth = 1 / (1 + noise**2 * (1 / (~missing).sum(axis=1)).mean())
    np.testing.assert_allclose(noise_ceiling_from_repeats(trials), truth, atol=0.02)
    np.testing.assert_allclose(noise_ceiling_from_ncsnr(1 / noise, (~missing).sum(axis=1)), truth, rtol=1e-12)
    full = simulated_trials(rng, 4000, 6, noise)
    np.testing.assert_allclose(split_half_reliability(full), noise_ceiling_from_repeats(full), atol=0.02)


def test_ceiling_is_the_squared_correlation_of_the_true_signal_with_the_average(rng):
    """What a ceiling means: no predictor explains more of the averaged response than the signal itself does."""
    signal = rng.normal(size=(5000, 1, 3))
    trials = signal + np.array([0.5, 1.0, 2.0]) * rng.normal(size=(5000, 4, 3))
    reached = explained_variance(trials.mean(axis=1), signal[:, 0])
    np.testing.assert_allclose(noise_ceiling_from_repeats(trials), reached, atol=0.03)


def test_ceiling_of_voxels_that_tell_nothing_is_nan(rng):
    trials = rng.normal(size=(IMAGES, REPEATS, 3))
    trials[:, 1:, 0] = np.nan  # one trial an image
    trials[1:, :, 1] = np.nan  # one image
    trials[:, :, 2] = 0.1  # no variation
    assert np.isnan(noise_ceiling_from_repeats(trials)).all()
    assert np.isnan(split_half_reliability(trials)).all()
    noiseless = np.broadcast_to(rng.normal(size=(IMAGES, 1, 2)), (IMAGES, REPEATS, 2))
    np.testing.assert_allclose(noise_ceiling_from_repeats(noiseless), 1)
    np.testing.assert_allclose(split_half_reliability(noiseless), 1)
    with pytest.raises(InputError, match="image, repeat, voxel"):
        noise_ceiling_from_repeats(trials[:, 0])


def test_split_half_of_two_repeats_equals_the_correlation_of_the_two(rng):
    trials = simulated_trials(rng, 50, 2, np.array([0.5, 1.0]))
    # Which trial falls into which half is drawn for each image; with equal expectation the mean over splits is close.
    direct = pearson_r(trials[:, 0], trials[:, 1])
    np.testing.assert_allclose(
        split_half_reliability(trials, splits=200), 2 * direct / (1 + direct), atol=0.01
    )  # fmt: skip
    np.testing.assert_array_equal(split_half_reliability(trials, seed=3), split_half_reliability(trials, seed=3))


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
