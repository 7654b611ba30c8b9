"""Where the surface of a decoding lies: the level of each scale of a file, and the thickness below which its parts are
made flat, chosen by what users would measure.

A level above 0 keeps thin parts from breaking, and gives a handful of tokens an inside at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from vat3d.bitstream.header import LEVEL_STEP, LEVELS
from vat3d.bitstream.stream import TokenStream
from vat3d.codec.fidelity import NOISE, Decoder, FScoreEstimator, Scores, at_thickness, best_level
from vat3d.codec.targets import VolumeSamples
from vat3d.mesh.isosurface import Field

FEW_TOKENS = 100
"""Fewer tokens than this may leave nothing inside at the level of the whole file."""
FINER_WEIGHT = 0.1
"""Weight of the F-score at half that distance beside it, where thicknesses are compared."""
LEAST_LEAD = 0.01
"""What an estimate must be ahead by; differences of two estimates of one mesh have a standard deviation of .012."""


def with_levels(
    stream: TokenStream,
    decoder: Decoder,
    estimator: FScoreEstimator,
    volume: VolumeSamples,
    measured: bool,
    thicknesses: Sequence[int] = (),
) -> TokenStream:
    """The stream with its levels and thickness.

    The last scale's level and the thickness are chosen by F-score, other levels alike. If F-scores are measured, other
    scales' levels are chosen by F-score, too (by its estimate, but for the last one of tokens before a residual),
    beside the level of the scale after it. A handful of tokens often leaves nothing below the level of the whole file;
    their own level is the one whose inside has the largest Dice coefficient with the mesh's; where F-scores are
    measured, that of the best F-score beside it.

    Parameters
    ----------
    stream : TokenStream
    decoder : Decoder
    estimator : FScoreEstimator
    volume : VolumeSamples
    measured : bool
        Measure F-scores rather than estimate them.
    thicknesses : sequence of int
        Those to try beside none.

    Returns
    -------
    TokenStream
    """
    scores = estimator.scores(decoder.field(stream), measured)
    level, thickness = best_level_and_thickness(scores, thicknesses)
    levels = [level]
    for scales in range(len(stream.ids) - 1, 0, -1):
        prefix, level = stream.truncate(scales), levels[0]
        few = prefix.count < FEW_TOKENS
        if measured or few:
            field = decoder.field(prefix)
            if few:
                level = dice_level(field, volume)
            if measured:
                last = stream.residual_step is not None and scales == len(stream.tokens)
                level = level_beside(estimator.f_scores(field, measured=last, thickness=thickness), level)
        levels.insert(0, level)
    return replace(stream, levels=tuple(levels), thickness=thickness)


def level_beside(score: Callable[[int], float], start: int) -> int:
    """The level of the best F-score that is met level by level, upwards or else downwards.

    Parameters
    ----------
    score : callable
        F-score by level.
    start : int
        One of `LEVELS`.

    Returns
    -------
    int
    """
    best = LEVELS.index(start)
    while best + 1 < len(LEVELS) and score(LEVELS[best + 1]) > score(LEVELS[best]) + NOISE:
        best += 1
    if LEVELS[best] == start:
        while best > 0 and score(LEVELS[best - 1]) > score(LEVELS[best]):
            best -= 1
    return LEVELS[best]


def best_level_and_thickness(scores: Scores, thicknesses: Sequence[int]) -> tuple[int, int]:
    """The level and thickness of the best F-score; a flat part bears a higher level than one that stays as thick.

    Parameters
    ----------
    scores : callable
        F-scores by level and thickness.
    thicknesses : sequence of int
        Those to try beside none.

    Returns
    -------
    level, thickness : int
    """
    level = best_level(at_thickness(scores, 0), LEVELS[0], between=False)
    found = [(level, 0)]
    found += [(best_level(at_thickness(scores, each), level, between=False), each) for each in thicknesses]
    level, thickness = max(found, key=lambda one: scores(*one)[0] + FINER_WEIGHT * scores(*one)[1])
    return best_level(at_thickness(scores, thickness), level), thickness


def better(stream: TokenStream, other: TokenStream, decoder: Decoder, estimator: FScoreEstimator) -> TokenStream:
    """A stream, unless another has a clearly better F-score, each at its best level: loss and F-score may disagree.

    Parameters
    ----------
    stream, other : TokenStream
    decoder : Decoder
    estimator : FScoreEstimator

    Returns
    -------
    TokenStream
    """
    lead = estimator.estimate(decoder.field(other)) - estimator.estimate(decoder.field(stream))
    return other if lead > LEAST_LEAD else stream


def dice_level(field: Field, volume: VolumeSamples) -> int:
    """The level whose inside overlaps most with the mesh's.

    Parameters
    ----------
    field : callable
    volume : VolumeSamples

    Returns
    -------
    int
        One of `LEVELS`.
    """
    decoded, truth = field(volume.points), volume.inside
    insides = [decoded < level * LEVEL_STEP for level in LEVELS]
    dice = [2 * (inside & truth).sum() / max(inside.sum() + truth.sum(), 1) for inside in insides]
    return LEVELS[int(np.argmax(dice))]
