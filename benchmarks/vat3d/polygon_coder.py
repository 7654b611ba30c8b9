"""A bare polygon coder: triangle meshes with quantised vertices, as small as classical means make them.

A rival to measure the codec against, no part of the package. Connectivity grows face by face over the gates of a front
(Touma & Gotsman 1998; Edgebreaker, Rossignac 1999), where the front has its sharpest corner first (Angle-Analyzer, Lee,
Alliez & Desbrun 2002). The third corner of the next face is a neighbour on the front, a new vertex, none (a border), or
another vertex, asked for in the order in which they lie near to where a new one is expected. A new vertex is coded axis
by axis by a mixture: normal distributions around a prediction from the vertices around the gate, the coordinates of
those vertices themselves, and anywhere. All probabilities adapt. Faces that no gate reaches (at non-manifold edges,
turned the other way) begin anew as a further part does.

The decoder repeats the encoder's floating-point arithmetic: a file is for the kind of machine that wrote it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

TOTAL = 1 << 16
COUNT_BITS = 16
"""More vertices than such a number are refused."""
Point = NDArray[np.float64]
Gate = tuple[int, int]

# What the adaptive parts begin with: fitted to decimated development meshes that are not measured.
_FLAGS = {
    "sharp": [-0.59, 0.55, 0.13, 0.02, -0.04, 0.0, 0.03, 1.05, 0.71, -0.59, -0.64, -0.44],
    "next": [-1.34, 0.29, 0.47, -0.58, -0.01, -0.25, -0.23, 0.89, 1.37, -0.78, -1.03, 0.15],
    "new": [-0.74, 0.83, 0.76, -1.38, 0.3],
    "border": [2.36, 0.15, -1.4, 0.61, -0.49],
    "other": [-0.99, -0.77, -0.4],
    "old": [-1.45, 0.08, -1.45],
    "more": [-1.5],
    "fresh": [0.0, 0.93, 1.62],
}
"""Of the logistic regression behind each yes or no."""
_RATE = 0.05
_PREDICTION = np.array(
    [
        [-0.05, 0.23, -0.27, 0.0, 0.08, 0.17, 0.06, -0.03, -0.17, 0.07, 0.01, 0.04],
        [-0.27, 0.28, -0.03, -0.32, -0.22, -0.03, 0.25, -0.04, -0.04, 0.03, 0.01, -0.06],
        [0.04, -0.04, 0.01, 0.02, -0.01, 0.01, 0.07, 0.2, 0.05, -0.02, 0.08, 0.07],
    ]
)
"""Of a new vertex from what `_Coder._surroundings` finds."""
_MIXTURE = (
    (0.29, (0.26, -0.05, 0.01), (0.25, 0.15, 0.09)),
    (0.22, (0.04, 0.17, -0.04), (0.32, 0.32, 0.33)),
    (0.16, (-0.54, -0.03, 0.02), (0.24, 0.23, 0.11)),
    (0.14, (0.06, -0.09, -0.03), (0.65, 0.42, 0.74)),
    (0.07, (0.01, 0.22, 0.04), (1.33, 0.63, 0.13)),
    (0.06, (-0.06, -0.07, 0.70), (0.71, 1.00, 1.25)),
    (0.03, (0.33, 0.48, 0.04), (1.93, 1.96, 2.30)),
    (0.03, (0.14, -0.96, 0.10), (0.27, 0.24, 0.21)),
)
"""Normal distributions of a new vertex about its prediction, in lengths of edges along the axes at its gate: weight,
mean and standard deviations."""
_MEANS, _DEVIATIONS = (np.array([row[k] for row in _MIXTURE]) for k in (1, 2))
_TRIED = 10.0
"""How many vertices these weights count as."""
_SHARES = [0.4, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 6.0]
"""Of coordinates anywhere, as any vertex has, as each vertex around has, and by the normal distributions."""
_FIRST_SHARES = [4.0, 4.0]


class Writer:
    """Collects what is coded and makes bytes of it: an asymmetric numeral system (Duda, arXiv 1311.2540) whose state
    is one integer, so that nothing is flushed."""

    def __init__(self) -> None:
        self._intervals: list[tuple[int, int, int]] = []

    def code(self, frequencies: NDArray[np.int64], symbol: int | None) -> int:
        """Code a symbol.

        Parameters
        ----------
        frequencies : int array of shape (n,)
            Positive.
        symbol : int

        Returns
        -------
        int
            The symbol.
        """
        assert symbol is not None
        ends = np.cumsum(frequencies)
        count = int(frequencies[symbol])
        self._intervals.append((int(ends[symbol]) - count, count, int(ends[-1])))
        return symbol

    @property
    def bits(self) -> float:
        """What has been coded so far takes."""
        return sum(math.log2(total / count) for _, count, total in self._intervals)

    def to_bytes(self) -> bytes:
        """All that was coded.

        Returns
        -------
        bytes
        """
        state = 0
        for start, count, total in reversed(self._intervals):
            quotient, left = divmod(state, count)
            state = quotient * total + start + left
        return state.to_bytes((state.bit_length() + 7) // 8, "little")


class Reader:
    """Takes off what a `Writer` has coded.

    Parameters
    ----------
    data : bytes
    """

    def __init__(self, data: bytes) -> None:
        self._state = int.from_bytes(data, "little")

    def code(self, frequencies: NDArray[np.int64], symbol: int | None) -> int:
        """The next symbol.

        Parameters
        ----------
        frequencies : int array of shape (n,)
            The encoder's.
        symbol : None

        Returns
        -------
        int
        """
        ends = np.cumsum(frequencies)
        quotient, slot = divmod(self._state, int(ends[-1]))
        found = int(np.searchsorted(ends, slot, side="right"))
        count = int(frequencies[found])
        self._state = quotient * count + slot - (int(ends[found]) - count)
        return found


@dataclass
class _Source:
    """The mesh that is encoded, asked in the decoder's numbering; its faces are struck off as they are coded."""

    points: NDArray[np.int64]
    faces: list[tuple[int, int, int]]
    order: list[int] = field(default_factory=list)
    """Own index of each vertex in the order of the file."""

    def __post_init__(self) -> None:
        self.place: dict[int, int] = {}
        self._left = dict.fromkeys(range(len(self.faces)))
        self._across: dict[Gate, list[int]] = defaultdict(list)
        for number, face in enumerate(self.faces):
            for k in range(3):
                self._across[face[k], face[(k + 1) % 3]].append(number)

    def seed(self) -> tuple[int, int, int] | None:
        """Own corners of the first face that is left, known ones first."""
        if not self._left:
            return None
        a, b, c = self.faces[next(iter(self._left))]
        return max([(a, b, c), (b, c, a), (c, a, b)], key=lambda face: [corner in self.place for corner in face])

    def third(self, gate: Gate) -> int | None:
        """Own index of the third corner of a face that is left at a gate."""
        a, b = self.order[gate[0]], self.order[gate[1]]
        for number in self._across[a, b]:
            if number in self._left:
                return next(corner for corner in self.faces[number] if corner not in (a, b))
        return None

    def strike(self, corners: Sequence[int]) -> None:
        """Take away a face, by its corners in the file's numbering."""
        own = [self.order[corner] for corner in corners]
        for number in self._across[own[0], own[1]]:
            if number in self._left and own[2] in self.faces[number]:
                del self._left[number]
                return

    def add(self, own: int) -> None:
        self.place[own] = len(self.order)
        self.order.append(own)


