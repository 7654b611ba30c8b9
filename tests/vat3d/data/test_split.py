"""One split of all meshes: a rule by names, the file that lists it, data sets that keep it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest
import trimesh

from vat3d.data import split as split_module
from vat3d.data.corpus import PACKAGES
from vat3d.data.dataset import Dataset
from vat3d.data.items import MeshItem
from vat3d.data.object_names import clean_name, object_name, pack_name
from vat3d.data.prepare import mesh_items, prepare
from vat3d.data.split import ALWAYS_TRAIN, PROCEDURAL, group_split, listed_split, read_split, split_rows
from vat3d.errors import DatasetError
from vat3d.mesh.canonical import canonical_mesh, geometry_hash
from vat3d.procedural.open_shapes import KINDS
from vat3d.procedural.shapes import FAMILIES, shape

SPLITS = ("train", "validation", "test")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("pybullet_data/random_urdfs/017/017.obj", "random 017"),
        ("a/objects/meshes/milk.stl", "milk"),
        ("a/panda/obj_meshes/link6_vis/link6_vis_3.obj", "panda"),
        ("a/hand/visual/left_thumb_2_collision.STL", "thumb"),
        ("a/hand/visual/Right_Thumb.obj", "thumb"),
        ("a/kuka_iiwa/meshes/link_3.stl", "iiwa"),
        ("a/coffeemachine/body2.stl", "coffeemachine"),
        ("visual/3.obj", "3"),
    ],
)
def test_names_of_files(path, name):
    assert object_name(path) == name


@pytest.mark.parametrize(
    ("variants", "name"),
    [
        (("Couch_Small2", "Couch_L", "Couch_Large1"), "couch"),
        (("BirchTree_1", "BirchTree_Dead_Snow_2"), "birch tree"),
        (("Farm_FirstAge_Level1", "Farm_SecondAge_Level3_Wheat", "Farm_Dirt_Level2"), "farm"),
        (("BushBerries_2", "Bush_Snow_1", "Bush1"), "bush"),
        (("Logs", "WoodLog_Moss"), "log"),
        (("Bathroom_Mirror1",), "mirror"),
        (("LargeSimpleTower", "Simpletower", "SmallSquareTowerBricks"), "tower"),
        (("Kitchen_1Drawers", "Drawer_4"), "drawer"),
        (("Boat", "BoatWSail"), "boat"),
        (("1Story_GableRoof_Mat", "2Story_Mat"), "story"),
        (("Details_X",), "details x"),
    ],
)
def test_variants_of_a_model_have_one_name(variants, name):
    assert {pack_name(variant) for variant in variants} == {name}


def test_a_name_is_clean_already_when_it_is_cleaned():
    for row in read_split():
        if not row.group.startswith("random"):
            assert clean_name(row.group) in (row.group, "")


def test_every_tenth_name_is_for_the_test():
    names = [f"object {number}" for number in range(20_000)]
    shares = {split: sum(group_split(name) == split for name in names) / len(names) for split in SPLITS}
    assert shares["test"] == pytest.approx(0.1, abs=0.007)
    assert shares["validation"] == pytest.approx(0.06, abs=0.006)
    assert {group_split(name) for name in ALWAYS_TRAIN} == {"train"}
    assert group_split("coffee machine") == group_split("coffeemachine")


def test_meshes_of_one_geometry_go_with_the_first():
    assert (group_split("boat"), group_split("chair")) == ("test", "train")
    rows = split_rows([("a", "1", "chair", "00"), ("a", "2", "boat", "01"), ("b", "3", "boat", "00")])
    assert [(row.group, row.split) for row in rows] == [("chair", "train"), ("boat", "test"), ("chair", "train")]


def test_the_file_is_what_the_rule_makes():
    rows = read_split()
    assert list(rows) == split_rows((row.source, row.name, row.group, row.geometry) for row in rows)
    by_group, by_geometry = defaultdict(set), defaultdict(set)
    for row in rows:
        by_group[row.group].add(row.split)
        by_geometry[row.geometry or row.name].add(row.split)
    assert {len(splits) for splits in by_group.values()} == {len(splits) for splits in by_geometry.values()} == {1}
    share = sum(splits == {"test"} for splits in by_group.values()) / len(by_group)
    assert share == pytest.approx(0.1, abs=0.01)
    assert len({(row.source, row.name) for row in rows}) == len(rows)


def test_the_file_lists_every_source():
    names = defaultdict(set)
    for row in read_split():
        names[row.source].add(row.name)
    assert list(names) == [*(package.name for package in PACKAGES), "quaternius", *PROCEDURAL]
    assert [names[source] for source in PROCEDURAL] == [set(FAMILIES), set(KINDS)]
    for package in PACKAGES:
        assert len(names[package.name]) > 40
        assert all(name.startswith(f"{package.name}/") for name in names[package.name])


def test_the_file_lists_every_model_of_quaternius(shared_data: Path):
    index = shared_data / "meshes_quaternius" / "index.csv"
    if not index.exists():
        pytest.skip("meshes_quaternius is not here")
    models = {tuple(line.split(",")[:2]) for line in index.read_text().splitlines()[1:]}
    listed = {tuple(row.name.split("/")[1:]) for row in read_split() if row.source == "quaternius"}
    assert listed == models


@pytest.fixture
def meshes(tmp_path, monkeypatch) -> Path:
    """Three boxes, of which the split lists one for the test, one for validation, one not at all."""
    folder, listed = tmp_path / "meshes", {}
    folder.mkdir()
    for name, width in (("test", 1.1), ("validation", 1.2), ("unlisted", 1.3)):
        box = trimesh.creation.box((2, width, 0.5))
        box.export(folder / f"{name}.ply")
        listed[geometry_hash(canonical_mesh(box.vertices, box.faces))] = name
    listed = {geometry: name for geometry, name in listed.items() if name != "unlisted"}
    monkeypatch.setattr(split_module, "_listed", lambda: (listed, {("procedural", shape(5)[2]): "test"}))
    return folder


def test_data_sets_keep_the_split(meshes, tmp_path, monkeypatch):
    from vat3d.data import prepare as prepare_module
    from vat3d.data.worker import sample_item

    monkeypatch.setattr(
        prepare_module, "sample_in_child", lambda item, seed, out, seconds: sample_item(item, seed, Path(out))
    )
    items = [*mesh_items([meshes]), MeshItem("procedural/5", "procedural", "", "5", seed=5)]
    counts = prepare(items, tmp_path / "data", validation=0.0, progress=False)
    assert (counts["meshes"], counts["validation"], counts["test"], counts["failures"]) == (2, 1, 2, 0)
    data = Dataset(tmp_path / "data")
    assert {line["group"]: line["split"] for line in data.index} == {"validation": "validation", "unlisted": "train"}
    assert len(data.split("train")) == len(data.split("validation")) == 1


@pytest.mark.parametrize("listed", ["test", "validation"])
def test_a_data_set_that_breaks_the_split_is_refused(meshes, tmp_path, monkeypatch, listed):
    with monkeypatch.context() as patch:
        patch.setattr(split_module, "_listed", lambda: ({}, {}))
        prepare(mesh_items([meshes / f"{listed}.ply"]), tmp_path / "data", validation=0.0, progress=False)
        line = json.loads((tmp_path / "data" / "index.jsonl").read_text())
        assert line["split"] == "train"
        Dataset(tmp_path / "data")
    if listed == "validation":
        monkeypatch.setattr(split_module, "_listed", lambda: ({line["geometry"]: "validation"}, {}))
    with pytest.raises(DatasetError, match=f"{listed}.ply for train, which the split of all meshes lists for {listed}"):
        Dataset(tmp_path / "data")


def test_families_of_procedural_shapes_are_listed():
    tested = {row.name for row in read_split() if row.source == "procedural" and row.split == "test"}
    assert tested
    for family in FAMILIES:
        assert listed_split("", "procedural", family) == ("test" if family in tested else None)
