"""What steps need, made in worker processes: the same whoever makes it, and errors as they are."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing import connection, process, resource_sharer
from pathlib import Path

import pytest
import torch

from setcore.errors import InputError
from setcore.files import locked_folder
from setcore.parallel.prefetch import TensorGroup, prefetch, spare_cores
from setcore.seeding import torch_generator

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Inner(TensorGroup):
    values: torch.Tensor


@dataclass(frozen=True)
class Outer(TensorGroup):
    inner: Inner
    rows: torch.Tensor
    other: torch.Tensor | None
    name: str


def drawn(step: int) -> Outer:
    values = torch.rand(7, 3, generator=torch_generator(1, step))
    return Outer(Inner(values), torch.arange(7) + step, None, f"step {step}")


def test_a_group_changes_and_splits_with_all_that_is_in_it() -> None:
    group = drawn(2)
    doubled = group.map(lambda tensor: tensor * 2)
    assert torch.equal(doubled.inner.values, 2 * group.inner.values)
    assert (doubled.other, doubled.name) == (None, "step 2")
    parts = group.split(3)
    assert [len(part.rows) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.inner.values for part in parts]), group.inner.values)
    assert len(group.split(None)) == 1
    assert group.to(torch.device("meta")).inner.values.is_meta


def test_what_comes_does_not_depend_on_the_number_of_workers() -> None:
    state = torch.random.get_rng_state()
    expected = [drawn(step) for step in range(5, 12)]
    for workers in (0, 1, 2):
        found = list(itertools.islice(prefetch(drawn, itertools.count(5), CPU, workers), 7))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.inner.values, other.inner.values)
            assert torch.equal(one.rows, other.rows)
            assert one.name == other.name
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_input_comes_as_it_is(workers: int) -> None:
    def make(step: int) -> Outer:
        if step == 2:
            raise InputError("mesh 2 is damaged")
        return drawn(step)

    coming = prefetch(make, range(4), CPU, workers)
    assert [next(coming).name, next(coming).name] == ["step 0", "step 1"]
    with pytest.raises(InputError, match=r"^mesh 2 is damaged$"):
        next(coming)


def test_a_worker_that_is_killed_is_one_line() -> None:
    def make(step: int) -> Outer:
        if step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return drawn(step)

    with pytest.raises(InputError, match="a worker process that makes batches was killed"):
        list(prefetch(make, range(3), CPU, 1))


def test_a_worker_says_nothing_when_its_reader_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    def make(step: int) -> Outer:
        sharer = resource_sharer._resource_sharer  # the thread of a worker that hands tensors on
        address, _ = sharer.register(lambda *_: None, lambda: None)
        before = sys.excepthook
        failed = threading.Event()
        sys.excepthook = lambda *error: (before(*error), failed.set())
        connection.Client(address, authkey=process.current_process().authkey).close()
        assert failed.wait(10)
        return drawn(step)

    assert [group.name for group in prefetch(make, range(1), CPU, 1)] == ["step 0"]
    assert capfd.readouterr().err == ""


def test_some_cores_are_spared_at_most_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 12)
    assert spare_cores(CPU) == 4
    assert spare_cores(torch.device("cuda")) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert spare_cores(torch.device("cuda")) == 3
    assert spare_cores(CPU) == 0


HELD = """
import os, sys, time
from setcore.files import locked_folder
with locked_folder(sys.argv[1]):
    if os.fork() == 0:
        print("forked", flush=True)
        time.sleep(60)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process_though_a_worker_lives_on(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", HELD, tmp_path], stdout=subprocess.PIPE, text=True, process_group=0)
    assert child.stdout is not None
    assert child.stdout.readline() == "forked\n"
    with pytest.raises(InputError, match="in use"), locked_folder(tmp_path):
        pass
    child.kill()
    child.wait()
    with locked_folder(tmp_path), open(tmp_path / ".lock", "ab") as other, pytest.raises(OSError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.killpg(child.pid, signal.SIGKILL)
    child.stdout.close()
