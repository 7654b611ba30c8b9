"""Levels against surfaces and scores that are known."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from streams import token_stream

from setcore.evaluation.mesh_metrics import SurfaceSamples, sample_surface
from vat3d.bitstream.stream import LEVEL_STEP, LEVELS, TokenStream
from vat3d.codec.fidelity import NOISE, FScoreEstimator, Scores, best_level
from vat3d.codec.level_search import (
    FINER,
    Volume,
    best_level_and_width,
    better,
    dice_level,
    level_beside,
    with_levels,
)
from vat3d.mesh.compare import SAMPLES
from vat3d.mesh.isosurface import Field, extract_surface


def ball(radius: float) -> Field:
    return lambda points: np.linalg.norm(points, axis=1) - radius


def sphere(radius: float = 0.7, centre: tuple[float, ...] = (0, 0, 0)) -> SurfaceSamples:
    normals = np.random.default_rng(0).standard_normal((SAMPLES, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return SurfaceSamples(np.array(centre) + radius * normals, normals)


def extracted(field: Field, level: int, cells: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return extract_surface(field, resolution=cells, iso=level * LEVEL_STEP)


def as_is(vertices: NDArray[np.float64], faces: NDArray[np.int64], width: int) -> NDArray[np.float64]:
    return vertices


class Told(FScoreEstimator):
    """Gives scores that are told, and remembers whether they were to be measured."""

    def __init__(self, score: Callable[[int], float]) -> None:
        super().__init__(sphere(), extracted, as_is)
        self.score = score
        self.closely: list[bool] = []

    def scores(self, field: Field, closely: bool) -> Scores:
        self.closely.append(closely)
        return lambda level, width: (self.score(level), 0.0)


def ball_volume() -> Volume:
    """A ball of radius .7."""
    points = np.random.default_rng(0).uniform(-1, 1, (20_000, 3)).astype(np.float32)
    return points, np.linalg.norm(points, axis=1) < 0.7


@pytest.mark.parametrize("closely", [False, True])
@pytest.mark.parametrize(("error", "f_score"), [(0.0, 1.0), (0.008, 1.0), (-0.025, 0.0)])
def test_f_score_of_a_sphere(error: float, f_score: float, closely: bool) -> None:
    judge = FScoreEstimator(sphere(), extracted, as_is)
    assert judge.f_scores(ball(0.7 + error), closely)(0) == pytest.approx(f_score, abs=0.01)
    assert judge.f_scores(ball(0.7 + error - 0.009), closely)(9) == pytest.approx(f_score, abs=0.01)


@pytest.mark.parametrize("closely", [False, True])
def test_f_score_is_the_harmonic_mean_of_precision_and_recall(closely: bool) -> None:
    """Beside a second ball of the same size, half of what is decoded is wrong."""
    offset = np.array([0.5, 0, 0])
    judge, field = FScoreEstimator(sphere(0.2, (0.5, 0, 0)), extracted, as_is), ball(0.2)

    def twice(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.minimum(field(points - offset), field(points + offset))

    assert judge.f_scores(twice, closely)(0) == pytest.approx(2 * 0.5 / 1.5, abs=0.01)


@pytest.mark.parametrize("height", [-2.0, -0.35, 0.0, 0.35])
def test_the_ceiling_of_a_solid_that_shows_a_part_of_a_sphere(height: float) -> None:
    """A sphere's area between two heights grows with their difference."""
    whole = sphere(0.7)
    shown = whole.points[whole.points[:, 2] >= height]
    recall = min((0.7 - height) / 1.4, 1)
    assert FScoreEstimator(sphere(0.7), extracted, as_is).ceiling(shown) == pytest.approx(
        2 * recall / (1 + recall), abs=0.02
    )


@pytest.mark.parametrize("closely", [False, True])
def test_recall_counts_what_is_missing(closely: bool) -> None:
    one, other = sphere(0.2, (0.5, 0, 0)), sphere(0.2, (-0.5, 0, 0))
    pairs = ((one.points, other.points), (one.normals, other.normals))
    judge = FScoreEstimator(SurfaceSamples(*(np.stack(pair, 1).reshape(-1, 3) for pair in pairs)), extracted, as_is)
    field = ball(0.2)
    assert judge.f_scores(lambda at: field(at - [0.5, 0, 0]), closely)(0) == pytest.approx(2 * 0.5 / 1.5, abs=0.01)


def test_an_estimate_keeps_the_thin_plate_that_its_grid_breaks() -> None:
    """A tilted round plate a quarter of a cell thick: a rough grid loses half of it, users' grids do not."""
    normal, half = np.array([2, 3, 6]) / 7, 0.004

    def plate(points: NDArray[np.float64]) -> NDArray[np.float64]:
        height = points @ normal
        return np.maximum(np.abs(height) - half, np.linalg.norm(points - height[:, None] * normal, axis=1) - 0.7)

    judge = FScoreEstimator(sample_surface(*extract_surface(plate, 256), SAMPLES), extracted, as_is)
    assert judge.f_scores(plate, closely=True)(0) == pytest.approx(1, abs=0.01)
    assert judge.f_scores(plate, closely=False)(0) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("best", LEVELS)
