"""Levels against surfaces and scores that are known."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from streams import token_stream

from setcore.evaluation.mesh_metrics import SAMPLES, SurfaceSamples, sample_surface
from vat3d.bitstream.header import LEVEL_STEP, LEVELS
from vat3d.bitstream.stream import TokenStream
from vat3d.codec.fidelity import NOISE, FScoreEstimator, Scores, best_level
from vat3d.codec.level_search import (
    FINER_WEIGHT,
    best_level_and_thickness,
    better,
    dice_level,
    level_beside,
    with_levels,
)
from vat3d.codec.targets import VolumeSamples
from vat3d.mesh.isosurface import Field, extract_surface


def ball(radius: float) -> Field:
    return lambda points: np.linalg.norm(points, axis=1) - radius


def sphere(radius: float = 0.7, centre: tuple[float, ...] = (0, 0, 0)) -> SurfaceSamples:
    normals = np.random.default_rng(0).standard_normal((SAMPLES, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return SurfaceSamples(np.array(centre) + radius * normals, normals)


def distance_from_sphere(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the surface of `sphere()`."""
    return np.abs(ball(0.7)(points))


class Extraction:
    """A decoder whose fields are told, and whose surfaces stay as they are extracted."""

    def __init__(self, field_of: Callable[[TokenStream], Field] | None = None) -> None:
        self.field_of = field_of

    def field(self, stream: TokenStream) -> Field:
        assert self.field_of is not None
        return self.field_of(stream)

    def surface(self, field: Field, level: int, resolution: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return extract_surface(field, resolution=resolution, iso=level * LEVEL_STEP)

    def finish(self, vertices: NDArray[np.float64], faces: NDArray[np.int64], thickness: int) -> NDArray[np.float64]:
        return vertices


def estimator_of(original: SurfaceSamples) -> FScoreEstimator:
    return FScoreEstimator(original, Extraction(), distance_from_sphere)


class Told(FScoreEstimator):
    """Gives scores that are told, and remembers whether they were to be measured."""

    def __init__(self, score: Callable[[int], float]) -> None:
        super().__init__(sphere(), Extraction(), distance_from_sphere)
        self.score = score
        self.measured: list[bool] = []

    def scores(self, field: Field, measured: bool) -> Scores:
        self.measured.append(measured)
        return lambda level, thickness: (self.score(level), 0.0)


def ball_volume() -> VolumeSamples:
    """A ball of radius .7."""
    points = np.random.default_rng(0).uniform(-1, 1, (20_000, 3)).astype(np.float32)
    return VolumeSamples(points, np.linalg.norm(points, axis=1) < 0.7)


@pytest.mark.parametrize("measured", [False, True])
@pytest.mark.parametrize(("error", "f_score"), [(0.0, 1.0), (0.008, 1.0), (-0.025, 0.0)])
def test_f_score_of_a_sphere(error: float, f_score: float, measured: bool) -> None:
    estimator = estimator_of(sphere())
    assert estimator.f_scores(ball(0.7 + error), measured)(0) == pytest.approx(f_score, abs=0.01)
    assert estimator.f_scores(ball(0.7 + error - 0.009), measured)(9) == pytest.approx(f_score, abs=0.01)


@pytest.mark.parametrize(("error", "f_score"), [(0.0, 1.0), (0.019, 1.0), (-0.021, 0.0)])
def test_the_f_score_that_is_reported_is_measured_to_the_surface(error: float, f_score: float) -> None:
    """Not to samples: with these, 300 on either side would all lie farther than .02 from each other."""
    estimator = estimator_of(sphere())
    for level, count in ((0, 300), (9, 3000)):
        field = ball(0.7 + error - level * LEVEL_STEP)
        assert estimator.measured(field, level, 0, count) == f_score


@pytest.mark.parametrize("measured", [False, True])
def test_f_score_is_the_harmonic_mean_of_precision_and_recall(measured: bool) -> None:
    """Beside a second ball of the same size, half of what is decoded is wrong."""
    offset = np.array([0.5, 0, 0])
    estimator, field = estimator_of(sphere(0.2, (0.5, 0, 0))), ball(0.2)

    def twice(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.minimum(field(points - offset), field(points + offset))

    assert estimator.f_scores(twice, measured)(0) == pytest.approx(2 * 0.5 / 1.5, abs=0.01)


@pytest.mark.parametrize("height", [-2.0, -0.35, 0.0, 0.35])
def test_the_ceiling_of_a_solid_that_shows_a_part_of_a_sphere(height: float) -> None:
    """A sphere's area between two heights grows with their difference."""
    whole = sphere(0.7)
    shown = whole.points[whole.points[:, 2] >= height]
    recall = min((0.7 - height) / 1.4, 1)
    assert estimator_of(sphere(0.7)).ceiling(shown) == pytest.approx(2 * recall / (1 + recall), abs=0.02)


@pytest.mark.parametrize("measured", [False, True])
def test_recall_counts_what_is_missing(measured: bool) -> None:
    one, other = sphere(0.2, (0.5, 0, 0)), sphere(0.2, (-0.5, 0, 0))
    pairs = ((one.points, other.points), (one.normals, other.normals))
    estimator = estimator_of(SurfaceSamples(*(np.stack(pair, 1).reshape(-1, 3) for pair in pairs)))
    field = ball(0.2)
    assert estimator.f_scores(lambda at: field(at - [0.5, 0, 0]), measured)(0) == pytest.approx(2 * 0.5 / 1.5, abs=0.01)


def test_an_estimate_keeps_the_thin_plate_that_its_grid_breaks() -> None:
    """A tilted round plate a quarter of a cell thick: a rough grid loses half of it, users' grids do not."""
    normal, half = np.array([2, 3, 6]) / 7, 0.004

    def plate(points: NDArray[np.float64]) -> NDArray[np.float64]:
        height = points @ normal
        return np.maximum(np.abs(height) - half, np.linalg.norm(points - height[:, None] * normal, axis=1) - 0.7)

    estimator = estimator_of(sample_surface(*extract_surface(plate, 256), SAMPLES))
    assert estimator.f_scores(plate, measured=True)(0) == pytest.approx(1, abs=0.01)
    assert estimator.f_scores(plate, measured=False)(0) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("best", LEVELS)
@pytest.mark.parametrize("measured", [False, True])
def test_the_level_of_the_best_f_score_is_taken(best: int, measured: bool) -> None:
    estimator = Told(lambda level: 1 - abs(LEVELS.index(level) - LEVELS.index(best)) / 20)
    stream = with_levels(token_stream(), Extraction(lambda _: ball(0.7)), estimator, ball_volume(), measured)
    assert stream.level == best
    assert estimator.measured[0] == measured
    assert not any(estimator.measured[1:])


def test_a_level_is_not_raised_for_noise() -> None:
    assert best_level(lambda level: 0.9 + NOISE / 3 * level, 0) == 0


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("thickness", [3, 5])
def test_the_thickness_of_the_best_f_score_is_taken_with_the_level_it_bears(level: int, thickness: int) -> None:
    """Without one, level 0 is best."""

    def scores(at: int, of: int) -> tuple[float, float]:
        best = level if of == thickness else 0
        return 0.9 - abs(LEVELS.index(at) - LEVELS.index(best)) / 200 + 0.02 * (of == thickness), 0.5

    assert best_level_and_thickness(scores, (3, 5)) == (level, thickness)
    assert best_level_and_thickness(scores, ()) == (0, 0)


def test_between_thicknesss_the_finer_f_score_counts_a_little() -> None:
    def scores(level: int, thickness: int) -> tuple[float, float]:
        return 0.9 - 0.01 * (level > 0) - 0.02 * (thickness > 0), 0.5 + 0.03 * thickness / FINER_WEIGHT

    assert best_level_and_thickness(scores, (1,)) == (0, 1)
    assert best_level_and_thickness(lambda level, thickness: (scores(level, thickness)[0], 0.5), (1,)) == (0, 0)


def test_levels_are_asked_for_from_the_start_in_twos() -> None:
    asked = []
    assert best_level(lambda level: asked.append(level) or 0.5, 2, between=False) == 2
    assert asked == [4, 2]


@pytest.mark.parametrize("level", LEVELS)
def test_a_handful_of_tokens_decodes_at_the_level_of_the_largest_overlap(level: int) -> None:
    """Of a ball whose distances are decoded by a level's step too large."""
    field = ball(0.7 - level * LEVEL_STEP)
    assert dice_level(field, ball_volume()) == level
    stream = with_levels(
        token_stream(), Extraction(lambda _: field), Told(lambda _: 0.5), ball_volume(), measured=False
    )
    assert stream.levels == (*[level] * (len(stream.ids) - 1), 0)


@pytest.mark.parametrize(("measured", "below"), [(True, 1), (False, 0)])
def test_a_handful_of_tokens_may_decode_one_level_lower_where_that_scores_better(measured: bool, below: int) -> None:
    overlap, lower = LEVELS[5], LEVELS[4]
    estimator = Told(lambda level: 0.9 if level == lower else 0.5)
    field = ball(0.7 - overlap * LEVEL_STEP)
    stream = with_levels(token_stream(), Extraction(lambda _: field), estimator, ball_volume(), measured)
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
    estimator, small = estimator_of(sphere()), ball(0.679)
    assert estimator.f_scores(small, measured=False)(0) < 0.5
    assert estimator.estimate(small) > 0.95
    assert estimator.estimate(ball(0.66)) == 0


def test_the_clearly_better_of_two_streams_is_taken() -> None:
    good, same, bad = token_stream(), token_stream(), token_stream()
    estimator = estimator_of(sphere())

    def field_of(stream: TokenStream) -> Field:
        return ball(0.67 if stream is bad else 0.7)

    decoder = Extraction(field_of)

    assert better(good, bad, decoder, estimator) is good
    assert better(bad, good, decoder, estimator) is good
    assert better(good, same, decoder, estimator) is good
    assert better(same, good, decoder, estimator) is same
