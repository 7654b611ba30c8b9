"""Solids: exact distances, shells of stated thickness, signs that survive flips, doubles and inner parts."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh
from toy_shapes import volume_fraction

from setcore.evaluation.mesh_metrics import sample_surface
from vat3d.errors import MeshError
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.fill import EVEN_ODD, NONZERO
from vat3d.mesh.isosurface import extract_surface
from vat3d.mesh.solid import SHELL, THICKER, THIN, WALL_THICKNESS, Solid

RNG = np.random.default_rng(0)
POINTS = RNG.uniform(-1.3, 1.3, (3001, 3))


def solid(vertices, faces) -> Solid:
    return Solid(canonical_mesh(np.asarray(vertices, np.float64), np.asarray(faces, np.int64)))


def box_distance(points: np.ndarray, half: np.ndarray) -> np.ndarray:
    q = np.abs(points) - half
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)


BOX = trimesh.creation.box((2, 1, 0.5))
HALF = np.array([1, 0.5, 0.25])
SPHERE = trimesh.creation.icosphere(subdivisions=3)


@pytest.mark.parametrize("change", ["as it is", "inside out", "doubled", "turned at random"])
def test_signed_distance_of_a_box_is_exact(change):
    faces = np.asarray(BOX.faces)
    if change == "inside out":
        faces = faces[:, ::-1]
    elif change == "doubled":
        faces = np.concatenate([faces, faces[:, ::-1], faces[:5]])
    elif change == "turned at random":
        faces = np.where((np.arange(len(faces)) % 3 == 0)[:, None], faces[:, ::-1], faces)
    box = solid(BOX.vertices * 7 + 3, faces)
    np.testing.assert_allclose(box.signed_distance(POINTS), box_distance(POINTS, HALF), atol=1e-6)
    np.testing.assert_array_equal(box.contains(POINTS), box_distance(POINTS, HALF) < 0)
    assert box.report == {
        "closed_components": 1, "holed_components": 0, "flat_components": 0, "open_components": 0, "loose_faces": 0,
        "shell": 0.0, "closed": True,
    }  # fmt: skip


def test_volume_fraction_of_a_sphere():
    assert abs(volume_fraction(solid(SPHERE.vertices, SPHERE.faces), 20_000) - np.pi / 6) < 0.012


def test_an_open_sheet_is_a_shell_of_stated_thickness():
    sheet = solid([[-1, -0.7, 0], [1, -0.7, 0], [1, 0.7, 0], [-1, 0.7, 0]], [[0, 1, 2], [0, 2, 3]])
    nearest = np.clip(POINTS, [-1, -0.7, 0], [1, 0.7, 0])
    expected = np.linalg.norm(POINTS - nearest, axis=1) - SHELL
    np.testing.assert_allclose(sheet.signed_distance(POINTS), expected, atol=1e-6)
    assert sheet.report == {
        "closed_components": 0, "holed_components": 0, "flat_components": 0, "open_components": 1, "loose_faces": 0,
        "shell": SHELL, "closed": False,
    }  # fmt: skip
    points, normals = sheet.surface_samples(2000, seed=1)
    np.testing.assert_allclose(np.abs(points[:, 2]), SHELL, atol=1e-12)
    np.testing.assert_array_equal(np.sign(points[:, 2]), normals[:, 2])
    assert 0.4 < (points[:, 2] > 0).mean() < 0.6


def test_closed_and_open_parts_are_united():
    sheet = np.array([[-1, -0.5, 0.9], [1, -0.5, 0.9], [1, 0.5, 0.9]])
    vertices = np.concatenate([BOX.vertices - [0, 0, 0.65], sheet])
    both = solid(vertices, np.concatenate([BOX.faces, [[8, 9, 10]]]))
    assert (both.report["closed_components"], both.report["open_components"]) == (1, 1)
    low = solid(BOX.vertices - [0, 0, 0.65], BOX.faces)
    shifted = POINTS + both.mesh.centre - low.mesh.centre
    distance = both.signed_distance(POINTS)
    box = low.signed_distance(shifted)
    assert (distance <= box + 1e-6).all()
    np.testing.assert_allclose(distance[box < 0], box[box < 0], atol=1e-5)


def test_a_flat_box_becomes_a_shell_and_is_not_called_open():
    report = solid(BOX.vertices * [1, 1, 0.005], BOX.faces).report
    assert (report["closed"], report["open_components"]) == (True, 0)
    assert (report["flat_components"], report["shell"]) == (1, SHELL)


@pytest.mark.parametrize("inside_out", [False, True])
def test_many_parts_face_outward_but_for_cavities(inside_out):
    """Boxes in a row, every third one given inside out, and in the first one a cavity."""
    parts = [BOX.copy().apply_translation([3 * k, 0, 0]) for k in range(300)]
    for part in parts[1::3]:
        part.invert()
    cavity = BOX.copy().apply_scale(0.5)
    cavity.invert()
    given = trimesh.util.concatenate([*parts, cavity])
    faces = given.faces[:, ::-1] if inside_out else given.faces
    mesh = canonical_mesh(given.vertices, faces)
    expected = (300 - 0.5**3) * BOX.volume / mesh.half_side**3
    assert mesh.volumes.sum() == pytest.approx(expected, rel=1e-3)  # vertices are rounded to 1e-6
    assert (mesh.volumes < 0).sum() == 1


def test_a_blade_of_two_coincident_sides_is_kept_as_a_shell():
    """A fin on a box, its two sides split along different diagonals: they cancel, and the winding number loses them."""
    vertices = np.concatenate([BOX.vertices, [[1, -0.5, 0.75], [1, 0.5, 0.75]]])
    foot = [int(np.flatnonzero((BOX.vertices == corner).all(1))[0]) for corner in ([1, -0.5, 0.25], [1, 0.5, 0.25])]
    (a, b), c, d = foot, 9, 8
    front, back = [[a, b, c], [a, c, d]], [[b, a, d], [b, d, c]]
    finned = solid(vertices, np.concatenate([BOX.faces, front, back]))
    assert finned.report == {
        "closed_components": 1, "holed_components": 0, "flat_components": 0, "open_components": 0, "loose_faces": 4,
        "shell": SHELL, "closed": False,
    }  # fmt: skip
    frame = 0.5 * (vertices.min(0) + vertices.max(0))  # the longest half-side is 1 already
    sheet = np.maximum(np.abs(POINTS + frame - [1, 0, 0.5]) - [0, 0.5, 0.25], 0)
    expected = np.minimum(box_distance(POINTS + frame, HALF), np.linalg.norm(sheet, axis=1) - SHELL)
    np.testing.assert_allclose(finned.signed_distance(POINTS), expected, atol=1e-6)
    points, normals = finned.surface_samples(20_000, 0)
    on_fin = points[:, 2] + frame[2] > 0.25 + 1e-9
    assert (normals[on_fin, 0] > 0).mean() == pytest.approx(0.5, abs=0.03)
    box_area, fin_area = BOX.area, 2 * 0.5
    assert on_fin.mean() == pytest.approx(fin_area / (fin_area + box_area), abs=0.01)


def test_a_single_fin_is_a_sheet_and_its_body_a_solid():
    ball = trimesh.creation.icosphere(subdivisions=4)
    a, b = ball.faces[0][:2]
    tip = 1.5 * ball.vertices[[a, b]].mean(0)
    finned = solid(np.concatenate([ball.vertices, [tip]]), np.concatenate([ball.faces, [[a, b, len(ball.vertices)]]]))
    report = finned.report
    assert (report["closed_components"], report["loose_faces"], report["shell"]) == (1, 1, SHELL)
    box = np.ptp(finned.mesh.vertices, axis=0).prod() * finned.mesh.half_side**3
    assert volume_fraction(finned, 50_000) == pytest.approx(ball.volume / box, rel=0.03)


@pytest.mark.parametrize(("height", "closed"), [(0.99, True), (0.8, False)])
def test_a_small_opening_closes_and_a_wide_one_stays_open(height, closed):
    """A unit sphere without what lies above a height: openings of radius .14 and .6."""
    ball = trimesh.creation.icosphere(subdivisions=5)
    bowl = solid(ball.vertices, ball.faces[(ball.triangles_center[:, 2] < height)])
    report = bowl.report
    assert report["closed"] == closed
    assert (report["closed_components"], report["holed_components"]) == (int(closed), int(closed))
    assert (volume_fraction(bowl) > 0.5) == closed


def test_a_long_crack_of_no_width_closes():
    """A sphere of two halves that touch at two vertices only: the rims together are longer than a great circle."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    upper = ball.triangles_center[:, 2] > 0
    rim = np.intersect1d(ball.faces[upper], ball.faces[~upper])
    moved = np.arange(len(ball.vertices))
    moved[rim[2:]] = len(ball.vertices) + np.arange(len(rim) - 2)
    shifted = ball.vertices[rim[2:]] * (1 + 1e-4)
    cracked = solid(
        np.concatenate([ball.vertices, shifted]), np.concatenate([ball.faces[upper], moved[ball.faces[~upper]]])
    )
    assert cracked.mesh.report["open_edges"] > 100
    assert cracked.report["closed"]
    assert cracked.report["holed_components"] == cracked.report["closed_components"] == 1


