"""Decimation of any triangles, whether manifold or not, down to a few: pairs of vertices collapse by quadric error.

Garland & Heckbert 1997, with their pairs of vertices that no edge joins, so that parts may grow together or vanish. All
collapses are made once, and any of the meshes on the way is taken from them.
"""

from __future__ import annotations

import heapq
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Pairs = NDArray[np.int64]
FEWEST = 6
BORDER = 0.3
"""Weight of planes through border edges, square to their faces."""
KEEP = 1e-3
"""Weight of a vertex's own place beside that of its planes."""
NEAR_PAIRS = 0.03
"""Vertices so near to each other may collapse without an edge."""
FLIPPED = 4.0
"""A collapse that turns a face over counts as so much dearer."""


class Collapses:
    """The collapses of a mesh, cheapest first.

    Parameters
    ----------
    vertices : array of shape (n, 3)
    faces : int array of shape (m, 3)
    """

    def __init__(self, vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> None:
        self.vertices, self.faces = vertices, faces
        self.most = len(np.unique(faces))
        """Vertices before the first collapse."""
        self._place = vertices.copy()
        self._quadric = _quadrics(vertices, faces)
        self._corners = [set(face) for face in faces.tolist()]
        self._faces_at: dict[int, set[int]] = defaultdict(set)
        for number, corners in enumerate(self._corners):
            for corner in corners:
                self._faces_at[corner].add(number)
        self._joined: dict[int, set[int]] = defaultdict(set)
        near = cKDTree(vertices).query_pairs(NEAR_PAIRS, output_type="ndarray")
        edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
        pairs = np.unique(np.concatenate([edges, near[: 4 * len(edges)]]), axis=0)
        for a, b in pairs.tolist():
            self._joined[a].add(b)
            self._joined[b].add(a)
        self._changes = [0] * len(vertices)
        self._heap: list[tuple[float, int, int, int, bool, tuple[float, ...]]] = []
        self._push(pairs)
        heapq.heapify(self._heap)
        self.kept: list[int] = []
        self.gone: list[int] = []
        self.places: list[tuple[float, ...]] = []
        self.left: list[int] = []
        """Vertices that faces have after each collapse."""
        self._run()

    def _push(self, pairs: Pairs) -> None:
        """Enter pairs with their cost and the place where they meet."""
        quadric = self._quadric[pairs].sum(1)
        middle = self._place[pairs].mean(1)
        matrix, vector = quadric[:, :3, :3], -quadric[:, :3, 3]
        size = np.trace(matrix, axis1=1, axis2=2)[:, None, None]
        matrix = matrix + (1e-4 * size + 1e-12) * np.eye(3)
        vector = vector + (1e-4 * size[:, 0] + 1e-12) * middle
        places = np.linalg.solve(matrix, vector[..., None])[..., 0]
        full = np.concatenate([places, np.ones((len(places), 1))], 1)
        costs = _rounded(np.einsum("ni,nij,nj->n", full, quadric, full).clip(min=0))
        for (a, b), cost, place in zip(pairs.tolist(), costs.tolist(), places.tolist(), strict=True):
            heapq.heappush(self._heap, (cost, a, b, self._changes[a] + self._changes[b], False, tuple(place)))

    def _run(self) -> None:
        alive = self.most
        while self._heap and alive > FEWEST:
            cost, a, b, changes, known, place = heapq.heappop(self._heap)
            if b not in self._joined[a] or self._changes[a] + self._changes[b] != changes:
                continue
            if not known and self._flips(a, b, np.array(place)):
                heapq.heappush(self._heap, (FLIPPED * cost + 1e-9, a, b, changes, True, place))
                continue
            alive -= self._collapse(a, b, place)
            self.kept.append(a)
            self.gone.append(b)
            self.places.append(place)
            self.left.append(alive)

    def _flips(self, a: int, b: int, place: NDArray[np.float64]) -> bool:
        changed = [number for v in (a, b) for number in self._faces_at[v] if not {a, b} <= self._corners[number]]
        if not changed:
            return False
        corners = np.array([list(self._corners[number]) for number in changed])
        before = self._place[corners]
        after = np.where(np.isin(corners, (a, b))[..., None], place, before)
        old, new = (np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0]) for c in (before, after))
        return bool(((old * new).sum(1) < 0).any())

    def _collapse(self, a: int, b: int, place: tuple[float, ...]) -> int:
        """Merge `b` into `a`; how many vertices lose their last face."""
        self._place[a] = place
        self._quadric[a] += self._quadric[b]
        self._changes[a] += 1
        had = {v for number in self._faces_at[a] | self._faces_at[b] for v in self._corners[number]}
        for number in self._faces_at.pop(b, set()):
            corners = self._corners[number]
            corners.discard(b)
            corners.add(a)
            self._faces_at[a].add(number)
        seen: set[frozenset[int]] = set()
        for number in sorted(self._faces_at[a]):
            corners = self._corners[number]
            key = frozenset(corners)
            if len(corners) < 3 or key in seen:
                for v in corners:
                    self._faces_at[v].discard(number)
            seen.add(key)
        for v in self._joined.pop(b):
            self._joined[v].discard(b)
            if v != a:
                self._joined[v].add(a)
                self._joined[a].add(v)
        for v in [v for v in had if not self._faces_at[v]]:  # nothing of it is left to be coded
            for other in self._joined.pop(v, set()):
                self._joined[other].discard(v)
        around = sorted(self._joined[a])
        if around:
            self._push(np.array([(a, v) for v in around]))
        return sum(not self._faces_at[v] for v in had)

    def mesh(self, count: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The first mesh on the way with at most so many vertices.

        Parameters
        ----------
        count : int

        Returns
        -------
        vertices : array of shape (n, 3)
            Some may belong to no face.
        faces : array of shape (m, 3)
            May collapse or repeat.
        """
        steps = (
            0
            if self.most <= count
            else next((k for k, left in enumerate(self.left, 1) if left <= count), len(self.left))
        )
        vertices, to = self.vertices.copy(), np.arange(len(self.vertices))
        for kept, place in zip(self.kept[:steps], self.places[:steps], strict=True):
            vertices[kept] = place
        for kept, gone in zip(reversed(self.kept[:steps]), reversed(self.gone[:steps]), strict=True):
            to[gone] = to[kept]
        faces = to[self.faces]
        return vertices, faces[(faces != np.roll(faces, 1, axis=1)).all(1)]


def _rounded(costs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Costs to six digits, below 1e-9 to none: what processors round differently must not change the order."""
    fraction, exponent = np.frexp(np.round(costs, 15) * (costs > 1e-9))
    return np.asarray(np.ldexp(np.round(fraction * 2**20), exponent - 20))


def _quadrics(vertices: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum of squared distances to the planes around each vertex, by area, as (n, 4, 4)."""
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double = np.linalg.norm(cross, axis=1)
    normal = cross / np.maximum(double, 1e-30)[:, None]
    quadrics = np.zeros((len(vertices), 4, 4))

    def add(to: Pairs, through: NDArray[np.float64], square: NDArray[np.float64], weight: NDArray[np.float64]) -> None:
        plane = np.concatenate([square, -(square * through).sum(1, keepdims=True)], 1)
        np.add.at(quadrics, to, weight[:, None, None] * plane[:, :, None] * plane[:, None, :])

    for k in range(3):
        add(faces[:, k], corners[:, 0], normal, double / 6)
        for axis in np.eye(3):
            add(faces[:, k], corners[:, k], np.tile(axis, (len(faces), 1)), KEEP * double / 6)
    edges = np.concatenate([faces[:, [k, (k + 1) % 3]] for k in range(3)])
    _, number, times = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True)
    border = np.flatnonzero(times[number.reshape(-1)] == 1)
    along = vertices[edges[border, 1]] - vertices[edges[border, 0]]
    length = np.linalg.norm(along, axis=1)
    square = np.cross(along / np.maximum(length, 1e-30)[:, None], normal[border % len(faces)])
    for k in range(2):
        add(edges[border, k], vertices[edges[border, k]], square, BORDER * length**2)
    return quadrics
