"""Where the surface of a decoding lies: the level of each scale of a file, chosen by what users would measure.

A level above 0 keeps thin parts from breaking, and gives a handful of tokens an inside at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from setcore.mesh_metrics import sample_surface
from vat3d.extract import Field, GridField
from vat3d.refine import Target
from vat3d.stream import LEVEL_STEP, LEVELS, TokenStream

HANDFUL = 100
"""Fewer tokens than this may leave nothing inside at the level of the whole file."""
NEAR = 0.02
"""Distance at which the F-score counts a point as met, in half-sides."""
NOISE = 0.002
"""What an F-score must gain for a higher level to be taken; about twice the standard error with 30,000 samples."""


@dataclass(frozen=True)
class Look:
    """How a decoding is measured while encoding: cells of the extraction grid, and samples on either surface."""

    cells: int
    samples: int


ROUGH, FAIR, FINE = Look(64, 8_000), Look(64, 30_000), Look(128, 30_000)
"""For levels at `fast` and those of prefixes; for what `fast` reports; for the level of a file otherwise, on a grid as
fine as the one users decode on: thin parts that break at 64 cells made it too high."""


class Judge:
    """F-scores at .02 of what fields decode to, against the mesh as it was given: open sheets, not their shells.

    Parameters
    ----------
    original : callable
        Gives so many points (n, 3) of that mesh's surface, in the frame of the file.
    surface : callable
        Vertices and faces of a field, at a level, extracted on a grid of so many cells.
    """

    def __init__(
        self,
        original: Callable[[int], NDArray[np.float64]],
        surface: Callable[[Field, int, int], tuple[NDArray[np.float64], NDArray[np.int64]]],
    ) -> None:
        self._original, self._surface = original, surface
        self._trees: dict[int, cKDTree] = {}

    def f_score(self, field: Field, level: int, look: Look) -> float:
        """Of the surface of `field` at `level`."""
        decoded = sample_surface(*self._surface(field, level, look.cells), look.samples, any_order=False).points
        if look.samples not in self._trees:
            self._trees[look.samples] = cKDTree(self._original(look.samples))
        original = self._trees[look.samples]
        precision = float((original.query(decoded, distance_upper_bound=NEAR)[0] < NEAR).mean())
        recall = float((cKDTree(decoded).query(original.data, distance_upper_bound=NEAR)[0] < NEAR).mean())
        return round(2 * precision * recall / max(precision + recall, 1e-9), 4)

    def best_level(self, field: Field, start: int, look: Look, between: bool = True) -> tuple[int, float]:
        """The level of the best F-score, and that; upwards from `start` in twos, then those `between`, too."""
        scores: dict[int, float] = {}

        def score(index: int) -> float:
            if index not in scores:
                scores[index] = self.f_score(field, LEVELS[index], look)
            return scores[index]

        best = LEVELS.index(start)
        while best + 2 < len(LEVELS) and score(best + 2) > score(best) + NOISE:
            best += 2
        if between:
            beside = [index for index in (best, best - 1, best + 1) if 0 <= index < len(LEVELS)]
            best = max(beside, key=lambda index: score(index) - NOISE * (index > best))
        return LEVELS[best], score(best)


def with_levels(
    stream: TokenStream, field_of: Callable[[TokenStream], Field], judge: Judge, target: Target, every: bool
) -> tuple[TokenStream, float]:
    """The stream with its levels, and its F-score: the last scale's level by F-score, others' alike.

    With `every`, those of other scales are chosen by F-score, too. A handful of tokens often leaves nothing below the
    level of the whole file; their own level is the one whose inside has the largest Dice coefficient with the mesh's.
    """
    field = GridField(field_of(stream))  # levels share most of its values
    last, score = judge.best_level(field, LEVELS[0], FINE if every else ROUGH)
    if not every:
        score = judge.f_score(field, last, FAIR)
    levels = [last]
    for scales in range(len(stream.ids) - 1, 0, -1):
        prefix, level = stream.truncate(scales), levels[0]
        if every or prefix.count < HANDFUL:
            field = GridField(field_of(prefix))
            if prefix.count < HANDFUL:
                level = max(level, dice_level(field, target))
            if every:
                level, _ = judge.best_level(field, level, ROUGH, between=False)
        levels.insert(0, level)
    return replace(stream, levels=tuple(levels)), score


def dice_level(field: Field, target: Target) -> int:
    """The level whose inside overlaps most with the mesh's, by the target's volume samples."""
    decoded = field(target.points[target.near :].numpy())
    truth = target.distances[target.near :].numpy() < 0
    insides = [decoded < level * LEVEL_STEP for level in LEVELS]
    dice = [2 * (inside & truth).sum() / max(inside.sum() + truth.sum(), 1) for inside in insides]
    return LEVELS[int(np.argmax(dice))]