def test_a_small_hole_stays_closed():
    fine = trimesh.creation.icosphere(subdivisions=5)
    holed = solid(fine.vertices, fine.faces[1:])
    assert holed.report["closed"]
    np.testing.assert_array_equal(holed.contains(POINTS), solid(fine.vertices, fine.faces).contains(POINTS))
    assert not solid(fine.vertices, fine.faces[1000:]).report["closed"]


def test_surface_samples_lie_on_the_outer_surface_only():
    inner = SPHERE.vertices * 0.5
    vertices = np.concatenate([SPHERE.vertices, inner, SPHERE.vertices * 0.4 + [0.9, 0, 0]])
    n = len(SPHERE.vertices)
    both = solid(vertices, np.concatenate([SPHERE.faces, SPHERE.faces + n, SPHERE.faces + 2 * n]))
    points, normals = both.surface_samples(4000, seed=2)
    points = points * both.mesh.half_side + both.mesh.centre
    outer, knob = np.linalg.norm(points, axis=1), np.linalg.norm(points - [0.9, 0, 0], axis=1)
    assert (outer > 0.98).all()
    assert (knob > 0.39).all()
    assert (np.minimum(np.abs(outer - 1), np.abs(knob - 0.4)) < 0.01).all()
    on_sphere = (np.abs(outer - 1) < 0.01) & (knob > 0.45)
    assert (np.einsum("ij,ij->i", points, normals)[on_sphere] > 0.9).all()


