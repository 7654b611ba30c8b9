"""Many independent tasks: here, in several processes, as one share of a job array, or on a Dask cluster.

A task is a function that can be imported and arguments that can be sent to another process. Whoever runs it, its result
is the same: a process of several takes one thread, and what a task writes it writes atomically itself.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from setcore.errors import InputError
from setcore.parallel.memory import free_memory, return_memory

T = TypeVar("T")
ANSWER_SECONDS = 20
"""How long to wait for a Dask scheduler to answer."""


@dataclass(frozen=True)
class Parallel:
    """Who runs tasks.

    Parameters
    ----------
    jobs : int
        Processes of this machine, one thread each; with 1 they run in this process.
    shard : (int, int)
        Take share I of N, counted from 1, for job arrays: every N-th task, beginning with the I-th.
    dask : str, optional
        Address of a Dask scheduler, such as ``tcp://node1:8786``, whose workers see the same files.

    Raises
    ------
    InputError
        A number is out of range, or both `jobs` and `dask` are given.
    """

    jobs: int = 1
    shard: tuple[int, int] = (1, 1)
    dask: str | None = None

    def __post_init__(self) -> None:
        part, parts = self.shard
        if self.jobs < 1:
            raise InputError(f"the number of jobs is {self.jobs}; it must be 1 or more")
        if not 1 <= part <= parts:
            raise InputError(
                f"shard {part}/{parts} is out of range; with {parts} shards name 1/{parts} to {parts}/{parts}"
            )
        if self.dask is not None and self.jobs > 1:
            raise InputError("--jobs starts processes here and --dask uses workers elsewhere; give one of them")

    def share(self, items: Sequence[T]) -> list[T]:
        """Those items that this shard is to do.

        Parameters
        ----------
        items : sequence

        Returns
        -------
        list
        """
        part, parts = self.shard
        return list(items[part - 1 :: parts])

    def check_memory(self, gigabytes: float) -> None:
        """Refuse more processes than fit into the memory that is free.

        Parameters
        ----------
        gigabytes : float
            That each needs at most.

        Raises
        ------
        InputError
        """
        found = free_memory()
        free = math.inf if found is None else found / 1e9
        if self.jobs > 1 and self.jobs * gigabytes > free:
            fit = int(free / gigabytes)
            advice = f"use --jobs {fit}" if fit > 1 else "leave --jobs out"
            raise InputError(
                f"{self.jobs} jobs need up to {self.jobs * gigabytes:.1f} GB and {free:.1f} GB are free; {advice}"
            )


def run_tasks(
    function: Callable[..., T], tasks: Sequence[tuple[Any, ...]], parallel: Parallel
) -> Iterator[tuple[int, T | InputError]]:
    """Run ``function(*task)`` for each task, and give the outcomes as they come.

    Parameters
    ----------
    function : callable
        Of a module, so that another process can import it.
    tasks : sequence of tuple
        Arguments; paths in them are absolute where a Dask worker is to open them.
    parallel : Parallel
        Its shard was taken by the caller.

    Returns
    -------
    iterator of (int, object)
        The task's index, and what the function returned or the `InputError` that it raised. Other errors are raised
        here and end the rest.

    Raises
    ------
    InputError
        A process was killed, or no Dask scheduler answers.
    """
    if parallel.dask is not None:
        return _on_dask(parallel.dask, function, tasks)
    if parallel.jobs > 1 and len(tasks) > 1:
        return _in_processes(min(parallel.jobs, len(tasks)), function, tasks)
    return ((index, _outcome(function, *task)) for index, task in enumerate(tasks))


def in_order(outcomes: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Outcomes in the order of their tasks, each as soon as those before it are there.

    Parameters
    ----------
    outcomes : iterable of (int, object)
        Of `run_tasks`.

    Yields
    ------
    object
    """
    early: dict[int, T] = {}
    following = 0
    for index, outcome in outcomes:
        early[index] = outcome
        while following in early:
            yield early.pop(following)
            following += 1


def _outcome(function: Callable[..., T], *task: Any) -> T | InputError:
    try:
        return function(*task)
    except InputError as error:
        return error
    finally:
        return_memory()


def _in_processes(
    jobs: int, function: Callable[..., T], tasks: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, T | InputError]]:
    others = set(multiprocessing.active_children())
    # Started afresh, not forked: a fork copies locks that a thread of torch or of a notebook may hold.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin_process)
    try:
        futures = {pool.submit(_outcome, function, *task): index for index, task in enumerate(tasks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise InputError(
            f"one of {jobs} processes was killed, perhaps for want of memory; run the same again to go on, with fewer "
            "--jobs"
        ) from error
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()  # what they are at is not wanted, and may take minutes
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_process() -> None:
    """What a process of several does first: one thread, no ear for Ctrl-C, and an end when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "IGL_NUM_THREADS"):
        os.environ[name] = "1"
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _on_dask(
    address: str, function: Callable[..., T], tasks: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, T | InputError]]:
    try:
        from distributed import Client, KilledWorker
        from distributed import as_completed as as_finished
    except ImportError as error:
        raise InputError('--dask needs the extra "cluster": pip install "braincl-vat3d[cluster]"') from error
    try:
        client = Client(address, timeout=ANSWER_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {address}; start one with `dask scheduler`") from error
    with client:
        futures = {client.submit(_on_worker, function, *task, pure=False): index for index, task in enumerate(tasks)}
        try:
            for future, outcome in as_finished(futures, loop=client.loop, with_results=True):  # type: ignore[no-untyped-call]
                yield futures.pop(future), outcome
        except KilledWorker as error:
            raise InputError(
                f"a task ended every Dask worker that took it ({error}); give the workers more memory, and run again"
            ) from error


def _on_worker(function: Callable[..., T], *task: Any) -> T | InputError:
    if "torch" in sys.modules:  # a worker's threads share its cores
        sys.modules["torch"].set_num_threads(1)
    return _outcome(function, *task)
