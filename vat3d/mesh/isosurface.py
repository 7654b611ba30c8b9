"""A field's surface as a mesh: coarse cells first, only those near the surface refined, marching cubes at the end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vat3d.errors import CodecError
from vat3d.mesh.canonical import HALF_DOMAIN
from vat3d.mesh.marching_cubes import CORNERS, polygonise

Field = Callable[[np.ndarray], np.ndarray]
MEAN_REACH = (3 + 3 * 2**0.5 + 3**0.5) / 8
"""Of all points of a unit cell, a corner has the largest mean distance to the eight corners: this one."""
UNEVEN, STEEP = 0.1, 0.8
"""A field passes a cell evenly if its corners lie so near to a linear function, in cell sides, of at least that slope.
(With .25 and .5 up to three in a thousand triangles of a thin slit below a smooth surface are missed.)"""
MAX_RESOLUTION = 512
EMPTY_QUANTILE = 0.02
_BATCH = 1 << 17
_MARGIN = 1e-3


class GridField:
    """A field that remembers its values at grid points, for extractions at several levels.

    Parameters
    ----------
    field : callable
        Takes float32 points (n, 3), returns (n,) values. Values that are not finite become +-1000, far outside or in.
    """

    def __init__(self, field: Field) -> None:
        self._field = field
        self._known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Values (n,) at points (n, 3), batch by batch."""
        points = points.astype(np.float32)
        parts = [np.asarray(self._field(points[k : k + _BATCH]), np.float64) for k in range(0, len(points), _BATCH)]
        return np.nan_to_num(np.concatenate(parts), nan=1e3, posinf=1e3, neginf=-1e3)

    def at(self, numbers: np.ndarray, side: int) -> np.ndarray:
        """Values at grid points.

        Parameters
        ----------
        numbers : int array of shape (n,)
            Of the points, sorted, each there once.
        side : int
            Cells along a side of the grid.

        Returns
        -------
        array of shape (n,)
        """
        known, values = self._known.get(side, (numbers[:0], np.empty(0)))
        places = np.searchsorted(known, numbers)
        new = np.ones(len(numbers), bool)
        new[places < len(known)] = known[places[places < len(known)]] != numbers[places < len(known)]
        if new.any():
            found = self(_position(_grid(numbers[new], side), side))
            values = np.insert(values, places[new], found)
            known = np.insert(known, places[new], numbers[new])
            self._known[side] = known, values
            places = np.searchsorted(known, numbers)
        return np.asarray(values[places])


def extract_surface(
    field: Field | GridField,
    resolution: int = 128,
    coarse: int = 24,
    iso: float = 0.0,
    saturation: float = np.inf,
) -> tuple[np.ndarray, np.ndarray]:
    """The level `iso` of `field` over the cube [-1.05, 1.05]^3 as a closed, manifold, outward-oriented mesh.

    Each level halves the cells of the one before. A cell is refined if the surface crosses it (its corners differ in
    sign), or might: a field whose slope is at most 1 has no zero in a cell unless the mean of its corners' absolute
    values is below `MEAN_REACH` cell sides. Of a cell that the field passes evenly, as distances do where there is one
    surface only, the halves are looked at that a linear field would cross. At every level the surface is followed from
    cell to cell, so what is found anywhere is found whole; only parts that no corner of the coarse levels comes near
    can be missed. Vertices lie on grid edges, moved to the zero by one step of the secant method. Outside the cube
    counts as outside, so shapes that reach its border are closed there. If nothing lies below `iso`, the level moves to
    the field's 2 % quantile: the mesh is never empty.

    Parameters
    ----------
    field : callable or GridField
        Takes float32 points (n, 3), returns (n,) values, negative inside, such as a signed distance. Values that are
        not finite count as outside.
    resolution : int, 8..512
        Cells a side, rounded up to ``coarse grid * 2^k``.
    coarse : int
        Least number of cells a side at the first level; `resolution` itself makes the grid dense.
    iso : float
    saturation : float
        For a field that is clipped or squashed: the absolute value from which on it only says "far".

    Returns
    -------
    vertices : float64 array of shape (n_vertices, 3)
    faces : int64 array of shape (n_faces, 3)

    Raises
    ------
    CodecError
        The resolution lies outside 8..512.
    """
    if not 8 <= resolution <= MAX_RESOLUTION:
        raise CodecError(f"resolution {resolution} lies outside 8..{MAX_RESOLUTION}")
    field = field if isinstance(field, GridField) else GridField(field)
    levels = 0
    while resolution >= coarse << (levels + 1):
        levels += 1
    side = -(-resolution >> levels)
    cells = first_cells = np.flatnonzero(np.pad(np.ones((side,) * 3, bool), (0, 1)))
    first_side = side
    for level in range(levels + 1):
        cells, values = _follow(field, cells, side, iso)
        crossed = _crossed(values)
        if level == levels:
            break
        reach = min(MEAN_REACH * 2 * HALF_DOMAIN / side, saturation)
        near = crossed | (np.abs(values).mean(1) <= reach)
        if not near.any():
            break
        cells = _children(cells[near], side, _entered(values[near], crossed[near], side))
        side *= 2
    if not crossed.any():
        values = _corner_values(field, first_cells, first_side, 0.0)[:, 0]  # at the cells' lowest corners
        inner = (_grid(first_cells, first_side) > 0).all(1)
        level_of_some = float(np.quantile(values[inner], EMPTY_QUANTILE))
        return extract_surface(field, resolution, coarse, level_of_some + 1e-5 * (1 + abs(level_of_some)), saturation)
    start, stop, at_start, at_stop, faces = polygonise(_grid(cells[crossed], side), values[crossed], side)
    return _place(field, _position(start, side), _position(stop, side), at_start, at_stop, iso), faces


