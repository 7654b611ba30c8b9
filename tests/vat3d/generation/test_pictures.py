"""Pictures against what geometry says they show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import trimesh

from setcore.errors import InputError
from vat3d.errors import MeshError
from vat3d.generation.pictures import View, camera_turn, draw_views, render_view, render_views

PLAIN = View(ambient=1.0, colour=(10.0, 20.0, 30.0), fill=0.9)
BOX = trimesh.creation.box((1.0, 2.0, 3.0))


def shown(picture):
    """Where the shape is, not the white background."""
    return (picture != 255).any(-1)


@pytest.mark.parametrize("distance", [1.5, 4.0, 1e6])
def test_a_sphere_fills_a_disc(distance):
    ball = trimesh.creation.icosphere(4, 0.7).apply_translation((3, 1, -2))
    seen = shown(render_view(ball.vertices, ball.faces, replace(PLAIN, distance=distance), 200))
    assert seen.sum() == pytest.approx(np.pi / 4 * (0.9 * 200) ** 2, rel=0.01)
    high, wide = (np.flatnonzero(seen.any(axis)) for axis in (1, 0))
    assert np.ptp(high) == pytest.approx(179, abs=1)
    assert np.ptp(wide) == pytest.approx(179, abs=1)


def test_a_box_from_the_front_fills_its_side():
    view = replace(PLAIN, azimuth=0, elevation=0, distance=1e6, fill=0.88)
    front = shown(render_view(BOX.vertices, BOX.faces, view, 100))
    assert (np.flatnonzero(front.any(1)) == np.arange(6, 94)).all()
    assert (np.flatnonzero(front.any(0)) == np.arange(28, 72)).all()  # half as wide as high, to a pixel
    assert front.sum() == 88 * 44


def test_the_same_seed_gives_the_same_pictures_and_another_one_others():
    pictures = render_views(BOX.vertices, BOX.faces, 5, 32, 7)
    assert pictures.shape == (5, 32, 32, 3)
    assert pictures.dtype == np.uint8
    assert (pictures == render_views(BOX.vertices, BOX.faces, 5, 32, 7)).all()
    assert (pictures != render_views(BOX.vertices, BOX.faces, 5, 32, 8)).any((1, 2, 3)).all()


def test_a_turned_shape_is_a_turned_camera():
    wedge = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    quarter = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # about y, +z becomes +x
    view = View(azimuth=25.0)
    here = render_view(wedge, faces, view, 64)
    assert (render_view(wedge @ quarter.T, faces, replace(view, azimuth=115.0), 64) == here).all()
    assert (render_view(wedge @ quarter.T, faces, view, 64) != here).any()


def test_place_and_size_and_unused_vertices_change_nothing():
    view = View(azimuth=25.0)
    here = render_view(BOX.vertices, BOX.faces, view, 48)
    moved = np.vstack([BOX.vertices * 8.0 + [64, -32, 16], [[1e6, 0, 0]]])
    assert (render_view(moved, BOX.faces, view, 48) == here).all()


def test_the_nearest_face_is_seen_and_lit_by_its_angle():
    square = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
    tilted = square * 0.5 @ np.array([[1, 0, 0], [0, 0.5, 0.75**0.5], [0, -(0.75**0.5), 0.5]]).T + [0, 0, 0.9]
    vertices = np.vstack([square, tilted])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    view = View(0.0, 0.0, 1e6, 1.0, (0, 0, 1), 0.0, (200.0, 200.0, 200.0))
    for drawn in (faces, faces[::-1], faces[:, ::-1]):  # order does not count, nor which side of a sheet is out
        picture = render_view(vertices, drawn, view, 40)
        assert picture[20, 20].tolist() == [100] * 3  # cos 60 degrees
        assert picture[2, 2].tolist() == [200] * 3
    behind = render_view(vertices, faces, replace(view, azimuth=180.0), 40)
    assert behind[20, 20].tolist() == [200] * 3


def test_the_camera_stands_where_the_view_says():
    for view in draw_views(9, 3):
        turn = camera_turn(view)
        a, e = np.radians([view.azimuth, view.elevation])
        np.testing.assert_allclose(turn[2], [np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)], atol=1e-12)
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)


def test_views_go_all_around_and_shapes_stand_out():
    views = draw_views(12, 0)
    azimuths = np.sort([view.azimuth for view in views])
    assert np.diff(np.append(azimuths, azimuths[0] + 360)).max() < 60
    assert 0 < sum(view.ambient == 1 for view in views) < 12
    assert len({view.top for view in views}) > 3
    for view in (view for seed in range(50) for view in draw_views(4, seed)):
        assert min(abs(np.mean(view.colour) - np.mean(end)) for end in (view.top, view.bottom)) > 5


def test_bad_input_is_told():
    with pytest.raises(InputError, match="1 or more"):
        render_views(BOX.vertices, BOX.faces, 0)
    with pytest.raises(InputError, match="further off"):
        render_view(BOX.vertices, BOX.faces, View(distance=0.5))
    with pytest.raises(MeshError, match="no faces"):
        render_view(BOX.vertices, BOX.faces[:0], View())
    with pytest.raises(MeshError, match="no numbers"):
        render_view(BOX.vertices * np.nan, BOX.faces, View())
    with pytest.raises(MeshError, match="no area"):
        render_view(np.zeros((3, 3)), np.array([[0, 1, 2]]), View())