class _Coder:
    """One pass over a mesh, the same for both directions: what is not known yet is coded or read as it is needed."""

    def __init__(self, bins: Writer | Reader, sizes: NDArray[np.int64], source: _Source | None) -> None:
        self.bins, self.sizes, self.source = bins, sizes, source
        self.points: list[Point] = []
        self.faces: list[tuple[int, int, int]] = []
        self.gates: dict[Gate, int] = {}
        """Directed edges whose next face is to come, and the corner opposite of the face behind."""
        self._after: dict[int, set[int]] = defaultdict(set)
        self._before: dict[int, set[int]] = defaultdict(set)
        self._valence: dict[int, int] = defaultdict(int)
        self._turned: dict[int, float] = defaultdict(float)
        self._on_border: set[int] = set()
        self._angles: dict[tuple[int, int, int], float] = {}
        self._flags = {name: np.array(weights) for name, weights in _FLAGS.items()}
        self._weights = np.array([_TRIED * weight for weight, _, _ in _MIXTURE])
        self._shares, self._first_shares = np.array(_SHARES), np.array(_FIRST_SHARES)
        self._seen = [np.zeros(size) for size in sizes]
        self._edges = [float(sizes.max()) / 4]

    def run(self) -> None:
        count = self._count(None if self.source is None else len(self.source.points))
        while True:
            seed = self.source.seed() if self.source else None
            if len(self.points) == count and not self._flag("more", [1.0], None if not self.source else bool(seed)):
                return
            corners: list[int] = []
            for k in range(3):
                corners.append(self._seed_corner(corners, None if seed is None else seed[k], count))
            self._face(corners[0], corners[1], corners[2])
            while self.gates:
                gate = self._sharpest()
                third = self._third(gate, count)
                if third is None:
                    self._on_border |= set(gate)
                    self._close(gate)
                else:
                    self._face(*gate, third)

    def _count(self, count: int | None) -> int:
        half = np.ones(2, np.int64)
        length = self.bins.code(np.ones(COUNT_BITS, np.int64), None if count is None else count.bit_length() - 1)
        value = 1
        for bit in reversed(range(length)):
            value = 2 * value + self.bins.code(half, None if count is None else count >> bit & 1)
        return value

    def _flag(self, name: str, features: list[float], value: bool | None) -> bool:
        """A yes or no by logistic regression, which learns from the answer."""
        weights, inputs = self._flags[name], np.array(features)
        chance = 1 / (1 + math.exp(-max(-12.0, min(12.0, float(weights @ inputs)))))
        yes = max(1, min(TOTAL - 1, round(chance * TOTAL)))
        known = None if value is None else int(value)
        value = bool(self.bins.code(np.array([TOTAL - yes, yes]), known))
        weights += _RATE * (value - chance) * inputs
        return value

    # -- connectivity

    def _face(self, a: int, b: int, c: int) -> None:
        """Add a face: gates that it closes go, the others of its edges become gates."""
        if self.source:
            self.source.strike((a, b, c))
        self.faces.append((a, b, c))
        for start, stop, opposite in ((a, b, c), (b, c, a), (c, a, b)):
            self._valence[start] += 1
            self._turned[start] += _angle(
                self.points[stop] - self.points[start], self.points[opposite] - self.points[start]
            )
            if (start, stop) in self.gates:
                self._close((start, stop))
            else:
                self.gates[stop, start] = opposite
                self._after[stop].add(start)
                self._before[start].add(stop)

    def _close(self, gate: Gate) -> None:
        start, stop = gate
        del self.gates[gate]
        self._after[start].discard(stop)
        self._before[stop].discard(start)

    def _sharpest(self) -> Gate:
        """The gate that leaves the sharpest corner of the front; the first gate where there is no corner."""
        best, least = next(iter(self.gates)), math.inf
        for start, stop in self.gates:
            for before in self._before[start]:
                if before != stop and (angle := self._corner(before, start, stop)) < least:
                    best, least = (start, stop), angle
        return best

    def _corner(self, before: int, at: int, after: int) -> float:
        """Angle of the front at a vertex, on the side that is open, 0 to two pi."""
        key = before, at, after
        if key not in self._angles:
            point = self.points[at]
            inward, outward = self.points[before] - point, self.points[after] - point
            normal = self._normal((before, at)) + self._normal((at, after))
            across = float(normal @ _cross(outward, inward)) / (math.sqrt(float(normal @ normal)) or 1.0)
            self._angles[key] = math.atan2(across, float(outward @ inward)) % (2 * math.pi)
        return self._angles[key]

    def _normal(self, gate: Gate) -> Point:
        """Unit normal of the face behind a gate."""
        a, b, opposite = self.points[gate[0]], self.points[gate[1]], self.points[self.gates[gate]]
        return _unit(_cross(a - b, opposite - b))

    def _third(self, gate: Gate, count: int) -> int | None:
        """The third corner of the face at a gate."""
        own = self.source.third(gate) if self.source else None
        known = self.source.place.get(own, -1) if self.source and own is not None else None
        encoding = self.source is not None

        def asked(yes: bool) -> bool | None:
            return yes if encoding else None

        a, b = gate
        guess, scale, axes = self._expected(gate)
        left = (count - len(self.points)) / count
        borders = float((a in self._on_border) + (b in self._on_border))
        tried = {a, b}
        for name, at, candidates in (("sharp", a, self._before[a]), ("next", b, self._after[b])):
            for candidate in sorted(candidates - tried, key=lambda v: (self._distance(v, guess), v)):
                tried.add(candidate)
                angle = self._corner(candidate, a, b) if at == a else self._corner(a, b, candidate)
                features = self._closing(gate, at, candidate, angle, guess, scale)
                if self._flag(name, [*features, left, borders], asked(known == candidate)):
                    return candidate
        front = min(1.0, len(self.gates) / (2 * (count - len(self.points)) + 1))
        features = [1.0, left, float(len(tried) - 2), borders, front]
        if left and self._flag("new", features, asked(known == -1)):
            around = [v for v in (*gate, self.gates[gate], *self._beside(gate)) if v >= 0]
            return self._point(guess, scale, axes, around, own)
        if self._flag("border", features, asked(own is None)):
            return None
        others = [v for v in range(len(self.points)) if v not in tried]
        return self._nearest(others, guess, scale, "other", known)

    def _closing(self, gate: Gate, at: int, candidate: int, angle: float, guess: Point, scale: float) -> list[float]:
        """Features of a face that would close a corner of the front."""
        turned = 2 * math.pi - self._turned[at]
        far = gate[1] if at == gate[0] else gate[0]
        a, b, point = self.points[gate[0]], self.points[gate[1]], self.points[candidate]
        away = point - self.points[far]
        return [
            1.0,
            2 - angle,
            min(2.0, self._distance(candidate, guess) / scale) - 1,
            max(-3.0, min(3.0, turned - angle)) if self._valence[at] > 1 else 0.0,
            (self._valence[at] - 5) / 2,
            (self._valence[far] - 5) / 2,
            (self._valence[candidate] - 4) / 2,
            float(far in self._after[candidate] | self._before[candidate]),
            float(_unit(_cross(b - a, point - a)) @ self._normal(gate)),
            min(3.0, math.sqrt(float(away @ away)) / scale) - 1,
        ]

    def _distance(self, vertex: int, guess: Point) -> float:
        away = self.points[vertex] - guess
        return math.sqrt(float(away @ away))

    # -- geometry

    def _surroundings(self, gate: Gate) -> tuple[Point, Point, float]:
        """What a new vertex is expected by: axes (3, 3) along a gate, away from the face behind and out of it, places
        of the vertices around along these axes, relative to the gate's middle, and the length of edges."""
        a, b, opposite = self.points[gate[0]], self.points[gate[1]], self.points[self.gates[gate]]
        along, out = _unit(b - a), _unit(_cross(a - b, opposite - b))
        axes = np.stack([along, _cross(out, along), out])
        sides = (b - a) @ (b - a) + (opposite - a) @ (opposite - a) + (opposite - b) @ (opposite - b)
        scale = max(math.sqrt(float(sides) / 3), 1.0)
        middle = (a + b) / 2
        found = [scale, math.sqrt(float((b - a) @ (b - a))), *(axes @ (opposite - middle))[:2]]
        for vertex in self._beside(gate):
            found += [0.0, *(axes @ (self.points[vertex] - middle))] if vertex >= 0 else [scale, 0.0, 0.0, 0.0]
        return axes, np.array(found), scale

    def _beside(self, gate: Gate) -> tuple[int, int]:
        """The vertices before and after a gate on the front, -1 for none."""
        a, b = gate
        return min(self._before[a] - {b}, default=-1), min(self._after[b] - {a}, default=-1)

    def _expected(self, gate: Gate) -> tuple[Point, float, Point]:
        """Where a new vertex is expected, the length of edges, and the axes at the gate."""
        axes, found, scale = self._surroundings(gate)
        middle = (self.points[gate[0]] + self.points[gate[1]]) / 2
        return middle + (_PREDICTION @ found) @ axes, scale, axes

    def _seed_corner(self, corners: list[int], own: int | None, count: int) -> int:
        """A corner of the first face of a part: a new vertex, or any other."""
        old = None if self.source is None else self.source.place.get(own, -1)  # type: ignore[arg-type]
        others = [v for v in range(len(self.points)) if v not in corners]
        if others:
            new = len(self.points) < count and self._flag(
                "fresh", [1.0, float(len(corners) > 0), float(len(corners) > 1)], None if old is None else old < 0
            )
            if not new and not corners:
                return self.bins.code(np.ones(len(others), np.int64), old)
            if not new:
                return self._nearest(others, self.points[corners[-1]], float(np.mean(self._edges)), "old", old)
        if not corners:
            return self._point(None, 0.0, np.eye(3), [], own)
        guess = np.mean([self.points[corner] for corner in corners], 0)
        return self._point(guess, float(np.mean(self._edges)), np.eye(3), corners, own)

    def _nearest(self, vertices: list[int], guess: Point, scale: float, name: str, known: int | None) -> int:
        """One of some vertices, asked for in order of their distance."""
        vertices = sorted(vertices, key=lambda v: (not self._after[v], self._distance(v, guess), v))
        for candidate in vertices[:-1]:
            distance = min(3.0, self._distance(candidate, guess) / scale)
            features = [1.0, distance, float(not self._after[candidate])]
            if self._flag(name, features, None if known is None else known == candidate):
                return candidate
        return vertices[-1]

    def _point(self, guess: Point | None, scale: float, axes: Point, known: list[int], own: int | None) -> int:
        """A new vertex, axis by axis; without a guess, anywhere."""
        target = None if self.source is None or own is None else self.source.points[own].tolist()
        if guess is not None:
            means = guess + scale * _MEANS @ axes
            spread = (axes.T * (scale * _DEVIATIONS[:, None]) ** 2) @ axes + 0.1 * np.eye(3)
            chances = self._weights / self._weights.sum()
        shares = self._first_shares if guess is None else self._shares
        values: list[int] = []
        for axis, size in enumerate(self.sizes):
            parts = np.zeros((len(shares), size))
            parts[0] = 1 / size
            if self.points:
                parts[1] = self._seen[axis] / len(self.points)
            for row, vertex in enumerate(known, 2):
                parts[row, int(self.points[vertex][axis])] = 1.0
            if guess is not None:
                variance = spread[:, axis, axis, None]
                density = np.exp(-0.5 * (np.arange(size) - means[:, axis, None]) ** 2 / variance) + 1e-30
                density /= density.sum(1, keepdims=True)
                parts[-1] = chances @ density
            mixed = shares @ parts
            frequencies = (mixed / mixed.sum() * (TOTAL - size)).astype(np.int64) + 1
            value = self.bins.code(frequencies, None if target is None else target[axis])
            values.append(value)
            gained = shares * parts[:, value]
            shares += gained / gained.sum()
            if guess is not None:
                chances = chances * density[:, value]
                chances /= chances.sum()
                gain = spread[:, :, axis] / variance
                means = means + gain * (value - means[:, axis, None])
                spread = spread - gain[:, :, None] * spread[:, None, axis]
        if guess is not None:
            self._weights += chances
            away = np.array(values) - self.points[known[0]]
            self._edges.append(math.sqrt(float(away @ away)))
        for seen, value in zip(self._seen, values, strict=True):
            seen[value] += 1
        self.points.append(np.array(values, np.float64))
        if self.source and own is not None:
            self.source.add(own)
        return len(self.points) - 1