def crossing(*parts: trimesh.Trimesh) -> Solid:
    """Parts in one mesh, by the even-odd rule; their bounding box must be centred, with half-side 1."""
    given = trimesh.util.concatenate(parts)
    together = solid(given.vertices, given.faces)
    np.testing.assert_allclose(together.mesh.centre, 0, atol=1e-12)
    assert together.mesh.half_side == pytest.approx(1)
    return together.filled(EVEN_ODD)


TURNED = trimesh.creation.box((0.3, 1.6, 0.4))
TURNED_HALF = np.array([0.15, 0.8, 0.2])


def test_even_odd_keeps_every_wall():
    """Two boxes that cross: outside where they overlap, and every point of both surfaces is on the border."""
    both = crossing(BOX, TURNED)
    one, other = box_distance(POINTS, HALF), box_distance(POINTS, TURNED_HALF)
    inside = (one < 0) != (other < 0)
    np.testing.assert_array_equal(both.contains(POINTS), inside)
    expected = np.minimum(np.abs(one), np.abs(other)) * np.where(inside, -1, 1)
    np.testing.assert_allclose(both.signed_distance(POINTS), expected, atol=1e-6)
    assert (one[inside] < 0).any()
    assert (np.maximum(one, other) < 0).any()

    points, normals = both.surface_samples(20_000, seed=1)
    hidden = np.minimum(box_distance(points, HALF), box_distance(points, TURNED_HALF)) < -1e-6
    overlap = 2 * (0.3 * 1 + 0.3 * 0.4 + 1 * 0.4)  # the surface of what both fill
    assert hidden.mean() == pytest.approx(overlap / (BOX.area + TURNED.area), abs=0.01)
    assert both.contains(points - 1e-4 * normals).mean() > 0.99
    assert both.contains(points + 1e-4 * normals).mean() < 0.01


