"""Triangles of strips and fans."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def strip_triangles(strip: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles of a strip: every corner but the first two makes one with the two before it.

    Parameters
    ----------
    strip : int array of shape (n,)

    Returns
    -------
    int array of shape (n_triangles, 3)
        All wound as the first. Those with a corner twice, which only turn the strip, are left out.
    """
    windows = np.stack([strip[:-2], strip[1:-1], strip[2:]], 1) if len(strip) >= 3 else np.zeros((0, 3), np.int64)
    windows[1::2] = windows[1::2, [0, 2, 1]]
    a, b, c = windows.T
    return np.asarray(windows[(a != b) & (b != c) & (c != a)])


def fan_triangles(fan: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles of a fan: every edge of its rim makes one with its first corner.

    Parameters
    ----------
    fan : int array of shape (n,)

    Returns
    -------
    int array of shape (max(n - 2, 0), 3)
    """
    rim = np.stack([fan[1:-1], fan[2:]], 1) if len(fan) >= 3 else np.zeros((0, 2), np.int64)
    return np.column_stack([np.full(len(rim), fan[0] if len(fan) else 0), rim])
