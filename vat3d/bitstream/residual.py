"""The sparse residual: what the tokens of a file leave of a latent grid, as small integers most of which are zero.

Tokens come in a fixed order and cost the same wherever they lie. The residual costs next to nothing where nothing is
missing, so that refinement can spend a file's bits where its mesh needs them (rate-distortion optimised quantisation).
It is coded after the tokens, cell by cell, with adaptive frequencies for each of a few classes of neighbourhood: a
number is seldom zero where those around it are not. Integers only. Axes: p plane, r row, s column, c channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from vat3d.errors import CodecError

LARGEST = 7
"""Largest magnitude of a number, in steps."""
RAW_BITS = (2 * LARGEST).bit_length()
"""Of a number, uncoded."""
EDGES = (1, 2, 3, 5, 8, 12, 20, 32)
"""Bounds between classes of neighbourhoods, in the weighted sum of `neighbourhood`."""
CLASSES = len(EDGES) + 1
STEP_BITS = 4
STEPS = tuple(0.125 * 2 ** (code / 4) for code in range(1 << STEP_BITS))
"""Widths of a step, in units of the latent, of which a file names one: .125 to 1.68."""
STEP_CODE = 10
"""The width that the encoder takes: .71."""
_ZERO = (400, 160, 100, 70, 45, 30, 20, 14, 8)
"""How often zero has been seen, so to speak, when a class is met for the first time."""
_OTHERS = (16, 8, 4, 2, 1, 1, 1)
"""And each magnitude from 1 on."""
_INCREMENT = 32
_KIND = np.digitize(np.arange(EDGES[-1] + 1), EDGES).tolist()


def neighbourhood(magnitudes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Class of every number by those that are decoded before it, shape (p, r, s, c); a larger class is livelier.

    Parameters
    ----------
    magnitudes : array of shape (p, r, s, c)
        Order: planes, rows, columns, channels, each ascending.

    Returns
    -------
    int array of shape (p, r, s, c)
        From 0 to ``CLASSES - 1``.
    """
    seen = np.minimum(magnitudes, 2)
    padded = np.pad(seen, ((0, 0), (1, 0), (1, 1), (0, 0)))
    left, above = padded[:, 1:, :-2], padded[:, :-1, 1:-1]
    cells = left + above + padded[:, :-1, :-2] + padded[:, :-1, 2:]
    before = np.cumsum(seen, axis=-1) - seen
    return np.asarray(np.digitize(cells.sum(-1, keepdims=True) + 3 * before + 2 * (left + above), EDGES))


class _Counts:
    """Adaptive frequencies of magnitudes in each class."""

    def __init__(self) -> None:
        self.rows = [[zero, *_OTHERS] for zero in _ZERO]
        self.totals = [sum(row) for row in self.rows]

    def add(self, kind: int, magnitude: int) -> None:
        self.rows[kind][magnitude] += _INCREMENT
        self.totals[kind] += _INCREMENT


def _intervals(values: NDArray[np.int64]) -> Iterator[tuple[int, int, int]]:
    """First slot, slots and slots in all of each number's magnitude, in the order of decoding."""
    magnitudes = np.abs(values)
    counts = _Counts()
    for kind, magnitude in zip(neighbourhood(magnitudes).ravel().tolist(), magnitudes.ravel().tolist(), strict=True):
        row = counts.rows[kind]
        yield sum(row[:magnitude]), row[magnitude], counts.totals[kind]
        counts.add(kind, magnitude)


