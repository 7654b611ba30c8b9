"""Where the surface of a decoding lies: the level of each scale of a file, and the width below which parts are made
flat, chosen by what users would measure.

A level above 0 keeps thin parts from breaking, and gives a handful of tokens an inside at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from vat3d.bitstream.stream import LEVEL_STEP, LEVELS, TokenStream
from vat3d.codec.fidelity import (
    NOISE,
    FScoreEstimator,
    Scores,
    at_width,
    best_level,
)
from vat3d.mesh.isosurface import Field

HANDFUL = 100
"""Fewer tokens than this may leave nothing inside at the level of the whole file."""
FINER = 0.1
"""Weight of the F-score at half that distance beside it, where widths are compared."""
DOUBT = 0.01
"""What an estimate must be ahead by; differences of two estimates of one mesh have a standard deviation of .012."""
Volume = tuple[NDArray[np.float32], NDArray[np.bool_]]
"""Points (n, 3) all over the file's frame, and whether each is inside the mesh."""


def level_beside(score: Callable[[int], float], start: int) -> int:
    """The level of the best F-score that is met from `start` on, level by level, upwards or else downwards."""
    best = LEVELS.index(start)
    while best + 1 < len(LEVELS) and score(LEVELS[best + 1]) > score(LEVELS[best]) + NOISE:
        best += 1
    if LEVELS[best] == start:
        while best > 0 and score(LEVELS[best - 1]) > score(LEVELS[best]):
            best -= 1
    return LEVELS[best]


def best_level_and_width(scores: Scores, widths: Sequence[int]) -> tuple[int, int]:
    """The level and width of the best F-score; a flat part bears a higher level than one that stays as thick."""
    level = best_level(at_width(scores, 0), LEVELS[0], between=False)
    found = [(level, 0), *((best_level(at_width(scores, width), level, between=False), width) for width in widths)]
    level, width = max(found, key=lambda one: scores(*one)[0] + FINER * scores(*one)[1])
    return best_level(at_width(scores, width), level), width


def with_levels(
    stream: TokenStream,
    field_of: Callable[[TokenStream], Field],
    judge: FScoreEstimator,
    volume: Volume,
    closely: bool,
    widths: Sequence[int] = (),
) -> tuple[TokenStream, float]:
    """The stream with its levels and width, and its F-score: the last scale's level and the width by F-score, other
    levels alike. `widths` are those to try beside none.

    `closely`, F-scores are measured, and other scales' levels chosen by F-score, too (by its estimate, but for the last
    one of tokens before a residual), beside the level of the scale after it. A handful of tokens often leaves nothing
    below the level of the whole file; their own level is the one whose inside has the largest Dice coefficient with the
    mesh's; `closely`, that of the best F-score beside it.
    """
    scores = judge.scores(field_of(stream), closely)
    level, width = best_level_and_width(scores, widths)
    levels, score = [level], scores(level, width)[0]
    for scales in range(len(stream.ids) - 1, 0, -1):
        prefix, level = stream.truncate(scales), levels[0]
        few = prefix.count < HANDFUL
        if closely or few:
            field = field_of(prefix)
            if few:
                level = dice_level(field, volume)
            if closely:
                last = stream.residual_step is not None and scales == len(stream.tokens)
                level = level_beside(judge.f_scores(field, closely=last, width=width), level)
        levels.insert(0, level)
    return replace(stream, levels=tuple(levels), width=width), score


def better(
    stream: TokenStream, other: TokenStream, field_of: Callable[[TokenStream], Field], judge: FScoreEstimator
) -> TokenStream:
    """`stream`, unless `other` has a clearly better F-score, each at its best level: loss and F-score may disagree."""
    return other if judge.estimate(field_of(other)) > judge.estimate(field_of(stream)) + DOUBT else stream


def dice_level(field: Field, volume: Volume) -> int:
    """The level whose inside overlaps most with the mesh's."""
    points, truth = volume
    decoded = field(points)
    insides = [decoded < level * LEVEL_STEP for level in LEVELS]
    dice = [2 * (inside & truth).sum() / max(inside.sum() + truth.sum(), 1) for inside in insides]
    return LEVELS[int(np.argmax(dice))]
