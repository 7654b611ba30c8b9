"""The bare polygon coder that the codec is measured against: what it decodes is what it was given, to the byte."""

import DracoPy
import numpy as np
import polygon_rival
import pytest
import trimesh
from polygon_coder import decode_polygons, encode_polygons
from polygon_file import HEADER_BYTES, Grid, read_polygons, whole_mesh, write_polygons

from vat3d.bitstream.coordinate_frame import Frame
from vat3d.evaluation.collapse import Collapses
from vat3d.mesh.canonical import canonical_mesh

SIZES = np.array([65, 60, 70])


def on_grid(mesh, sizes=SIZES):
    """Vertices of a trimesh on a grid, its faces."""
    vertices = np.asarray(mesh.vertices)
    scaled = (vertices - vertices.min(0)) / np.ptp(vertices, axis=0).max()
    return np.rint(scaled * (sizes.min() - 1)).astype(np.int64), np.asarray(mesh.faces, np.int64)


def three_pages():
    """Three triangles at one edge, one of them turned the other way."""
    points = np.array([[9, 9, 9], [9, 9, 30], [30, 9, 20], [9, 30, 20], [40, 40, 20]])
    return points, np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]])


def soup():
    """Triangles that share corners at random, some with places in common."""
    rng = np.random.default_rng(3)
    faces = np.array([rng.permutation(20)[:3] for _ in range(60)])
    _, faces = np.unique(faces, return_inverse=True)
    return rng.integers(0, 6, (20, 3)), faces.reshape(-1, 3)


def open_bowl():
    bowl = trimesh.creation.icosphere(2)
    bowl.update_faces(bowl.triangles_center[:, 2] < 0.3)
    bowl.remove_unreferenced_vertices()
    return on_grid(bowl)


MESHES = {
    "one triangle": (np.array([[0, 0, 0], [64, 0, 0], [0, 59, 69]]), np.array([[2, 1, 0]])),
    "both sides of a triangle": (np.array([[0, 0, 0], [4, 0, 0], [0, 5, 6]]), np.array([[0, 1, 2], [2, 1, 0]])),
    "a box": on_grid(trimesh.creation.box()),
    "a handle": on_grid(trimesh.creation.torus(1.0, 0.4, 12, 9)),
    "open": open_bowl(),
    "parts": on_grid(
        trimesh.util.concatenate([trimesh.creation.icosphere(1).apply_translation([3 * k, k * k, 0]) for k in range(4)])
    ),
    "two boxes with a corner in common": (
        np.array(
            [[x, y, z] for x in (0, 9) for y in (0, 9) for z in (0, 9)]
            + [[x, y, z] for x in (9, 20) for y in (9, 20) for z in (9, 20)][1:]
        ),
        np.concatenate([(box := trimesh.creation.box().faces), np.where(box == 0, 7, box + 7)]),
    ),
    "three faces at an edge": three_pages(),
    "soup": soup(),
}


def alike(points, faces):
    """The triangles by places, with direction, and the places of all vertices, in one order."""
    corners = points[faces]
    first = np.array([min(range(3), key=lambda k: tuple(triangle[k])) for triangle in corners])
    turned = corners[np.arange(len(faces))[:, None], (first[:, None] + np.arange(3)) % 3]
    return sorted(turned.reshape(-1, 9).tolist()), sorted(points.tolist())


@pytest.mark.parametrize("name", MESHES)
def test_what_is_decoded_is_what_was_encoded(name):
    points, faces = MESHES[name]
    data = encode_polygons(points, faces, SIZES)
    assert alike(*decode_polygons(data, SIZES)) == alike(points, faces)
    assert data == encode_polygons(points, faces, SIZES)


def test_which_vertex_a_face_has_is_kept_though_others_lie_in_its_place():
    """Two closed boxes in one place stay two."""
    points, faces = MESHES["a box"]
    twice, both = np.concatenate([points, points]), np.concatenate([faces, faces + len(points)])
    back, triangles = decode_polygons(encode_polygons(twice, both, SIZES), SIZES)
    mesh = trimesh.Trimesh(back, triangles, process=False)
    assert len(back) == 16
    assert mesh.body_count == 2
    assert mesh.is_watertight
    assert mesh.is_winding_consistent


def test_smaller_than_draco_by_far():
    points, faces = on_grid(trimesh.creation.icosphere(2))
    data = encode_polygons(points, faces, SIZES)
    levels = (DracoPy.encode(points.astype(np.float32), faces.astype(np.uint32), 6, level) for level in (1, 3, 7, 10))
    assert len(data) < 0.7 * min(map(len, levels))
    assert 8 * len(data) / len(points) < 16


