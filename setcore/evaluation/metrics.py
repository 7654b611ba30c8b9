"""Scores of predicted responses: explained variance, correlation, noise ceilings, calibration.

Axis 0 is always the image; arrays of any precision are accepted and everything is computed in float64. A voxel whose
measured response does not vary has no score: it gets NaN, and callers exclude and count it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from setcore.errors import InputError
from setcore.seeding import numpy_generator

Array = npt.NDArray[np.float64]


def _paired(y: npt.ArrayLike, *others: npt.ArrayLike) -> tuple[Array, ...]:
    arrays = tuple(np.asarray(values, dtype=np.float64) for values in (y, *others))
    shapes = [array.shape for array in arrays]
    if arrays[0].ndim == 0 or len(set(shapes)) > 1:
        raise InputError(f"shapes {shapes} must be equal, with the image as the first axis")
    if len(arrays[0]) == 0:
        raise InputError("there is no image to score; give at least one")
    return arrays


def _constant(values: Array) -> npt.NDArray[np.bool_]:
    # Not `var == 0`: the mean of equal numbers is rounded, and their variance then is not zero.
    return np.asarray(values.max(axis=0) == values.min(axis=0))


def explained_variance(y: npt.ArrayLike, p: npt.ArrayLike) -> Array:
    """Explained variance per voxel, ``1 - Var(y - p) / Var(y)`` over images; a constant offset of `p` costs nothing.

    Parameters
    ----------
    y, p : array of shape (n_images,) or (n_images, n_voxels)
        Measured and predicted responses.

    Returns
    -------
    array of shape () or (n_voxels,)
        At most 1, unbounded below; NaN for voxels constant in `y`.

    Raises
    ------
    InputError
        The shapes differ or there is no image.
    """
    y, p = _paired(y, p)
    total = np.where(_constant(y), np.nan, y.var(axis=0))
    return np.asarray(1 - (y - p).var(axis=0) / total)


def pearson_r(y: npt.ArrayLike, p: npt.ArrayLike) -> Array:
    """Pearson correlation per voxel over images.

    Parameters
    ----------
    y, p : array of shape (n_images,) or (n_images, n_voxels)
        Measured and predicted responses.

    Returns
    -------
    array of shape () or (n_voxels,)
        NaN for voxels constant in `y`; 0 where only the prediction is constant, since it tells images apart no better
        than chance.

    Raises
    ------
    InputError
        The shapes differ or there is no image.
    """
    y, p = _paired(y, p)
    flat_y, flat_p = _constant(y), _constant(p)
    # Each side is scaled on its own: the product of two tiny variances may underflow.
    r = (_unit_norm(y, flat_y) * _unit_norm(p, flat_p)).sum(axis=0)
    return np.asarray(np.where(flat_y, np.nan, np.where(flat_p, 0.0, np.clip(r, -1, 1))))


def _unit_norm(values: Array, flat: npt.NDArray[np.bool_]) -> Array:
    centred = values - values.mean(axis=0)
    return np.asarray(centred / np.where(flat, 1, np.sqrt((centred**2).sum(axis=0))))


def noise_ceiling_from_ncsnr(ncsnr: npt.ArrayLike, n_repeats: npt.ArrayLike) -> Array:
    """Explainable share of the variance of averaged responses, from the noise-ceiling signal-to-noise ratio.

    ``ncsnr^2 / (ncsnr^2 + mean(1 / n))`` (Allen et al. 2022, Methods, "Noise ceiling estimation").

    Parameters
    ----------
    ncsnr : array of shape (n_voxels,)
        Ratio of the standard deviations of signal and single-trial noise, >= 0.
    n_repeats : number or array of shape (n_images,)
        Trials averaged for each image.

    Returns
    -------
    array of shape (n_voxels,)
        0..1.

    Raises
    ------
    InputError
        A ratio is negative or a number of repeats is below 1.
    """
    ratio, repeats = np.asarray(ncsnr, dtype=np.float64), np.asarray(n_repeats, dtype=np.float64)
    if (ratio < 0).any():
        raise InputError("ncsnr is a ratio of standard deviations and cannot be negative")
    if repeats.size == 0 or not (repeats >= 1).all():
        raise InputError("n_repeats must be 1 or more for every image; leave out images without a trial")
    return np.asarray(ratio**2 / (ratio**2 + (1 / repeats).mean()))


def _trials(trials: npt.ArrayLike) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Trials centred per voxel and 0 where missing, which are present, and which voxels vary at all."""
    values = np.asarray(trials, dtype=np.float64)
    if values.ndim != 3:
        raise InputError(f"trials have shape {values.shape}; expected (image, repeat, voxel)")
    present = ~np.isnan(values)
    spread = [np.where(present, values, empty) for empty in (-np.inf, np.inf)]
    varies = spread[0].max(axis=(0, 1), initial=-np.inf) > spread[1].min(axis=(0, 1), initial=np.inf)
    filled = np.where(present, values, 0)
    mean = filled.sum(axis=(0, 1)) / np.maximum(present.sum(axis=(0, 1)), 1)
    # Centred first: sums of squares of raw responses cancel badly.
    return np.where(present, values - mean, 0), present, varies


