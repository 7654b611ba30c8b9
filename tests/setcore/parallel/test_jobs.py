"""Tasks have the same outcomes whoever runs them, and what kills a process is said in one line."""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path

import pytest

from setcore.errors import InputError
from setcore.files import read_json
from setcore.parallel import jobs
from setcore.parallel.jobs import Parallel, in_order, run_tasks
from setcore.parallel.memory import free_memory

WHO = [Parallel(), Parallel(jobs=2)]


@pytest.mark.parametrize("parallel", WHO, ids=["here", "two processes"])
def test_outcomes_and_errors_of_input_come_back(tmp_path: Path, parallel: Parallel) -> None:
    for number in (0, 2):
        (tmp_path / f"{number}.json").write_text(f"[{number}]")
    outcomes = list(in_order(run_tasks(read_json, [(tmp_path / f"{number}.json",) for number in range(3)], parallel)))
    assert (outcomes[0], outcomes[2]) == ([0], [2])
    assert isinstance(outcomes[1], InputError)
    assert "1.json" in str(outcomes[1])


@pytest.mark.parametrize("parallel", WHO, ids=["here", "two processes"])
def test_other_errors_end_the_rest(parallel: Parallel) -> None:
    with pytest.raises(ZeroDivisionError):
        list(run_tasks(operator.truediv, [(1, 1), (1, 0), (1, 2)], parallel))


def test_a_process_that_is_killed_is_said() -> None:
    with pytest.raises(InputError, match="one of 2 processes was killed"):
        list(run_tasks(os._exit, [(9,), (9,)], Parallel(jobs=2)))


def test_processes_have_one_thread_each() -> None:
    assert dict(run_tasks(os.getenv, [("OMP_NUM_THREADS",), ("IGL_NUM_THREADS",)], Parallel(jobs=2))) == {
        0: "1",
        1: "1",
    }


def test_outcomes_are_given_as_soon_as_those_before_them_are_there() -> None:
    taken = []

    def early():
        for index in (2, 0, 3, 1):
            taken.append(index)
            yield index, str(index)

    assert [(outcome, len(taken)) for outcome in in_order(early())] == [("0", 2), ("1", 4), ("2", 4), ("3", 4)]


def test_shares_hold_everything_once() -> None:
    items = list(range(11))
    shares = [Parallel(shard=(part, 4)).share(items) for part in (1, 2, 3, 4)]
    assert sorted(item for share in shares for item in share) == items
    assert shares[1] == [1, 5, 9]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jobs": 0}, "must be 1 or more"),
        ({"shard": (3, 2)}, "shard 3/2 is out of range"),
        ({"shard": (0, 2)}, "shard 0/2 is out of range"),
        ({"jobs": 2, "dask": "tcp://node:8786"}, "give one of them"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Parallel(**options)


def test_more_processes_than_fit_into_memory_are_refused() -> None:
    free = free_memory()
    if free is None:
        pytest.skip("this system does not say how much memory is free")
    free = free / 1e9
    Parallel(jobs=2).check_memory(free / 4)
    Parallel(jobs=1).check_memory(2 * free)
    with pytest.raises(InputError, match=r"10 jobs need up to .* GB are free; use --jobs [34]$"):
        Parallel(jobs=10).check_memory(free / 4.5)
    with pytest.raises(InputError, match="leave --jobs out"):
        Parallel(jobs=2).check_memory(free)


def test_no_scheduler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(jobs, "ANSWER_SECONDS", 1)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1"):
        list(run_tasks(math.sqrt, [(4,)], Parallel(dask="tcp://127.0.0.1:1")))
