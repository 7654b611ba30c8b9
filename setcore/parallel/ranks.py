"""Several processes that train one model together: which one this is, and what they exchange.

Torch's own launcher starts them, ``torchrun --nproc-per-node 8 -m vat3d train ...``, and DistributedDataParallel
averages their gradients. Whatever else they must have in common (the clock, counts, what a draw decided) goes through
`Ranks`, which does nothing where there is one process.
"""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from setcore.devices import find_device
from setcore.errors import InputError

Part = TypeVar("Part")
PATIENCE = timedelta(days=1)
"""How long a process waits for one that is busy, such as with validation. That one has died is noticed at once."""


class _Loss(nn.Module):
    """A loss of a network as the module that DistributedDataParallel wants: it watches calls of `forward` alone."""

    def __init__(self, network: nn.Module, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.network, self.loss = network, loss

    def forward(self, *arguments: Any) -> Any:
        return self.loss(self.network, *arguments)


@dataclass(frozen=True)
class Ranks:
    """The processes that train one model, and which of them this is.

    Parameters
    ----------
    device : torch.device
        Of this process.
    rank, count : int
        From 0 to ``count - 1``; the first one writes files.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, batch: int, microbatch: int | None = None) -> range:
        """The places of a batch that this process works on.

        Parameters
        ----------
        batch : int
            Samples of all processes.
        microbatch : int, optional
            Samples that are on the device at once; the share must be a multiple of it.

        Returns
        -------
        range

        Raises
        ------
        InputError
            The batch cannot be divided so.
        """
        if batch < 1 or batch % self.count:
            raise InputError(
                f"a batch of {batch} cannot be shared by {self.count} processes; start 1, 2, 4, ... of them"
            )
        size = batch // self.count
        if microbatch is not None and (microbatch < 1 or size % microbatch):
            of = f"the batch of {batch}" if self.count == 1 else f"each process's {size} of the batch of {batch}"
            raise InputError(f"a microbatch of {microbatch} does not divide {of}; choose a divisor of {size}")
        return range(self.rank * size, (self.rank + 1) * size)

    def wrap(self, network: nn.Module, loss: Callable[..., Any], **options: Any) -> nn.Module:
        """A loss of a network, whose gradients are the means over all processes.

        Parameters
        ----------
        network : nn.Module
            Takes the first process's weights.
        loss : callable
            Of the network and what the module is called with.
        **options
            Of `torch.nn.parallel.DistributedDataParallel`.

        Returns
        -------
        nn.Module
        """
        module = _Loss(network, loss)
        if self.count == 1:
            return module
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer releases rename `broadcast_buffers`
            return nn.parallel.DistributedDataParallel(
                module, broadcast_buffers=False, gradient_as_bucket_view=True, **options
            )

    def accumulate(self, module: nn.Module, parts: Sequence[Part]) -> Iterator[Part]:
        """Parts of a batch whose gradients add up; processes exchange them once, with the last one.

        Parameters
        ----------
        module : nn.Module
            Of `wrap`.
        parts : sequence

        Yields
        ------
        element of `parts`
        """
        for part in parts[:-1]:
            with module.no_sync() if isinstance(module, nn.parallel.DistributedDataParallel) else nullcontext():
                yield part
        yield parts[-1]

    def agree(self, value: float) -> float:
        """The first process's number, for all. It fails where one of them has ended.

        Parameters
        ----------
        value : float

        Returns
        -------
        float
        """
        if self.count == 1:
            return value
        held = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(held, 0)
        return float(held)

    def sum_(self, values: Tensor) -> Tensor:
        """Replace a tensor by its sum over all processes.

        Parameters
        ----------
        values : tensor

        Returns
        -------
        tensor
            The same.
        """
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def greatest_(self, values: Tensor) -> Tensor:
        """Replace a tensor by its maximum over all processes.

        Parameters
        ----------
        values : tensor

        Returns
        -------
        tensor
            The same.
        """
        if self.count > 1:
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return values

    def first_(self, values: Tensor) -> Tensor:
        """Replace a tensor by that of the first process.

        Parameters
        ----------
        values : tensor

        Returns
        -------
        tensor
            The same.
        """
        if self.count > 1:
            dist.broadcast(values, 0)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all processes, one after the other along the first axis.

        Parameters
        ----------
        values : tensor
            Of one shape in all of them.

        Returns
        -------
        tensor
        """
        if self.count == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.count)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)


def process_count() -> int:
    """How many processes torchrun has started; 1 without it.

    Returns
    -------
    int
    """
    return int(os.environ.get("WORLD_SIZE", "1"))


def speaks() -> bool:
    """Whether this is the only process, or the first one that torchrun has started, which speaks for all.

    Returns
    -------
    bool
    """
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def join_ranks(device: str = "auto") -> Iterator[Ranks]:
    """Meet the other processes that torchrun has started; without it there is this one alone.

    Parameters
    ----------
    device : str
        As in `find_device`; "cuda" and "auto" give each process of a machine a card of its own.

    Yields
    ------
    Ranks

    Raises
    ------
    InputError
        The device is not there, or cannot be used by several processes; or, later, one of them has ended.
    """
    count = process_count()
    found = find_device(device)
    if count == 1:
        yield Ranks(found)
        return
    if found.type == "cuda":
        found = _own_card(device)
        torch.cuda.set_device(found)
    elif found.type != "cpu":
        raise InputError(f"several processes cannot train on {found.type}; use cpu or cuda, or start one process")
    if not dist.is_initialized():  # once a process: what is left of one meeting would disturb the next
        dist.init_process_group("cpu:gloo,cuda:nccl" if found.type == "cuda" else "gloo", timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    try:
        yield Ranks(found, dist.get_rank(), count)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            atexit.unregister(dist.destroy_process_group)  # it would wait for the one that has ended
            raise InputError(
                "another process of this run has ended; its own message says why. The last checkpoint is whole: "
                "start again with --resume"
            ) from error
        raise


def _own_card(device: str) -> torch.device:
    """The card of this process among those of its machine."""
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device not in ("auto", "cuda"):
        raise InputError(f"device {device!r} is one card for all processes; name cuda, and each takes its own")
    if local >= torch.cuda.device_count():
        raise InputError(
            f"this machine has {torch.cuda.device_count()} cards, too few for process {local + 1} on it; start "
            f"torchrun with --nproc-per-node {torch.cuda.device_count()}"
        )
    return torch.device("cuda", local)
