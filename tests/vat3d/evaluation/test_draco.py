"""The baseline that every figure is compared with: real Draco files, within their budgets, as good as they can be."""

import base64
import json

import numpy as np
import pytest
import trimesh

from vat3d.errors import MeshError
from vat3d.evaluation.collapse import Collapses
from vat3d.evaluation.draco import _clustered, _encoded, best_at_budgets, draco_mesh, drop_components
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.compare import evaluate


@pytest.fixture(scope="module")
def capsule():
    return trimesh.creation.capsule(height=2.0, radius=0.3, count=(16, 16))


@pytest.fixture(scope="module")
def best(capsule):
    return best_at_budgets(capsule, (60, 250, 1000), cache=None)


def test_files_fit_and_quality_grows(best):
    assert best[60] is None or best[60]["bytes"] <= 60
    assert best[250]["bytes"] <= 250
    assert best[1000]["bytes"] <= 1000
    assert 0.6 < best[250]["f_score@0.02"] <= best[1000]["f_score@0.02"]
    assert best[1000]["f_score@0.02"] > 0.98
    assert {"f_score@0.01", "chamfer_distance", "normal_consistency", "volume_iou", "watertight"} < set(best[250])


def test_beats_plain_decimation_at_one_setting(capsule, best):
    """The search contains this recipe, so it cannot be worse (up to the ranking on fewer samples)."""
    import DracoPy
    import fast_simplification

    mesh = canonical_mesh(np.asarray(capsule.vertices), np.asarray(capsule.faces))
    for count in (60, 70, 80):
        vertices, faces = fast_simplification.simplify(mesh.vertices, mesh.faces.astype(np.int32), target_count=count)
        data = DracoPy.encode(vertices.astype(np.float32), faces.astype(np.uint32), 7, compression_level=10)
        decoded = DracoPy.decode(data)
        back = (np.asarray(decoded.points, float) * mesh.half_side + mesh.centre, np.asarray(decoded.faces, int))
        if len(data) <= 250:
            assert best[250]["f_score@0.02"] >= evaluate(capsule, back)["f_score@0.02"] - 0.01


def test_results_are_kept_by_geometry(capsule, best, tmp_path):
    first = best_at_budgets(capsule, (250,), tmp_path)
    assert first[250]["f_score@0.02"] == pytest.approx(best[250]["f_score@0.02"], abs=0.02)
    (file,) = tmp_path.iterdir()
    stored = json.loads(file.read_text())
    stored["budgets"]["250"]["method"] = "from the cache"
    file.write_text(json.dumps(stored))
    order = np.random.default_rng(0).permutation(len(capsule.faces))
    again = best_at_budgets((capsule.vertices * 3 + 5, capsule.faces[order]), (250,), tmp_path)
    assert again[250]["method"] == "from the cache"


def test_the_mesh_behind_a_result_has_its_score(capsule, best):
    moved = (np.asarray(capsule.vertices) * 3 + 5, np.asarray(capsule.faces))
    vertices, faces = draco_mesh(moved, best[250])
    assert len(faces) == best[250]["faces"]
    assert len(base64.b64decode(best[250]["file"])) == best[250]["bytes"]
    assert evaluate(moved, (vertices, faces))["f_score@0.02"] == pytest.approx(best[250]["f_score@0.02"], abs=1e-3)


def test_the_smallest_of_four_levels_is_taken(capsule):
    import DracoPy

    winners = set()
    for mesh in (trimesh.creation.box(), trimesh.creation.icosphere(2), capsule):
        points, faces = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32)
        sizes = [len(DracoPy.encode(points, faces, 7, compression_level=level)) for level in (1, 3, 7, 10)]
        (candidate,) = _encoded(points, faces, "none", {7}, 10_000)
        assert len(candidate.data) == min(sizes)
        assert len(candidate.decoded()[1]) == len(faces)
        winners.add(sizes.index(min(sizes)))
    assert len(winners) > 1  # no level is always the smallest


def test_small_components_are_dropped_first():
    balls = [
        trimesh.creation.icosphere(1, radius).apply_translation([x, 0, 0]) for x, radius in ((0, 1), (3, 0.5), (5, 0.1))
    ]
    both = trimesh.util.concatenate(balls)
    mesh = canonical_mesh(np.asarray(both.vertices), np.asarray(both.faces))
    assert [len(drop_components(mesh, kept)[1]) for kept in (1.0, 0.95, 0.7)] == [240, 160, 80]


def test_clustering_merges_cells():
    mesh = trimesh.creation.icosphere(4)
    vertices, faces = _clustered(np.asarray(mesh.vertices), np.asarray(mesh.faces), 8)
    assert len(np.unique(faces)) == len(vertices) < 8**3
    assert (np.abs(np.linalg.norm(vertices, axis=1) - 1) < 0.1).all()
    assert (np.sort(faces, 1)[:, 1:] > np.sort(faces, 1)[:, :-1]).all()


def test_meshes_that_cannot_be_used():
    with pytest.raises(MeshError):
        best_at_budgets((np.zeros((3, 3)), np.array([[0, 1, 2]])), (256,), None)


def test_collapses_join_small_parts_that_decimation_cannot(monkeypatch):
    """Sixty cubes in a lattice: no edge may be lost without a hole in one of them."""
    cubes = [
        trimesh.creation.box((0.1, 0.1, 0.1), transform=trimesh.transformations.translation_matrix(0.12 * np.array(at)))
        for at in np.ndindex(3, 4, 5)
    ]
    mesh = trimesh.util.concatenate(cubes)
    found = best_at_budgets(mesh, (256,), cache=None)[256]
    monkeypatch.setattr("vat3d.evaluation.draco._collapsed", lambda *_: iter(()))
    without = best_at_budgets(mesh, (256,), cache=None)[256]
    assert found["method"].startswith("collapses")
    assert found["f_score@0.02"] > without["f_score@0.02"]


def test_the_order_of_collapses_does_not_depend_on_how_a_processor_rounds(monkeypatch):
    mesh = trimesh.creation.icosphere(2)  # of many equal edges
    vertices, faces = mesh.vertices * (0.5, 0.7, 0.9), np.asarray(mesh.faces)
    expected, solve, rng = Collapses(vertices, faces), np.linalg.solve, np.random.default_rng(0)

    def rounded_otherwise(matrix, vector):
        found = solve(matrix, vector)
        return found * (1 + 1e-14 * rng.standard_normal(found.shape))

    monkeypatch.setattr("numpy.linalg.solve", rounded_otherwise)
    found = Collapses(vertices, faces)
    assert (found.kept, found.gone) == (expected.kept, expected.gone)
