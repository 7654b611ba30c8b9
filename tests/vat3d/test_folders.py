"""The files of a folder are the same whoever makes them."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import trimesh
from make_tiny_model import DATA

from vat3d.cli.main import main

COUNT = 4
OPTIONS = ["--model", str(DATA / "tiny"), "--effort", "fast", "--max-bytes", "120", "--precision", "float32"]


@pytest.fixture(scope="module")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("meshes")
    for number in range(COUNT):
        trimesh.creation.box((1, 2, 2 + number)).export(folder / f"box{number}.ply")
    (folder / "broken.stl").write_bytes(b"solid")
    return folder


@pytest.fixture(scope="module")
def tokens(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokens")
    assert main(["encode", str(meshes), str(out), *OPTIONS]) == 1
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_processes(meshes: Path, tokens: Path, tmp_path: Path) -> None:
    assert main(["encode", str(meshes), str(tmp_path / "out"), *OPTIONS, "--jobs", "2"]) == 1
    assert len(contents(tokens)) == COUNT
    assert contents(tmp_path / "out") == contents(tokens)


def test_shards(meshes: Path, tokens: Path, tmp_path: Path) -> None:
    statuses = [main(["encode", str(meshes), str(tmp_path), *OPTIONS, "--shard", f"{part}/2"]) for part in (1, 2)]
    assert sorted(statuses) == [0, 1]  # one of them met the broken file
    assert contents(tmp_path) == contents(tokens)


def test_decoding_a_folder(tokens: Path, tmp_path: Path) -> None:
    options = ["--model", str(DATA / "tiny"), "--resolution", "32"]
    assert main(["decode", str(tokens), str(tmp_path / "one"), "--format", "stl", *options]) == 0
    assert main(["decode", str(tokens), str(tmp_path / "two"), "--format", "stl", *options, "--jobs", "2"]) == 0
    assert sorted(contents(tmp_path / "one")) == [f"box{number}.stl" for number in range(COUNT)]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert main(["decode", str(tokens / "box1.vat"), str(tmp_path / "alone.stl"), *options]) == 0
    assert (tmp_path / "alone.stl").read_bytes() == contents(tmp_path / "one")["box1.stl"]


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_loses_nothing(meshes: Path, tokens: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        killed = []

        def kill_when_begun() -> None:
            while len(list(tmp_path.glob("*.vat"))) < 2:
                time.sleep(0.02)
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_when_begun, daemon=True)
        killer.start()
        assert main(["encode", str(meshes), str(tmp_path), *OPTIONS, "--dask", cluster.scheduler_address]) == 1
        assert killed
    assert contents(tmp_path) == contents(tokens)