def test_even_odd_cuts_the_shell_of_a_sheet_out_of_a_box():
    """A sheet that crosses a box shows on both sides of the box's wall, as a shell outside and as a slit inside."""
    sheet = trimesh.Trimesh([[0, -0.9, -0.2], [0, 0.9, -0.2], [0, 0.9, 0.2], [0, -0.9, 0.2]], [[0, 1, 2], [0, 2, 3]])
    both = crossing(BOX, sheet)
    nearest = np.clip(POINTS, [0, -0.9, -0.2], [0, 0.9, 0.2])
    shell, box = np.linalg.norm(POINTS - nearest, axis=1) - SHELL, box_distance(POINTS, HALF)
    inside = (shell < 0) != (box < 0)
    np.testing.assert_array_equal(both.contains(POINTS), inside)
    expected = np.minimum(np.abs(shell), np.abs(box)) * np.where(inside, -1, 1)
    np.testing.assert_allclose(both.signed_distance(POINTS), expected, atol=1e-6)
    points, normals = both.surface_samples(20_000, seed=1)
    slit = (np.abs(points[:, 0]) < 0.01) & (np.abs(points[:, 1]) < 0.49)
    assert slit.mean() == pytest.approx(2 * 0.98 * 0.4 / (BOX.area + 2 * 1.8 * 0.4), abs=0.01)
    assert both.contains(points - 1e-4 * normals).mean() > 0.99
    assert both.contains(points + 1e-4 * normals).mean() < 0.01


def test_hidden_points_lie_within_other_parts():
    both, overlap = crossing(BOX, TURNED), 2 * (0.3 * 1 + 0.3 * 0.4 + 1 * 0.4)
    points, normals = both.surface_samples(20_000)
    covered = both.filled(NONZERO).hidden(points, normals, depth=1e-3)
    assert covered.mean() == pytest.approx(overlap / (BOX.area + TURNED.area), abs=0.01)
    assert both.hidden(points, normals, depth=1e-3).mean() < 0.005


@pytest.mark.parametrize(
    ("centre", "hides"),
    [((0, 0, 0), True), ((1.25, 0, 0), True), ((1.5, 0, 0), True), ((2, 0, 0), False)],
    ids=["within", "overlapping", "with a wall in one place", "apart"],
)
def test_parts_are_hidden_within_others_and_where_two_have_a_wall_in_one_place(
    centre: tuple[float, ...], hides: bool
) -> None:
    other = trimesh.creation.box((1, 0.9, 0.4)).apply_translation(centre)
    together = trimesh.util.concatenate([BOX, other])
    both = solid(together.vertices, together.faces)
    surface = sample_surface(both.mesh.vertices, both.mesh.faces, 5000, seed=1, any_order=False)
    assert both.has_internal_surfaces(surface) == hides


@pytest.mark.parametrize("thickness", [0.005, 0.01, 0.014, 0.02])
def test_a_board_thinner_than_the_networks_see_is_thickened(thickness: float) -> None:
    half = np.array([1, 0.7, thickness / 2])
    thin = thickness < THIN
    board = solid(BOX.vertices / HALF * half, BOX.faces)
    middle = POINTS * [0.7, 0.5, 0.05]  # nearest to the large sides
    expected = np.abs(middle[:, 2]) - half[2] - (THICKER if thin else 0)
    np.testing.assert_allclose(board.signed_distance(middle)[expected < 0.05], expected[expected < 0.05], atol=1e-6)
    points, normals = board.surface_samples(20_000, seed=1)
    large = np.abs(normals[:, 2]) > 0.5
    np.testing.assert_allclose(np.abs(points[large, 2]), half[2] + (THICKER if thin else 0), atol=1e-6)
    np.testing.assert_array_equal(np.sign(points[large, 2]), np.sign(normals[large, 2]))
    assert large.mean() == pytest.approx(1.4 / (1.4 + 1.7 * thickness), abs=0.01)
    surface = sample_surface(board.mesh.vertices, board.mesh.faces, 5000, seed=1, any_order=False)
    assert board.is_thin(surface) == thin
    assert board.has_walls(surface) == (WALL_THICKNESS < thickness < THIN)
    np.testing.assert_array_equal(board.contains(POINTS), box_distance(POINTS, half) < 0)


def test_a_wall_in_one_place_of_two_parts_becomes_a_slit_by_the_even_odd_rule() -> None:
    """Two boxes side by side: the union knows no wall, a slit has a side in either box."""
    one = trimesh.creation.box((1, 1, 0.6))
    both = crossing(one.copy().apply_translation([-0.5, 0, 0]), one.copy().apply_translation([0.5, 0, 0]))
    within = POINTS * [0.1, 0.25, 0.15]
    far = np.abs(within[:, 0])
    np.testing.assert_allclose(both.signed_distance(within)[far < 0.05], (THICKER - far)[far < 0.05], atol=1e-6)
    assert (both.filled(NONZERO).signed_distance(within) < 0).all()
    points, normals = both.surface_samples(20_000, seed=1)
    slit = (np.abs(points[:, 0]) < 0.02) & (np.abs(normals[:, 0]) > 0.5)
    assert slit.mean() == pytest.approx(2 * 0.6 / (2 * one.area), abs=0.01)
    np.testing.assert_allclose(np.abs(points[slit, 0]), THICKER, atol=1e-6)
    np.testing.assert_array_equal(np.sign(points[slit, 0]), -np.sign(normals[slit, 0]))  # outward: into the slit
    points, normals = both.filled(NONZERO).surface_samples(2000)
    assert (np.abs(points[np.abs(normals[:, 0]) > 0.5, 0]) > 0.9).all()


