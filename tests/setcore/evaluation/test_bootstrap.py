"""Intervals against resampling by hand, and their coverage where the truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from setcore.errors import InputError
from setcore.evaluation import bootstrap
from setcore.evaluation.bootstrap import (
    bootstrap_mean,
    bootstrap_methods,
    bootstrap_pearson,
    paired_bootstrap_difference,
)
from setcore.evaluation.metrics import pearson_r

IMAGES, VOXELS, DRAWS = 41, 13, 3


def responses(seed: int = 0, images: int = IMAGES, voxels: int = VOXELS) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.normal(5, 2, (images, voxels))
    return y, y + rng.normal(0, 3, (DRAWS, images, voxels))


def test_mean_interval_is_that_of_the_central_limit():
    values = np.random.default_rng(1).gamma(2.0, size=3000)
    low, high = bootstrap_mean(values, 4000, seed=1)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - error, abs=0.05 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.05 * error)


def test_blocks_of_counts_are_one_multinomial():
    """600 items in three blocks: each resample holds 600, and mean, variance and covariance are the multinomial's."""
    n, draws = 600, 20_000
    counts = np.concatenate([c for _, c in bootstrap._count_blocks(n, draws, 5, "test")], axis=1)
    assert counts.shape == (draws, n)
    assert (counts.sum(axis=1) == n).all()
    assert counts.mean(axis=0) == pytest.approx(1, abs=0.05)
    # Across blocks: Var(sum over a block of m) = m (1 - m / n).
    for start, m in ((0, 256), (256, 256), (512, 88)):
        assert counts[:, start : start + m].sum(axis=1).var() == pytest.approx(m * (1 - m / n), rel=0.05)
    assert counts[:, ::7].var() == pytest.approx(1 - 1 / n, rel=0.02)


def resampled(y, predictions, draws, seed):
    """Mean r of every resample, of voxels that come in two parts."""
    parts = bootstrap.MethodBootstrap(len(y), y.shape[1], n_boot=draws, seed=seed)
    for part in (slice(0, 3), slice(3, None)):
        parts.add(y[:, part], {"": [p[:, part] for p in predictions]})
    return parts.resampled()[""]


@pytest.mark.parametrize("block", [5, 256])
def test_pearson_resamples_equal_resampling_by_hand(monkeypatch, block):
    """The same counts, with np.repeat instead of moments: r of every resample agrees."""
    monkeypatch.setattr(bootstrap, "_BLOCK", block)
    y, predictions = responses()
    y[:, 4] = 7.0  # never varies: left out from the start
    predictions[0][:, 2] = 0.3  # never varies: r = 0
    kept = np.delete(np.arange(VOXELS), 4)
    fast = resampled(y[:, kept], [p[:, kept] for p in predictions], 20, 9)
    image_counts = bootstrap.numpy_generator(9, "bootstrap", "image").multinomial(
        IMAGES, np.full(IMAGES, 1 / IMAGES), 20
    )
    voxel_counts = np.concatenate([c for _, c in bootstrap._count_blocks(len(kept), 20, 9, "voxel")], axis=1)
    for b in range(20):
        images, voxels = np.repeat(np.arange(IMAGES), image_counts[b]), np.repeat(kept, voxel_counts[b])
        by_hand = [pearson_r(y[images][:, voxels], p[images][:, voxels]).mean() for p in predictions]
        assert fast[b] == pytest.approx(np.mean(by_hand), rel=1e-9)


