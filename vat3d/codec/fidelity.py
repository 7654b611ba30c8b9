"""F-scores of what a field decodes to, measured or estimated."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from setcore.evaluation.mesh_metrics import SurfaceSamples, sample_surface
from vat3d.bitstream.stream import LEVEL_STEP, LEVELS
from vat3d.mesh.compare import SAMPLES
from vat3d.mesh.isosurface import Field, GridField

NEAR = 0.02
"""Distance at which the F-score counts a point as met, in the evaluation frame."""
NOISE = 0.002
"""What an F-score must gain for a higher level to be taken; about twice the standard error with 30,000 samples."""
CELLS = 128
"""The grid that users decode on by default."""
ROUGH_SAMPLES, ROUGH_CELLS = 4_000, 64
"""What an estimate looks at; on so rough a grid thin parts break."""
Surface = Callable[[Field, int, int], tuple[NDArray[np.float64], NDArray[np.int64]]]
"""Vertices and faces of a field, at a level, extracted on a grid of so many cells."""
Finish = Callable[[NDArray[np.float64], NDArray[np.int64], int], NDArray[np.float64]]
"""The vertices that users get of a surface, in a file of a width."""
Scores = Callable[[int, int], tuple[float, float]]
"""F-scores at `NEAR` and at half of it, by level and width."""


class FScoreEstimator:
    """F-scores at .02 of what fields decode to, against the mesh as it was given: open sheets, not their shells.

    Parameters
    ----------
    original : SurfaceSamples
        `SAMPLES` of that mesh's surface, in the frame of the file.
    surface, finish : callable
    scale : float
        What is 1 in the evaluation frame, in that of the file.
    """

    def __init__(self, original: SurfaceSamples, surface: Surface, finish: Finish, scale: float = 1.0) -> None:
        self._original, self._surface, self._finish, self._near = original, surface, finish, scale * NEAR
        self._known: dict[tuple[Field, bool], Scores] = {}

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self._original.points)

    def scores(self, field: Field, closely: bool) -> Scores:
        """F-scores by level and width: if `closely`, measured on what users decode; else estimated, much faster.

        A field's scores are remembered; a `GridField` shares its values among levels, and among both kinds of scores.
        """
        if (field, closely) not in self._known:
            values = field if isinstance(field, GridField) else GridField(field)
            self._known[field, closely] = cache(self._measured(values) if closely else self._estimated(values))
        return self._known[field, closely]

    def f_scores(self, field: Field, closely: bool, width: int = 0) -> Callable[[int], float]:
        """The F-score at `NEAR` by level, in a file of a width."""
        return at_width(self.scores(field, closely), width)

    def estimate(self, field: Field) -> float:
        """The estimated F-score at the best level."""
        f_scores = self.f_scores(field, closely=False)
        return f_scores(best_level(f_scores, LEVELS[0]))

    def ceiling(self, surface: NDArray[np.float64]) -> float:
        """About the F-score of a solid with these surface points (n, 3), all of which lie near the mesh."""
        return _f_score(1.0, self._met(self._original.points[:ROUGH_SAMPLES], cKDTree(surface))[0])

    def _measured(self, field: GridField) -> Scores:
        surface = cache(lambda level: self._surface(field, level, CELLS))

        def scores(level: int, width: int) -> tuple[float, float]:
            vertices, faces = surface(level)
            placed = self._finish(vertices, faces, width)
            decoded = sample_surface(placed, faces, SAMPLES, any_order=False).points
            precision, recall = self._met(decoded, self._tree), self._met(self._original.points, cKDTree(decoded))
            return _f_score(precision[0], recall[0]), _f_score(precision[1], recall[1])

        return scores

    def _estimated(self, field: GridField) -> Scores:
        """Recall without a surface: a point is met if the field passes the level within `NEAR` of it, as seen at the
        corners of an octahedron and its middle. So thin parts do not break, as they do on a rough grid, and one look
        does for all levels. Precision is that of a rough surface's vertices."""
        points, normals = self._original.points[:ROUGH_SAMPLES], self._original.normals[:ROUGH_SAMPLES]
        first = np.cross(normals, np.eye(3)[np.abs(normals).argmin(1)])
        first /= np.linalg.norm(first, axis=1, keepdims=True)
        axes = np.stack([normals, first, np.cross(normals, first)])
        probes = np.concatenate([points[None], points + self._near * axes, points - self._near * axes])
        values = field(probes.reshape(-1, 3)).reshape(len(probes), -1)
        low, high = values.min(0), values.max(0)
        surface = cache(lambda level: self._surface(field, level, ROUGH_CELLS))

        def scores(level: int, width: int) -> tuple[float, float]:
            passed = float(((low <= level * LEVEL_STEP) & (high >= level * LEVEL_STEP)).mean())
            vertices, faces = surface(level)
            precision = self._met(self._finish(vertices, faces, width), self._tree)
            return _f_score(precision[0], passed), _f_score(precision[1], passed)

        return scores

    def _met(self, points: NDArray[np.float64], others: cKDTree) -> tuple[float, float]:
        """Shares of points with another one within `NEAR`, and within half of it."""
        distance = others.query(points, distance_upper_bound=self._near, workers=-1)[0]
        return float((distance < self._near).mean()), float((distance < self._near / 2).mean())


def at_width(scores: Scores, width: int) -> Callable[[int], float]:
    """The F-score at `NEAR` in a file of a width."""
    return lambda level: scores(level, width)[0]


def _f_score(precision: float, recall: float) -> float:
    return round(2 * precision * recall / max(precision + recall, 1e-9), 4)


def best_level(score: Callable[[int], float], start: int, between: bool = True) -> int:
    """The level of the best F-score; upwards from `start` in twos, then those `between`, too."""
    best = LEVELS.index(start)
    while best + 2 < len(LEVELS) and score(LEVELS[best + 2]) > score(LEVELS[best]) + NOISE:
        best += 2
    if between:
        beside = [index for index in (best, best - 1, best + 1) if 0 <= index < len(LEVELS)]
        best = max(beside, key=lambda index: score(LEVELS[index]) - NOISE * (index > best))
    return LEVELS[best]
