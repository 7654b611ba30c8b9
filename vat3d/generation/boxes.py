"""Proportions of boxes as numbers, which a generator draws before the tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS, THINNEST = 16, 0.02
"""The two shorter half-extents are told in so many steps of equal ratio, from the longest one down to this share."""
BOXES = 3 * BINS * BINS


def box_class(box: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Numbers of the proportions of boxes: the longest axis, and the steps by which the others are shorter.

    Parameters
    ----------
    box : array of shape (n, 3)
        Half-extents.

    Returns
    -------
    int array of shape (n,)
        Below `BOXES`.
    """
    ratio = np.clip(box / box.max(1, keepdims=True), THINNEST, 1)
    steps = np.rint(np.log(ratio) / np.log(THINNEST) * (BINS - 1)).astype(np.int64)
    longest = steps.argmin(1)  # the first of those that are as good as the longest
    others = np.stack([np.delete(row, axis) for row, axis in zip(steps, longest, strict=True)])
    return np.asarray((longest * BINS + others[:, 0]) * BINS + others[:, 1])


def class_box(number: int) -> NDArray[np.float64]:
    """The box that a number of `box_class` stands for.

    Parameters
    ----------
    number : int

    Returns
    -------
    array of shape (3,)
        Half-extents, the longest 1.
    """
    number, second = divmod(int(number), BINS)
    longest, first = divmod(number, BINS)
    return np.insert(THINNEST ** (np.array([first, second]) / (BINS - 1)), longest, 1.0)
