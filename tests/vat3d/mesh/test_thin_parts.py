"""Flat parts: plates of known thickness, and what must stay as it is."""

import numpy as np
import pytest
import trimesh
from numpy.typing import NDArray

from vat3d.mesh.decimate import is_closed_manifold
from vat3d.mesh.isosurface import extract_surface
from vat3d.mesh.thin_parts import SHEET, SOLID_WALL_FLAG, WALL, flattened, with_thickness

NORMAL = np.array([2, 3, 6]) / 7
WIDTH = 0.03


def plate(thickness: float, curvature: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A round plate of radius .7, tilted; or a cap of a sphere of radius 1 / `curvature`, as thick."""

    def field(points: NDArray[np.float64]) -> NDArray[np.float64]:
        aside = np.linalg.norm(points - (points @ NORMAL)[:, None] * NORMAL, axis=1)
        return np.maximum(np.abs(heights(points, curvature)) - thickness / 2, aside - 0.7)

    return extract_surface(field, resolution=128)


def heights(points: NDArray[np.float64], curvature: float) -> NDArray[np.float64]:
    """Signed distances to the middle of the plate."""
    if not curvature:
        return points @ NORMAL
    return 1 / curvature - np.linalg.norm(points - NORMAL / curvature, axis=1)


def away_from_the_rim(vertices: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.linalg.norm(vertices - (vertices @ NORMAL)[:, None] * NORMAL, axis=1) < 0.6


@pytest.mark.parametrize("curvature", [0.0, 0.8])
@pytest.mark.parametrize("thickness", [0.01, 0.016, 0.024, 0.0375])
def test_a_thin_plate_becomes_flat_about_its_middle(thickness: float, curvature: float) -> None:
    """Only a little thinner where it is 1.25 widths thick."""
    vertices, faces = plate(thickness, curvature)
    flat = flattened(vertices, faces, WIDTH)
    inner = away_from_the_rim(vertices)
    half = np.abs(heights(flat[inner], curvature))
    if thickness > WIDTH:
        assert 0.35 * thickness < half.mean() < 0.45 * thickness
    else:
        assert np.abs(half - SHEET).mean() < 0.0018
        assert np.quantile(half, 0.98) < SHEET + 0.006
    same_side = heights(flat[inner], curvature) * heights(vertices[inner], curvature) > 0
    assert same_side.mean() > 0.9  # a plate thinner than a cell is jagged: its sides may cross
    aside = flat[inner] - vertices[inner]
    assert np.linalg.norm(aside - (aside @ NORMAL)[:, None] * NORMAL, axis=1).mean() < 0.005
    assert is_closed_manifold(faces)
    assert np.abs(flat - vertices).max() <= 0.75 * WIDTH


def test_a_thickness_of_walls_leaves_them_thicker() -> None:
    vertices, faces = plate(0.024)
    inner = away_from_the_rim(vertices)
    for thickness, left in ((3, SHEET), (SOLID_WALL_FLAG + 3, WALL)):
        found = with_thickness(vertices, faces, thickness)
        np.testing.assert_array_equal(found, flattened(vertices, faces, 0.03, left))
        assert np.abs(heights(found[inner], 0.0)).mean() == pytest.approx(left, abs=0.0015)
    for thickness in (0, SOLID_WALL_FLAG):
        assert with_thickness(vertices, faces, thickness) is vertices


@pytest.mark.parametrize("thickness", [0.05, 0.3])
def test_what_is_thicker_stays_as_it_is(thickness: float) -> None:
    vertices, faces = plate(thickness)
    flat = flattened(vertices, faces, WIDTH)
    inner = away_from_the_rim(vertices)
    np.testing.assert_array_equal(flat[inner], vertices[inner])
    ball = trimesh.creation.icosphere(subdivisions=5, radius=0.8)
    np.testing.assert_array_equal(flattened(ball.vertices, ball.faces, WIDTH), ball.vertices)


def test_a_narrow_gap_stays_open() -> None:
    """Walls that face each other across air are not the sides of a thin part."""
    boxes = [trimesh.creation.box((0.5, 0.5, 0.5)).subdivide_loop(0).subdivide() for _ in range(2)]
    for _ in range(3):
        boxes = [box.subdivide() for box in boxes]
    boxes[1].apply_translation([0.52, 0, 0])
    both = trimesh.util.concatenate(boxes)
    np.testing.assert_array_equal(flattened(both.vertices, both.faces, WIDTH), both.vertices)


def test_the_order_of_vertices_and_faces_does_not_matter() -> None:
    vertices, faces = plate(0.02, 0.8)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(vertices))
    place = np.argsort(order)
    shuffled = flattened(vertices[order], place[faces][rng.permutation(len(faces))], WIDTH)
    np.testing.assert_allclose(shuffled, flattened(vertices, faces, WIDTH)[order], atol=1e-9)


def test_small_errors_of_vertices_stay_small() -> None:
    """Machines whose decoded distances differ in the last digits decode the same surface."""
    vertices, faces = plate(0.02, 0.8)
    nearly = vertices + 1e-6 * np.random.default_rng(0).standard_normal(vertices.shape)
    assert np.abs(flattened(nearly, faces, WIDTH) - flattened(vertices, faces, WIDTH)).max() < 1e-3


def test_a_small_surface_has_neighbours_enough() -> None:
    small = trimesh.creation.icosahedron()
    assert np.isfinite(flattened(small.vertices * 0.01, small.faces, WIDTH)).all()
