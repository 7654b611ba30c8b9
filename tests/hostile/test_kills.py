"""Every long command is killed at random moments: after the next run the result is as if it never was, nothing more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import load_file

from tests.hostile.jobs import command, make_inputs

JOBS = ("train", "prepare", "train tokenizer", "tune", "train generator", "encode", "embed")
KILLS = 8
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SAID = {signal.SIGTERM: (143, "terminated"), signal.SIGINT: (130, "interrupted")}
OWN_TIMES = {"minutes", "seconds", "seconds_used", "tuning_minutes"}


@pytest.fixture(scope="session")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, jobs: dict[str, list[str]]):
    """What a job gives that nobody kills, and how long it takes."""
    made: dict[str, tuple[Path, float]] = {}

    def of(name: str) -> tuple[Path, float]:
        if name not in made:
            out = output(tmp_path_factory.mktemp("whole"), name)
            start = time.monotonic()
            subprocess.run(command(*jobs[name], str(out)), check=True, capture_output=True)
            made[name] = out, time.monotonic() - start
        return made[name]

    return of


def output(folder: Path, name: str) -> Path:
    return folder / ("out.nc" if name == "embed" else "out")


def without_times(value: object) -> object:
    """JSON values without what a clock says."""
    if isinstance(value, dict):
        return {key: without_times(part) for key, part in value.items() if key not in OWN_TIMES}
    return [without_times(part) for part in value] if isinstance(value, list) else value


def content(path: Path) -> object:
    """What a file holds, but for times."""
    if path.suffix == ".nc":
        return xr.load_dataset(path, engine="h5netcdf").to_dict()
    if path.suffix == ".safetensors":
        return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in load_file(path).items()}
    if path.suffix == ".json":
        return without_times(json.loads(path.read_text()))
    if path.suffix == ".jsonl":
        return [without_times(json.loads(line)) for line in path.read_text().splitlines()]
    return path.read_bytes()


def contents(out: Path) -> dict[str, object]:
    """Everything beside and below an output."""
    files = sorted(path for path in out.parent.rglob("*") if path.is_file())
    return {path.relative_to(out.parent).as_posix(): content(path) for path in files}


def kill(arguments: list[str], number: signal.Signals, delay: float) -> None:
    """Start a job and send a signal; check that it says what it should, if it was still running."""
    child = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(delay)
    child.send_signal(number)
    _, said = child.communicate(timeout=120)
    assert "Traceback" not in said
    if number in SAID and child.returncode not in (0, -number):  # -number: before Python ran any code of ours
        status, line = SAID[number]
        assert (child.returncode, said.splitlines()[-1].rpartition(": ")[2]) == (status, line), said


@pytest.mark.parametrize(
    ("name", "kills"),
    [
        *((name, 1) for name in JOBS if name != "train generator"),
        *(pytest.param(name, KILLS, marks=pytest.mark.slow) for name in JOBS),
    ],
)
def test_killed_at_random_moments(name, kills, jobs, whole, tmp_path):
    expected, seconds = whole(name)
    arguments = [*jobs[name], str(output(tmp_path, name))]
    rng = np.random.default_rng([kills, JOBS.index(name)])
    for turn in range(kills):
        kill(arguments, SIGNALS[(turn + JOBS.index(name)) % 3], seconds * rng.uniform(0.4 if kills == 1 else 0.05, 1))
    subprocess.run(command(*arguments), check=True, capture_output=True)
    assert contents(output(tmp_path, name)) == contents(expected)


@pytest.mark.parametrize("number", SAID)
@pytest.mark.parametrize("delay", [0.3, *(pytest.param(delay, marks=pytest.mark.slow) for delay in (0, 0.1, 0.6, 1.5))])
@pytest.mark.parametrize("name", ["vat3d", "braincl"])
def test_the_first_seconds_end_with_one_line_too(name, delay, number, jobs, tmp_path):
    """As installed, during imports: the signal comes when the handler is known to be there."""
    arguments = jobs["train" if name == "braincl" else "train tokenizer"][1:]
    child = subprocess.Popen(
        [sys.executable, "-m", name, *arguments, str(tmp_path / "out")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not catches_sigterm(child.pid):
        assert child.poll() is None
    time.sleep(delay)
    child.send_signal(number)
    out, said = child.communicate(timeout=120)
    status, line = SAID[number]
    assert (child.returncode, out, said) == (status, "", f"{name}: {line}\n")


def catches_sigterm(process: int) -> bool:
    """Whether a process has a handler of its own for SIGTERM, which Python itself does not."""
    if not os.path.exists("/proc/self/status"):
        pytest.skip("there is no /proc that tells which signals a process catches")
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return False
    caught = int(next((line.split()[1] for line in lines if line.startswith("SigCgt")), "0"), 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)
