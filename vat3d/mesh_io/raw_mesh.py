"""A mesh as a file holds it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class RawMesh(NamedTuple):
    """A mesh as a file holds it: nothing is cleaned yet.

    Parameters
    ----------
    vertices : float64 array of shape (n_vertices, 3)
    faces : int64 array of shape (n_faces, 3)
    notes : list of str
        What of the file is dropped, for the reader to be told.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    notes: list[str]
