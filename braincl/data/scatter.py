"""Values of a part, such as the voxels that vary or those of a mask, put in their places among the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def scatter(values: NDArray[Any], at: Any, shape: tuple[int, ...], fill: Any = 0) -> NDArray[Any]:
    """An array that holds `values` at some places and `fill` at all others.

    Parameters
    ----------
    values : array
    at : index of an array
        Places of the values, as in ``whole[at] = values``.
    shape : tuple of int
        Of the whole.
    fill : number or array that broadcasts to `shape`

    Returns
    -------
    array of shape `shape`
        In the precision of `values`.
    """
    whole = np.full(shape, fill, values.dtype)
    whole[at] = values
    return whole
