"""Surface metrics against brute force and analytic surfaces."""

import numpy as np
import pytest
import trimesh

from setcore.errors import InputError
from setcore.evaluation.mesh_metrics import (
    Surface,
    chamfer_distance,
    f_score,
    is_closed,
    normal_consistency,
    sample_surface,
    surface_scores,
    volume_iou,
)


def random_triangles(count, seed):
    """A soup of small triangles in the unit cube."""
    rng = np.random.default_rng(seed)
    vertices = rng.random((count, 1, 3)) + 0.2 * rng.standard_normal((count, 3, 3))
    return vertices.reshape(-1, 3), np.arange(3 * count).reshape(-1, 3)


@pytest.fixture
def pair():
    return Surface(*random_triangles(20, 0), count=70, seed=0), Surface(*random_triangles(30, 1), count=90, seed=1)


def brute_force(points, triangles):
    """Distances from points to triangles, and normals there, by the nearest place of every triangle."""
    count, many = len(points), len(triangles)
    places = trimesh.triangles.closest_point(np.tile(triangles, (count, 1, 1)), np.repeat(points, many, axis=0))
    distance = np.linalg.norm(places.reshape(count, many, 3) - points[:, None], axis=-1)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return distance.min(1), (normals / np.linalg.norm(normals, axis=1, keepdims=True))[distance.argmin(1)]


def test_metrics_equal_brute_force(pair):
    a, b = pair
    soups = [vertices[faces] for vertices, faces in (random_triangles(20, 0), random_triangles(30, 1))]
    forward, at_b = brute_force(a.samples.points, soups[1])
    backward, at_a = brute_force(b.samples.points, soups[0])
    assert chamfer_distance(a, b) == pytest.approx(forward.mean() + backward.mean(), rel=1e-9)
    for threshold in (0.05, 0.1, 0.3):
        precision, recall = (backward < threshold).mean(), (forward < threshold).mean()
        expected = 2 * precision * recall / (precision + recall)
        assert f_score(a, b, threshold) == pytest.approx(expected, rel=1e-12)
    cosines = [np.abs((x.samples.normals * y).sum(1)).mean() for x, y in ((a, at_b), (b, at_a))]
    assert normal_consistency(a, b) == pytest.approx(sum(cosines) / 2, rel=1e-9)
    assert surface_scores(a, b, (0.1,)) == {
        "f_score@0.1": f_score(a, b, 0.1),
        "chamfer_distance": chamfer_distance(a, b),
        "normal_consistency": normal_consistency(a, b),
    }


def test_nothing_within_reach_scores_zero(pair):
    a, _ = pair
    vertices, faces = random_triangles(20, 0)
    assert f_score(a, Surface(vertices + 10, faces), 0.02) == 0.0


def test_a_surface_is_at_no_distance_from_itself():
    """Also where its other samples lie far from each other, and between thousands of faces."""
    mesh = trimesh.creation.icosphere(4)
    scores = surface_scores(Surface(mesh.vertices, mesh.faces, 50, 0), Surface(mesh.vertices, mesh.faces, 60, 1))
    assert {name: value for name, value in scores.items() if name.startswith("f_score")} == {
        "f_score@0.005": 1,
        "f_score@0.01": 1,
        "f_score@0.02": 1,
    }
    assert scores["chamfer_distance"] < 1e-12
    assert scores["normal_consistency"] == pytest.approx(1, abs=1e-12)


def test_concentric_spheres():
    """Chamfer distance is twice the gap, up to the facets."""
    inner = trimesh.creation.icosphere(4, 1.0)
    outer = trimesh.creation.icosphere(4, 1.2)
    a, b = Surface(inner.vertices, inner.faces, 6000, 0), Surface(outer.vertices, outer.faces, 6000, 1)
    assert chamfer_distance(a, b) == pytest.approx(0.4, abs=0.004)
    assert normal_consistency(a, b) == pytest.approx(1, abs=2e-3)
    assert f_score(a, b, 0.19) == 0
    assert f_score(a, b, 0.21) == 1


