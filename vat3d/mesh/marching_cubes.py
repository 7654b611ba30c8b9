"""Marching cubes with tables made here by rule, so that every surface is a closed 2-manifold.

The rules (Montani et al. 1994 for the faces; the tables of Lorensen and Cline 1987 leave holes): on a cell face whose
corners alternate, inside corners are always separated. The rule sees the face only, so both cells at it agree. Within
a cell the segments on its faces close into loops, one through each crossed edge; a loop is cut into triangles without
a diagonal between two edges of one cell face, since the neighbour might draw the same one. So every triangle side has
exactly two triangles, and the triangles at a vertex (one loop in each of four cells) form one fan.

Corner ``c`` of a cell lies at ``(c & 1, c >> 1 & 1, c >> 2 & 1)``; edge ``4 a + k`` is the k-th one along axis a.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

CORNERS = np.array([[corner >> axis & 1 for axis in range(3)] for corner in range(8)])
EDGES = np.array([[base, base | 1 << axis] for axis in range(3) for base in range(8) if not base >> axis & 1])
EDGE_AXIS = np.repeat(np.arange(3), 4)


def _faces() -> list[list[int]]:
    """Corners of the six faces, counter-clockwise as seen from outside."""
    faces = []
    for axis in range(3):
        second, third = (axis + 1) % 3, (axis + 2) % 3
        cycle = [0, 1 << second, 1 << second | 1 << third, 1 << third]
        faces.append([corner | 1 << axis for corner in cycle])
        faces.append(cycle[::-1])
    return faces


def _loops(mask: int, faces: list[list[int]], edge_of: dict[frozenset[int], int]) -> list[list[int]]:
    """Loops of crossed edges around the inside corners of `mask`, outward normals by the right-hand rule."""
    successor = {}
    for face in faces:
        inside = [bool(mask >> corner & 1) for corner in face]
        crossed = [edge_of[frozenset((face[k], face[(k + 1) % 4]))] for k in range(4)]
        for k in range(4):
            if inside[k] and not inside[(k + 1) % 4]:  # a run of inside corners ends here; find where it began
                start = k
                while inside[(start - 1) % 4]:
                    start -= 1
                successor[crossed[(start - 1) % 4]] = crossed[k]
    loops = []
    while successor:
        first, current = next(iter(successor.items()))
        loop = [first]
        del successor[first]
        while current != first:
            loop.append(current)
            current = successor.pop(current)
        loops.append(loop)
    return loops


def _triangulations(loop: list[int]) -> Iterator[list[tuple[int, int, int]]]:
    """All triangulations of a loop."""
    if len(loop) < 3:
        yield []
        return
    for k in range(1, len(loop) - 1):
        for left in _triangulations(loop[: k + 1]):
            for right in _triangulations(loop[k:]):
                yield [(loop[0], loop[k], loop[-1]), *left, *right]


@lru_cache(maxsize=1)
def triangle_table() -> tuple[np.ndarray, np.ndarray]:
    """Number of triangles (256,) and their edges (256, most, 3), padded with 0, for every mask of inside corners."""
    faces = _faces()
    edge_of = {frozenset(int(corner) for corner in pair): index for index, pair in enumerate(EDGES)}
    on_face = [
        {edge_of[frozenset((face[k], face[(k + 1) % 4]))] for k in range(4)} for face in faces
    ]  # the four edges of each face
    rows = []
    for mask in range(256):
        triangles: list[tuple[int, int, int]] = []
        for loop in _loops(mask, faces, edge_of):
            sides = {frozenset((loop[k - 1], loop[k])) for k in range(len(loop))}
            forbidden = {
                pair
                for first in loop
                for second in loop
                if (pair := frozenset((first, second))) not in sides and any(pair <= face for face in on_face)
            }
            triangles += next(
                cut
                for cut in _triangulations(loop)
                if not any(frozenset(side) in forbidden for a, b, c in cut for side in ((a, b), (b, c), (c, a)))
            )
        rows.append(triangles)
    counts = np.array([len(row) for row in rows])
    table = np.zeros((256, counts.max(), 3), dtype=np.int64)
    for mask, row in enumerate(rows):
        table[mask, : len(row)] = np.array(row).reshape(-1, 3)
    return counts, table


def polygonise(cells: np.ndarray, values: np.ndarray, side: int) -> tuple[np.ndarray, ...]:
    """Triangles of the zero level in a set of cells of a grid, vertices shared between cells.

    Parameters
    ----------
    cells : int array of shape (n, 3)
        Positions of cells on a grid of `side` cells a side.
    values : array of shape (n, 8)
        Field at the corners; negative is inside, zero outside.
    side : int

    Returns
    -------
    start, stop : int arrays of shape (n_vertices, 3)
        Grid points at both ends of the edge on which each vertex lies, `start` the lower one.
    at_start, at_stop : arrays of shape (n_vertices,)
        Field there.
    faces : int64 array of shape (n_faces, 3), outward by the right-hand rule
    """
    masks = ((values < 0) << np.arange(8)).sum(1)
    counts, table = triangle_table()
    owner, edges = [], []
    for index in range(table.shape[1]):
        chosen = np.flatnonzero(counts[masks] > index)
        owner.append(chosen)
        edges.append(table[masks[chosen], index])
    cell, edge = np.concatenate(owner), np.concatenate(edges)
    low = cells[cell][:, None] + CORNERS[EDGES[edge, 0]]
    points = side + 1
    keys = ((EDGE_AXIS[edge] * points + low[..., 0]) * points + low[..., 1]) * points + low[..., 2]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    cell, edge = np.repeat(cell, 3)[first], edge.ravel()[first]
    start = cells[cell] + CORNERS[EDGES[edge, 0]]
    stop = cells[cell] + CORNERS[EDGES[edge, 1]]
    return start, stop, values[cell, EDGES[edge, 0]], values[cell, EDGES[edge, 1]], inverse.reshape(-1, 3)