# A cell is known by the number of its lowest corner in the grid of (side + 1)^3 points; sets of cells are sorted.


def _grid(keys: np.ndarray, side: int) -> np.ndarray:
    """Positions (n, 3) of numbered points, or of the lowest corners of cells."""
    return np.stack(np.unravel_index(keys, (side + 1,) * 3), 1)


def _offsets(side: int) -> np.ndarray:
    """What to add to the number of a cell for each of its corners, shape (8,)."""
    return np.asarray(CORNERS @ [(side + 1) ** 2, side + 1, 1])


def _children(cells: np.ndarray, side: int, entered: np.ndarray) -> np.ndarray:
    """Those `entered` (n, 8) of the eight halves of each cell, on the grid of twice as many cells a side."""
    lowest = 2 * _grid(cells, side) @ [(2 * side + 1) ** 2, 2 * side + 1, 1]
    return np.sort((lowest + _offsets(2 * side)[:, None])[entered.T], kind="stable")


def _entered(values: np.ndarray, crossed: np.ndarray, side: int) -> np.ndarray:
    """Which halves (n, 8) of cells with these corners to look at: all, but of crossed ones that the field passes evenly
    those that a linear field crosses."""
    cell, signs = 2 * HALF_DOMAIN / side, 2 * CORNERS - 1
    mean, slope = values.mean(1, keepdims=True), values @ signs / 8  # linear: mean + slope @ signs at the corners
    error = np.abs(values - mean - slope @ signs.T).max(1)
    even = crossed & (error <= UNEVEN * cell) & (np.linalg.norm(slope, axis=1) >= STEEP * cell / 2)
    by_linear = np.abs(mean + slope @ signs.T / 2) <= np.abs(slope).sum(1, keepdims=True) / 2
    return np.asarray(by_linear | ~even[:, None])


def _position(points: np.ndarray, side: int) -> np.ndarray:
    """Grid points in the cube; the same number for the same place at every level."""
    return points * (2 * HALF_DOMAIN / side) - HALF_DOMAIN


def _corner_values(field: GridField, cells: np.ndarray, side: int, iso: float) -> np.ndarray:
    """The field at the corners of cells, shape (n, 8), each grid point evaluated once.

    Points on the border of the cube are outside, and no value is exactly zero.
    """
    corners = (cells + _offsets(side)[:, None]).ravel()  # eight sorted runs, which a stable sort merges
    order = np.argsort(corners, kind="stable")
    corners = corners[order]
    first = np.flatnonzero(np.concatenate([[True], corners[1:] != corners[:-1]]))
    points = corners[first]
    where = _grid(points, side)
    values = field.at(points, side) - iso
    tiny = 1e-9
    values[((where == 0) | (where == side)).any(1) & (values < tiny)] = tiny
    values[values == 0] = tiny
    at_corners = np.empty(len(corners))
    at_corners[order] = np.repeat(values, np.diff(first, append=len(corners)))
    return np.ascontiguousarray(at_corners.reshape(8, -1).T)


def _crossed(values: np.ndarray) -> np.ndarray:
    """Whether the surface crosses each cell."""
    inside = values < 0
    return np.asarray(inside.any(1) & ~inside.all(1))


def _follow(field: GridField, cells: np.ndarray, side: int, iso: float) -> tuple[np.ndarray, np.ndarray]:
    """The given cells and all that the surface enters from them, with the field at their corners."""
    values = _corner_values(field, cells, side, iso)
    steps = _offsets(side)[[1, 2, 4]]
    edge, edge_values = cells, values  # cells whose neighbours have not been looked at
    while True:
        inside = edge_values < 0
        entered = []
        for axis in range(3):
            for upper in (0, 1):  # no surface leaves the cube: its border is outside
                face = inside[:, CORNERS[:, axis] == upper]
                neighbours = edge[face.any(1) & ~face.all(1)] + (2 * upper - 1) * steps[axis]
                known = cells[np.minimum(np.searchsorted(cells, neighbours), len(cells) - 1)] == neighbours
                entered.append(neighbours[~known])
        new = np.unique(np.concatenate(entered))
        if not new.size:
            return cells, values
        edge, edge_values = new, _corner_values(field, new, side, iso)
        cells = np.concatenate([cells, edge])
        order = np.argsort(cells, kind="stable")
        cells, values = cells[order], np.concatenate([values, edge_values])[order]


def _place(
    field: GridField, start: np.ndarray, stop: np.ndarray, at_start: np.ndarray, at_stop: np.ndarray, iso: float
) -> np.ndarray:
    """Zeros of the field on grid edges: linear interpolation, then one secant step inside the bracket.

    Vertices keep a distance from grid points, so that those around one never coincide when written as float32.
    """
    low, high = np.zeros(len(start)), np.ones(len(start))
    share = at_start / (at_start - at_stop)
    middle = field(start + share[:, None] * (stop - start)) - iso
    same = (middle < 0) == (at_start < 0)
    low, at_low = np.where(same, share, low), np.where(same, middle, at_start)
    high, at_high = np.where(same, high, share), np.where(same, at_stop, middle)
    difference = at_low - at_high
    share = np.where(difference != 0, low + (high - low) * at_low / np.where(difference != 0, difference, 1), share)
    share = np.clip(share, _MARGIN, 1 - _MARGIN)
    return np.asarray(start + share[:, None] * (stop - start))