def noise_ceiling_from_repeats(trials: npt.ArrayLike) -> Array:
    """Explainable share of the variance of averaged responses, from repeated presentations.

    One-way random-effects analysis of variance with unequal group sizes (Searle, Casella & McCulloch 1992, chapter
    3): with k images of n_i trials, N in all, ``signal = (MSB - MSW) / n0``, ``n0 = (N - sum n_i^2 / N) / (k - 1)``
    and ``noise = MSW``; the share is ``signal / (signal + noise * mean(1 / n_i))``.

    Parameters
    ----------
    trials : array of shape (n_images, n_repeats, n_voxels)
        Single-trial responses, NaN where an image has fewer repeats.

    Returns
    -------
    array of shape (n_voxels,)
        0..1; NaN where it cannot be known: no image has two trials, fewer than two images, or no variation at all.

    Raises
    ------
    InputError
        `trials` does not have three axes.
    """
    values, present, varies = _trials(trials)
    n = present.sum(axis=1)  # (image, voxel)
    total, groups = n.sum(axis=0), (n > 0).sum(axis=0)
    known = varies & (groups > 1) & (total > groups)
    means = values.sum(axis=1) / np.maximum(n, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        within = (np.where(present, values - means[:, None], 0) ** 2).sum(axis=(0, 1)) / (total - groups)
        between = (n * means**2).sum(axis=0) / (groups - 1)
        size = (total - (n**2).sum(axis=0) / total) / (groups - 1)
        signal = np.maximum(between - within, 0) / size
        inverse = np.where(n > 0, 1 / np.maximum(n, 1), 0).sum(axis=0) / groups
        return np.where(known, signal / (signal + within * inverse), np.nan)


def split_half_reliability(trials: npt.ArrayLike, *, splits: int = 20, seed: int = 0) -> Array:
    """Reliability of the response averaged over all repeats, from random halves of the repeats.

    Pearson correlation over images between the means of two halves, averaged over `splits` and raised to the full
    number of repeats by ``2 r / (1 + r)`` (Spearman 1910, Brown 1910). In expectation it is the share that
    `noise_ceiling_from_repeats` estimates, up to the bias of a ratio.

    Parameters
    ----------
    trials : array of shape (n_images, n_repeats, n_voxels)
        Single-trial responses, NaN where an image has fewer repeats; images with one trial in a voxel do not count.
    splits : int
    seed : int

    Returns
    -------
    array of shape (n_voxels,)
        NaN where fewer than two images have two trials, or a half is constant in a split.

    Raises
    ------
    InputError
        `trials` does not have three axes.
    """
    values, present, varies = _trials(trials)
    counted = (present.sum(axis=1) >= 2) & varies  # (image, voxel)
    r = np.zeros(values.shape[2])
    for split in range(splits):
        noise = numpy_generator(seed, "split_half", split).random(values.shape[:2])
        order = np.argsort(noise, axis=1)[:, :, None]
        shuffled, there = np.take_along_axis(values, order, axis=1), np.take_along_axis(present, order, axis=1)
        odd = there & (np.cumsum(there, axis=1) % 2 == 1)
        first, second = (
            (shuffled * half).sum(axis=1) / np.maximum(half.sum(axis=1), 1) for half in (odd, there & ~odd)
        )
        r += _masked_correlation(first, second, counted) / splits
    with np.errstate(divide="ignore"):
        return 2 * r / (1 + r)


def _masked_correlation(a: Array, b: Array, mask: npt.NDArray[np.bool_]) -> Array:
    """Pearson r over axis 0 where `mask`; NaN where a side does not vary."""
    count = mask.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (np.where(mask, x - np.where(mask, x, 0).sum(axis=0) / count, 0) for x in (a, b))
        return np.asarray((a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0)))


