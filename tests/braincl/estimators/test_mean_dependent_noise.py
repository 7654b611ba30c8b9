"""Noise that grows with the mean: found where it is there, nowhere else, and alike however voxels are handed over."""

import numpy as np
import pytest
import torch
from standin import small_network

from braincl.estimators.in_context import InContextEncoder
from braincl.estimators.mean_dependent_noise import ATTENUATION, LARGEST, MeanDependence, fit_mean_dependence
from braincl.models.evidence import SOFTENED, noise_sums
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork

SLOPE = 0.6


def subject(slope, images, voxels, seed=0, features=12):
    """Responses (images, voxels) whose noise has the variance of the signal at the mean, times exp(slope z)."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((images, features)).astype("f4")
    signal = X @ rng.standard_normal((features, voxels)) / np.sqrt(features)
    spread = signal.std(axis=0) * np.sqrt(2)  # of a response
    noise = signal.std(axis=0) * np.exp(0.5 * slope * signal / spread) * rng.standard_normal(signal.shape)
    return X, (5 + 3 * (signal + noise)).astype("f4")


def coverage_by_tenth(y, mean, std):
    inside = np.take_along_axis(np.abs(y - mean) < 1.6449 * std, np.argsort(mean, axis=0), axis=0)
    return np.array([part.mean() for part in np.array_split(inside, 10)])


def sums_of(slope, images, voxels, seed=0):
    """`noise_sums` where predictions are exact and noise is what it is said to be."""
    draws = torch.Generator().manual_seed(seed)
    predicted, noise = torch.randn(2, voxels, images, generator=draws, dtype=torch.float64)
    residual = noise * (0.5 * slope * predicted).exp()
    Y = (predicted + residual).T
    return noise_sums(residual, torch.ones_like(residual), Y) / voxels


def test_the_softened_logarithm_follows_the_variance_as_integration_says():
    x = torch.linspace(-12, 12, 400_001, dtype=torch.float64)
    density = torch.exp(-0.5 * x.square()) / np.sqrt(2 * np.pi)
    share = x.square() / (x.square() + SOFTENED)  # d log(s x^2 + c) / d log s at s = 1
    assert float(torch.trapezoid(share * density, x)) == pytest.approx(ATTENUATION, abs=1e-9)


@pytest.mark.parametrize("slope", [-0.5, -0.2, 0.2, 0.5])
def test_a_slope_is_found(slope):
    found = fit_mean_dependence(sums_of(slope, 3000, 200))
    assert found.slope == pytest.approx(slope, abs=0.03)
    assert found.level == pytest.approx(-(found.slope**2) / 2, rel=0.03)  # predictions have variance 1
    z = torch.randn(100_000, generator=torch.Generator().manual_seed(1))
    assert float(found.of_std(z).square().mean()) == pytest.approx(1, abs=0.01)


def test_without_a_slope_none_is_found_and_few_pictures_say_little():
    slopes = [abs(fit_mean_dependence(sums_of(0.0, 100, 50, seed)).slope) for seed in range(20)]
    assert max(slopes) < 0.06
    few = [fit_mean_dependence(sums_of(0.0, 8, 1, seed)).slope for seed in range(200)]
    plain = [sums[:, 0].sum() / sums[:, 1].sum() for sums in (sums_of(0.0, 8, 1, seed) for seed in range(200))]
    assert np.std(few) < 0.35 * np.std(plain) / ATTENUATION


def test_voxels_that_share_their_noise_are_no_further_evidence():
    """Copies of one voxel say what it says alone."""
    one = sums_of(0.3, 30, 1)
    assert fit_mean_dependence(one) == fit_mean_dependence((one * 40) / 40)
    assert fit_mean_dependence(one).slope != pytest.approx(fit_mean_dependence(sums_of(0.3, 30, 40)).slope, rel=0.1)


@pytest.mark.parametrize("sums", [torch.zeros(5, 2), torch.full((5, 2), torch.nan), torch.ones(2, 2)])
def test_what_says_nothing_changes_nothing(sums):
    assert fit_mean_dependence(sums) == MeanDependence(0, 0)


def test_the_factor_has_limits():
    factor = MeanDependence(0.0, 1.0).of_std(torch.tensor([-100.0, 0.0, 1.0, 100.0]))
    torch.testing.assert_close(factor.log(), torch.tensor([-LARGEST / 2, 0.0, 0.5, LARGEST / 2]))


def test_intervals_hold_in_every_tenth_of_the_prediction():
    X, Y = subject(SLOPE, 1200, 60)
    encoder = InContextEncoder(small_network()).fit(X[:200], Y[:200])
    assert encoder.mean_dependence_.slope == pytest.approx(SLOPE, abs=0.1)
    mean, std = encoder.predict(X[200:], return_std=True)
    covered = coverage_by_tenth(Y[200:], mean, std)
    assert covered.min() > 0.87
    assert covered.max() < 0.93
    encoder.mean_dependence_ = MeanDependence()
    same, alike = encoder.predict(X[200:], return_std=True)
    np.testing.assert_array_equal(same, mean)
    uncorrected = coverage_by_tenth(Y[200:], mean, alike)
    assert uncorrected[-1] < 0.83 < 0.95 < uncorrected[0]
    assert float(np.square(std).mean() / np.square(alike).mean()) == pytest.approx(1, abs=0.02)


def test_where_noise_does_not_depend_on_the_mean_error_bars_stay():
    X, Y = subject(0.0, 400, 60)
    for n in (10, 50, 200):
        encoder = InContextEncoder(small_network()).fit(X[:n], Y[:n])
        _, std = encoder.predict(X[200:], return_std=True)
        encoder.mean_dependence_ = MeanDependence()
        _, alike = encoder.predict(X[200:], return_std=True)
        assert np.abs(np.log(std / alike)).mean() < {10: 0.06, 50: 0.03, 200: 0.02}[n]


def test_parts_of_the_voxels_and_any_order_give_the_same_error_bars():
    X, Y = subject(SLOPE, 90, 23)
    whole = InContextEncoder(small_network(), voxel_batch=7).fit(X[:60], Y[:60])
    _, expected = whole.predict(X[60:], return_std=True)
    parts = [Y[:60, :9], Y[:60, 9:]]
    summary = whole.summarise(X[:60], parts[0]) + whole.summarise(X[:60], parts[1])
    fitted = [InContextEncoder(small_network()).fit(X[:60], part, summary) for part in parts]
    found = np.hstack([one.predict(X[60:], return_std=True)[1] for one in fitted])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    images, voxels = (np.random.default_rng(0).permutation(size) for size in (60, 23))
    shuffled = InContextEncoder(small_network()).fit(X[images], Y[images][:, voxels])
    whole.fit(X[:60], Y[:60])
    np.testing.assert_allclose(shuffled.mean_dependence_, whole.mean_dependence_, rtol=1e-4)
    np.testing.assert_allclose(shuffled.predict(X[60:], return_std=True)[1], expected[:, voxels], rtol=1e-4)


def test_a_network_that_leaves_nothing_out_has_no_dependence():
    X, Y = subject(SLOPE, 60, 5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        published = PerVoxelNetwork(PerVoxelConfig(features=12, width=20, layers=2, heads=4, hidden=16)).eval()
    for network, standardize in ((published, True), (small_network(), False)):
        encoder = InContextEncoder(network, standardize).fit(X, Y)
        assert encoder.mean_dependence_ == MeanDependence()
