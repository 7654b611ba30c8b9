"""What every training loop here shares: a budget, a schedule, and checkpoints that a kill cannot hurt."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn
from tqdm import tqdm

from setcore.checkpoint import check_state, check_tensors, load_tensors, save_tensors
from setcore.errors import CheckpointError, InputError
from setcore.files import locked_folder

STATE_FILE = "training_state.safetensors"
LOG_FILE = "training_log.jsonl"


@dataclass(frozen=True)
class Budget:
    """How long a run lasts: a number of steps, or minutes of time used, kept across resumes."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise InputError("give either --steps or --minutes, and not both")
        size = self.steps if self.steps is not None else self.minutes
        if not 0 < size < math.inf:  # type: ignore[operator]
            raise InputError(f"the training budget is {size}; it must be positive and finite")

    def fraction(self, step: int, seconds: float) -> float:
        """Share of the budget that is used, 0..1."""
        used = step / self.steps if self.steps is not None else seconds / (60 * self.minutes)  # type: ignore[operator]
        return min(1.0, used)


def warmup_cosine(fraction: float, warmup: float = 0.05, floor: float = 0.01) -> float:
    """Learning-rate factor at `fraction` of the budget: linear warm-up, then a cosine down to `floor`."""
    if fraction < warmup:
        return max(fraction, 1e-3 * warmup) / warmup
    phase = (fraction - warmup) / (1 - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * phase))


class Stopwatch:
    """Seconds used by this run, those of earlier runs included."""

    def __init__(self, used: float = 0.0) -> None:
        self._start = time.perf_counter() - used

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start


class MovingAverage:
    """Exponential moving average of a model's parameters and buffers; early steps count fully."""

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.model, self.decay = model, decay
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model after optimiser step number `step` (counted from 1)."""
        decay = min(self.decay, step / (step + 10))
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)

    @torch.no_grad()
    def adopt(self, prefix: str) -> None:
        """Take over the tensors under `prefix` as they are, such as a part that was only now given its start."""
        for name, tensor in self.model.state_dict().items():
            if name.startswith(prefix):
                self.state[name].copy_(tensor)


def save_training_state(
    folder: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Mapping[str, Any],
    average: MovingAverage | None = None,
) -> None:
    """Write model, optimiser, moving average and `progress` (plain JSON values) to one file, atomically.

    The average may be that of a part of the model.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
    save_tensors(Path(folder) / STATE_FILE, tensors, {"progress": json.dumps(dict(progress))})


def load_training_state(
    folder: str | Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None = None,
) -> dict[str, Any]:
    """Restore what `save_training_state` wrote and return `progress`.

    Raises
    ------
    CheckpointError
        There is no checkpoint, it is damaged, or it belongs to another architecture.
    """
    path = Path(folder) / STATE_FILE
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
    for name, tensor in load_tensors(path).items():
        group, _, rest = name.partition(".")
        if group not in groups:
            raise CheckpointError(f"{path} is not a training state: it holds a tensor {name!r}")
        groups[group][rest] = tensor
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if "progress" not in metadata:
        raise CheckpointError(f"{path} is not a training state: it does not say how far the run has come")

    check_state(model, groups["model"], str(path))
    if average is not None:
        check_tensors(average.state, groups["average"], f"{path}, moving average")
    optimizer_state = _optimizer_state(optimizer, groups["optimizer"], str(path))
    # Nothing is changed until everything is known to fit.
    model.load_state_dict(groups["model"])
    optimizer.load_state_dict({"state": optimizer_state, "param_groups": optimizer.state_dict()["param_groups"]})
    if average is not None:
        average.state = groups["average"]
    return json.loads(metadata["progress"])


def _optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], where: str
) -> dict[int, dict[str, Tensor]]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, rest = name.partition(".")
        fits = index.isdecimal() and int(index) < len(parameters)
        if not fits or tensor.shape not in (parameters[int(index)].shape, torch.Size([])):
            raise CheckpointError(f"{where}: optimiser tensor {name!r} of shape {tuple(tensor.shape)} does not fit")
        state.setdefault(int(index), {})[rest] = tensor
    return state


@contextmanager
def training_folder(out: str | Path, resume: bool) -> Iterator[Path]:
    """The folder `out`, made where it is missing and locked, for a run that begins there or goes on.

    Raises
    ------
    InputError
        The folder holds a run and `resume` is not set, or another process trains there.
    """
    with locked_folder(out) as folder:
        if (folder / STATE_FILE).exists() and not resume:
            raise InputError(f"{folder} already holds a run; add --resume to go on, or choose another folder")
        yield folder


class TrainingLoop:
    """The frame of a training loop: ``for fraction in loop:`` takes one optimiser step each time, and the rest is done.

    After each step the moving average follows, and where it is due a line is logged and a checkpoint written, so that
    a killed run goes on from there; a folder with a checkpoint is gone on with.

    Parameters
    ----------
    folder : path
        Receives `training_state.safetensors` and `training_log.jsonl`.
    model : nn.Module
        All that a checkpoint holds.
    optimizer : torch.optim.Optimizer
    average : MovingAverage
        Of the model or a part of it.
    budget : Budget
    report : callable
        Figures that join `line` every `report_every` steps.
    report_every, save_every : int
    progress : bool
        A progress bar on standard error.

    Attributes
    ----------
    step : int
        Steps taken.
    state : dict
        Plain JSON values that a checkpoint keeps; the loop's own.
    line : dict
        The last figures; the loop sets them at every step.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: MovingAverage,
        budget: Budget,
        report: Callable[[], dict[str, Any]],
        *,
        report_every: int,
        save_every: int,
        progress: bool,
    ) -> None:
        self.folder, self.model, self.optimizer, self.average = folder, model, optimizer, average
        self.budget, self.report, self.progress = budget, report, progress
        self.report_every, self.save_every = report_every, save_every
        self.state: dict[str, Any] = {}
        if (folder / STATE_FILE).exists():
            self.state = load_training_state(folder, model, optimizer, average)
        self.step: int = self.state.pop("step", 0)
        self.line: dict[str, Any] = self.state.pop("line", {})
        self._watch = Stopwatch(self.state.pop("seconds", 0.0))

    @property
    def seconds(self) -> float:
        """Time used, that of earlier runs included."""
        return self._watch.seconds

    def __iter__(self) -> Iterator[float]:
        """The share of the budget that is used before each step, until all of it is."""
        with tqdm(total=100, desc="train", unit="%", disable=not self.progress) as bar:
            while (fraction := self.budget.fraction(self.step, self.seconds)) < 1:
                bar.update(round(100 * fraction) - bar.n)
                yield fraction
                self.step += 1
                self.average.update(self.step)
                self.line = {**self.line, "step": self.step}
                if self.step % self.report_every == 0:
                    self.line = {"minutes": round(self.seconds / 60, 2), **self.line, **self.report()}
                    with open(self.folder / LOG_FILE, "a", encoding="utf-8") as log:
                        log.write(json.dumps(self.line) + "\n")
                if self.step % self.save_every == 0:
                    self._save()
                bar.set_postfix(step=self.step, loss=f"{self.line['loss']:.3f}", refresh=False)
            bar.update(100 - bar.n)
        self._save()

    def _save(self) -> None:
        progress = {**self.state, "step": self.step, "seconds": self.seconds, "line": self.line}
        save_training_state(self.folder, self.model, self.optimizer, progress, self.average)