def normalized_explained_variance(ev: npt.ArrayLike, ceiling: npt.ArrayLike, threshold: float = 0.05) -> float:
    """Sum of explained variance over sum of ceilings, voxels with a ceiling above `threshold`.

    A ratio of sums, not a mean of ratios: voxels with almost nothing to explain would dominate the latter.

    Parameters
    ----------
    ev, ceiling : array of shape (n_voxels,)
        Explained variance and noise ceiling (0..1); voxels where either is NaN do not count.
    threshold : float

    Returns
    -------
    float
        NaN if no voxel counts.

    Raises
    ------
    InputError
        The shapes differ or there is no voxel.
    """
    explained, limit = _paired(ev, ceiling)
    counted = (limit > threshold) & np.isfinite(explained)
    return float(explained[counted].sum() / limit[counted].sum()) if counted.any() else float("nan")


def _positive(std: Array) -> Array:
    if not (std >= 0).all():
        raise InputError("std holds negative or NaN values; a predictive standard deviation is 0 or more")
    return np.where(std > 0, std, np.nan)


def gaussian_nll(y: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike) -> Array:
    """Mean negative log likelihood over images of `y` under N(mean, std^2), in nats, the constant included.

    Parameters
    ----------
    y, mean, std : array of shape (n_images,) or (n_images, n_voxels)

    Returns
    -------
    array of shape () or (n_voxels,)
        NaN for voxels with a `std` of 0 (constant in the context): a point has no density.

    Raises
    ------
    InputError
        The shapes differ, or `std` is negative or NaN.
    """
    y, mean, std = _paired(y, mean, std)
    std = _positive(std)
    return np.asarray((0.5 * np.log(2 * np.pi) + np.log(std) + 0.5 * ((y - mean) / std) ** 2).mean(axis=0))


def interval_coverage(y: npt.ArrayLike, mean: npt.ArrayLike, std: npt.ArrayLike, level: float = 0.9) -> Array:
    """Share of images whose response lies inside the central Gaussian interval of probability `level`.

    Parameters
    ----------
    y, mean, std : array of shape (n_images,) or (n_images, n_voxels)
    level : float
        Nominal probability, between 0 and 1.

    Returns
    -------
    array of shape () or (n_voxels,)
        NaN for voxels with a `std` of 0, as in `gaussian_nll`.

    Raises
    ------
    InputError
        The shapes differ, `std` is negative or NaN, or `level` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise InputError(f"level is {level}; it must lie between 0 and 1, for example 0.9")
    y, mean, std = _paired(y, mean, std)
    inside = np.abs(y - mean) <= ndtri(0.5 + level / 2) * std
    return np.asarray(inside.mean(axis=0) + 0 * _positive(std).mean(axis=0))