def test_voxels_that_do_not_vary_in_a_resample_do_not_count():
    """A voxel with a single deviating image is constant in about a third of the resamples."""
    y, predictions = responses(images=12)
    y[:, 0] = 0
    y[3, 0] = 1
    fast = resampled(y, predictions, 50, 2)
    image_counts = bootstrap.numpy_generator(2, "bootstrap", "image").multinomial(12, np.full(12, 1 / 12), 50)
    voxel_counts = np.concatenate([c for _, c in bootstrap._count_blocks(VOXELS, 50, 2, "voxel")], axis=1)
    assert (image_counts[:, 3] == 0).any()
    for b in range(50):
        images, voxels = np.repeat(np.arange(12), image_counts[b]), np.repeat(np.arange(VOXELS), voxel_counts[b])
        by_hand = [np.nanmean(pearson_r(y[images][:, voxels], p[images][:, voxels])) for p in predictions]
        assert fast[b] == pytest.approx(np.mean(by_hand), rel=1e-9)


def test_a_list_and_an_array_of_draws_are_the_same_and_the_seed_decides():
    y, predictions = responses()
    low, high = bootstrap_pearson(y, predictions, 200, seed=4)
    assert (low, high) == bootstrap_pearson(y, list(predictions), 200, seed=4)
    assert (low, high) != bootstrap_pearson(y, predictions, 200, seed=5)
    assert low < np.mean([pearson_r(y, p) for p in predictions]) < high


def test_difference_of_a_method_and_itself_is_exactly_zero():
    y, predictions = responses()
    assert paired_bootstrap_difference(y, predictions, predictions, 100) == (0, 0, 0)


def test_methods_together_are_the_methods_one_by_one():
    y, predictions = responses()
    methods = {"a": predictions, "b": predictions[:2] + 1.0 * y, "flat": np.ones_like(predictions)}
    pairs = [("a", "b"), ("a", "flat")]
    intervals, differences = bootstrap_methods(y, methods, pairs, 60, seed=3)
    assert intervals == {name: bootstrap_pearson(y, own, 60, seed=3) for name, own in methods.items()}
    assert differences == {(a, b): paired_bootstrap_difference(y, methods[a], methods[b], 60, seed=3) for a, b in pairs}
    assert intervals["flat"] == (0, 0)


def test_difference_is_paired():
    """Two methods that differ by a little noise: the paired interval is far narrower than either method's own."""
    y, predictions = responses()
    other = predictions + 0.3 * np.random.default_rng(8).normal(size=predictions.shape)
    mean, low, high = paired_bootstrap_difference(y, predictions, other, 500)
    assert mean == pytest.approx(
        np.mean([pearson_r(y, a) - pearson_r(y, b) for a, b in zip(predictions, other, strict=True)])
    )
    assert low < mean < high
    own = np.diff(bootstrap_pearson(y, predictions, 500))[0]
    assert high - low < own / 3
    swapped = paired_bootstrap_difference(y, other, predictions, 500)
    np.testing.assert_allclose(swapped, (-mean, -high, -low), rtol=1e-9)


def test_the_interval_covers_the_true_correlation():
    """Population of voxels with r uniform in 0..0.6: 60 samples of images and voxels, most intervals hold 0.3."""
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rho = rng.uniform(0, 0.6, 40)
        y = rng.normal(size=(80, 40))
        p = rho * y + np.sqrt(1 - rho**2) * rng.normal(size=y.shape)
        low, high = bootstrap_pearson(y, [p], 200, seed=seed)
        hits += low <= 0.3 <= high
    assert hits >= 53


def test_bad_input_is_a_typed_error():
    y, predictions = responses()
    with pytest.raises(InputError, match="image, voxel"):
        bootstrap_pearson(y, predictions[:, :, :-1])
    with pytest.raises(InputError, match="at least one draw"):
        bootstrap_pearson(y, predictions[:0])
    with pytest.raises(InputError, match="no voxel"):
        bootstrap_pearson(np.ones_like(y), predictions)
    with pytest.raises(InputError, match="NaN"):
        bootstrap_pearson(y, np.where(y > 6, np.nan, predictions))
    with pytest.raises(InputError, match="finite"):
        bootstrap_mean([1.0, np.nan])
    with pytest.raises(InputError, match="at least 1 resample"):
        bootstrap_mean([1.0, 2.0], draws=0)
