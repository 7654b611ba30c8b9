"""The evaluation frame: units, order and place of the reference do not matter."""

import numpy as np
import pytest
import trimesh

from vat3d.errors import MeshError
from vat3d.mesh.compare import Reference, evaluate

KEYS = {"f_score@0.005", "f_score@0.01", "f_score@0.02", "chamfer_distance", "normal_consistency"} | {
    "volume_iou",
    "watertight",
}


@pytest.fixture(scope="module")
def bar():
    """A box with three different sides."""
    return trimesh.creation.box((0.2, 2.0, 0.5))


def test_a_thing_equals_itself(bar):
    scores = evaluate(bar, bar)
    assert set(scores) == KEYS
    assert [scores[f"f_score@{threshold}"] for threshold in ("0.005", "0.01", "0.02")] == [1, 1, 1]
    assert scores["volume_iou"] == 1
    assert scores["watertight"] is True
    assert scores["chamfer_distance"] < 1e-12
    assert scores["normal_consistency"] == pytest.approx(1, abs=1e-12)


def test_order_of_faces_and_vertices_does_not_matter(bar):
    rng = np.random.default_rng(0)
    order = rng.permutation(len(bar.vertices))
    shuffled = (bar.vertices[order], np.argsort(order)[bar.faces][rng.permutation(len(bar.faces))])
    assert evaluate(bar, shuffled) == evaluate(bar, bar) == evaluate(shuffled, bar)


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**30])
def test_units_do_not_matter(bar, scale):
    moved = bar.copy().apply_translation([0.05, 0, 0])
    expected = evaluate(bar, moved)
    actual = evaluate((bar.vertices * scale, bar.faces), (moved.vertices * scale, moved.faces))
    assert actual == expected


def test_a_shifted_bar_loses_what_it_must(bar):
    """The frame has half-side 1, so .05 is beyond both thresholds; the IoU is (.2 - .05) / (.2 + .05)."""
    scores = evaluate(bar, bar.copy().apply_translation([0.05, 0, 0]))
    assert scores["volume_iou"] == pytest.approx(0.15 / 0.25, abs=0.01)
    assert scores["f_score@0.02"] < 0.5


def test_thresholds_belong_to_the_reference_frame():
    """The reference is 100 units long: a shift of 0.4 units is .008 in its frame and within both thresholds."""
    rod = trimesh.creation.box((100.0, 1.0, 1.0))
    scores = evaluate(rod, rod.copy().apply_translation([0, 0.4, 0]))
    assert scores["f_score@0.01"] == 1
    # .25 of the 1 are within reach: of the sides that slide along, .6 + .25; of the others half of one that is inside
    assert scores["f_score@0.005"] == pytest.approx((0.85 + 0.85 + 0.5 + 0) / 4, abs=0.01)


def test_iou_needs_closed_meshes_and_watertight_speaks_of_other(bar):
    opened = trimesh.Trimesh(bar.vertices, bar.faces[1:], process=False)
    assert evaluate(bar, opened)["volume_iou"] is None
    assert evaluate(bar, opened)["watertight"] is False
    assert evaluate(opened, bar)["volume_iou"] is None
    assert evaluate(opened, bar)["watertight"] is True


def test_a_solid_inside_out_is_the_same_solid(bar):
    flipped = bar.copy()
    flipped.invert()
    assert evaluate(bar, flipped)["volume_iou"] == 1


def test_unreferenced_vertices_do_not_count(bar):
    vertices = np.concatenate([bar.vertices, [[50.0, 0, 0]]])
    assert evaluate((vertices, bar.faces), bar) == evaluate(bar, bar)
    assert evaluate(bar, (vertices, bar.faces)) == evaluate(bar, bar)


def test_meshes_that_cannot_be_compared(bar):
    flat = (np.zeros((3, 3)), np.array([[0, 1, 2]]))
    with pytest.raises(MeshError):
        evaluate(flat, bar)
    with pytest.raises(MeshError):
        evaluate(bar, flat)


def test_one_reference_for_many_comparisons(bar):
    reference = Reference(bar)
    other = bar.copy().apply_scale(0.9)
    assert reference.compare(other) == evaluate(bar, other)
    scores = reference.surface_scores(np.asarray(other.vertices), np.asarray(other.faces))
    assert scores.items() <= reference.compare(other).items()