def residual_ids(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids of a residual's numbers: 0 1 -1 2 -2 ... as 0 1 2 3 4 ...

    Parameters
    ----------
    values : int array of any shape

    Returns
    -------
    int array of shape (n,)
    """
    return np.where(values > 0, 2 * values - 1, -2 * values).ravel()


def residual_numbers(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers of a residual's ids.

    Parameters
    ----------
    ids : int array of shape (n,)

    Returns
    -------
    int array of shape (n,)
    """
    return np.where(ids % 2, ids + 1, -ids) // 2


def check_residual_ids(ids: NDArray[np.int64], shape: tuple[int, ...], step: int) -> None:
    """Refuse ids that are no residual of a latent.

    Parameters
    ----------
    ids : int64 array
    shape : tuple of int
        Of the latent grid.
    step : int
        Which of `STEPS`.

    Raises
    ------
    CodecError
    """
    if ids.shape != (math.prod(shape),):
        raise CodecError(f"a residual of shape {ids.shape} does not fit a latent of {shape}")
    if not ids.any() or ids.min() < 0 or ids.max() > 2 * LARGEST:
        raise CodecError(f"the residual is empty, or an id of it lies outside 0..{2 * LARGEST}")
    if not 0 <= step < len(STEPS):
        raise CodecError(f"residual step {step} lies outside 0..{len(STEPS) - 1}")


def residual_bits(values: NDArray[np.int64]) -> float:
    """Bits that a residual adds to a file, to within one; shape (p, r, s, c).

    What adaptive frequencies cost depends on how often each magnitude comes in each class alone, not on the order.

    Parameters
    ----------
    values : int array of shape (p, r, s, c)

    Returns
    -------
    float
    """
    magnitudes = np.abs(values)
    codes = neighbourhood(magnitudes) * (LARGEST + 1) + magnitudes
    counts = np.bincount(codes.ravel(), minlength=CLASSES * (LARGEST + 1)).reshape(CLASSES, -1)
    first = np.array(_Counts().rows) / _INCREMENT
    rows = gammaln(first.sum(1) + counts.sum(1)) - gammaln(first.sum(1))
    nats = rows.sum() - (gammaln(first + counts) - gammaln(first)).sum()
    return float(nats) / math.log(2) + np.count_nonzero(values)


def push_residual(values: NDArray[np.int64], state: int) -> int:
    """The state of the coder with a residual on top of another state.

    Parameters
    ----------
    values : int array of shape (p, r, s, c)
    state : int
        Above zero.

    Returns
    -------
    int

    Raises
    ------
    CodecError
        A number is larger than `LARGEST`.
    """
    if np.abs(values).max(initial=0) > LARGEST:
        raise CodecError(f"a number of the residual lies outside -{LARGEST}..{LARGEST}")
    for (start, slots, total), value in zip(
        reversed(list(_intervals(values))), values.ravel()[::-1].tolist(), strict=True
    ):
        if value:
            state = 2 * state + (value < 0)
        quotient, left = divmod(state, slots)
        state = quotient * total + start + left
    return state


def pop_residual(state: int, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], int]:
    """The residual on top of a state.

    Parameters
    ----------
    state : int
    shape : tuple of int
        Of the latent grid, (p, r, s, c).

    Returns
    -------
    values : int array of that shape
    state : int
        What lies below it.
    """
    planes, rows, columns, channels = shape
    values = np.zeros(shape, np.int64)
    counts = _Counts()
    for plane in range(planes):
        seen = np.zeros((rows + 1, columns + 2, channels), np.int64)  # with a border above, left and right
        for row in range(rows):
            for column in range(columns):
                left, above = seen[row + 1, column], seen[row, column + 1]
                beside = int((left + above + seen[row, column] + seen[row, column + 2]).sum())
                same, before = (2 * (left + above)).tolist(), 0
                for channel in range(channels):
                    kind = _KIND[min(beside + 3 * before + same[channel], EDGES[-1])]
                    row_counts, total = counts.rows[kind], counts.totals[kind]
                    state, slot = divmod(state, total)
                    magnitude, start = 0, 0
                    while slot >= start + row_counts[magnitude]:
                        start += row_counts[magnitude]
                        magnitude += 1
                    state = state * row_counts[magnitude] + slot - start
                    counts.add(kind, magnitude)
                    if magnitude:
                        state, negative = divmod(state, 2)
                        values[plane, row, column, channel] = -magnitude if negative else magnitude
                        clipped = min(magnitude, 2)
                        seen[row + 1, column + 1, channel] = clipped
                        before += clipped
    return values, state
