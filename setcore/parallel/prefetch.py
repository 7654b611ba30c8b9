"""What training steps need, made ahead of time in worker processes and put on the device."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from setcore.errors import InputError

Group = TypeVar("Group", bound="TensorGroup")
MOST_WORKERS = 8


class TensorGroup:
    """A dataclass of tensors, which move between devices together; to be derived from."""

    def map(self: Group, change: Callable[[Tensor], Tensor]) -> Group:
        """The group with every tensor changed, those of groups within it among them.

        Parameters
        ----------
        change : callable

        Returns
        -------
        the same class
        """

        def changed(value: Any) -> Any:
            if isinstance(value, TensorGroup):
                return value.map(change)
            return change(value) if isinstance(value, Tensor) else value

        fields = dataclasses.fields(self)  # type: ignore[arg-type]
        values = {part.name: changed(getattr(self, part.name)) for part in fields}
        return dataclasses.replace(self, **values)  # type: ignore[type-var]

    def to(self: Group, device: torch.device) -> Group:
        """The group on a device; the copy of pinned memory does not wait.

        Parameters
        ----------
        device : torch.device

        Returns
        -------
        the same class
        """
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self: Group) -> Group:
        """The group in memory from which a card copies without waiting.

        Returns
        -------
        the same class
        """
        return self.map(Tensor.pin_memory)

    def split(self: Group, size: int | None) -> list[Group]:
        """Parts of so many samples, the first axis of every tensor.

        Parameters
        ----------
        size : int, optional
            Of each part; all samples in one, if not given.

        Returns
        -------
        list of the same class
        """
        first = next(iter(self._tensors()))
        step = size or len(first)
        return [self.map(lambda tensor, k=k: tensor[k : k + step]) for k in range(0, len(first), step)]  # type: ignore[misc]

    def _tensors(self) -> Iterator[Tensor]:
        for part in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, part.name)
            if isinstance(value, TensorGroup):
                yield from value._tensors()
            elif isinstance(value, Tensor):
                yield value


class _Steps(Dataset[Any], Generic[Group]):
    """What each step needs, by number. Errors of input are handed on as they are, not as a worker's traceback."""

    def __init__(self, make: Callable[[int], Group]) -> None:
        self.make = make

    def __getitem__(self, step: int) -> Group | InputError:
        try:
            return self.make(step)
        except InputError as error:
            return error


def _say_nothing(worker: int) -> None:
    """Let a worker's threads fail without a word: what steps raise is handed on, and the rest is an end that is told.

    Tensors are handed on by a thread of the worker, which fails when the process that reads them ends between two
    messages, as after Ctrl-C.
    """
    sys.excepthook = lambda *_: None


def prefetch(
    make: Callable[[int], Group], steps: Iterable[int], device: torch.device, workers: int | None = None
) -> Iterator[Group]:
    """What each of some steps needs, on a device; it does not depend on the number of workers.

    Parameters
    ----------
    make : callable
        What a step needs, by its number; with workers it is called in forked processes, and must be a function of that
        number alone.
    steps : iterable of int
        May be endless.
    device : torch.device
    workers : int, optional
        Processes that make it ahead of time; 0: this one does, when it is asked for. By default `spare_cores`.

    Yields
    ------
    what `make` returns

    Raises
    ------
    InputError
        `make` raises it, or a worker was killed.
    """
    workers = spare_cores(device) if workers is None else workers
    loader = DataLoader(
        _Steps(make), batch_size=None, sampler=steps, num_workers=workers, pin_memory=device.type == "cuda",
        multiprocessing_context="fork" if workers else None,  # what `make` holds, such as open files, is not copied
        worker_init_fn=_say_nothing,
        generator=torch.Generator(),  # the loader draws a seed, which is not to come from global state
    )  # fmt: skip
    try:
        for found in loader:
            if isinstance(found, InputError):
                raise found
            yield found.to(device)
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise InputError("a worker process that makes batches was killed; try fewer with --workers") from error
        raise


def spare_cores(device: torch.device) -> int:
    """Cores that this process may use and its own computation does not, at most `MOST_WORKERS`.

    Parameters
    ----------
    device : torch.device
        That computes.

    Returns
    -------
    int
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = torch.get_num_threads() if device.type == "cpu" else 1
    return max(0, min(MOST_WORKERS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - busy))
