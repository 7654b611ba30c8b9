"""How a mesh is turned before it is encoded: so that its faces, or its mirror planes, lie along the axes.

The networks' feature planes lie along the axes, and so do the walls of most shapes that they have seen. A mesh that
stands askew is brought into the pose of the greatest rectilinearity (Lian, Rosin & Sun 2010, "Rectilinearity of 3D
meshes", International Journal of Computer Vision 89): the one in which the areas that its faces throw on the three
coordinate planes have the least sum. One that is its own mirror image, but not along an axis, is brought to be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from setcore.evaluation.mesh_metrics import SAMPLES, SurfaceSamples, sample_surface
from vat3d.bitstream.coordinate_frame import NO_TURN, TURN_LIMIT, TURN_STEP, Frame, turn_rotations
from vat3d.mesh.canonical import CanonicalMesh
from vat3d.mesh.solid import Solid
from vat3d.mesh.symmetry import best_mirror, upright

Turn = tuple[int, int, int]
GAIN = 0.035
"""By what share the sum must fall for a mesh to be turned; curved shapes have no pose that is worth as much."""
LARGER = 0.1
"""How much a frame that becomes larger, and so all parts smaller in it, counts against a turn."""
NORMALS = 2000
"""Faces looked at, by area, of a mesh with more."""
FIRST_STEP, STARTS = 42, 4
"""Distance in codes of the turns that are looked at first, and how many of them, beside none, the search goes on from.
"""


@dataclass(frozen=True)
class Posed:
    """A mesh as it is encoded.

    Parameters
    ----------
    mesh : CanonicalMesh
        Turned.
    surface : SurfaceSamples
        Of it, in random order.
    solid : Solid
    frame : Frame
        Of its file.
    """

    mesh: CanonicalMesh
    surface: SurfaceSamples
    solid: Solid
    frame: Frame


def best_pose(mesh: CanonicalMesh) -> Posed:
    """Turn a mesh along the axes, or so that it is its own mirror image along an axis if it is not so then.

    Parameters
    ----------
    mesh : CanonicalMesh

    Returns
    -------
    Posed
    """
    turn = best_turn(mesh)
    posed = _posed(mesh, turn)
    rotation = None if posed.frame.mirror else upright(posed.solid, posed.surface)
    if rotation is not None:
        turn = nearest_turn(rotation @ posed.frame.rotation)
        other = _posed(mesh, turn)
        if other.frame.mirror:
            return other
    return posed


def _posed(mesh: CanonicalMesh, turn: Turn) -> Posed:
    mesh = turned(mesh, turn)
    surface = sample_surface(mesh.vertices, mesh.faces, SAMPLES, seed=1, any_order=False)
    solid, extent = Solid(mesh), np.abs(mesh.vertices).max(0) * mesh.half_side
    frame = Frame.from_corners(mesh.centre - extent, mesh.centre + extent)
    return Posed(mesh, surface, solid, replace(frame, turn=turn, mirror=best_mirror(solid, surface)))


def best_turn(mesh: CanonicalMesh) -> Turn:
    """The turn of the greatest rectilinearity, none where that gains little; that of 24 alike nearest to none.

    Parameters
    ----------
    mesh : CanonicalMesh

    Returns
    -------
    tuple of int
        As in `Frame.turn`.
    """
    area, normal = mesh.areas_normals
    if len(area) > NORMALS:
        cumulative = np.cumsum(area)
        normal = normal[np.searchsorted(cumulative, (np.arange(NORMALS) + 0.5) / NORMALS * cumulative[-1])]
        area = np.ones(NORMALS)
    weight = area / area.sum()

    def thrown(codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """The sum of projected areas over the area, of turns (n, 3)."""
        along = turn_rotations(codes).reshape(-1, 3) @ normal.T
        return np.asarray((np.abs(along) @ weight).reshape(-1, 3).sum(1))

    grid = _lattice(np.arange(-TURN_LIMIT + 1, TURN_LIMIT, FIRST_STEP))
    first = grid[np.argsort(thrown(grid), kind="stable")[:STARTS]]
    found = [_descended(thrown, start) for start in (np.array(NO_TURN), *first)]
    best, least = min(found, key=lambda one: one[1])
    turn = int(best[0]), int(best[1]), int(best[2])
    larger = turned(mesh, turn).half_side / mesh.half_side
    gains = least * max(larger, 1.0) ** LARGER < (1 - GAIN) * thrown(np.array([NO_TURN]))[0]
    return turn if gains else NO_TURN


def _descended(
    thrown: Callable[[NDArray[np.int64]], NDArray[np.float64]], start: NDArray[np.int64]
) -> tuple[NDArray[np.int64], float]:
    """The turn found from `start` by steps to the least of the 26 around, which halve where there is none; its sum."""
    best, least, step = start, float(thrown(start[None])[0]), FIRST_STEP // 2
    while step:
        around = np.clip(best + step * _lattice(np.arange(-1, 2)), -TURN_LIMIT, TURN_LIMIT)
        sums = thrown(around)
        if sums.min() < least:
            best, least = around[sums.argmin()], float(sums.min())
        else:
            step //= 2
    return best, least


def _lattice(axis: NDArray[np.int64]) -> NDArray[np.int64]:
    """All triples (n, 3) of the numbers of an axis."""
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


def nearest_turn(rotation: NDArray[np.float64]) -> Turn:
    """The turn of a rotation to within its steps; of 24 that differ by quarter turns that nearest to none.

    Parameters
    ----------
    rotation : array of shape (3, 3)

    Returns
    -------
    tuple of int
        As in `Frame.turn`.
    """
    alike = Rotation.create_group("O") * Rotation.from_matrix(rotation)
    vector = alike[alike.magnitude().argmin()].as_mrp()  # the tangent of a quarter of the angle along the axis
    codes = np.rint(2 * vector / (1 - vector @ vector) / TURN_STEP).astype(int)
    return int(codes[0]), int(codes[1]), int(codes[2])


def turned(mesh: CanonicalMesh, turn: Turn) -> CanonicalMesh:
    """A mesh in its turned frame: centred on its box along the turned axes, longest half-side 1; the same order.

    Parameters
    ----------
    mesh : CanonicalMesh
    turn : tuple of int
        As in `Frame.turn`.

    Returns
    -------
    CanonicalMesh
    """
    return mesh if turn == NO_TURN else mesh.rotated(turn_rotations(np.array(turn)))