def test_a_gap_is_widened_by_the_even_odd_rule_alone() -> None:
    one, gap = trimesh.creation.box((0.995, 1, 0.6)), 0.01
    apart = crossing(one.copy().apply_translation([-0.5025, 0, 0]), one.copy().apply_translation([0.5025, 0, 0]))
    within = np.array([[0.0, 0.1, 0.1], [0.03, -0.2, 0.0]])
    far = np.abs(np.abs(within[:, 0]) - gap / 2 / apart.mesh.half_side)
    assert apart.signed_distance(within) == pytest.approx([THICKER + far[0], THICKER - far[1]], abs=1e-6)


def test_surface_samples_are_area_uniform_and_seeded():
    box = solid(BOX.vertices, BOX.faces)
    points, normals = box.surface_samples(20_000, seed=3)
    np.testing.assert_allclose(box_distance(points, HALF), 0, atol=1e-6)
    share = [(np.abs(normals[:, k]) > 0.5).mean() for k in range(3)]
    areas = np.array([1 * 0.5, 2 * 0.5, 2 * 1.0])
    np.testing.assert_allclose(share, areas / areas.sum(), atol=0.015)
    np.testing.assert_array_equal(points, box.surface_samples(20_000, seed=3)[0])
    assert not np.array_equal(points, box.surface_samples(20_000, seed=4)[0])


def test_surface_that_is_mostly_hidden_is_still_sampled_in_full():
    sheets = [np.array([[0, 0, z], [1, 0, z], [1, 1, z], [0, 1, z]], float) for z in np.arange(40) * 2e-3]
    faces = [np.array([[0, 1, 2], [0, 2, 3]]) + 4 * k for k in range(40)]
    stack = solid(np.concatenate(sheets), np.concatenate(faces))
    points, _ = stack.surface_samples(3000)
    assert points.shape == (3000, 3)
    assert (np.abs(stack.signed_distance(points)) < 1e-3).all()


def test_an_inverted_part_that_sticks_out_is_sampled_outside_as_well():
    """More of its corners inside another part than outside: it stays a cavity there, and a body where it sticks out."""
    centre, radius = np.array([0.9, 0, 0]), 0.4
    outer, inner = trimesh.creation.box((2, 1.2, 1)), trimesh.creation.icosphere(3, radius)
    vertices = np.concatenate([outer.vertices, inner.vertices + centre])
    given = canonical_mesh(vertices, np.concatenate([outer.faces, inner.faces[:, ::-1] + len(outer.vertices)]))
    both = Solid(given)
    points, normals = both.surface_samples(20_000)
    assert both.contains(points - 1e-3 * normals).mean() > 0.995  # all but next to where the two parts meet
    assert both.contains(points + 1e-3 * normals).mean() < 0.005
    at = points * given.half_side + given.centre
    cap = (np.linalg.norm(at - centre, axis=1) < radius + 1e-3) & (at[:, 0] > 1)
    cap_area = 2 * np.pi * radius * (radius - 0.1)
    assert cap.mean() == pytest.approx(cap_area / (outer.area + inner.area), rel=0.1)


def test_training_surface_of_a_box_is_closed_and_at_the_right_place():
    vertices, faces = extract_surface(solid(BOX.vertices, BOX.faces).signed_distance, resolution=32)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert np.abs(box_distance(vertices, HALF)).max() < 0.05
    np.testing.assert_allclose(mesh.volume, 1.0, rtol=0.05)


def test_no_solid(monkeypatch):
    box = solid(BOX.vertices, BOX.faces)
    monkeypatch.setattr(box, "_trusted", False)
    monkeypatch.setattr(box, "contains", lambda points: np.ones(len(points), bool))
    with pytest.raises(MeshError, match="bound no solid"):
        box.surface_samples(10)
