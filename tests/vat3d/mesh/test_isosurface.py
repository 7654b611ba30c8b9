"""Extraction: always a closed manifold, equal to the dense grid, true to analytic surfaces."""

import itertools

import numpy as np
import pytest
import trimesh
from scipy.ndimage import map_coordinates
from toy_shapes import accepted

from vat3d.errors import CodecError
from vat3d.mesh.canonical import HALF_DOMAIN, canonical_mesh
from vat3d.mesh.decimate import decimate, is_closed_manifold
from vat3d.mesh.isosurface import GridField, extract_surface
from vat3d.mesh.marching_cubes import CORNERS, EDGES, polygonise, triangle_table
from vat3d.mesh.solid import Solid
from vat3d.mesh_io.load import load_mesh


def sphere(points, centre=(0.05, -0.1, 0.02), radius=0.7):
    return np.linalg.norm(points - np.array(centre, np.float32), axis=1) - radius


def torus(points):
    return np.hypot(np.hypot(points[:, 0], points[:, 2]) - 0.6, points[:, 1]) - 0.2


def shell(points):
    """A sheet of half-thickness .008 over a rectangle, thinner than a coarse cell by far."""
    beyond = np.maximum(np.abs(points) - np.array([0.8, 0, 0.5], np.float32), 0)
    return np.linalg.norm(beyond, axis=1) - 0.008


def balls(points):
    """Two balls that no coarse grid point lies in, and a large one."""
    return np.minimum.reduce(
        [
            sphere(points, (0.83, 0.83, 0.81), 0.03),
            sphere(points, (-0.83, 0.6, 0.4), 0.02),
            sphere(points, (0, 0, 0), 0.4),
        ]
    )


def slit(points):
    """A ball cut in two by an oblique slit a tenth of a coarse cell wide."""
    across = points @ np.array([0.48, 0.6, 0.64], np.float32)
    return np.maximum(sphere(points), 0.007 - np.abs(across - 0.1))


def skin(points):
    """A ball with a slit all around, a tenth of a cell wide at 128, two below its surface."""
    from_middle, cell = sphere(points), 2 * HALF_DOMAIN / 128
    return np.minimum(np.maximum(from_middle, -2 * cell - from_middle), from_middle + 2.1 * cell)


def noise(seed, order):
    """A random field, with ambiguous cells everywhere."""
    grid = np.random.default_rng(seed).standard_normal((14, 14, 14))
    return lambda points: map_coordinates(grid, ((points + HALF_DOMAIN) / (2 * HALF_DOMAIN) * 13).T, order=order)


def test_the_table_closes_every_pair_of_cells():
    """Every side of a triangle inside a cell has two triangles; those on a cell face are the same in both cells."""
    counts, table = triangle_table()
    assert counts[0] == counts[255] == 0
    for mask in range(1, 255):
        sides = {}
        for triangle in table[mask, : counts[mask]]:
            assert len(set(triangle.tolist())) == 3
            for a, b in zip(triangle.tolist(), np.roll(triangle, -1).tolist(), strict=True):
                assert (a, b) not in sides
                sides[a, b] = True
        rim = {side for side in sides if side[::-1] not in sides}
        crossed = {e for e, (a, b) in enumerate(EDGES.tolist()) if (mask >> a & 1) != (mask >> b & 1)}
        assert {a for a, _ in rim} == {b for _, b in rim} == crossed
        for a, b in rim:
            ends = CORNERS[[*EDGES[a], *EDGES[b]]]
            assert (ends == ends[0]).all(0).any()  # on one cell face


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_random_fields_are_closed_manifolds(seed, order):
    vertices, faces = extract_surface(noise(seed, order), 22, coarse=22)
    assert len(faces) > 5000
    assert is_closed_manifold(faces)
    assert accepted(vertices, faces)


@pytest.mark.parametrize(("field", "resolution"), [
    *itertools.product([sphere, torus, shell, balls, slit], [48, 64]),
    (skin, 128),
])  # fmt: skip
def test_equals_the_dense_grid(field, resolution):
    vertices, faces = extract_surface(field, resolution, coarse=16)
    dense_vertices, dense_faces = extract_surface(field, resolution, coarse=resolution)
    np.testing.assert_array_equal(faces, dense_faces)
    np.testing.assert_array_equal(vertices, dense_vertices)
    assert accepted(vertices, faces)


