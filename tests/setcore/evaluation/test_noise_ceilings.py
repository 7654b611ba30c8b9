"""Noise ceilings against scipy, written-out sums and simulations with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from setcore.errors import InputError
from setcore.evaluation.metrics import explained_variance, pearson_r
from setcore.evaluation.noise_ceilings import (
    ncsnr_from_repeats,
    noise_ceiling_from_ncsnr,
    noise_ceiling_from_repeats,
    split_half_reliability,
)

IMAGES, REPEATS, VOXELS = 31, 5, 7


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20)


def simulated_trials(rng: np.random.Generator, images: int, repeats: int, noise: np.ndarray) -> np.ndarray:
    signal = rng.normal(size=(images, 1, len(noise)))
    return 1e3 + signal + noise * rng.normal(size=(images, repeats, len(noise)))


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


def test_split_half_of_two_repeats_is_guttmans_of_the_two(rng):
    trials = simulated_trials(rng, 50, 2, np.array([0.5, 1.0]))
    # Which trial falls into which half is drawn for each image, so that splits differ from the first two columns.
    first, second = trials[:, 0], trials[:, 1]
    direct = [4 * np.cov(a, b)[0, 1] / np.var(a + b, ddof=1) for a, b in zip(first.T, second.T, strict=True)]
    np.testing.assert_allclose(split_half_reliability(trials, splits=200), direct, atol=0.01)
    r = pearson_r(first, second)
    np.testing.assert_allclose(direct, 2 * r / (1 + r), atol=0.01)
    np.testing.assert_array_equal(split_half_reliability(trials, seed=3), split_half_reliability(trials, seed=3))


def test_ncsnr_is_the_ratio_of_signal_and_noise(rng):
    noise = np.array([0.4, 1.0, 2.5])
    np.testing.assert_allclose(ncsnr_from_repeats(simulated_trials(rng, 5000, 3, noise)), 1 / noise, rtol=0.06)
    equal = np.broadcast_to(rng.normal(size=(IMAGES, 1, 2)), (IMAGES, 3, 2))
    assert (ncsnr_from_repeats(equal) > 1e8).all()  # up to rounding
    np.testing.assert_array_equal(noise_ceiling_from_ncsnr([np.inf, 0], 3), [1, 0])
    assert np.isnan(ncsnr_from_repeats(equal[:, :1])).all()


@pytest.mark.parametrize("repeats", [2, 3, 10])
def test_the_three_ceilings_agree_with_the_truth(rng, repeats):
    """1,000 pictures, signal shares of a trial from .05 to .6, a fifth of the trials missing: means within .01."""
    images, voxels = 1000, 2000
    share = rng.uniform(0.05, 0.6, voxels)
    trials = np.sqrt(share) * rng.standard_normal((images, 1, voxels))
    trials = trials + np.sqrt(1 - share) * rng.standard_normal((images, repeats, voxels))
    missing = rng.random((images, repeats)) < 0.2
    missing[np.arange(images), rng.integers(repeats, size=images)] = False
    trials[missing] = np.nan
    n = (~missing).sum(axis=1)
    truth = share / (share + (1 - share) * (1 / n).mean())
    for found in (
        noise_ceiling_from_repeats(trials),
        noise_ceiling_from_ncsnr(ncsnr_from_repeats(trials), n),
        split_half_reliability(trials, splits=3),
    ):
        assert abs((found - truth).mean()) < 0.01
        assert np.abs(found - truth).mean() < 0.05
