"""Thin parts of a decoded surface, made flat: both sides of a sheet where the sheet is, not about it.

Networks see an open sheet as a shell, and a level raised against holes makes it thicker still. Once the surface is
extracted the shell has done its work: its sides move towards each other, the middle between them being the sheet.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.spatial import cKDTree

from vat3d.mesh.triangles import face_areas_normals

THICKNESS_STEP = 0.01
"""What a file's thickness counts, in half-sides."""
TRIED_THICKNESSES = (3, 5)
"""What the encoder tries beside none."""
SOLID_WALL_FLAG = 8
"""Added to a file's thickness where thin parts are walls with a thickness of their own rather than sheets."""
SHEET, WALL = 0.002, 0.005
"""Half-thickness that is left to a part."""
LOOK_IN = 0.6
"""How far within, in widths, other vertices are sought: nearer to the other side of thin parts than to this one."""
NEIGHBOURS, SMOOTHINGS, ENOUGH = 5, 2, 0.1


def flattened(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], width: float, left: float = SHEET
) -> NDArray[np.float64]:
    """Vertices of a closed surface whose parts thinner than `width` are flat.

    What is thicker than 1.5 widths stays as it is, and between both less and less is moved. No face is added or lost.
    Where a part is thinner than a cell of the grid, and so jagged, its sides may cross by a hair.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    faces : int array of shape (m, 3)
        Outward.
    width : float
        In half-sides.
    left : float
        Half-thickness that is left to them, if they are thicker.

    Returns
    -------
    float64 array of shape (n, 3)
    """
    normals = _vertex_normals(vertices, faces)
    distance, other = cKDTree(vertices).query(vertices - LOOK_IN * width * normals, k=NEIGHBOURS, workers=-1)
    depth = np.einsum("nkc,nc->nk", vertices[:, None] - vertices[other], normals)
    # No weight jumps, so that machines whose last digits differ agree: nearest, facing away, behind, and within reach.
    weight = 1 - distance / np.maximum(distance[:, -1:], 1e-30)
    weight *= np.clip(-np.einsum("nkc,nc->nk", normals[other], normals), 0, 1)
    weight *= np.clip(10 * depth / width, 0, 1) * np.clip(3 - 2 * depth / width, 0, 1)
    total = weight.sum(1)
    thickness = (weight * depth).sum(1) / np.maximum(total, 1e-30)
    share = np.clip(total / ENOUGH, 0, 1) * np.clip(3 - 2 * thickness / width, 0, 1)
    move = share * np.maximum(thickness / 2 - left, 0)
    start, stop = faces.ravel(), np.roll(faces, -1, axis=1).ravel()  # each edge once in either direction
    beside = coo_matrix((np.ones(len(start)), (start, stop)), (len(vertices),) * 2).tocsr()
    degree = np.maximum(np.bincount(start, minlength=len(vertices)), 1)
    for _ in range(SMOOTHINGS):
        move = (move + (beside @ move) / degree) / 2
    return np.asarray(vertices - normals * move[:, None])


def with_thickness(vertices: NDArray[np.float64], faces: NDArray[np.int64], thickness: int) -> NDArray[np.float64]:
    """Vertices of a closed surface whose thin parts are as a file says.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    faces : int array of shape (m, 3)
        Outward.
    thickness : int
        What is thinner than 1 to 7 hundredths of a half-side becomes a sheet of half-thickness `SHEET`, or with
        `SOLID_WALL_FLAG` added a wall of half-thickness `WALL`; 0: nothing does.

    Returns
    -------
    array of shape (n, 3)
    """
    walls, steps = divmod(thickness, SOLID_WALL_FLAG)
    return flattened(vertices, faces, steps * THICKNESS_STEP, WALL if walls else SHEET) if steps else vertices


def _vertex_normals(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Outward unit normals (n, 3), weighted by area."""
    area, normal = face_areas_normals(vertices, faces)
    sums = np.stack(
        [np.bincount(faces.ravel(), np.repeat(area * normal[:, axis], 3), len(vertices)) for axis in range(3)], 1
    )
    return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-30))
