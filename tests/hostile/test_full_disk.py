"""A disk that is full: every kind of output fails with one line and status 2, and what was there stays."""

from __future__ import annotations

import importlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trimesh
from standin import save_small_model
from synthetic import make_responses, with_grid

import braincl
from tests.hostile.jobs import ENCODE, command, make_inputs

SIZE = "64k"


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path_factory.mktemp("disk")
    if shutil.which("mount") is None:
        pytest.skip("there is no command `mount`")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if (told := subprocess.run(mount, capture_output=True, text=True)).returncode:
        pytest.skip(f"mounting a small file system is not allowed here: {told.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def disk(mounted: Path) -> Path:
    """The same, empty."""
    for path in mounted.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return mounted


def fill(disk: Path) -> None:
    with open(disk / "ballast", "wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return make_inputs(tmp_path_factory.mktemp("jobs"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    for seed in (1, 2):
        braincl.save_responses(with_grid(make_responses(seed=seed)), folder / f"s{seed}.nc")
    save_small_model(folder / "model")
    trimesh.creation.icosphere(4).export(folder / "ball.ply")
    (folder / "meshes").mkdir()
    for number in range(2):
        trimesh.creation.box((1, 2, 3 + number)).export(folder / "meshes" / f"box{number}.ply")
    assert run("vat3d", "encode", *ENCODE, folder / "ball.ply", folder / "ball.vat") == 0
    return folder


def run(program: str, *arguments: object) -> int:
    status: int = importlib.import_module(f"{program}.cli.main").main([str(part) for part in arguments])
    return status


def fails(capsys: pytest.CaptureFixture[str], program: str, *arguments: object) -> str:
    capsys.readouterr()
    assert run(program, *arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "No space left" in said
    return said


MODEL, SUBJECT, OTHER = ("--model", "INPUTS/model"), "INPUTS/s1.nc", "INPUTS/s2.nc"
FILES = {
    "responses": ("x.nc", "braincl", "join", SUBJECT, SUBJECT, "--out", "OUT"),
    "predictions": ("x.nc", "braincl", "predict", *MODEL, "--context", SUBJECT, "--images", OTHER, "--out", "OUT"),
    "NIfTI": (
        "x.nii.gz", "braincl", "predict", *MODEL, "--context", SUBJECT, "--images", OTHER, "--out", "INPUTS/p.nc",
        "--nifti", "OUT",
    ),
    "report": ("x.json", "braincl", "evaluate", *MODEL, SUBJECT, "--contexts", "5", "--draws", "2", "--json", "OUT"),
    "selection": ("x.csv", "braincl", "select", *MODEL, SUBJECT, "--count", "3", "--out", "OUT"),
    "tokens": ("x.vat", "vat3d", "encode", *ENCODE, "INPUTS/ball.ply", "OUT"),
    **{
        suffix: (f"x.{suffix}", "vat3d", "decode", "--resolution", "48", *ENCODE[-2:], "INPUTS/ball.vat", "OUT")
        for suffix in ("obj", "ply", "stl", "glb")
    },
    "generated tokens": ("x.vat", "vat3d", "generate", "OUT"),
    "bench": (
        "x.json", "vat3d", "bench", "INPUTS/meshes", "--budgets", "120", "--effort", "fast", *ENCODE[-2:], "--json",
        "OUT",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_there_stays(name, inputs, disk, capsys, monkeypatch):
    monkeypatch.setattr("vat3d.evaluation.bench.best_at_budgets", lambda *_: {})
    out, program, *arguments = FILES[name]
    (disk / out).write_bytes(b"old")
    fill(disk)
    before = sorted(path.name for path in disk.iterdir())
    said = fails(capsys, program, *(a.replace("INPUTS", str(inputs)) if a != "OUT" else disk / out for a in arguments))
    assert str(disk / out).removesuffix(".json") in said
    assert (disk / out).read_bytes() == b"old"
    left = {path.name for path in disk.iterdir()} - set(before)
    assert left <= {"x.json.partial.jsonl"}  # from which `bench` goes on


FOLDERS = {
    "simulate": ("braincl", "simulate", SUBJECT, "--subjects", "2", "--voxels", "9", "--out", "OUT"),
    "encode": ("vat3d", "encode", *ENCODE, "INPUTS/meshes", "OUT"),
    "prepare": ("vat3d", "prepare", "INPUTS/meshes", "--out", "OUT"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_what_a_folder_lacks_is_made_when_there_is_room(name, inputs, disk, tmp_path, capsys):
    """No mesh is left out for good because the disk was full; `prepare` needs more than this disk has."""
    program, *given = FOLDERS[name]
    arguments = [a.replace("INPUTS", str(inputs)) for a in given]
    out = disk / "out"
    out.mkdir()
    fill(disk)
    assert str(out) in fails(capsys, program, *(out if a == "OUT" else a for a in arguments))
    (disk / "ballast").unlink()
    if name == "prepare":
        assert str(out) in fails(capsys, program, *(out if a == "OUT" else a for a in arguments))
        out = Path(shutil.copytree(out, tmp_path / "out"))
        assert not (out / "failures.jsonl").exists()
    assert run(program, *(out if a == "OUT" else a for a in arguments)) == 0
    assert run(program, *(tmp_path / "whole" if a == "OUT" else a for a in arguments)) == 0
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file():
            assert (out / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", ["train", "train tokenizer", "tune", "train generator", "embed"])
def test_long_jobs_stop_with_one_line(name, jobs, disk):
    out = disk / ("out.nc" if name == "embed" else "out")
    fill(disk)
    child = subprocess.run(command(*jobs[name], str(out)), capture_output=True, text=True)
    assert (child.returncode, child.stdout) == (2, "")
    said = [line for line in child.stderr.splitlines() if not line.startswith("vat3d: training takes ")]
    assert len(said) == 1
    assert "No space left" in child.stderr
    assert str(out) in child.stderr


def test_a_response_set_is_refused_by_an_error_that_names_it(disk):
    fill(disk)
    with pytest.raises(OSError, match=r"No space left on device: .*x\.nc"):
        braincl.save_responses(make_responses(), disk / "x.nc")
    assert {path.name for path in disk.iterdir()} == {"ballast"}
