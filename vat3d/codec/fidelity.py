"""F-scores of what a signed distance decodes to, measured or estimated."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from setcore.evaluation.mesh_metrics import SAMPLES, Surface, SurfaceSamples, f_score_of, harmonic_mean, sample_surface
from vat3d.bitstream.header import LEVEL_STEP, LEVELS
from vat3d.bitstream.stream import TokenStream
from vat3d.mesh.isosurface import Field, GridField

NEAR = 0.02
"""Distance at which the F-score counts a point as met, in the evaluation frame."""
NOISE = 0.002
"""What an F-score must gain for a higher level to be taken; about twice the standard error with 30,000 samples."""
FEW_SAMPLES = 6_000
"""Samples whose F-score has a standard error of about .005."""
CELLS = 128
"""The grid that users decode on by default; on one of 96 a tenth of files would report an F-score off by .02."""
ROUGH_SAMPLES, ROUGH_CELLS = 4_000, 64
"""What an estimate looks at; on so rough a grid thin parts break."""
Scores = Callable[[int, int], tuple[float, float]]
"""F-scores at `NEAR` and at half of it, by level and thickness."""


@runtime_checkable
class Decoder(Protocol):
    """What is asked of `vat3d.codec.decode.StreamDecoder`."""

    def field(self, stream: TokenStream) -> Field:
        """The signed distance of a stream.

        Parameters
        ----------
        stream : TokenStream

        Returns
        -------
        callable
        """

    def surface(self, field: Field, level: int, resolution: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The surface at a level.

        Parameters
        ----------
        field : callable
        level, resolution : int

        Returns
        -------
        vertices, faces : arrays
        """

    def finish(self, vertices: NDArray[np.float64], faces: NDArray[np.int64], thickness: int) -> NDArray[np.float64]:
        """The vertices that users get of a surface.

        Parameters
        ----------
        vertices, faces : arrays
        thickness : int

        Returns
        -------
        array
        """


class FScoreEstimator:
    """F-scores at .02 of what decodes, against the mesh as it was given: open sheets, not their shells.

    Parameters
    ----------
    original : SurfaceSamples
        `SAMPLES` of that mesh's surface, in the frame of the file.
    decoder : Decoder
    distance : callable
        From points (n, 3) to distances (n,) from that mesh, in the same frame.
    unit : float
        What is 1 in the evaluation frame, in that of the file.
    """

    def __init__(
        self,
        original: SurfaceSamples,
        decoder: Decoder,
        distance: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        unit: float = 1.0,
    ) -> None:
        self._original, self._decoder, self._distance, self._near = original, decoder, distance, unit * NEAR
        self.surface = cache(decoder.surface)
        self._known: dict[tuple[Field, bool], Scores] = {}

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self._original.points)

    def scores(self, field: Field, measured: bool) -> Scores:
        """F-scores by level and thickness.

        A field's scores are remembered; a `GridField` shares its values among levels, and among both kinds of scores.

        Parameters
        ----------
        field : callable
        measured : bool
            On what users decode; else estimated, which is much faster.

        Returns
        -------
        callable
        """
        if (field, measured) not in self._known:
            values = field if isinstance(field, GridField) else GridField(field)
            self._known[field, measured] = cache(self._measured(values) if measured else self._estimated(values))
        return self._known[field, measured]

    def f_scores(self, field: Field, measured: bool, thickness: int = 0) -> Callable[[int], float]:
        """The F-score at `NEAR` by level.

        Parameters
        ----------
        field : callable
        measured : bool
        thickness : int

        Returns
        -------
        callable
        """
        return at_thickness(self.scores(field, measured), thickness)

    def estimate(self, field: Field, between: bool = True) -> float:
        """The estimated F-score at the best level.

        Parameters
        ----------
        field : callable
        between : bool
            See `best_level`.

        Returns
        -------
        float
        """
        f_scores = self.f_scores(field, measured=False)
        return f_scores(best_level(f_scores, LEVELS[0], between))

    def measured(self, field: Field, level: int, thickness: int, count: int = SAMPLES, cells: int = CELLS) -> float:
        """The F-score at `NEAR` of what users decode, as `vat3d.evaluate` measures it.

        Parameters
        ----------
        field : callable
        level, thickness : int
        count : int
            Samples of each surface.
        cells : int
            Along a side of the grid on which it is decoded.

        Returns
        -------
        float
        """
        vertices, faces = self.surface(field, level, cells)
        decoded = Surface(self._decoder.finish(vertices, faces, thickness), faces, count, seed=1, any_order=False)
        to_original = self._distance(decoded.samples.points)
        to_decoded = decoded.nearest(self._original.points[:count])[0]
        return round(f_score_of(to_original, to_decoded, self._near), 4)

    def ceiling(self, surface: NDArray[np.float64]) -> float:
        """About the F-score of a solid, all of whose surface lies near the mesh.

        Parameters
        ----------
        surface : array of shape (n, 3)
            Points on it, in the file's frame.

        Returns
        -------
        float
        """
        return round(harmonic_mean(1.0, self._met(self._original.points[:ROUGH_SAMPLES], cKDTree(surface))[0]), 4)

    def _measured(self, field: GridField) -> Scores:
        def scores(level: int, thickness: int) -> tuple[float, float]:
            vertices, faces = self.surface(field, level, CELLS)
            placed = self._decoder.finish(vertices, faces, thickness)
            decoded = sample_surface(placed, faces, SAMPLES, any_order=False).points
            precision, recall = self._met(decoded, self._tree), self._met(self._original.points, cKDTree(decoded))
            return round(harmonic_mean(precision[0], recall[0]), 4), round(harmonic_mean(precision[1], recall[1]), 4)

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

        def scores(level: int, thickness: int) -> tuple[float, float]:
            passed = float(((low <= level * LEVEL_STEP) & (high >= level * LEVEL_STEP)).mean())
            vertices, faces = self.surface(field, level, ROUGH_CELLS)
            precision = self._met(self._decoder.finish(vertices, faces, thickness), self._tree)
            return round(harmonic_mean(precision[0], passed), 4), round(harmonic_mean(precision[1], passed), 4)

        return scores

    def _met(self, points: NDArray[np.float64], others: cKDTree) -> tuple[float, float]:
        """Shares of points with another one within `NEAR`, and within half of it."""
        distance = others.query(points, distance_upper_bound=self._near, workers=-1)[0]
        return float((distance < self._near).mean()), float((distance < self._near / 2).mean())


def at_thickness(scores: Scores, thickness: int) -> Callable[[int], float]:
    """F-scores at `NEAR` by level alone.

    Parameters
    ----------
    scores : callable
    thickness : int

    Returns
    -------
    callable
    """
    return lambda level: scores(level, thickness)[0]


def best_level(score: Callable[[int], float], start: int, between: bool = True) -> int:
    """The level of the best F-score, upwards in twos.

    Parameters
    ----------
    score : callable
        F-score by level.
    start : int
        One of `LEVELS`.
    between : bool
        Look at the levels beside the one that was found, too.

    Returns
    -------
    int
    """
    best = LEVELS.index(start)
    while best + 2 < len(LEVELS) and score(LEVELS[best + 2]) > score(LEVELS[best]) + NOISE:
        best += 2
    if between:
        beside = [index for index in (best, best - 1, best + 1) if 0 <= index < len(LEVELS)]
        best = max(beside, key=lambda index: score(LEVELS[index]) - NOISE * (index > best))
    return LEVELS[best]
