"""Fewer faces for a closed mesh."""

from __future__ import annotations

import numpy as np

from vat3d.errors import CodecError


def decimate(vertices: np.ndarray, faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A closed mesh with about so many faces.

    Quadric edge collapse first; where that opens the mesh or makes it non-manifold, manifold3d's simplification with
    the smallest tolerance that reaches `count`, which keeps it closed.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    faces : int array of shape (m, 3)
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
    if len(faces) <= count:
        return np.asarray(vertices, np.float64), np.asarray(faces, np.int64)
    import fast_simplification

    scale = float(np.abs(vertices).max()) or 1.0
    points, triangles = fast_simplification.simplify(
        np.ascontiguousarray(vertices / scale, dtype=np.float64),
        np.ascontiguousarray(faces, np.int32),
        target_count=count,
    )
    if is_closed_manifold(triangles) and len(triangles) <= 1.5 * count:
        used, inverse = np.unique(triangles, return_inverse=True)
        return np.asarray(points, np.float64)[used] * scale, inverse.reshape(-1, 3).astype(np.int64)
    return _simplify_manifold(np.asarray(vertices, np.float64), faces, count)


def _simplify_manifold(vertices: np.ndarray, faces: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bisect manifold3d's tolerance, in twelve steps from 1e-4 to 1 of the mesh's size."""
    import manifold3d

    solid = manifold3d.Manifold(
        manifold3d.Mesh64(np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(faces, np.uint64))
    )
    if solid.status() != manifold3d.Error.NoError:
        return vertices, np.asarray(faces, np.int64)
    size = float(np.ptp(vertices, axis=0).max())
    low, high, best = -4.0, 0.0, solid
    for _ in range(12):
        middle = (low + high) / 2
        simpler = solid.simplify(size * 10.0**middle)
        if simpler.num_tri() >= max(4, count // 2):
            best = simpler
        if simpler.num_tri() > count:
            low = middle
        else:
            high = middle
    mesh = best.to_mesh64()
    return np.asarray(mesh.vert_properties, np.float64)[:, :3], np.asarray(mesh.tri_verts, np.int64)


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