def test_evaluates_a_small_share_of_the_grid():
    """Cost grows with the surface: at 256 at most a 35th of the dense grid's points."""
    seen = []

    def counted(points):
        seen.append(len(points))
        return torus(points)

    extract_surface(counted, 256)
    assert sum(seen) < 257**3 / 35


@pytest.mark.parametrize(("field", "area", "volume"), [
    (sphere, 4 * np.pi * 0.7**2, 4 / 3 * np.pi * 0.7**3),
    (torus, 4 * np.pi**2 * 0.6 * 0.2, 2 * np.pi**2 * 0.6 * 0.2**2),
])  # fmt: skip
def test_area_and_volume(field, area, volume):
    vertices, faces = extract_surface(field, 128)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.area == pytest.approx(area, rel=2e-3)
    assert mesh.volume == pytest.approx(volume, rel=2e-3)
    assert np.abs(field(vertices)).max() < 1e-4


def test_surfaces_are_followed_beyond_the_cells_that_looked_near():
    """The field says "far" everywhere but at one end of a rod: it is found whole all the same."""

    def rod(points):
        distance = np.hypot(points[:, 1] - 0.01, points[:, 2] - 0.013) - 0.06
        distance = np.maximum(distance, np.abs(points[:, 0]) - 0.9)
        return np.where(points[:, 0] < -0.7, distance, 40 * distance)

    vertices, faces = extract_surface(rod, 64, coarse=16)
    _, dense = extract_surface(rod, 64, coarse=64)
    np.testing.assert_array_equal(faces, dense)
    assert np.ptp(vertices[:, 0]) > 1.75


def test_a_saturated_field_is_refined_only_near_the_surface():
    """Without the hint every cell might hold a surface; with it the mesh is the same for fewer points."""
    seen = []

    def squashed(points):
        seen.append(len(points))
        return np.tanh(sphere(points) / 0.02) * 0.02

    _, faces = extract_surface(squashed, 64, saturation=0.018)
    hinted = sum(seen)
    _, expected = extract_surface(squashed, 64)
    np.testing.assert_array_equal(faces, expected)
    assert hinted < 0.4 * (sum(seen) - hinted)


def test_shapes_that_reach_the_border_are_closed_there():
    vertices, faces = extract_surface(lambda points: points[:, 1] - 0.2, 32)
    assert accepted(vertices, faces)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.volume == pytest.approx(2.1**2 * 1.25, rel=0.02)


@pytest.mark.parametrize(
    "field",
    [
        lambda points: np.ones(len(points)),
        lambda points: -np.ones(len(points)),
        lambda points: np.zeros(len(points)),
        lambda points: np.full(len(points), np.nan),
        lambda points: np.full(len(points), np.inf),
        lambda points: sphere(points) + 3,
        lambda points: sphere(points) - 3,
        lambda points: np.where(sphere(points) < 0, np.nan, -1.0),
    ],
)
def test_never_empty(field):
    vertices, faces = extract_surface(field, 64)
    assert accepted(vertices, faces)
    assert np.abs(vertices).max() <= HALF_DOMAIN


def test_an_empty_field_gives_its_lowest_part():
    """Two per cent of the cube's volume around the field's minimum."""
    vertices, faces = extract_surface(lambda points: sphere(points, (0, 0, 0), 0) + 3, 64)
    assert trimesh.Trimesh(vertices, faces, process=False).volume == pytest.approx(0.02 * 2.1**3, rel=0.12)


def test_zeros_at_grid_points_leave_no_gap():
    """A cube whose faces fall on grid planes, values zero there, and no two vertices in one place."""
    side = 2 * HALF_DOMAIN / 32
    vertices, faces = extract_surface(lambda points: np.abs(points).max(1) - np.float32(8 * side), 32)
    assert accepted(vertices, faces)
    assert len(np.unique(vertices.astype(np.float32), axis=0)) == len(vertices)


@pytest.mark.parametrize("resolution", [9, 33, 50, 100, 200])
def test_any_resolution(resolution):
    vertices, faces = extract_surface(sphere, resolution)
    assert accepted(vertices, faces)


@pytest.mark.parametrize("resolution", [0, 7, 513, -1])
def test_absurd_resolutions(resolution):
    with pytest.raises(CodecError, match=r"8\.\.512"):
        extract_surface(sphere, resolution)


