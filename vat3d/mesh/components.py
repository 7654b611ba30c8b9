"""Which connected components of a mesh bound a solid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vat3d.mesh.canonical import CanonicalMesh

RIM = 0.05
"""A component counts as closed while its open rim is shorter than this share of the root of its area, ..."""
HOLE = 0.01
"""... or while its holes fill less than this share of what half of its surface sees (the error of the winding number
there): cracks, however long, and small openings close; a bowl, a hat or a vase with a wide neck stays a sheet."""
FLAT = 0.002
"""A closed component with less volume than this times its area is a sheet."""
PROBE = 2.0**-12
"""How far on both sides of the surface `surface_samples` looks to see which one is outside."""
MOST_TRIED = 100_000
"""Surface points that `surface_samples` tries at once."""
LONG, MANY_LONG, MOST_CUT = 0.3, 3000, 1_000_000
"""Edges longer than this make faces long; so many of them slow winding numbers down; so many faces are enough."""
REMEMBERED = 24
"""Sets of points, up to that size, whose winding numbers are kept."""


class WindingNumber:
    """How often faces wind about points, whichever way round; both fill rules ask about the same points.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    faces : int array of shape (m, 3)
    """

    def __init__(self, vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> None:
        import igl

        tree = igl.FastWindingNumberBVH()
        if len(faces):
            tree.init(*_without_slivers(vertices, faces))

        def wound(data: bytes) -> NDArray[np.float64]:
            return np.asarray(np.abs(tree.winding_number(np.frombuffer(data).reshape(-1, 3))))

        self._anew, self._lately = wound, lru_cache(REMEMBERED)(wound)

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (self._lately if len(points) <= MOST_TRIED else self._anew)(points.tobytes())


def _without_slivers(
    vertices: NDArray[np.float64], faces: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The same surface with long faces cut at the middle of their longest edges, where there are many: the hierarchy
    over them has boxes as long as they are, which no query can pass by."""
    while True:
        corners = vertices[faces]
        length = np.linalg.norm(corners - np.roll(corners, -1, axis=1), axis=2)
        long = np.flatnonzero(length.max(1) > LONG)
        if len(long) <= MANY_LONG or len(faces) > MOST_CUT:
            return vertices, faces
        at = length[long].argmax(1)
        a, b, c = (faces[long, (at + k) % 3] for k in range(3))
        middle = len(vertices) + np.arange(len(long))
        vertices = np.concatenate([vertices, (vertices[a] + vertices[b]) / 2])
        faces = faces.copy()
        faces[long] = np.stack([a, middle, c], 1)
        faces = np.ascontiguousarray(np.concatenate([faces, np.stack([middle, b, c], 1)]))


@dataclass(frozen=True)
class Components:
    """What the connected components of a mesh bound.

    Parameters
    ----------
    closed : bool array of shape (n_components,)
        Which bound a solid.
    flat : bool array of shape (n_components,)
        Which do not, though they have no open rim: they are too flat.
    holed : bool array of shape (n_components,)
        Which do so in spite of an open rim.
    bounding : bool array of shape (n_faces,)
        Faces of closed components that bound their solid.
    loose : bool array of shape (n_faces,)
        Faces of closed components that have outside on both sides.
    paired : bool array of shape (n_faces,)
        Loose faces that have others in the same place, which cancel them (a single one has winding numbers of a half).
    winding : WindingNumber
        Of the bounding faces.
    """

    closed: NDArray[np.bool_]
    flat: NDArray[np.bool_]
    holed: NDArray[np.bool_]
    bounding: NDArray[np.bool_]
    loose: NDArray[np.bool_]
    paired: NDArray[np.bool_]
    winding: WindingNumber


def find_components(mesh: CanonicalMesh) -> Components:
    """Tell which components of a mesh bound a solid.

    Parameters
    ----------
    mesh : CanonicalMesh

    Returns
    -------
    Components
    """
    closed, flat, holed = _closed(mesh)
    bounding = closed[mesh.component]
    loose, paired = _loose(mesh, bounding)
    bounding &= ~loose
    winding = WindingNumber(mesh.vertices, np.ascontiguousarray(mesh.faces[bounding]))
    return Components(closed, flat, holed, bounding, loose, paired, winding)


