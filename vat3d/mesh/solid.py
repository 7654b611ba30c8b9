"""What is inside a mesh: closed parts by winding number, open sheets as thin shells.

A mesh from the wild is a set of connected components. Closed ones (no open edge, or only cracks and small holes) bound
a solid, decided by the generalised winding number (Jacobson et al. 2013, fast form Barill et al. 2018): |w| > 1/2, so
that a mesh that is inside out is the same solid. Open sheets, closed parts flatter than a shell, and faces of closed
parts that bound nothing (a fin; a blade modelled as its two sides in one place), become shells of half-thickness
`SHELL`. The solid is the union of both, or what lies in an odd number of parts: then walls within others show, too.
Where walls lie closer together than `THIN`, what is between them is thickened, so that the networks see it: a leaf, and
by the even-odd rule also a gap, or the wall that two parts have in one place, which becomes a slit.
"""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setcore.evaluation.mesh_metrics import SurfaceSamples
from setcore.seeding import numpy_generator
from vat3d.errors import MeshError
from vat3d.mesh.canonical import CanonicalMesh
from vat3d.mesh.components import MOST_TRIED, PROBE, find_components
from vat3d.mesh.fill import EVEN_ODD, NONZERO

SHELL = 0.008
"""Half-thickness of the shell of an open sheet, in the canonical frame."""
NEAR_SIGMAS = (0.01, 0.04)
"""Standard deviations of the noise that takes surface points to near-surface samples, half of them each."""
THIN, THICKER, FELT = 0.016, 0.008, 0.06
"""Walls of closed parts with another one less than `THIN` behind them move out by `THICKER`; distances above `FELT`, of
which the networks are asked the sign alone, stay as they are."""
TOUCHING = 1e-6
"""Points so close to a face have their direction from it by its normal."""
THIN_SHARE, WALL_THICKNESS = 0.1, 0.008
"""A mesh is thin if more than this share of its surface is; and has walls if it is closed and half of what is thin is
thicker than this."""
HIDDEN, HIDDEN_SAMPLES, DEEP = 0.01, 2000, 0.02
"""A mesh hides parts if more than this share of so many samples of its surface have inside on both sides, so far away.
"""


