"""Triangles of polygons."""

from __future__ import annotations

from collections.abc import Sequence

import manifold3d
import numpy as np
from numpy.typing import NDArray

from vat3d.errors import MeshError

Polygons = Sequence[Sequence[int]] | NDArray[np.int64]


def triangulate(vertices: NDArray[np.float64], polygons: Polygons) -> NDArray[np.int64]:
    """Cut polygons into triangles, concave ones too, each in the plane of its own area vector.

    Every corner is used, also where three lie in line, so that neighbours still share their edges. Polygons of fewer
    than three corners are skipped. Those that have no plane, or whose corners are no vertices, become fans.

    Parameters
    ----------
    vertices : float array of shape (n_vertices, 3)
    polygons : sequence of sequences of int, or int array of shape (n_polygons, n_corners)
        Vertex indices. A corner may come twice, as where a walk leads to a hole and back.

    Returns
    -------
    int array of shape (n_triangles, 3)
        In the order of the polygons.

    Raises
    ------
    MeshError
        An index is too large to be one.
    """
    if isinstance(polygons, np.ndarray):
        by_size = {polygons.shape[1]: (np.arange(len(polygons)), polygons.astype(np.int64))}
    else:
        sizes = np.fromiter(map(len, polygons), np.int64, len(polygons))
        numbers = {int(size): np.flatnonzero(sizes == size) for size in np.unique(sizes)}
        try:
            by_size = {
                size: (which, np.array([polygons[k] for k in which.tolist()], np.int64).reshape(len(which), size))
                for size, which in numbers.items()
            }
        except OverflowError:
            raise MeshError("a face points to a vertex number of over 18 digits; the file is damaged") from None
    parts = [(which, _cut(vertices, corners)) for size, (which, corners) in by_size.items() if size >= 3]
    if not parts:
        return np.zeros((0, 3), np.int64)
    owner = np.concatenate([np.repeat(which, found.shape[1]) for which, found in parts])
    triangles = np.concatenate([found.reshape(-1, 3) for _, found in parts])
    return triangles[np.argsort(owner, kind="stable")]


def _cut(vertices: NDArray[np.float64], corners: NDArray[np.int64]) -> NDArray[np.int64]:
    """Triangles (k, size - 2, 3) of k polygons of one size."""
    size = corners.shape[1]
    fan = np.stack([np.zeros(size - 2, np.int64), np.arange(1, size - 1), np.arange(2, size)], 1)
    triangles = corners[:, fan]
    known: NDArray[np.bool_] = np.all((corners >= 0) & (corners < len(vertices)), axis=1)
    if size == 3 or not known.any():
        return triangles
    points = vertices[np.where(known[:, None], corners, 0)]
    flat, turns = _in_plane(points)
    # a square whose four corners all turn left is convex, and its fan right; of more corners that can be a star
    convex = (turns > 1e-9 * np.abs(turns).max(1, keepdims=True)).all(1) if size == 4 else np.zeros(len(flat), bool)
    has_plane = np.isfinite(flat).all((1, 2)) & (np.abs(turns).max(1) > 1e-12)
    for k in np.flatnonzero(known & has_plane & ~convex):
        triangles[k] = corners[k][manifold3d.triangulate([flat[k]])]
    return triangles


def _in_plane(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Polygons (k, size, 3) seen along the main axis of their area vector, counter-clockwise and about a unit in size;
    and how far each corner turns left: the cross product of its two edges."""
    with np.errstate(all="ignore"):  # coordinates that are not finite stay so, and are refused later
        points = points - points.mean(1, keepdims=True)
        points /= np.abs(points).max((1, 2), keepdims=True)
        normal = np.cross(points, np.roll(points, -1, 1)).sum(1)
        axis = np.abs(normal).argmax(1)
        rows = np.arange(len(points))
        first, second = (axis + 1) % 3, (axis + 2) % 3
        flat = np.stack([points[rows, :, first], points[rows, :, second]], 2)
        clockwise = normal[rows, axis] < 0
        flat[clockwise] = flat[clockwise][..., ::-1]
        ahead = np.roll(flat, -1, 1) - flat
        behind = np.roll(ahead, 1, 1)
        return flat, behind[..., 0] * ahead[..., 1] - behind[..., 1] * ahead[..., 0]
