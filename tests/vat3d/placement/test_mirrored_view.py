"""Halves of shapes that are their own mirror image, against a ball, whose halves are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from make_tiny_model import DATA
from scipy.spatial.transform import Rotation

from setcore.evaluation.mesh_metrics import sample_surface
from vat3d import MeshTokenizer, TokenStream
from vat3d.bitstream.coordinate_frame import NO_TURN, Frame
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.solid import Solid
from vat3d.mesh.symmetry import best_mirror, upright
from vat3d.placement.mirrored_view import OVERLAP, MirroredView, frame_extents
from vat3d.placement.pose import best_pose

FRAME = Frame.from_corners(np.array([-1.0, -0.7, -0.5]), np.array([1.0, 0.7, 0.5]))
POINTS = np.random.default_rng(0).uniform(-1, 1, (500, 3))
BALL = replace(FRAME, aspect_codes=(2047, 2047))


def half_of(frame, mirror):
    return MirroredView(replace(frame, mirror=mirror))


def mirror_of(mesh):
    mesh = canonical_mesh(mesh.vertices, mesh.faces)
    return best_mirror(Solid(mesh), sample_surface(mesh.vertices, mesh.faces, 8000, seed=1, any_order=False))


def test_a_shape_without_a_mirror_is_seen_as_it_is():
    half = half_of(FRAME, 0)
    assert half.scale == 1
    assert half.seen(POINTS) is half.folded(POINTS) is POINTS
    np.testing.assert_array_equal(half.box.numpy()[0], frame_extents(FRAME).astype(np.float32))
    normals, distances = -POINTS, POINTS[:, 0]
    for given, found in zip((POINTS, normals), half.surface(POINTS, normals, 1.0, bool, 0), strict=True):
        np.testing.assert_array_equal(given, found)
    np.testing.assert_array_equal(half.cut(POINTS, distances), distances)


@pytest.mark.parametrize("mirror", range(1, 8))
def test_the_half_fills_what_the_networks_see(mirror):
    half, extents = half_of(FRAME, mirror), frame_extents(FRAME)
    mirrored = np.array([mirror >> axis & 1 for axis in range(3)], bool)
    corners = np.stack([np.where(mirrored, -OVERLAP, -extents), extents])
    box = half.box.numpy()[0]
    np.testing.assert_allclose(half.seen(corners), [-box, box], atol=1e-6)
    assert box.max() == 1
    images = np.where(mirrored, -1, 1) * POINTS
    np.testing.assert_array_equal(half.folded(images), half.folded(POINTS))
    np.testing.assert_array_equal(half.folded(half.folded(POINTS)), half.folded(POINTS))
    side = half.side(POINTS)
    np.testing.assert_array_equal(side, np.where(mirrored & (POINTS < -OVERLAP), -1, 1))
    assert ((side * POINTS)[:, mirrored] >= -OVERLAP).all()


@pytest.mark.parametrize("mirror", [1, 4, 5, 7])
def test_signed_distances_to_a_part_of_a_ball(mirror):
    """The sign is exact: inside the ball and above all cuts."""
    half, points = half_of(BALL, mirror), np.random.default_rng(1).uniform(-1, 1, (4000, 3))
    to_ball = np.linalg.norm(points, axis=1) - 0.9
    found = half.cut(points, to_ball)
    above = (points[:, [bool(mirror >> axis & 1) for axis in range(3)]] > -OVERLAP).all(1)
    np.testing.assert_array_equal(found < 0, (to_ball < 0) & above)
    assert (found >= to_ball).all()
    np.testing.assert_array_equal(found[above & (found > 0)], to_ball[above & (found > 0)])


@pytest.mark.parametrize("axis", range(3))
def test_the_surface_of_half_a_ball_has_its_cut(axis):
    points = np.random.default_rng(2).standard_normal((20_000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    half = half_of(BALL, 1 << axis)
    found, normals = half.surface(points, points, 4 * np.pi, lambda at: np.linalg.norm(at, axis=1) < 1, 3)
    assert found.shape == normals.shape == points.shape
    cut = found[:, axis] == -OVERLAP
    np.testing.assert_array_equal(normals[cut], np.tile(-np.eye(3)[axis], (cut.sum(), 1)))
    np.testing.assert_array_equal(normals[~cut], found[~cut])
    assert found[:, axis].min() == -OVERLAP
    assert np.linalg.norm(found[cut], axis=1).max() < 1
    share = np.pi * (1 - OVERLAP**2) / (np.pi * (1 - OVERLAP**2) + 2 * np.pi)
    assert abs(cut.mean() - share) < 0.02


def test_mirrors_are_found():
    """Of boxes that are halved along an axis if they are its image, with balls beside them, and of a bent sheet."""
    sheet = trimesh.Trimesh([[-1, 0, 0], [1, 0, 0], [-1, 1, 0.6], [1, 1, 0.6]], [[0, 1, 2], [1, 3, 2]], process=False)
    assert mirror_of(sheet) == 1
    box, ball = trimesh.creation.box((2.0, 1.4, 1.0)), trimesh.creation.icosphere(3, 0.3)
    assert mirror_of(box) == 7
    assert mirror_of(box.copy().apply_translation((30, 40, 50))) == 7
    assert mirror_of(trimesh.util.concatenate([box, ball.copy().apply_translation((0, 0, 0.5))])) == 3
    assert mirror_of(trimesh.util.concatenate([box, ball.copy().apply_translation((0.6, 0, 0.5))])) == 2
    assert mirror_of(trimesh.util.concatenate([box, ball.copy().apply_translation((0.6, 0.3, 0.5))])) == 0
    assert mirror_of(trimesh.creation.box((2.0, 1.4, 0.2))) == 3  # too thin to be halved along z


def balls(*places):
    """Small balls at these places and a large one at the origin."""
    small = [trimesh.creation.icosphere(3, 0.3).apply_translation(place) for place in places]
    return trimesh.util.concatenate([trimesh.creation.icosphere(3, 0.6), *small])


PAIR = ((0.9, 0, 0), (-0.9, 0, 0))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("mesh", "mirrors"),
    [
        (balls(*PAIR, (0, 0.8, 0), (0, -0.8, 0), (0, 0, 0.7), (0, 0, -0.7)), 3),
        (balls(*PAIR, (0, 0.8, 0.3)), 2),
        (balls(*PAIR, (0, 0.8, 0.3), (0, -0.2, 0.8)), 1),
        (balls(*PAIR, (0.3, 0.8, 0.3), (0, -0.2, 0.8)), 0),
    ],
)
def test_mirrors_that_lie_askew_are_brought_to_lie_along_axes(mesh, mirrors, seed):
    rotation = Rotation.random(random_state=seed).as_matrix()
    frame = best_pose(canonical_mesh(30 * mesh.vertices @ rotation.T + (5.0, -7.0, 9.0), mesh.faces)).frame
    assert frame.mirrored.sum() == mirrors
    assert (frame.turn == NO_TURN) == (mirrors == 0)
    if mirrors:
        first = frame.rotation @ rotation @ [1, 0, 0]  # across which each of these but the last is its own image
        assert np.degrees(np.arccos(np.abs(first).max())) < 0.6
        assert frame.mirrored[np.abs(first).argmax()]


@pytest.mark.parametrize(("height", "found"), [(0.1, False), (0.6, True)])
def test_a_thin_plate_is_not_turned_for_the_plane_that_it_lies_in(height, found):
    """There would be nothing to halve."""
    outline = np.array([[-1.0, -0.4], [0.7, -0.6], [1.0, 0.1], [-0.2, 0.7]])
    corners = np.concatenate([np.insert(outline, 2, side * height / 2, axis=1) for side in (-1, 1)])
    plate = trimesh.convex.convex_hull(corners @ Rotation.from_euler("xz", (20, 40), degrees=True).as_matrix())
    mesh = canonical_mesh(plate.vertices, plate.faces)
    rotation = upright(Solid(mesh), sample_surface(mesh.vertices, mesh.faces, 8000, seed=1, any_order=False))
    assert (rotation is not None) == found


@pytest.fixture(scope="module")
def tokenizer() -> MeshTokenizer:
    return MeshTokenizer.from_pretrained(DATA / "tiny")


def test_neither_size_nor_place_changes_what_is_encoded(tokenizer):
    """A file's box says them to 1/4096 of the half-side, beside what is encoded."""
    box = trimesh.creation.box((2.0, 1.6, 1.2))
    here = tokenizer.encode(box, 200, "fast")
    assert here.report["mirrored_axes"] == "xyz"
    for scale, shift in ((3.7, (0, 0, 0)), (2.0**-9, (0, 0, 0)), (1.0, (3e4, -2e4, 3e4))):
        there = tokenizer.encode((box.vertices * scale + shift, box.faces), 200, "fast")
        np.testing.assert_array_equal(np.concatenate(there.ids), np.concatenate(here.ids))
        assert there.frame.pose == here.frame.pose