def test_faces_without_area_are_no_surface():
    """A line of a face reaches 9 away from a triangle; a point there is as far from the surface as without it."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 0, 0]], float)
    with_line = Surface(vertices, np.array([[0, 1, 2], [0, 1, 3]]), 10)
    assert with_line.nearest(np.array([[9.0, 0, 0]]))[0].tolist() == [8]


def test_samples_are_area_uniform():
    """A unit square in three unequal triangles, and one of 1e-9 of the area: equal counts in equal areas."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.3, 0, 0], [1e-9, 0, 0]])
    faces = np.array([[0, 4, 3], [4, 1, 2], [4, 2, 3], [0, 5, 3]])
    points = sample_surface(vertices, faces, 40_000, 3).points
    assert (points[:, 2] == 0).all()
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=4, range=[[0, 1], [0, 1]])
    assert np.abs(counts - 2500).max() < 5 * 50


def test_samples_lie_on_the_surface_with_its_normals():
    mesh = trimesh.creation.icosphere(4)
    samples = sample_surface(mesh.vertices, mesh.faces, 5000, 0)
    assert (np.abs(np.linalg.norm(samples.points, axis=1) - 1) < 0.005).all()
    np.testing.assert_allclose(np.linalg.norm(samples.normals, axis=1), 1)
    assert ((samples.points * samples.normals).sum(1) > 0.98).all()


def test_samples_do_not_depend_on_order():
    mesh = trimesh.creation.annulus(0.3, 1, 0.5)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(mesh.vertices))
    faces = np.argsort(order)[mesh.faces][rng.permutation(len(mesh.faces))]
    turns = rng.integers(0, 3, len(faces))
    faces = np.stack([faces[np.arange(len(faces)), (turns + k) % 3] for k in range(3)], 1)
    before = sample_surface(mesh.vertices, mesh.faces, 1000, 7)
    after = sample_surface(mesh.vertices[order], faces, 1000, 7)
    np.testing.assert_array_equal(before.points, after.points)
    np.testing.assert_array_equal(before.normals, after.normals)
    assert not np.array_equal(before.points, sample_surface(mesh.vertices, mesh.faces, 1000, 8).points)


def test_unreferenced_vertices_and_empty_faces_do_not_count():
    mesh = trimesh.creation.box()
    vertices = np.concatenate([mesh.vertices, [[9, 9, 9]]])
    faces = np.concatenate([mesh.faces, [[0, 0, 1], [2, 2, 2]]])
    plain = sample_surface(mesh.vertices, mesh.faces, 500, 0)
    np.testing.assert_array_equal(plain.points, sample_surface(vertices, faces, 500, 0).points)


@pytest.mark.parametrize(
    ("vertices", "faces"),
    [
        (np.zeros((3, 3)), np.array([[0, 1, 2]])),
        (np.eye(3), np.zeros((0, 3), int)),
        (np.full((3, 3), np.nan), np.array([[0, 1, 2]])),
    ],
)
def test_meshes_without_a_surface(vertices, faces):
    with pytest.raises(InputError, match="no surface"):
        sample_surface(vertices, faces, 10, 0)


def test_volume_iou():
    """Two of three points in both, one in one, one in none."""
    a, b = np.array([1, 1, 1, 0], bool), np.array([1, 1, 0, 0], bool)
    assert volume_iou(a, b) == pytest.approx(2 / 3)
    assert volume_iou(a, a) == 1
    assert volume_iou(a, ~a) == 0
    assert volume_iou(np.zeros(3, bool), np.zeros(3, bool)) == 1


def test_closed_means_two_faces_at_every_edge():
    mesh = trimesh.creation.icosphere(1)
    assert is_closed(mesh.vertices, mesh.faces)
    assert is_closed(mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3))  # a soup, as in STL
    assert not is_closed(mesh.vertices, mesh.faces[1:])
    assert not is_closed(mesh.vertices, np.concatenate([mesh.faces, mesh.faces[:1]]))
    assert not is_closed(mesh.vertices, mesh.faces[:0])
