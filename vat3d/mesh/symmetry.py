"""Mirror planes of a mesh."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from setcore.evaluation.mesh_metrics import SurfaceSamples
from vat3d.mesh.solid import Solid

LEAST_EXTENT = 0.15
"""Shapes thinner than this along an axis are not halved there: little would be left but the overlap."""
ALIKE = ((0.01, 0.985), (0.02, 0.995))
"""A shape is its own mirror image if such shares of its surface, mirrored, lie so near to it."""
SAMPLES, FEW, DOUBT = 4000, 400, 0.1
"""Samples mirrored, and how many of them show that a shape is not alike: if they lack so much of the first share."""


def best_mirror(solid: Solid, surface: SurfaceSamples) -> int:
    """The axes across whose middle a mesh is its own mirror image.

    Parameters
    ----------
    solid : Solid
    surface : SurfaceSamples
        Of its mesh, in random order.

    Returns
    -------
    int
        1 for x, 2 for y, 4 for z, added up.
    """
    points, extents, mirror = surface.points[:SAMPLES], np.abs(solid.mesh.vertices).max(0), 0
    for axis in np.flatnonzero(extents >= LEAST_EXTENT):
        if _lie_on(solid, points * np.where(np.arange(3) == axis, -1, 1)):
            mirror |= 1 << int(axis)
    return mirror


def upright(solid: Solid, surface: SurfaceSamples) -> NDArray[np.float64] | None:
    """The rotation, by as little as can be, that brings mirror planes of a mesh to lie along the axes.

    (A shape's mirror plane holds its centroid, and its normal is a principal axis of its moments of inertia.)

    Parameters
    ----------
    solid : Solid
    surface : SurfaceSamples
        Of its mesh, in random order.

    Returns
    -------
    array of shape (3, 3), optional
        None if there is no such plane through its centroid and square to a principal axis.
    """
    centroid, axes = _principal_axes(solid)
    axes = axes[np.abs((solid.mesh.vertices - centroid) @ axes.T).max(0) >= LEAST_EXTENT]
    points = surface.points[:SAMPLES]
    images = (points - 2 * np.outer((points - centroid) @ axis, axis) for axis in axes)
    normals = axes[[_lie_on(solid, image) for image in images]][:2]  # a third one is square to both
    if not len(normals):
        return None
    nearest = max(permutations(range(3), len(normals)), key=lambda to: sum(abs(normals[range(len(to)), to])))
    along = np.eye(3)[list(nearest)] * np.sign(normals[range(len(nearest)), nearest])[:, None]
    return np.asarray(Rotation.align_vectors(along, normals)[0].as_matrix())


def _lie_on(solid: Solid, images: NDArray[np.float64]) -> bool:
    """Whether mirrored samples (n, 3) in random order lie near enough to the mesh."""
    near, share = ALIKE[0]
    few = solid.face_distance(images[:FEW])
    if (few < near).mean() < share - DOUBT:
        return False
    distance = np.concatenate([few, solid.face_distance(images[FEW:])])
    return all((distance < near).mean() >= share for near, share in ALIKE)


def _principal_axes(solid: Solid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centroid (3,) of a mesh's surface and its principal axes, the rows of (3, 3)."""
    corners = solid.mesh.vertices[solid.mesh.faces]
    areas = solid.mesh.areas_normals[0]
    share = areas / areas.sum()
    centroid = share @ corners.mean(1)
    corners = corners - centroid
    sums = corners.sum(1)
    moments = np.einsum("n,nki,nkj->ij", share, corners, corners) + np.einsum("n,ni,nj->ij", share, sums, sums)
    return centroid, np.linalg.eigh(moments)[1].T
