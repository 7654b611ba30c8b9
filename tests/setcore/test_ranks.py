"""Several processes train as one does: the same losses and weights, whoever dies, and however many go on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_shapes import COMPONENTS, TRAIN, Toy

from setcore.checkpoint import load_tensors
from setcore.parallel.ranks import process_count, speaks
from setcore.training import LOG_FILE, STATE_FILE, Budget
from tests.rank_jobs import JOBS, STEPS
from vat3d.training.train import train

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def run(ranks: int, *arguments: object, ends: int = 0) -> str:
    """A job in so many processes; what it says on standard error."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m"] if ranks > 1 else []
    command = [sys.executable, "-m", *launcher, "tests.rank_jobs", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode == 0) == (ends == 0), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    config = dataclasses.replace(TRAIN, quantise_from=0.3, learning_rate=3e-3, report_every=1000)
    train([Toy()], out, COMPONENTS, config, Budget(steps=40), progress=False)
    return out


def losses(out: Path) -> torch.Tensor:
    lines = [json.loads(line) for line in (out / LOG_FILE).read_text().splitlines()]
    lines = [line for line in lines if line["step"]]  # meta-training reports before its first step, too
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return torch.tensor([line["loss"] for line in lines])


def assert_alike(one: Path, other: Path) -> None:
    """Losses of every step with the optimiser of users; with plain descent all that a checkpoint holds, too."""
    torch.testing.assert_close(losses(other / "adam"), losses(one / "adam"), rtol=1e-4, atol=0)
    torch.testing.assert_close(losses(other / "descent"), losses(one / "descent"), rtol=1e-4, atol=0)
    states = [load_tensors(out / "descent" / STATE_FILE) for out in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        # What the pool refines moves by Adam's steps, which are as large where a gradient is all rounding error.
        within = 1e-3 if name.startswith("model.pool.") else 1e-5
        torch.testing.assert_close(
            states[1][name], tensor, rtol=within, atol=within, msg=lambda told, name=name: f"{name}: {told}"
        )


@pytest.mark.parametrize("job", JOBS)
def test_two_processes_equal_one_and_a_killed_run_goes_on_in_one(job: str, model: Path, tmp_path: Path) -> None:
    options = ("--model", model) if job == "tune" else ()
    run(1, job, tmp_path / "one", *options)
    run(2, job, tmp_path / "two", *options)
    assert_alike(tmp_path / "one", tmp_path / "two")
    if job != "meta-train":  # every draw of it is a part of its own
        run(1, job, tmp_path / "parts", *options, "--microbatch", 2, "--workers", 1)
        assert_alike(tmp_path / "one", tmp_path / "parts")


@pytest.mark.parametrize(("job", "draws"), [("train", 40), ("tune", 15)])
def test_a_rank_that_dies_ends_the_others_and_the_checkpoint_goes_on_in_one(
    job: str, draws: int, model: Path, tmp_path: Path
) -> None:
    options = ("--optimizers", "descent", *(("--model", model) if job == "tune" else ()))
    run(2, job, tmp_path / "cut", *options, "--dies", draws, ends=2)
    assert not (tmp_path / "cut" / "descent" / "model.safetensors").exists()
    assert (tmp_path / "cut" / "descent" / STATE_FILE).exists()
    run(1, job, tmp_path / "cut", *options, "--resume")
    run(1, job, tmp_path / "whole", *options)
    torch.testing.assert_close(
        losses(tmp_path / "cut" / "descent"), losses(tmp_path / "whole" / "descent"), rtol=1e-4, atol=0
    )


def test_the_others_notice_by_themselves_that_a_rank_has_died(tmp_path: Path) -> None:
    """As on another machine, where no launcher ends them."""
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(taken.getsockname()[1])}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.rank_jobs", "train", tmp_path, "--optimizers", "descent", "--dies", "6"],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "RANK": str(rank), **meeting},
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        ranks[1].communicate(timeout=120)
        said = ranks[0].communicate(timeout=60)[1]
    finally:
        for rank in ranks:
            rank.kill()
    assert (ranks[0].returncode, ranks[1].returncode) == (2, -signal.SIGKILL)
    assert said.splitlines()[-1].startswith("rank 0: another process of this run has ended; its own message says why")


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    said = run(1, "train", tmp_path, "--microbatch", 3, ends=2)
    assert "a microbatch of 3 does not divide the batch of 4; choose a divisor of 4" in said
    assert "a batch of 4 cannot be shared by 3 processes" in run(3, "train", tmp_path, ends=2)


def test_the_first_process_speaks_for_all(monkeypatch):
    assert (process_count(), speaks()) == (1, True)
    for rank in (0, 1):
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", str(rank))
        assert (process_count(), speaks()) == (2, rank == 0)
