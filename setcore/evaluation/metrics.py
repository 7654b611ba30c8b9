"""Scores of predicted responses: explained variance, correlation, calibration.

Axis 0 is always the image; arrays of any precision are accepted and everything is computed in float64. A voxel whose
measured response does not vary has no score: it gets NaN, and callers exclude and count it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from setcore.errors import InputError

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