class Solid:
    """The solid that a mesh stands for, in the canonical frame.

    Parameters
    ----------
    mesh : CanonicalMesh
    fill : {"nonzero", "even-odd"}
        Whether what lies in two parts is inside: the solid is what a set of overlapping parts fills; or it is not, and
        the surface of the solid is that of all parts, walls within others included. All sheets together are one part.

    Attributes
    ----------
    report : dict
        `closed_components`, how many of them have cracks or holes that were closed (`holed_components`),
        `flat_components` (closed, but flatter than a shell), `open_components`, `loose_faces` (of closed components,
        with outside on both sides), `shell` (half-thickness of the shells that flat and open components and loose faces
        become, 0 if there are none) and `closed`, whether all components are, without loose faces.
    """

    def __init__(self, mesh: CanonicalMesh, fill: str = NONZERO) -> None:
        self.mesh, self.fill = mesh, fill
        parts = find_components(mesh)
        self._winding = parts.winding
        self._closed_faces = np.ascontiguousarray(mesh.faces[parts.bounding])
        self._open_faces = np.ascontiguousarray(mesh.faces[~parts.bounding])
        self._closed_tree = _tree(mesh.vertices, self._closed_faces)
        self._open_tree = _tree(mesh.vertices, self._open_faces)
        self._area, self._normal = mesh.areas_normals
        self._closed_normals = self._normal[parts.bounding]
        self._is_open = ~parts.bounding
        self._two_sided = self._is_open & ~parts.paired
        self._trusted = mesh.report["watertight"] and bool((parts.closed & (mesh.volumes > 0)).all())
        self.report: dict[str, Any] = {
            "closed_components": int((parts.closed | parts.flat).sum()),
            "holed_components": int(parts.holed.sum()),
            "flat_components": int(parts.flat.sum()),
            "open_components": int((~parts.closed & ~parts.flat).sum()),
            "loose_faces": int(parts.loose.sum()),
            "shell": SHELL if len(self._open_faces) else 0.0,
            "closed": bool((parts.closed | parts.flat).all()) and not parts.loose.any(),
        }

    @property
    def area(self) -> float:
        """Of all faces; both sides of sheets count."""
        return float(self._area @ np.where(self._two_sided, 2.0, 1.0))

    def filled(self, fill: str) -> Solid:
        """The solid of the same mesh by a fill rule.

        Parameters
        ----------
        fill : {"nonzero", "even-odd"}

        Returns
        -------
        Solid
        """
        other = copy(self)
        other.fill = fill
        return other

    def signed_distance(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Signed distance to the surface of the solid, negative inside.

        Parameters
        ----------
        points : array of shape (n, 3), canonical frame

        Returns
        -------
        float64 array of shape (n,)
            Exact outside the solid and inside single parts; inside overlapping parts a distance to the nearest
            sheet, which may lie within the solid unless the fill rule is "even-odd". What is thin is thicker.
        """
        at = np.ascontiguousarray(points, np.float64)
        distance = np.full(len(at), np.inf)
        if self._closed_tree is not None:
            squared, face, nearest = self._closed_tree.squared_distance(self.mesh.vertices, self._closed_faces, at)
            distance = np.where(self._wound(at), -1.0, 1.0) * np.sqrt(squared)
            felt = np.abs(distance) < FELT
            away = at[felt] - nearest[felt]
            far = np.abs(distance[felt])[:, None]
            away = np.where(far > TOUCHING, away / np.maximum(far, TOUCHING), self._closed_normals[face[felt]])
            distance[felt] = self._thickened(nearest[felt], away, distance[felt])
        if self._open_tree is not None:
            sheet = _distance(self._open_tree, self.mesh.vertices, self._open_faces, at) - SHELL
            if self.fill == EVEN_ODD:
                inside = (distance < 0) != (sheet < 0)
                distance = np.minimum(np.abs(distance), np.abs(sheet)) * np.where(inside, -1.0, 1.0)
            else:
                distance = np.minimum(distance, sheet)
        return distance

    def face_distance(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Distances from the mesh's faces, whatever is inside.

        Parameters
        ----------
        points : array of shape (n, 3)

        Returns
        -------
        float64 array of shape (n,)
        """
        at, parts = np.ascontiguousarray(points, np.float64), []
        for tree, faces in ((self._closed_tree, self._closed_faces), (self._open_tree, self._open_faces)):
            if tree is not None:
                parts.append(_distance(tree, self.mesh.vertices, faces, at))
        return np.asarray(np.minimum.reduce(parts))

    def _thickened(
        self, nearest: NDArray[np.float64], away: NDArray[np.float64], distance: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Signed distances (n,) to closed parts, thickened, of points whose nearest ones (n, 3) and unit vectors (n, 3)
        away from these are given. A wall is thin at a point if both sides are alike `THIN` away from it."""
        behind, ahead, between = self._wound(nearest - THIN * away), distance < 0, np.abs(distance) < THIN
        ahead[between] = self._wound((nearest + THIN * away)[between])
        return distance - self._growth(behind, ahead)

    def contains(self, points: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Whether points lie inside, before what is thin is thickened; quicker than `signed_distance`.

        Parameters
        ----------
        points : array of shape (n, 3)

        Returns
        -------
        bool array of shape (n,)
        """
        at = np.ascontiguousarray(points, np.float64)
        inside = self._wound(at) if self._closed_tree is not None else np.zeros(len(at), bool)
        if self._open_tree is not None:
            in_shell = _distance(self._open_tree, self.mesh.vertices, self._open_faces, at) < SHELL
            inside = inside ^ in_shell if self.fill == EVEN_ODD else inside | in_shell
        return inside

    def surface_samples(self, n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Points and outward normals on the surface of the solid.

        Area-uniform over the faces of closed parts, moved where they are thin, and over the two offset sides of sheets
        (one side each where two loose faces lie in one place); what lies inside another part is left out if such is
        inside.

        Parameters
        ----------
        n : int
        seed : int

        Returns
        -------
        points, normals : float64 arrays of shape (n, 3)

        Raises
        ------
        MeshError
            No point of any face lies on the border of inside and outside (faces that cancel each other).
        """
        rng = numpy_generator(seed, "surface")
        weight = self._area * np.where(self._two_sided, 2.0, 1.0)
        cumulative = np.cumsum(weight / weight.sum())
        found_points, found_normals, found = [], [], 0
        share, tried = 1.0, 0
        for _ in range(20):
            size = min(int(1.1 * (n - found) / share) + 256, MOST_TRIED)
            face = np.minimum(np.searchsorted(cumulative, rng.random(size), side="right"), len(weight) - 1)
            points = _uniform_on(self.mesh.vertices[self.mesh.faces[face]], rng)
            normals = (
                self._normal[face] * np.where(self._two_sided[face] & (rng.random(size) < 0.5), -1.0, 1.0)[:, None]
            )
            points = points + normals * np.where(self._is_open[face], SHELL, 0.0)[:, None]
            closed = ~self._is_open[face]
            below, above = (self._wound((points + side * THIN * normals)[closed]) for side in (-1, 1))
            growth = self._growth(below, above)
            border, normals = self._border(points, normals, self._is_open[face])
            # Where walls of two parts lie in one place, each stands for its own side of the slit.
            border[closed] |= growth != 0
            points[closed] += normals[closed] * growth[:, None]
            found_points.append(points[border])
            found_normals.append(normals[border])
            found += int(border.sum())
            if found >= n:
                return np.concatenate(found_points)[:n], np.concatenate(found_normals)[:n]
            tried += size
            share = max(found / tried, 1e-3)
            if tried >= MOST_TRIED and not found:
                break
        raise MeshError("the faces of the mesh bound no solid (they cancel or enclose each other); repair it first")

    def _border(
        self, points: NDArray[np.float64], normals: NDArray[np.float64], on_sheet: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which points lie between inside and outside, and their outward normals."""
        if self._trusted and self.mesh.report["components"] == 1:
            return np.ones(len(points), bool), normals
        ahead = self.contains(points + PROBE * normals)
        # Where every part counts, behind the offset of a sheet lies the sheet's shell, and behind a face of a
        # watertight mesh, none of whose parts faces inward, is inside. All others need a second look.
        unsure = np.ones(len(points), bool) if self.fill == EVEN_ODD else ~on_sheet & (not self._trusted)
        behind = ~unsure
        behind[unsure] = self.contains(points[unsure] - PROBE * normals[unsure])
        return ahead != behind, np.where((ahead & ~behind)[:, None], -normals, normals)

    def _growth(self, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.float64]:
        """How far walls of closed parts move out, by whether either side is inside, `THIN` away: those with outside on
        both, and by the even-odd rule, into the solid, those with inside on both."""
        return THICKER * ((~one & ~other).astype(float) - (one & other & (self.fill == EVEN_ODD)))

    def hidden(self, points: NDArray[np.float64], normals: NDArray[np.float64], depth: float) -> NDArray[np.bool_]:
        """Which points of the mesh have inside on both sides.

        Parameters
        ----------
        points, normals : arrays of shape (n, 3)
        depth : float
            How far away.

        Returns
        -------
        bool array of shape (n,)
        """
        return self.contains(points + depth * normals) & self.contains(points - depth * normals)

    def has_internal_surfaces(self, surface: SurfaceSamples) -> bool:
        """Whether the even-odd rule shows much of the mesh's surface that otherwise lies deep within parts.

        Parameters
        ----------
        surface : SurfaceSamples
            Of the mesh, in random order.

        Returns
        -------
        bool
        """
        if self.mesh.report["components"] == 1:
            return False
        points, normals = surface.points[:HIDDEN_SAMPLES], surface.normals[:HIDDEN_SAMPLES]
        return float(self.filled(NONZERO).hidden(points, normals, DEEP).mean()) > HIDDEN

    def is_thin(self, surface: SurfaceSamples) -> bool:
        """Whether much of the mesh's surface is of sheets, or of parts that `signed_distance` thickens.

        Parameters
        ----------
        surface : SurfaceSamples
            Of the mesh, in random order.

        Returns
        -------
        bool
        """
        return float(self._within(surface, THIN).mean()) < 1 - THIN_SHARE

    def has_walls(self, surface: SurfaceSamples) -> bool:
        """Whether thin parts of the mesh are walls with a thickness of their own, rather than sheets or hardly thicker.

        Parameters
        ----------
        surface : SurfaceSamples
            Of the mesh, in random order.

        Returns
        -------
        bool
        """
        thick = self._within(surface, WALL_THICKNESS)[~self._within(surface, THIN)]
        return bool(not len(self._open_faces) and 2 * thick.sum() > len(thick))

    def _within(self, surface: SurfaceSamples, depth: float) -> NDArray[np.bool_]:
        """Which of the first samples have inside on either side, so far away."""
        points, step = surface.points[:HIDDEN_SAMPLES], depth * surface.normals[:HIDDEN_SAMPLES]
        return self.contains(points + step) | self.contains(points - step)

    def _wound(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        wound = self._winding(points)
        return np.rint(wound) % 2 == 1 if self.fill == EVEN_ODD else wound > 0.5


def _tree(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> Any:
    """A bounding volume hierarchy over `faces`, None if there are none."""
    if not len(faces):
        return None
    import igl

    tree = igl.AABB()
    tree.init(vertices, faces)
    return tree


def _distance(
    tree: Any, vertices: NDArray[np.float64], faces: NDArray[np.int64], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.asarray(np.sqrt(tree.squared_distance(vertices, faces, points)[0]))


def _uniform_on(corners: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """One uniform point in each triangle of `corners` (n, 3, 3)."""
    u, v = rng.random((2, len(corners)))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    return np.asarray(
        corners[:, 0] + u[:, None] * (corners[:, 1] - corners[:, 0]) + v[:, None] * (corners[:, 2] - corners[:, 0])
    )
