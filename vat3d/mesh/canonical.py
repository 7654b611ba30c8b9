"""A mesh in the canonical frame and in one canonical order, with a report of what was found and repaired.

Everything that follows (inside/outside, sampling, encoding) sees a mesh only in this form, so that neither the units
nor the order of vertices and faces in a file can change a result.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import MeshError
from vat3d.mesh.triangles import edge_table, face_areas_normals, face_components, signed_volumes

HALF_DOMAIN = 1.05
"""Half-side of the cube that is sampled, decoded and extracted; a mesh fills [-1, 1] along its longest axis."""
CAVITY_CORNERS = 64
"""Corners of a closed part that faces inward which are looked at to tell whether it lies inside another one."""
MERGE_STEP = 2.0**-20
"""Vertices are rounded to this step of the canonical frame: about 1e-6, exactly representable in float32."""


@dataclass(frozen=True)
class CanonicalMesh:
    """A mesh in the canonical frame: centred on its bounding box, longest half-side 1.

    Parameters
    ----------
    vertices : float64 array of shape (n_vertices, 3)
        Distinct, all referenced, in lexicographic order.
    faces : int64 array of shape (n_faces, 3)
        No degenerate face, no face twice, smallest index first, rows sorted.
    component : int64 array of shape (n_faces,)
        Which connected component (by shared vertices) a face belongs to, numbered from 0 in order of appearance.
    centre : float64 array of shape (3,)
    half_side : float
        ``input = vertices * half_side + centre``.
    report : dict
        Plain counts: see `canonical_mesh`.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]
    component: NDArray[np.int64]
    centre: NDArray[np.float64]
    half_side: float
    report: dict[str, Any]

    @cached_property
    def areas_normals(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Areas (n_faces,) and unit normals (n_faces, 3) of the faces."""
        return face_areas_normals(self.vertices, self.faces)

    @cached_property
    def volumes(self) -> NDArray[np.float64]:
        """Signed volume under the faces of each component."""
        return signed_volumes(self.vertices, self.faces, self.component)

    @cached_property
    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Edges and half-edges, see `edge_table`."""
        return edge_table(self.faces)

    def rotated(self, rotation: NDArray[np.float64]) -> CanonicalMesh:
        """The mesh along other axes: centred on its box there, longest half-side 1; the same order.

        Parameters
        ----------
        rotation : array of shape (3, 3)
            From the mesh's own axes to the others.

        Returns
        -------
        CanonicalMesh
            Its centre is in the other axes.
        """
        vertices = self.vertices @ rotation.T
        low, high = vertices.min(0), vertices.max(0)
        middle, half = (low + high) / 2, float((high - low).max() / 2)
        centre = middle * self.half_side + rotation @ self.centre
        return replace(self, vertices=(vertices - middle) / half, centre=centre, half_side=half * self.half_side)


def canonical_mesh(vertices: NDArray[Any], faces: NDArray[Any]) -> CanonicalMesh:
    """Normalise, merge, clean, orient and sort a triangle mesh.

    Parameters
    ----------
    vertices : array of shape (n_vertices, 3), any unit
    faces : integer array of shape (n_faces, 3)

    Returns
    -------
    CanonicalMesh
        Bit-identical for every permutation of vertices and faces. `report` counts `input_vertices`, `input_faces`,
        `unreferenced_vertices`, `merged_vertices`, `degenerate_faces`, `duplicate_faces` (whatever their
        orientation), `vertices`, `faces`, `open_edges` (edges of an odd number of faces), `nonmanifold_edges` (of
        more than two), `components`, `flipped_faces`, and says whether the result is `watertight` (every edge has
        two faces of opposite direction).

    Raises
    ------
    MeshError
        No face, coordinates that are not finite, indices out of range, or a mesh without extent.
    """
    vertices, faces = _check(vertices, faces)
    report: dict[str, Any] = {"input_vertices": len(vertices), "input_faces": len(faces)}
    used, faces = _compact(vertices, faces)
    report["unreferenced_vertices"] = len(vertices) - len(used)
    low, high = used.min(0), used.max(0)
    centre = low / 2 + high / 2  # halves first: the sum of two large floats may overflow
    half_side = float((high / 2 - low / 2).max())
    if not half_side > np.finfo(np.float64).tiny:
        raise MeshError("all vertices of the mesh coincide; a mesh needs an extent")
    steps = np.rint((used - centre) / half_side / MERGE_STEP)
    merged, inverse = np.unique(steps.astype(np.int64), axis=0, return_inverse=True)
    report["merged_vertices"] = len(used) - len(merged)
    faces = inverse.reshape(-1)[faces]
    proper = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    report["degenerate_faces"] = int((~proper).sum())
    faces, votes = _unique_faces(faces[proper])
    report["duplicate_faces"] = int(proper.sum()) - len(faces)
    points, faces = _compact(merged * MERGE_STEP, faces)
    if not face_areas_normals(points, faces)[0].sum() > 0:
        raise MeshError("every face of the mesh is degenerate (no area); export it again with real triangles")
    faces, flipped = _orient(points, faces, votes)
    faces = _sorted_faces(faces)
    component = face_components(faces, len(points))
    counts, balanced = _edge_counts(faces)
    report |= {
        "vertices": len(points),
        "faces": len(faces),
        "open_edges": int((counts % 2 == 1).sum()),
        "nonmanifold_edges": int((counts > 2).sum()),
        "components": int(component.max()) + 1,
        "flipped_faces": flipped,
        "watertight": bool((counts == 2).all() and balanced),
    }
    return CanonicalMesh(points, faces, component, centre, half_side, report)


def _check(vertices: Any, faces: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    vertices, faces = np.asarray(vertices), np.asarray(faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind not in "fiu":
        raise MeshError(f"vertices must be numbers of shape (n, 3), not {vertices.dtype} of shape {vertices.shape}")
    if faces.ndim != 2 or faces.shape[1] != 3 or (faces.size and faces.dtype.kind not in "iu"):
        raise MeshError(f"faces must be integers of shape (n, 3), not {faces.dtype} of shape {faces.shape}")
    if not len(faces):
        raise MeshError("the mesh has no faces; point clouds and curves cannot be used")
    faces = faces.astype(np.int64)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise MeshError(
            f"face {int(np.argmax(((faces < 0) | (faces >= len(vertices))).any(1)))} points to a vertex that does not "
            f"exist (the mesh has {len(vertices)}); the file is truncated or damaged"
        )
    vertices = vertices.astype(np.float64)
    if not np.isfinite(vertices[np.unique(faces)]).all():
        raise MeshError("the mesh has coordinates that are not finite (NaN or infinity); export it again")
    return vertices, faces


def _compact(vertices: NDArray[Any], faces: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Only the referenced vertices, in their order."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    return vertices[used], (np.cumsum(used) - 1)[faces]


def _sorted_faces(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Faces with the smallest index first (direction kept), rows in lexicographic order."""
    first = faces.argmin(1)
    faces = np.stack([faces[np.arange(len(faces)), (first + k) % 3] for k in range(3)], 1)
    return faces[np.lexsort(faces.T[::-1])]


def _unique_faces(faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Distinct corner sets in ascending order, with the sum of the directions (+1/-1) in which each was given."""
    ordered = np.sort(faces, axis=1)
    first = faces.argmin(1)
    rows = np.arange(len(faces))
    direction = np.where(faces[rows, (first + 1) % 3] < faces[rows, (first + 2) % 3], 1, -1)
    unique, inverse = np.unique(ordered, axis=0, return_inverse=True)
    return unique, np.rint(np.bincount(inverse.reshape(-1), direction, minlength=len(unique))).astype(np.int64)


def _edge_counts(faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], bool]:
    """Number of faces at each edge, and whether every edge is passed as often in one direction as in the other."""
    _, edge, direction = edge_table(faces)
    return np.bincount(edge), not np.bincount(edge, direction).any()


def _orient(
    vertices: NDArray[np.float64], faces: NDArray[np.int64], votes: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """Orient faces consistently within patches, patches by the input's majority, closed parts outward.

    `faces` come with ascending corners and `votes` (n_faces,), the direction in which the input gave them. A closed
    component that faces inward is turned unless it lies inside another one: then it is a cavity.
    """
    import igl

    oriented, patch = igl.bfs_orient(np.ascontiguousarray(faces))
    same = _direction(oriented)
    area = face_areas_normals(vertices, faces)[0]
    agreement = np.bincount(patch, area * same * np.sign(votes))
    flip = agreement < 0
    undecided = np.abs(agreement) <= 1e-9 * np.bincount(patch, area)  # given equally in both directions
    flip = np.where(undecided, signed_volumes(vertices, oriented, patch) < 0, flip)
    oriented = np.where(flip[patch][:, None], oriented[:, ::-1], oriented)
    oriented = _outward(vertices, oriented)
    changed = int((_direction(oriented) * np.sign(votes) < 0).sum())
    return oriented, changed


def _direction(faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """+1 where the corners ascend up to rotation, -1 where they descend."""
    first = faces.argmin(1)
    rows = np.arange(len(faces))
    return np.where(faces[rows, (first + 1) % 3] < faces[rows, (first + 2) % 3], 1, -1)


def _outward(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn closed components that face inward and are not cavities of others."""
    import igl

    label = face_components(faces, len(vertices))
    _, edge, direction = edge_table(faces)
    uneven = np.bincount(edge, direction) != 0
    closed = np.bincount(label, uneven[edge].reshape(-1, 3).any(1)) == 0
    volume = signed_volumes(vertices, faces, label)
    if volume[closed].sum() < 0:  # the mesh as a whole is inside out
        faces, volume = faces[:, ::-1], -volume
    outer, inward = closed & (volume > 0), closed & (volume < 0)
    turned = inward.copy()
    if inward.any() and outer.any():
        owner = np.full(len(vertices), -1)
        owner[faces] = label[:, None]
        corners = np.flatnonzero(inward[owner])
        corners = corners[np.argsort(owner[corners], kind="stable")]
        parts, first, count = np.unique(owner[corners], return_index=True, return_counts=True)
        kept = np.arange(len(corners)) - np.repeat(first, count) < CAVITY_CORNERS
        others = np.ascontiguousarray(faces[outer[label]])
        winding = igl.fast_winding_number(vertices, others, np.ascontiguousarray(vertices[corners[kept]]))
        ends = np.cumsum(np.minimum(count, CAVITY_CORNERS))[:-1]
        turned[parts] = [np.median(of_part) <= 0.5 for of_part in np.split(winding, ends)]
    return np.ascontiguousarray(np.where(turned[label][:, None], faces[:, ::-1], faces))


def geometry_hash(mesh: CanonicalMesh) -> str:
    """32 hex digits that are equal for the same triangles in any order, place and size (to 1e-4 of the half-side).

    Parameters
    ----------
    mesh : CanonicalMesh

    Returns
    -------
    str
    """
    digest = hashlib.sha256(np.rint(mesh.vertices * 1e4).astype("<i4").tobytes())
    digest.update(mesh.faces.astype("<i4").tobytes())
    return digest.hexdigest()[:32]