def test_polygonise_of_one_corner():
    """One inside corner gives one triangle whose normal points away from it."""
    values = np.array([[-1.0, 1, 1, 1, 1, 1, 1, 1]])
    start, stop, at_start, at_stop, faces = polygonise(np.array([[2, 0, 1]]), values, 4)
    assert faces.shape == (1, 3)
    assert (at_start == -1).all()
    assert (at_stop == 1).all()
    corners = ((start + stop) / 2)[faces[0]]
    assert np.cross(corners[1] - corners[0], corners[2] - corners[0]).sum() > 0


@pytest.mark.parametrize("count", [4, 60, 1000])
def test_decimation_stays_closed(count):
    for field in (torus, balls, shell):
        vertices, faces = decimate(*extract_surface(field, 64), count)
        assert is_closed_manifold(faces)
        assert len(faces) in (count, count - 1) or len(faces) <= 16  # a part has at least four, a handle more
        assert faces.max() < len(vertices)


@pytest.mark.parametrize("count", [60, 1000])
def test_decimation_keeps_thin_parts(count):
    """A ball with a rod, which is thinner than the error of a rough ball would be."""

    def ball_with_rod(points):
        ball = np.linalg.norm(points - [-0.5, 0, 0], axis=1) - 0.4
        rod = np.maximum(np.abs(points[:, 1:]).max(1) - 0.03, np.abs(points[:, 0] - 0.3) - 0.6)
        return np.minimum(ball, rod)

    vertices, faces = extract_surface(ball_with_rod, 64)
    fewer, triangles = decimate(vertices, faces, count)
    assert is_closed_manifold(triangles)
    np.testing.assert_allclose(np.abs(ball_with_rod(fewer)).max(), 0, atol=0.03)
    np.testing.assert_allclose([fewer.min(0)[0], fewer.max(0)[0]], [-0.9, 0.9], atol=0.02)


def test_decimation_of_what_is_small_enough():
    mesh = trimesh.creation.box()
    vertices, faces = decimate(mesh.vertices, mesh.faces, 12)
    np.testing.assert_array_equal(faces, mesh.faces)
    np.testing.assert_array_equal(vertices, mesh.vertices)
    with pytest.raises(CodecError, match="at least 4"):
        decimate(mesh.vertices, mesh.faces, 3)


def test_closed_manifold_faces():
    faces = np.asarray(trimesh.creation.icosphere(1).faces)
    assert is_closed_manifold(faces)
    assert not is_closed_manifold(faces[1:])
    assert not is_closed_manifold(np.concatenate([faces, faces[:1]]))
    assert not is_closed_manifold(np.concatenate([faces[:1, ::-1], faces[1:]]))
    assert not is_closed_manifold(faces[:0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Bird_m38", "Chess_D01019", "Insect_D00989"])
def test_real_meshes_equal_the_dense_grid(shared_data, name):
    """Only parts smaller than a coarse cell may be missing."""
    solid = Solid(canonical_mesh(*load_mesh(shared_data / "meshes_dev" / f"{name}.ply")[:2]))
    vertices, _ = extract_surface(solid.signed_distance, 64)
    dense_vertices, dense_faces = extract_surface(solid.signed_distance, 64, coarse=64)
    dense = trimesh.Trimesh(dense_vertices, dense_faces, process=False)
    for part in dense.split():
        found = (np.abs(vertices - part.vertices[0]).sum(1) < 1e-12).any()
        assert found or part.extents.max() < 2 * HALF_DOMAIN / 32
    assert len(vertices) <= len(dense_vertices)


def test_levels_of_a_remembered_field_equal_separate_extractions_and_ask_less_of_it():
    asked = []

    def counted(points):
        asked.append(len(points))
        return torus(points)

    remembered = GridField(counted)
    for iso in (0.0, 0.02, 0.01, -0.03):
        before = sum(asked)
        vertices, faces = extract_surface(remembered, resolution=64, iso=iso)
        shared = sum(asked) - before
        expected, expected_faces = extract_surface(counted, resolution=64, iso=iso)
        assert np.array_equal(vertices, expected)
        assert np.array_equal(faces, expected_faces)
        assert shared <= (sum(asked) - before) / 2 if iso == 0.0 else shared < (sum(asked) - before) / 4