@pytest.mark.parametrize("closely", [False, True])
def test_the_level_of_the_best_f_score_is_taken(best: int, closely: bool) -> None:
    judge = Told(lambda level: 1 - abs(LEVELS.index(level) - LEVELS.index(best)) / 20)
    stream, score = with_levels(token_stream(), lambda _: ball(0.7), judge, ball_volume(), closely)
    assert stream.level == best
    assert score == 1
    assert judge.closely[0] == closely
    assert not any(judge.closely[1:])


def test_a_level_is_not_raised_for_noise() -> None:
    assert best_level(lambda level: 0.9 + NOISE / 3 * level, 0) == 0


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("width", [3, 5])
def test_the_width_of_the_best_f_score_is_taken_with_the_level_it_bears(level: int, width: int) -> None:
    """Without one, level 0 is best."""

    def scores(at: int, of: int) -> tuple[float, float]:
        best = level if of == width else 0
        return 0.9 - abs(LEVELS.index(at) - LEVELS.index(best)) / 200 + 0.02 * (of == width), 0.5

    assert best_level_and_width(scores, (3, 5)) == (level, width)
    assert best_level_and_width(scores, ()) == (0, 0)


def test_between_widths_the_finer_f_score_counts_a_little() -> None:
    def scores(level: int, width: int) -> tuple[float, float]:
        return 0.9 - 0.01 * (level > 0) - 0.02 * (width > 0), 0.5 + 0.03 * width / FINER

    assert best_level_and_width(scores, (1,)) == (0, 1)
    assert best_level_and_width(lambda level, width: (scores(level, width)[0], 0.5), (1,)) == (0, 0)


def test_levels_are_asked_for_from_the_start_in_twos() -> None:
    asked = []
    assert best_level(lambda level: asked.append(level) or 0.5, 2, between=False) == 2
    assert asked == [4, 2]


@pytest.mark.parametrize("level", LEVELS)
def test_a_handful_of_tokens_decodes_at_the_level_of_the_largest_overlap(level: int) -> None:
    """Of a ball whose distances are decoded by a level's step too large."""
    field = ball(0.7 - level * LEVEL_STEP)
    assert dice_level(field, ball_volume()) == level
    stream, _ = with_levels(token_stream(), lambda _: field, Told(lambda _: 0.5), ball_volume(), closely=False)
    assert stream.levels == (*[level] * (len(stream.ids) - 1), 0)


@pytest.mark.parametrize(("closely", "below"), [(True, 1), (False, 0)])
def test_a_handful_of_tokens_may_decode_one_level_lower_where_that_scores_better(closely: bool, below: int) -> None:
    overlap, lower = LEVELS[5], LEVELS[4]
    judge = Told(lambda level: 0.9 if level == lower else 0.5)
    field = ball(0.7 - overlap * LEVEL_STEP)
    stream, _ = with_levels(token_stream(), lambda _: field, judge, ball_volume(), closely)
    assert stream.levels[0] == LEVELS[5 - below]


@pytest.mark.parametrize("start", LEVELS)
@pytest.mark.parametrize("best", LEVELS)
def test_a_level_beside_is_reached_from_both_sides(start: int, best: int) -> None:
    assert level_beside(lambda level: 1 - abs(LEVELS.index(level) - LEVELS.index(best)) / 20, start) == best


def test_a_level_beside_moves_up_only_for_more_than_noise_and_down_for_any_gain() -> None:
    assert level_beside(lambda level: 0.9 + NOISE / 5 * LEVELS.index(level), LEVELS[2]) == LEVELS[2]
    assert level_beside(lambda level: 0.9 - NOISE / 5 * LEVELS.index(level), LEVELS[2]) == LEVELS[0]


def test_an_estimate_is_of_the_best_level() -> None:
    """A ball just too small to be met, and met when it is raised."""
    judge, small = FScoreEstimator(sphere(), extracted, as_is), ball(0.679)
    assert judge.f_scores(small, closely=False)(0) < 0.5
    assert judge.estimate(small) > 0.95
    assert judge.estimate(ball(0.66)) == 0


def test_the_clearly_better_of_two_streams_is_taken() -> None:
    good, same, bad = token_stream(), token_stream(), token_stream()
    judge = FScoreEstimator(sphere(), extracted, as_is)

    def field_of(stream: TokenStream) -> Field:
        return ball(0.67 if stream is bad else 0.7)

    assert better(good, bad, field_of, judge) is good
    assert better(bad, good, field_of, judge) is good
    assert better(good, same, field_of, judge) is good
    assert better(same, good, field_of, judge) is same
