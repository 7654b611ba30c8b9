"""Fewer faces for a closed mesh."""

from __future__ import annotations

import numpy as np

from vat3d.errors import CodecError


def decimate(vertices: np.ndarray, faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A closed mesh with about so many faces.

    Edges are collapsed by their quadric error (Garland and Heckbert 1997), those alone whose collapse leaves the mesh
    manifold: so it stays closed, each part keeps four faces or more, and
    handles stay.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    faces : int array of shape (m, 3)
        Closed and manifold.
    count : int
        At least 4.

    Returns
    -------
    vertices : float64 array
    faces : int64 array

    Raises
    ------
    CodecError
        `count` is below 4.
    """
    if count < 4:
        raise CodecError(f"a closed mesh has at least 4 faces, not {count}")
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    if len(faces) <= count:
        return vertices, faces
    import igl

    fewer, triangles, *_ = igl.qslim(vertices, faces, count)
    return np.ascontiguousarray(fewer), np.ascontiguousarray(triangles, np.int64)


def is_closed_manifold(faces: np.ndarray) -> bool:
    """Whether every side of every triangle is passed exactly once in each direction.

    Parameters
    ----------
    faces : int array of shape (m, 3)

    Returns
    -------
    bool
    """
    faces = np.asarray(faces, np.int64)
    if not len(faces):
        return False
    start, stop = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    points = int(faces.max()) + 1
    forward = np.sort(start * points + stop)
    proper = bool((start != stop).all() and (np.diff(forward) > 0).all())
    return proper and np.array_equal(forward, np.sort(stop * points + start))