def _cross(a: Point, b: Point) -> Point:
    return np.array([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _unit(vector: Point) -> Point:
    return vector / (math.sqrt(float(vector @ vector)) or 1.0)


def _angle(a: Point, b: Point) -> float:
    across = _cross(a, b)
    return math.atan2(math.sqrt(float(across @ across)), float(a @ b))


def encode_polygons(points: NDArray[np.int64], faces: NDArray[np.int64], sizes: NDArray[np.int64]) -> bytes:
    """Code a mesh on a grid.

    Parameters
    ----------
    points : int array of shape (n, 3)
        From 0 to ``sizes - 1``, all of them corners of faces.
    faces : int array of shape (m, 3)
        Each with three different corners.
    sizes : int array of shape (3,)
        Of the grid, which the decoder must know.

    Returns
    -------
    bytes
    """
    writer = Writer()
    source = _Source(points, [(int(a), int(b), int(c)) for a, b, c in faces])
    _Coder(writer, sizes, source).run()
    return writer.to_bytes()


def decode_polygons(data: bytes, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The mesh of some bytes.

    Parameters
    ----------
    data : bytes
    sizes : int array of shape (3,)

    Returns
    -------
    points : int array of shape (n, 3)
        In an order of its own.
    faces : int array of shape (m, 3)
        The same, with the same direction, in an order of their own.
    """
    coder = _Coder(Reader(data), sizes, None)
    coder.run()
    return np.array(coder.points, np.int64), np.array(coder.faces, np.int64)
