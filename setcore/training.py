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
    """How long a run lasts: a number of steps, or minutes of time used, kept across resumes.

    Parameters
    ----------
    steps : int, optional
    minutes : float, optional
        One of the two is given.

    Raises
    ------
    InputError
        Both or none are given, or a budget is not positive and finite.
    """

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise InputError("give either --steps or --minutes, and not both")
        size = self.steps if self.steps is not None else self.minutes
        if not 0 < size < math.inf:  # type: ignore[operator]
            raise InputError(f"the training budget is {size}; it must be positive and finite")

    def fraction(self, step: int, seconds: float) -> float:
        """Share of the budget that is used.

        Parameters
        ----------
        step : int
            Steps taken.
        seconds : float
            Time used.

        Returns
        -------
        float
            0..1.
        """
        used = step / self.steps if self.steps is not None else seconds / (60 * self.minutes)  # type: ignore[operator]
        return min(1.0, used)


def warmup_cosine(fraction: float, warmup: float = 0.05, floor: float = 0.01) -> float:
    """Learning-rate factor: linear warm-up, then a cosine (Loshchilov & Hutter 2017, eq. 5, without restarts).

    Parameters
    ----------
    fraction : float
        Of the budget that is used, 0..1.
    warmup : float
        Share of the budget.
    floor : float
        Factor at the end.

    Returns
    -------
    float
    """
    if fraction < warmup:
        return max(fraction, 1e-3 * warmup) / warmup
    phase = (fraction - warmup) / (1 - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * phase))


class Stopwatch:
    """Seconds used by this run, those of earlier runs included.

    Parameters
    ----------
    used : float
        Seconds of earlier runs.
    """

    def __init__(self, used: float = 0.0) -> None:
        self._start = time.perf_counter() - used

    @property
    def seconds(self) -> float:
        """Used until now.

        Returns
        -------
        float
        """
        return time.perf_counter() - self._start


class MovingAverage:
    """Exponential moving average of a model's parameters and buffers; early steps count fully.

    Parameters
    ----------
    model : nn.Module
    decay : float
        Weight of the past in a late step.

    Attributes
    ----------
    state : dict of str to tensor
        The average, by name.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.model, self.decay = model, decay
        self.state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the model.

        Parameters
        ----------
        step : int
            Number of the optimiser step that was just taken, counted from 1.
        """
        decay = min(self.decay, step / (step + 10))
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)

    @torch.no_grad()
    def adopt(self, prefix: str) -> None:
        """Take over some tensors as they are, such as a part that was only now given its start.

        Parameters
        ----------
        prefix : str
            Of their names.
        """
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
    """Write the state of a run to one file, atomically.

    Parameters
    ----------
    folder : path
    model : nn.Module
    optimizer : torch.optim.Optimizer
    progress : mapping
        Plain JSON values.
    average : MovingAverage, optional
        Of the model or a part of it.
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
    """Restore what `save_training_state` wrote.

    Parameters
    ----------
    folder : path
    model, optimizer, average
        Receive what is stored, if all of it fits; otherwise nothing is changed.

    Returns
    -------
    dict
        `progress` as it was given.

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
    restored: dict[str, Any] = json.loads(metadata["progress"])
    return restored


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
    """The folder of a run, made where it is missing and locked.

    Parameters
    ----------
    out : path
    resume : bool
        Whether a run that is there may be continued.

    Yields
    ------
    Path

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
    a killed run continues from there; a run in a folder with a checkpoint is continued.

    Parameters
    ----------
    folder : path
        Receives `training_state.safetensors` and `training_log.jsonl`.
    model : nn.Module
        All that a checkpoint holds.
    optimizer : torch.optim.Optimizer
    average : MovingAverage or None
        Of the model or a part of it.
    budget : Budget
    report : callable
        Figures that join `line` every `report_every` steps.
    report_every, save_every : int
        In steps.
    progress : bool
        Show a progress bar on standard error.
    due : callable, optional
        Of the share of the budget that is used after a step: whether to report and save there, too.
    seconds : float
        Time that a run which begins now has used before; it counts.

    Attributes
    ----------
    step : int
        Steps taken.
    state : dict
        Plain JSON values that a checkpoint keeps; the caller's own.
    line : dict
        The last figures; the caller sets `loss` at every step.
    note : str
        What the progress bar shows beside step and loss.
    resumed : bool
        Whether the folder held a checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: MovingAverage | None,
        budget: Budget,
        report: Callable[[], dict[str, Any]],
        *,
        report_every: int,
        save_every: int,
        progress: bool,
        due: Callable[[float], bool] = lambda used: False,
        seconds: float = 0.0,
    ) -> None:
        self.folder, self.model, self.optimizer, self.average = folder, model, optimizer, average
        self.budget, self.report, self.due, self.progress = budget, report, due, progress
        self.report_every, self.save_every = report_every, save_every
        self.note = ""
        self.resumed = (folder / STATE_FILE).exists()
        self.state: dict[str, Any] = load_training_state(folder, model, optimizer, average) if self.resumed else {}
        self.step: int = self.state.pop("step", 0)
        self.line: dict[str, Any] = self.state.pop("line", {})
        self._watch = Stopwatch(self.state.pop("seconds", seconds))
        self._saved = self.step if self.resumed else -1

    @property
    def seconds(self) -> float:
        """Time used, that of earlier runs included.

        Returns
        -------
        float
        """
        return self._watch.seconds

    def __iter__(self) -> Iterator[float]:
        """The share of the budget that is used before each step, until all of it is."""
        with tqdm(total=100, desc="train", unit="%", disable=not self.progress) as bar:
            used = self.budget.fraction(self.step, self.seconds)
            while used < 1:
                bar.update(round(100 * used) - bar.n)
                yield used
                self.step += 1
                if self.average is not None:
                    self.average.update(self.step)
                self.line = {**self.line, "step": self.step}
                used = self.budget.fraction(self.step, self.seconds)  # once a step: what ends the loop is reported
                due = self.due(used)
                if due or self.step % self.report_every == 0:
                    self.log()
                if due or self.step % self.save_every == 0:
                    self.save()
                bar.set_postfix_str(f"step {self.step}, loss {self.line['loss']:.3f} {self.note}", refresh=False)
            bar.update(100 - bar.n)
        if self._saved != self.step:
            self.save()

    def descend(self, rate: float, clip: float = 1.0) -> None:
        """Take the optimiser's step on the gradients that are there, and clear them.

        Parameters
        ----------
        rate : float
            Learning rate of this step.
        clip : float
            Largest norm of all gradients together.
        """
        groups = self.optimizer.param_groups
        nn.utils.clip_grad_norm_([parameter for group in groups for parameter in group["params"]], clip)
        for group in groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def log(self) -> None:
        """Report, and write what is known of the last step as one line of the log."""
        self.line = {"minutes": round(self.seconds / 60, 2), **self.line, **self.report()}
        with open(self.folder / LOG_FILE, "a", encoding="utf-8") as log:
            log.write(json.dumps(self.line) + "\n")

    def save(self) -> None:
        """Write a checkpoint."""
        progress = {**self.state, "step": self.step, "seconds": self.seconds, "line": self.line}
        save_training_state(self.folder, self.model, self.optimizer, progress, self.average)
        self._saved = self.step
