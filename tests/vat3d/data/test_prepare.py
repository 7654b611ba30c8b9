"""Data sets: interrupted at any point they end as if never interrupted; what is read is what was written."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from setcore.errors import InputError
from setcore.files import locked_folder
from setcore.parallel.jobs import Parallel
from vat3d.data import prepare as prepare_module
from vat3d.data.dataset import Dataset
from vat3d.data.items import MeshItem
from vat3d.data.prepare import mesh_items, prepare
from vat3d.data.split import split_share
from vat3d.data.worker import Worker, sample_in_child, sample_item
from vat3d.errors import DatasetError, MeshError

COUNT = 8


class InProcess:
    """Samples without a child process; stops the run at mesh number `stop` as a kill would."""

    stop: int | None = None
    done = 0

    @classmethod
    def sample(cls, item: MeshItem, seed: int, out: str, seconds: float) -> dict:
        if cls.done == cls.stop:
            raise KeyboardInterrupt
        cls.done += 1
        return sample_item(item, seed, Path(out))


@pytest.fixture
def meshes(tmp_path) -> Path:
    folder = tmp_path / "meshes"
    (folder / "inner").mkdir(parents=True)
    for k in range(COUNT):
        box = trimesh.creation.box((2, 1 + k / 10, 0.5))
        box.export(folder / ("inner" if k % 2 else "") / f"box{k}.ply")
    (folder / "box2copy.obj").write_text(trimesh.creation.box((4, 2.4, 1.0)).export(file_type="obj"))
    (folder / "broken.stl").write_bytes(b"solid")
    (folder / "sheet.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    (folder / "notes.txt").write_text("no mesh")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(prepare_module, "SHARD", 3)
    monkeypatch.setattr(prepare_module, "sample_in_child", InProcess.sample)
    monkeypatch.setattr(InProcess, "stop", None)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def make(meshes: Path, out: Path, **options) -> dict[str, int]:
    InProcess.done = 0
    return prepare(mesh_items([meshes]), out, progress=False, **options)


def test_what_a_data_set_holds(meshes, tmp_path):
    summary = make(meshes, tmp_path / "data", validation=0.5)
    data = Dataset(tmp_path / "data")
    assert summary["meshes"] == len(data) == COUNT + 1
    assert (summary["closed"], summary["failures"], summary["duplicates"]) == (COUNT, 1, 1)
    lines = [json.loads(line) for line in (tmp_path / "data" / "failures.jsonl").read_text().splitlines()]
    assert {line["name"]: line["kind"] for line in lines} == {
        "meshes/broken.stl": "failure",
        "meshes/box2copy.obj": "duplicate",
    }
    train, validation = data.split("train"), data.split("validation")
    assert sorted([*train, *validation]) == list(range(len(data)))
    for i in validation:
        assert split_share(data.index[i]["group"]) < 0.5
    sheet = next(i for i, line in enumerate(data.index) if line["group"] == "sheet")
    assert not data.index[sheet]["closed"]
    assert sheet not in data.split("train", closed_only=True)
    batch = data.batch([sheet, 0, 4])
    assert {k: (v.shape, v.dtype) for k, v in batch.items()} == {
        "surface": (torch.Size([3, 8192, 6]), torch.float16),
        "near": (torch.Size([3, 8192, 4]), torch.float16),
        "volume": (torch.Size([3, 8192, 4]), torch.float16),
    }
    side = 1 + int(data.index[4]["group"][3:]) / 10
    half = np.array([1, side / 2, 0.25])
    points = batch["volume"][2].double().numpy()
    q = np.abs(points[:, :3]) - half
    distance = np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)
    np.testing.assert_allclose(points[:, 3], distance, atol=2e-3)


@pytest.mark.parametrize("stop", [0, 2, 4, 6, 9])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(meshes, tmp_path, monkeypatch, stop):
    make(meshes, tmp_path / "whole")
    monkeypatch.setattr(InProcess, "stop", stop)
    with pytest.raises(KeyboardInterrupt):
        make(meshes, tmp_path / "killed")
    monkeypatch.setattr(InProcess, "stop", None)
    make(meshes, tmp_path / "killed")
    assert InProcess.done == COUNT + 3 - stop
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    make(meshes, tmp_path / "killed")
    assert InProcess.done == 0


def test_two_processes_make_the_same_data_set(meshes, tmp_path, monkeypatch):
    make(meshes, tmp_path / "one")
    monkeypatch.setattr(prepare_module, "sample_in_child", sample_in_child)
    make(meshes, tmp_path / "two", parallel=Parallel(jobs=2))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_shards_hold_every_mesh_once(meshes, tmp_path):
    make(meshes, tmp_path / "whole")
    for part in (1, 2, 3):
        make(meshes, tmp_path / f"part{part}", parallel=Parallel(shard=(part, 3)))
    names = [{line["name"]: line["geometry"] for line in Dataset(tmp_path / f"part{part}").index} for part in (1, 2, 3)]
    whole = {line["name"]: line["geometry"] for line in Dataset(tmp_path / "whole").index}
    assert whole.items() <= (names[0] | names[1] | names[2]).items()
    assert not names[0].keys() & names[1].keys()
    assert sum(map(len, names)) == len(whole) + 1  # the copy of a box that another shard holds is not known here


@pytest.mark.parametrize("step", ["before the shard", "while pending files are removed", "within a line"])
def test_killed_at_the_worst_moments(meshes, tmp_path, monkeypatch, step):
    make(meshes, tmp_path / "whole")
    out = tmp_path / "killed"
    if step == "within a line":
        monkeypatch.setattr(InProcess, "stop", 5)
        with pytest.raises(KeyboardInterrupt):
            make(meshes, out)
        with open(out / "index.jsonl", "r+b") as file:
            file.truncate(len(file.read()) - 7)
        with open(out / "failures.jsonl", "ab") as file:
            file.write(b'{"name": "mesh')
    else:
        write, unlink = prepare_module._Writer._write_shard, Path.unlink

        def killed_write(self, shard, rows):
            if step == "before the shard":
                raise KeyboardInterrupt
            write(self, shard, rows)

        def killed_unlink(self, missing_ok=False):
            if self.parent.name == "pending" and self.name.startswith("0000001"):
                raise KeyboardInterrupt
            unlink(self, missing_ok=missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(prepare_module._Writer, "_write_shard", killed_write)
            patch.setattr(Path, "unlink", killed_unlink)
            with pytest.raises(KeyboardInterrupt):
                make(meshes, out)
    monkeypatch.setattr(InProcess, "stop", None)
    make(meshes, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_more_meshes_extend_a_data_set(meshes, tmp_path):
    items = mesh_items([meshes])
    prepare(items[:5], tmp_path / "grown", progress=False)
    assert len(Dataset(tmp_path / "grown")) == 4
    prepare(items, tmp_path / "grown", progress=False)
    make(meshes, tmp_path / "whole")
    assert contents(tmp_path / "grown") == contents(tmp_path / "whole")


def test_a_growing_data_set_shows_its_whole_shards(meshes, tmp_path, monkeypatch):
    monkeypatch.setattr(InProcess, "stop", 6)
    with pytest.raises(KeyboardInterrupt):
        make(meshes, tmp_path / "data")
    data = Dataset(tmp_path / "data")
    assert len(data) == 3
    assert data.batch([2])["near"].shape == (1, 8192, 4)


def test_closed_only(meshes, tmp_path):
    assert make(meshes, tmp_path / "data", closed_only=True)["open"] == 1
    assert all(line["closed"] for line in Dataset(tmp_path / "data").index)


def test_even_odd_keeps_meshes_that_hide_parts_and_their_inner_walls(tmp_path):
    outer, inner = np.array([1, 0.75, 0.5]), np.array([0.4, 0.3, 0.2])
    nested = trimesh.creation.box(2 * outer) + trimesh.creation.box(2 * inner)
    nested.export(tmp_path / "nested.ply")
    trimesh.creation.box(2 * outer).export(tmp_path / "alone.ply")
    items = mesh_items([tmp_path / "alone.ply", tmp_path / "nested.ply"])
    assert prepare(items, tmp_path / "data", fill="even-odd", progress=False)["unchanged"] == 1
    with pytest.raises(DatasetError, match="prepared with"):
        prepare(items, tmp_path / "data", progress=False)
    data = Dataset(tmp_path / "data")
    assert [line["group"] for line in data.index] == ["nested"]
    batch = {kind: part[0].double().numpy() for kind, part in data.batch([0]).items()}

    def distance(half: np.ndarray) -> np.ndarray:
        q = np.abs(batch["volume"][:, :3]) - half
        return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(1), 0)

    np.testing.assert_allclose(batch["volume"][:, 3], np.maximum(distance(outer), -distance(inner)), atol=2e-3)
    on_inner = (np.abs(batch["surface"][:, :3]) < inner + 1e-2).all(1)
    assert on_inner.mean() == pytest.approx(0.16 / 1.16, abs=0.01)
    position, normal = batch["surface"][on_inner, :3], batch["surface"][on_inner, 3:]
    assert ((position * normal).sum(1) < 0).all()  # what is outside lies within


def test_refusals(meshes, tmp_path):
    out = tmp_path / "data"
    make(meshes, out)
    with pytest.raises(DatasetError, match="prepared with"):
        make(meshes, out, seed=1)
    with locked_folder(out), pytest.raises(InputError, match="in use"):
        make(meshes, out)
    with pytest.raises(DatasetError, match="no split"):
        Dataset(out).split("test")
    with pytest.raises(DatasetError, match="not a data set"):
        Dataset(meshes)
    with pytest.raises(DatasetError, match="does not exist"):
        mesh_items([tmp_path / "absent"])
    with pytest.raises(DatasetError, match="holds no mesh"):
        mesh_items([out / "pending"])
    (out / "shard-00000.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(DatasetError, match="damaged"):
        Dataset(out)


def test_the_child_process_samples_as_this_one_does_and_is_stopped_in_time(meshes, tmp_path, monkeypatch):
    item = mesh_items([meshes])[0]
    worker = Worker(60)
    try:
        facts = worker(item, 3, tmp_path / "child.safetensors")
        assert facts == sample_item(item, 3, tmp_path / "here.safetensors")
        assert (tmp_path / "child.safetensors").read_bytes() == (tmp_path / "here.safetensors").read_bytes()
        with pytest.raises(MeshError, match="neither"):
            worker(mesh_items([meshes / "broken.stl"])[0], 3, tmp_path / "no.safetensors")
        with pytest.raises(OSError, match=r"absent"):  # no fault of the mesh
            worker(item, 3, tmp_path / "absent" / "no.safetensors")
        assert worker._process is not None
        os.kill(worker._process.pid, signal.SIGKILL)  # while it waits: no mesh is to blame
        worker._process.wait()
        assert worker(item, 3, tmp_path / "after.safetensors") == facts
        worker.seconds = 0.0
        with pytest.raises(MeshError, match="took longer"):
            worker(item, 3, tmp_path / "late.safetensors")
        worker.seconds = 60.0
        assert worker(item, 3, tmp_path / "again.safetensors") == facts
    finally:
        worker.close()
