"""Noise ceilings: the share of the variance of averaged responses that a perfect predictor would explain.

Three estimates of one quantity, ``S / (S + N mean(1 / n))`` with S and N the variances of signal and single-trial noise
and n the repeats of each image: by analysis of variance, by the ratio that NSD publishes, and by split halves. Axis 0
is the image.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from setcore.errors import InputError
from setcore.seeding import numpy_generator

Array = npt.NDArray[np.float64]


def noise_ceiling_from_ncsnr(ncsnr: npt.ArrayLike, n_repeats: npt.ArrayLike) -> Array:
    """Explainable share of the variance of averaged responses, from the noise-ceiling signal-to-noise ratio.

    ``ncsnr^2 / (ncsnr^2 + mean(1 / n))`` (Allen et al. 2022, Methods, "Noise ceiling estimation").

    Parameters
    ----------
    ncsnr : array of shape (n_voxels,)
        Ratio of the standard deviations of signal and single-trial noise, >= 0.
    n_repeats : number or array of shape (n_images,) or (n_images, n_voxels)
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
    ratio, repeats = np.asarray(ncsnr, dtype=np.float64), np.atleast_1d(np.asarray(n_repeats, dtype=np.float64))
    if (ratio < 0).any():
        raise InputError("ncsnr is a ratio of standard deviations and cannot be negative")
    if repeats.size == 0 or not (repeats >= 1).all():
        raise InputError("n_repeats must be 1 or more for every image; leave out images without a trial")
    with np.errstate(divide="ignore"):  # 0 for a ratio of 0, 1 for an infinite one
        return np.asarray(1 / (1 + (1 / repeats).mean(axis=0) / ratio**2))


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


class _OneWay(NamedTuple):
    """Centred trials (n, repeat, V), their number and mean for each image (n, V), and their variance within (V,)."""

    values: Array
    n: npt.NDArray[np.int64]
    means: Array
    within: Array
    known: npt.NDArray[np.bool_]  # two images, one of them with two trials, and any variation


def _within_images(trials: npt.ArrayLike) -> _OneWay:
    values, present, varies = _trials(trials)
    n = present.sum(axis=1)
    total, groups = n.sum(axis=0), (n > 0).sum(axis=0)
    known = varies & (groups > 1) & (total > groups)
    means = values.sum(axis=1) / np.maximum(n, 1)
    squares = (np.where(present, values - means[:, None], 0) ** 2).sum(axis=(0, 1))
    return _OneWay(values, n, means, squares / np.maximum(total - groups, 1), known)


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
    found = _within_images(trials)
    n, total, groups = found.n, found.n.sum(axis=0), (found.n > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (n * found.means**2).sum(axis=0) / (groups - 1)
        size = (total - (n**2).sum(axis=0) / total) / (groups - 1)
        signal = np.maximum(between - found.within, 0) / size
        inverse = np.where(n > 0, 1 / np.maximum(n, 1), 0).sum(axis=0) / groups
        return np.where(found.known, signal / (signal + found.within * inverse), np.nan)


def ncsnr_from_repeats(trials: npt.ArrayLike) -> Array:
    """Noise-ceiling signal-to-noise ratio, from repeated presentations.

    As Allen et al. (2022, Methods, "Noise ceiling estimation") have it: the variance of noise is that of the trials of
    an image, pooled over images; the variance of the signal is that of all trials less the noise's, 0 or more.

    Parameters
    ----------
    trials : array of shape (n_images, n_repeats, n_voxels)
        Single-trial responses, NaN where an image has fewer repeats.

    Returns
    -------
    array of shape (n_voxels,)
        Ratio of the standard deviations of signal and single-trial noise; infinite where trials of an image are equal,
        NaN where no image has two trials, there are fewer than two images, or no variation at all.

    Raises
    ------
    InputError
        `trials` does not have three axes.
    """
    found = _within_images(trials)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = (found.values**2).sum(axis=(0, 1)) / (found.n.sum(axis=0) - 1)
        signal = np.maximum(variance - found.within, 0)
        return np.where(found.known, np.sqrt(signal / found.within), np.nan)


def split_half_reliability(trials: npt.ArrayLike, *, splits: int = 20, seed: int = 0) -> Array:
    """Explainable share of the variance of averaged responses, from random halves of the repeats.

    ``4 cov(a, b) / var(a + b)`` for halves a and b (Guttman 1945, lambda 4; Flanagan 1937), which is
    ``2 r / (1 + r)`` (Spearman 1910, Brown 1910) for halves of equal variance. Where repeats are odd or some are
    missing halves differ, so the covariance, which is the signal's variance however large they are, is divided by the
    variance of the mean over all repeats.

    Parameters
    ----------
    trials : array of shape (n_images, n_repeats, n_voxels)
        Single-trial responses, NaN where an image has fewer repeats; images with one trial in a voxel count for the
        variance of means alone.
    splits : int
        Random halves that the covariance is averaged over.
    seed : int

    Returns
    -------
    array of shape (n_voxels,)
        At most about 1, and below 0 for some voxels that tell nothing; NaN where fewer than two images have two trials,
        or no mean varies.

    Raises
    ------
    InputError
        `trials` does not have three axes.
    """
    values, present, varies = _trials(trials)
    n = present.sum(axis=1)  # (image, voxel)
    counted = (n >= 2) & varies
    covariance = np.zeros(values.shape[2])
    for split in range(splits):
        noise = numpy_generator(seed, "split_half", split).random(values.shape[:2])
        order = np.argsort(noise, axis=1)[:, :, None]
        shuffled, there = np.take_along_axis(values, order, axis=1), np.take_along_axis(present, order, axis=1)
        odd = there & (np.cumsum(there, axis=1) % 2 == 1)
        first, second = (
            (shuffled * half).sum(axis=1) / np.maximum(half.sum(axis=1), 1) for half in (odd, there & ~odd)
        )
        covariance += _masked_covariance(first, second, counted) / splits
    mean = values.sum(axis=1) / np.maximum(n, 1)
    power = _masked_covariance(mean, mean, (n > 0) & varies)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(power > 0, covariance / power, np.nan))


def _masked_covariance(a: Array, b: Array, mask: npt.NDArray[np.bool_]) -> Array:
    """Covariance over axis 0 where `mask`; NaN where that has fewer than two."""
    count = mask.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (np.where(mask, x - np.where(mask, x, 0).sum(axis=0) / count, 0) for x in (a, b))
        return np.where(count > 1, (a * b).sum(axis=0) / (count - 1), np.nan)