def _closed(mesh: CanonicalMesh) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which components bound a solid, which are closed but too flat for it, and which bound one in spite of an open
    rim."""
    edges, edge, direction = mesh.edges
    odd = np.bincount(edge) % 2 == 1
    owner = np.empty(len(edges), np.int64)
    owner[edge] = np.repeat(mesh.component, 3)
    length = np.linalg.norm(mesh.vertices[edges[:, 0]] - mesh.vertices[edges[:, 1]], axis=1)
    area = np.bincount(mesh.component, mesh.areas_normals[0])
    rim = np.bincount(owner, length * odd, minlength=len(area))
    closed = np.abs(_own_volumes(mesh)) > FLAT * area
    uneven = np.bincount(owner, np.bincount(edge, direction) != 0, minlength=len(area)) > 0
    flat = ~closed & ~uneven & (rim == 0)
    by_part = np.argsort(mesh.component, kind="stable")
    ends = np.cumsum(np.bincount(mesh.component))
    for part in np.flatnonzero(closed & uneven):
        separating, error = _separation(mesh, by_part[ends[part - 1] if part else 0 : ends[part]])
        closed[part] = separating > 0.5 and (rim[part] <= RIM * np.sqrt(area[part]) or error <= HOLE)
    return closed, flat, closed & (rim > 0)


def _own_volumes(mesh: CanonicalMesh) -> NDArray[np.float64]:
    """Signed volume of each component seen from its own middle: none for a flat one, wherever it lies."""
    corners = mesh.vertices[mesh.faces]
    vectors = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) / 6
    count = np.bincount(mesh.component)[:, None]
    middle, area = (
        np.stack([np.bincount(mesh.component, values[:, axis]) for axis in range(3)], 1)
        for values in (corners.mean(1), vectors)
    )
    return np.asarray(mesh.volumes - (middle / count * area).sum(1))


def _loose(mesh: CanonicalMesh, in_closed: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of the chosen faces bound nothing, and which of these are paired: sheets that meet others where three faces
    or more share an edge, each decided by most of its area (slivers and the tips of wedges say nothing)."""
    import igl

    loose, paired = np.zeros((2, len(mesh.faces)), bool)
    if mesh.report["nonmanifold_edges"] and in_closed.any():
        faces = np.ascontiguousarray(mesh.faces[in_closed])
        area, normal = (values[in_closed] for values in mesh.areas_normals)
        centre, step = mesh.vertices[faces].mean(1), PROBE * normal
        winding = WindingNumber(mesh.vertices, faces)
        highest = np.maximum(winding(centre + step), winding(centre - step))
        sheet = igl.bfs_orient(faces)[1]
        half = np.bincount(sheet, area) / 2
        loose[in_closed] = (np.bincount(sheet, area * (highest <= 0.5)) > half)[sheet]
        paired[in_closed] = (np.bincount(sheet, area * (highest < 0.25)) > half)[sheet]
    return loose, paired


def _separation(mesh: CanonicalMesh, chosen: NDArray[np.int64]) -> tuple[float, float]:
    """Share of the area of the chosen faces that has inside on one side only, and the median over area of how far
    their winding numbers, on either side, are from whole; of the largest faces."""
    faces = np.ascontiguousarray(mesh.faces[chosen])
    area, normal = (values[chosen] for values in mesh.areas_normals)
    largest = np.argsort(-area, kind="stable")[:512]
    area, centre, step = area[largest], mesh.vertices[faces[largest]].mean(1), PROBE * normal[largest]
    at = np.concatenate([centre + step, centre - step])
    wound = WindingNumber(mesh.vertices, faces)(at).reshape(2, -1)
    ahead, behind = wound > 0.5
    error = np.abs(wound - wound.round()).max(0)
    order = np.argsort(error, kind="stable")
    half = np.searchsorted(np.cumsum(area[order]), 0.5 * area.sum())
    return float(area @ (ahead != behind) / area.sum()), float(error[order][half])
