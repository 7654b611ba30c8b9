"""Levels against surfaces and scores that are known."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from streams import token_stream

from vat3d.extract import Field, extract_surface
from vat3d.levels import FAIR, FINE, NOISE, ROUGH, Judge, Look, dice_level, with_levels
from vat3d.refine import Target
from vat3d.stream import LEVEL_STEP, LEVELS


def ball(radius: float) -> Field:
    return lambda points: np.linalg.norm(points, axis=1) - radius


def sphere(count: int) -> NDArray[np.float64]:
    """Points on a sphere of radius .7."""
    points = np.random.default_rng(count).standard_normal((count, 3))
    return 0.7 * points / np.linalg.norm(points, axis=1, keepdims=True)


def extracted(field: Field, level: int, cells: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return extract_surface(field, resolution=cells, iso=level * LEVEL_STEP)


class Told(Judge):
    """Gives scores that are told, and remembers what was asked."""

    def __init__(self, score: Callable[[int], float]) -> None:
        super().__init__(sphere, extracted)
        self.score = score
        self.asked: list[Look] = []

    def f_score(self, field: Field, level: int, look: Look) -> float:
        self.asked.append(look)
        return self.score(level)


def volume_target() -> Target:
    """A ball of radius .7."""
    points = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Target(torch.ones(1, 3), points, points.norm(dim=1) - 0.7, near=0)


@pytest.mark.parametrize(("error", "f_score"), [(0.0, 1.0), (0.008, 1.0), (-0.025, 0.0)])
def test_f_score_of_a_sphere(error: float, f_score: float) -> None:
    judge = Judge(sphere, extracted)
    assert judge.f_score(ball(0.7 + error), 0, FAIR) == pytest.approx(f_score, abs=0.01)
    assert judge.f_score(ball(0.7 + error - 0.009), 9, FAIR) == pytest.approx(f_score, abs=0.01)


def test_f_score_is_the_harmonic_mean_of_precision_and_recall() -> None:
    """Beside a second ball of the same size, half of what is decoded is wrong."""
    side, centre = ball(0.2), np.array([0.5, 0, 0])
    judge = Judge(lambda count: sphere(count) * (0.2 / 0.7) + centre, extracted)

    def twice(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.minimum(side(points - centre), side(points + centre))

    assert judge.f_score(twice, 0, FAIR) == pytest.approx(2 * 0.5 / 1.5, abs=0.01)


@pytest.mark.parametrize("best", LEVELS)
@pytest.mark.parametrize("every", [False, True])
def test_the_level_of_the_best_f_score_is_taken(best: int, every: bool) -> None:
    judge = Told(lambda level: 1 - abs(LEVELS.index(level) - LEVELS.index(best)) / 20)
    stream, score = with_levels(token_stream(), lambda _: ball(0.7), judge, volume_target(), every)
    assert stream.level == best
    assert score == 1
    assert judge.asked[0] == (FINE if every else ROUGH)


def test_a_level_is_not_raised_for_noise() -> None:
    assert Told(lambda level: 0.9 + NOISE / 3 * level).best_level(ball(0.7), 0, FINE) == (0, 0.9)


def test_levels_are_asked_for_from_the_start_in_twos() -> None:
    asked = []
    Told(lambda level: asked.append(level) or 0.5).best_level(ball(0.7), 2, ROUGH, between=False)
    assert asked == [4, 2]


@pytest.mark.parametrize("level", LEVELS)
def test_a_handful_of_tokens_decodes_at_the_level_of_the_largest_overlap(level: int) -> None:
    """Of a ball whose distances are decoded by a level's step too large."""
    field = ball(0.7 - level * LEVEL_STEP)
    assert dice_level(field, volume_target()) == level
    stream, _ = with_levels(token_stream(), lambda _: field, Told(lambda _: 0.5), volume_target(), every=False)
    assert stream.levels == (*[level] * (len(stream.ids) - 1), 0)