@pytest.mark.parametrize(("mirror", "copies"), [(0, 1), (2, 2), (5, 4)])
def test_a_file_has_its_header_and_its_mirror_images(mirror, copies):
    box = Frame.from_corners(np.array([1.0, -1.5, 0.5]), np.array([5.0, 1.5, 1.5]))
    grid = Grid(Frame(box.scale_code, box.longest, box.aspect_codes, box.centre_codes, (7, -9, 0), mirror), 50)
    points, faces = on_grid(trimesh.creation.icosphere(1), np.full(3, 8))
    points = points + np.array([2, 0, 0])
    data = write_polygons(grid, points, faces)
    assert HEADER_BYTES == 16
    assert len(data) == 16 + len(encode_polygons(points - grid.low, faces, grid.sizes))
    read, back, triangles = read_polygons(data)
    assert (read.frame, read.cells) == (grid.frame, 50)
    assert alike(back, triangles) == alike(points, faces)
    vertices, whole = whole_mesh(read, back, triangles)
    assert len(whole) == copies * len(faces)
    inside = (vertices @ grid.frame.rotation.T - grid.frame.centre) / grid.frame.half_side
    for axis in np.flatnonzero(grid.frame.mirrored):
        images = inside * np.where(np.arange(3) == axis, -1, 1)
        assert np.allclose(np.sort(images, axis=0), np.sort(inside, axis=0))
    assert trimesh.Trimesh(vertices, whole, process=False).volume == pytest.approx(
        copies * trimesh.Trimesh(points, faces).volume * (2 / 50 * grid.frame.half_side) ** 3
    )


def test_a_header_far_from_the_origin_is_charged_whole():
    frame = Frame.from_corners(np.full(3, 1e7), np.full(3, 1e7 + 1))
    grid = Grid(frame, 8)
    points, faces = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 4]]), np.array([[0, 1, 2]])
    data = write_polygons(grid, points, faces)
    assert len(data) > 16 + len(encode_polygons(points - grid.low, faces, grid.sizes))
    assert read_polygons(data)[0].frame == frame


def test_collapses_go_down_to_the_corners_of_a_box():
    box = trimesh.creation.box((1, 2, 3)).subdivide().subdivide()
    collapses = Collapses(np.asarray(box.vertices), np.asarray(box.faces, np.int64))
    assert collapses.most == len(box.vertices)
    for count in (60, 20, 8):
        vertices, faces = collapses.mesh(count)
        few = trimesh.Trimesh(vertices, faces)
        few.remove_unreferenced_vertices()
        assert len(few.vertices) <= count
        assert few.volume == pytest.approx(6, rel=0.01)
    vertices, faces = collapses.mesh(len(box.vertices))
    assert np.array_equal(faces, box.faces)


def test_a_rival_keeps_its_budget_and_decodes_to_its_score(monkeypatch):
    for name, value in {"CELLS": (48,), "KEPT_AREAS": (1.0,), "STEPS": 8, "FEW_STEPS": 4, "ATTEMPTS": 2}.items():
        monkeypatch.setattr(polygon_rival, name, value)
    ball = trimesh.creation.icosphere(2)
    ball.vertices[:, 0] += 0.2 * ball.vertices[:, 1] ** 2 + 0.3 * ball.vertices[:, 2]  # no mirror image of itself
    ball.vertices[:, 1] += 0.3 * ball.vertices[:, 2] ** 2 - 0.2 * ball.vertices[:, 0]
    search = polygon_rival.Search((np.asarray(ball.vertices), np.asarray(ball.faces)))
    mesh, facts = search.best(130)
    assert 0.6 * 130 < facts["bytes"] <= 130
    assert search.reference.compare(mesh)["f_score@0.02"] > 0.4
    again, same = search.best(130)
    assert facts == same
    assert all(map(np.array_equal, mesh, again))
    assert search.best(20) is None


def test_half_of_a_mesh_keeps_sheets_in_the_plane_of_the_mirror():
    ball, fin = trimesh.creation.icosphere(2), np.array([[1.0, 0, 0], [1.5, 0, 0.4], [1.5, 0, -0.4]])
    vertices, faces = np.concatenate([ball.vertices, fin]), np.concatenate([ball.faces, [[162, 163, 164]]])
    half = trimesh.Trimesh(*polygon_rival.upper_half(vertices, faces, 1), process=False)
    assert half.area == pytest.approx(ball.area / 2 + 0.2, rel=1e-3)
    assert half.vertices[half.faces][:, :, 1].min() == 0


def test_adam_moves_vertices_towards_the_surface():
    ball = trimesh.creation.icosphere(3)
    part = polygon_rival.Part(canonical_mesh(np.asarray(ball.vertices), np.asarray(ball.faces)))
    few = trimesh.creation.icosphere(1)
    shape = polygon_rival.Shape.of(Grid(part.frame, 96), few.vertices * 0.8, few.faces)
    moved = polygon_rival.moved(part, shape)
    assert np.array_equal(moved.points, moved.points.round())
    before, after = (polygon_rival.quick_score(part, one)[0] for one in (shape, moved))
    assert after > before + 0.2