@pytest.mark.parametrize("mirror", [0, 2, 5, 7])
def test_what_decodes_is_its_own_mirror_image(tokenizer, mirror):
    box = trimesh.creation.box((2.0, 1.6, 1.2))
    stream = tokenizer.encode(box, 200, "fast")
    assert stream.report["mirrored_axes"] == "xyz"
    stream = TokenStream.from_bytes(
        replace(stream, frame=replace(stream.frame, mirror=mirror)).to_bytes(), tokenizer.model
    )
    field = tokenizer.field(stream)
    points = POINTS.astype(np.float32)
    images = points * np.array([-1 if mirror >> axis & 1 else 1 for axis in range(3)], np.float32)
    np.testing.assert_array_equal(field(points), field(images))
    mesh = tokenizer.decode(stream, resolution=32)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent


def test_a_mirrored_field_is_that_of_the_half(tokenizer):
    """Distances come back in half-sides of the whole."""
    stream = tokenizer.encode(trimesh.creation.box((2.0, 1.6, 1.2)), 200, "fast")
    half = MirroredView(stream.frame)
    planes = tokenizer.network.decode([torch.from_numpy(part)[None] for part in stream.tokens], half.box)
    above = (np.abs(POINTS) * frame_extents(stream.frame)).astype(np.float32)
    seen = torch.from_numpy(half.seen(above).astype(np.float32))[None]
    with torch.inference_mode():
        expected = half.scale * tokenizer.network.signed_distance(planes, seen, half.box)[0].numpy()
    np.testing.assert_allclose(tokenizer.field(stream)(above), expected, rtol=1e-5, atol=1e-6)
