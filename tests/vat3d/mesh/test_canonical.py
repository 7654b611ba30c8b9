"""The canonical form: independent of order, units and place; what it reports is what was done."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from vat3d.errors import MeshError
from vat3d.mesh.canonical import MERGE_STEP, canonical_mesh
from vat3d.mesh.triangles import face_areas_normals, signed_volumes


def arrays(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64)


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    return float(signed_volumes(vertices, faces, np.zeros(len(faces), np.int64))[0])


BOX, SPHERE, TORUS = (
    arrays(trimesh.creation.box((2, 1, 0.5))),
    arrays(trimesh.creation.icosphere(subdivisions=2)),
    arrays(trimesh.creation.torus(1, 0.3, 16, 9)),
)


def join(*parts: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    offsets = np.cumsum([0] + [len(v) for v, _ in parts])
    faces = [f + start for (_, f), start in zip(parts, offsets, strict=False)]
    return np.concatenate([v for v, _ in parts]), np.concatenate(faces)


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_vertices_and_faces_gives_the_same_bits(seed):
    rng = np.random.default_rng(seed)
    vertices, faces = join(SPHERE, (BOX[0] * 0.7 + [3, 0, 0], BOX[1]), (TORUS[0] + [0, 0, 2], TORUS[1][5:]))
    vertices = np.concatenate(
        [vertices, vertices[:20] + 1e-9, rng.normal(size=(4, 3))]
    )  # near-duplicates, unreferenced
    first = canonical_mesh(vertices, faces)
    order, rows, turn = rng.permutation(len(vertices)), rng.permutation(len(faces)), rng.integers(3, size=len(faces))
    place = np.argsort(order)
    shuffled = place[faces[rows]]
    shuffled = np.stack([shuffled[np.arange(len(rows)), (turn + k) % 3] for k in range(3)], 1)
    second = canonical_mesh(vertices[order], shuffled)
    assert first.vertices.tobytes() == second.vertices.tobytes()
    assert first.faces.tobytes() == second.faces.tobytes()
    assert first.component.tobytes() == second.component.tobytes()
    assert (first.centre == second.centre).all()
    assert first.half_side == second.half_side
    assert first.report == second.report


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_frame_is_centred_has_longest_half_side_one_and_leads_back(scale, shift):
    vertices = TORUS[0] * scale + shift * scale * np.array([1, -2, 3])
    mesh = canonical_mesh(vertices, TORUS[1])
    np.testing.assert_allclose(mesh.vertices.min(0), -mesh.vertices.max(0), atol=MERGE_STEP)
    assert np.abs(mesh.vertices).max() == 1
    back = mesh.vertices * mesh.half_side + mesh.centre
    given = vertices[np.lexsort(vertices.T[::-1])]
    distance = np.linalg.norm(given[:, None] - back[None], axis=2).min(1)
    assert distance.max() < 2 * MERGE_STEP * mesh.half_side
    assert mesh.report["merged_vertices"] == 0
    assert mesh.report["watertight"]


def test_huge_coordinates_do_not_overflow():
    mesh = canonical_mesh(np.array([[-1.5e308, 0, 0], [1.5e308, 0, 0], [0, 1.5e308, 0]]), np.array([[0, 1, 2]]))
    assert np.isfinite(mesh.vertices).all()
    assert np.abs(mesh.vertices).max() == 1


def test_unmerged_triangles_become_watertight():
    vertices, faces = BOX
    mesh = canonical_mesh(vertices[faces].reshape(-1, 3), np.arange(3 * len(faces)).reshape(-1, 3))
    assert mesh.report["merged_vertices"] == 3 * len(faces) - 8
    assert mesh.report["watertight"]
    assert (mesh.report["vertices"], mesh.report["faces"], mesh.report["open_edges"]) == (8, 12, 0)


def test_duplicate_faces_of_both_directions_are_dropped_and_the_rest_faces_outward():
    vertices, faces = SPHERE
    doubled = np.concatenate([faces, faces[:200, ::-1], faces[100:250]])
    mesh = canonical_mesh(vertices, doubled)
    assert mesh.report["duplicate_faces"] == 350
    assert mesh.report["watertight"]
    np.testing.assert_allclose(volume(mesh.vertices, mesh.faces), volume(vertices, faces), rtol=1e-4)


def test_faces_turned_at_random_are_turned_back():
    vertices, faces = TORUS
    turned = np.random.default_rng(0).random(len(faces)) < 0.3
    mesh = canonical_mesh(vertices, np.where(turned[:, None], faces[:, ::-1], faces))
    assert mesh.report["watertight"]
    assert mesh.report["flipped_faces"] == turned.sum()
    assert mesh.faces.tobytes() == canonical_mesh(vertices, faces).faces.tobytes()


def test_an_inside_out_mesh_is_turned_and_a_cavity_is_kept():
    vertices, faces = SPHERE
    assert volume(*_arrays(canonical_mesh(vertices, faces[:, ::-1]))) > 0
    hollow = join((vertices, faces), (vertices * 0.5, faces[:, ::-1]))
    np.testing.assert_allclose(volume(*_arrays(canonical_mesh(*hollow))), volume(vertices, faces) * 7 / 8, rtol=1e-4)
    beside = join((vertices, faces), (vertices * 0.5 + [3, 0, 0], faces[:, ::-1]))
    mesh = canonical_mesh(*beside)
    expected = volume(vertices, faces) * 9 / 8 / mesh.half_side**3
    np.testing.assert_allclose(volume(*_arrays(mesh)), expected, rtol=1e-4)


def _arrays(mesh):
    return mesh.vertices, mesh.faces


def test_report_counts():
    vertices, faces = BOX
    extra = np.array([[0, 0, 1], [2, 1, 1]])
    loose = np.concatenate([vertices, [[9, 9, 9]]])
    mesh = canonical_mesh(loose, np.concatenate([faces[1:], extra]))
    assert mesh.report == {
        "input_vertices": 9,
        "input_faces": 13,
        "unreferenced_vertices": 1,
        "merged_vertices": 0,
        "degenerate_faces": 2,
        "duplicate_faces": 0,
        "vertices": 8,
        "faces": 11,
        "open_edges": 3,
        "nonmanifold_edges": 0,
        "components": 1,
        "flipped_faces": 0,
        "watertight": False,
    }


def test_areas_and_normals():
    area, normal = face_areas_normals(*BOX)
    np.testing.assert_allclose(area.sum(), 2 * (2 + 1 + 0.5))
    np.testing.assert_allclose(np.abs(normal).max(1), 1)


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (np.zeros((3, 3)), [[0, 1, 2]], "coincide"),
        (np.eye(3), np.zeros((0, 3), int), "no faces"),
        (np.eye(3), [[0, 1, 3]], "does not exist"),
        (np.eye(3), [[0, 1, -1]], "does not exist"),
        (np.eye(3) * [1, np.nan, 1], [[0, 1, 2]], "not finite"),
        (np.eye(3), [[0, 1, 1]], "degenerate"),
        (np.arange(3.0)[:, None] * [1, 1, 1], [[0, 1, 2]], "degenerate"),
        (np.eye(2), [[0, 1, 1]], "shape"),
        (np.eye(3), [[0.0, 1.0, 2.0]], "integers"),
    ],
)
def test_unusable_meshes(vertices, faces, message):
    with pytest.raises(MeshError, match=message):
        canonical_mesh(vertices, np.array(faces))
