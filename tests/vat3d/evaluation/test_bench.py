"""The benchmark: arithmetic of its tables, resuming, and what is written."""

import json

import numpy as np
import pytest
import trimesh
from PIL import Image
from streams import CODES, token_model

from vat3d.bitstream.coordinate_frame import Frame
from vat3d.bitstream.stream import TokenStream
from vat3d.errors import CodecError, DatasetError
from vat3d.evaluation.bench import bench, summarise, table

BUDGETS = (40, 200)


class BoxTokenizer:
    """Codes nothing but the bounding box and decodes to it; refuses less than 40 bytes."""

    def __init__(self):
        self.model = token_model()
        self.calls = 0

    def encode(self, mesh, *, max_bytes, effort, seed):
        self.calls += 1
        vertices, _ = mesh
        frame = Frame.from_corners(vertices.min(0), vertices.max(0))
        ids = np.random.default_rng(seed).integers(0, CODES, 42)
        return TokenStream(self.model.split(ids), frame, self.model).fit(max_bytes if max_bytes > 40 else 0)

    def decode(self, stream, resolution):
        assert resolution == 128
        box = trimesh.creation.box(2 * stream.frame.aspect)
        return trimesh.Trimesh(stream.frame.to_mesh(box.vertices), box.faces, process=False)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """The baseline is the slow part; the tests of this file share its results."""
    return tmp_path_factory.mktemp("draco")


@pytest.fixture
def folder(tmp_path):
    meshes = tmp_path / "meshes"
    meshes.mkdir()
    trimesh.creation.box((1, 2, 3)).export(meshes / "box.ply")
    bowl = trimesh.creation.icosphere(2)
    bowl.update_faces(bowl.triangles_center[:, 2] < 0.3)
    bowl.remove_unreferenced_vertices()
    bowl.export(meshes / "bowl.ply")
    (meshes / "broken.obj").write_text("v 0 0 0\nf 1 2 3\n")
    (meshes / "notes.txt").write_text("not a mesh")
    return meshes


def test_bench(folder, tmp_path, cache):
    out, tokenizer = tmp_path / "out.json", BoxTokenizer()
    result = bench(folder, tokenizer, out, budgets=BUDGETS, effort="fast", draco_cache=cache)
    assert json.loads(out.read_text()) == result
    assert [record["file"] for record in result["failures"]] == ["broken.obj"]
    bowl, box = result["meshes"]
    assert (box["file"], box["closed"], bowl["closed"]) == ("box.ply", True, False)
    assert box["ours"]["40"] is None
    sizes = box["ours"]["200"]
    assert sizes["header"] + sizes["payload"] == sizes["bytes"] <= 200
    assert box["ours"]["200"]["volume_iou"] > 0.99
    assert box["ours"]["200"]["f_score@0.02"] == pytest.approx(box["ceiling"]["f_score@0.02"], abs=0.02)
    assert bowl["ceiling"]["f_score@0.005"] < bowl["ceiling"]["f_score@0.02"] <= 1
    assert box["draco"]["200"]["f_score@0.02"] > 0.8
    with Image.open(tmp_path / "out.png") as image:
        assert image.width > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meshes", "out.json", "out.png"]
    text = table(result)
    assert len(text.splitlines()) == 2 + 2 * 2 * 2
    assert "closed (1)" in text


def test_an_interrupted_run_goes_on(folder, tmp_path, cache):
    class Killed(BoxTokenizer):
        def encode(self, mesh, **options):
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().encode(mesh, **options)

    out, options = tmp_path / "out.json", {"budgets": BUDGETS, "draco_cache": cache}
    with pytest.raises(KeyboardInterrupt):
        bench(folder, Killed(), out, **options)
    assert not out.exists()
    partial = tmp_path / "out.json.partial.jsonl"
    with open(partial, "a") as file:
        file.write('{"file": "box.ply", "cei')  # as a kill leaves it
    tokenizer = BoxTokenizer()
    result = bench(folder, tokenizer, out, **options)
    assert tokenizer.calls == 2  # the second mesh only
    assert len(result["meshes"]) == 2
    assert not partial.exists()
    bench(folder, tokenizer, out, **options)
    assert tokenizer.calls == 6


def test_a_partial_run_with_other_settings_is_not_used(folder, tmp_path, cache):
    (tmp_path / "out.json.partial.jsonl").write_text('{"model_id": "other"}\n{"file": "box.ply", "error": "old"}\n')
    result = bench(folder, BoxTokenizer(), tmp_path / "out.json", budgets=[200], draco_cache=cache)
    assert len(result["meshes"]) == 2


def test_means_over_all_and_over_those_that_fit():
    def scores(f):
        return {
            "f_score@0.005": f / 4,
            "f_score@0.01": f / 2,
            "f_score@0.02": f,
            "chamfer_distance": 0.1,
            "normal_consistency": 0.9,
            "volume_iou": None,
        }

    ceiling = {"f_score@0.005": 0.3, "f_score@0.01": 0.5, "f_score@0.02": 0.8}
    meshes = [
        {"closed": True, "ceiling": ceiling, "ours": {"256": scores(0.4)}, "draco": {"256": None}},
        {"closed": False, "ceiling": ceiling, "ours": {"256": scores(0.8)}, "draco": {"256": scores(0.6)}},
    ]
    rows = {(row["set"], row["method"]): row for row in summarise(meshes, [256])}
    ours, draco, closed = rows["all", "ours"], rows["all", "draco"], rows["closed", "draco"]
    assert ours["f_score@0.02"] == pytest.approx(0.6)
    assert ours["f_score@0.02_share"] == pytest.approx(0.75)
    assert ours["fit"] == 2
    assert draco["f_score@0.02"] == pytest.approx(0.3)
    assert draco["f_score@0.02_fitting"] == pytest.approx(0.6)
    assert draco["fit"] == 1
    assert draco["volume_iou_fitting"] is None
    assert (closed["meshes"], closed["fit"], closed["f_score@0.02"]) == (1, 0, 0)
    assert closed["f_score@0.02_fitting"] is None


def test_folders_and_budgets_that_cannot_be_used(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for bad in (empty, tmp_path / "absent"):
        with pytest.raises(DatasetError):
            bench(bad, BoxTokenizer(), tmp_path / "out.json")
    with pytest.raises(CodecError, match="budgets"):
        bench(folder, BoxTokenizer(), tmp_path / "out.json", budgets=[0])
