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

from setcore.checkpoint import CONFIG_FILE, WEIGHTS_FILE, check_state, check_tensors, load_tensors, save_tensors
from setcore.errors import CheckpointError, InputError
from setcore.files import append_line, locked_folder, read_lines, write_bytes
from setcore.parallel.ranks import Ranks
from setcore.progress import progress_bar

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
        for name, tensor in average.state.items():
            tensor.copy_(groups["average"][name])
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


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else text[:197] + "..."


@contextmanager
def training_folder(out: str | Path, resume: bool, *parts: str, ranks: Ranks | None = None) -> Iterator[Path]:
    """The folder of a run, made where it is missing and locked.

    Parameters
    ----------
    out : path
    resume : bool
        Whether a run that is there may be continued.
    *parts : str
        Names of further files that a run makes before its first checkpoint.
    ranks : Ranks, optional
        The first process holds the lock for all; the others wait until it does.

    Yields
    ------
    Path

    Raises
    ------
    InputError
        The folder holds a run or a model and `resume` is not set, or a model without the state of its training, or
        another process trains there.
    """
    ranks = ranks or Ranks()
    if not ranks.first:
        ranks.agree(0.0)
        yield Path(out)
        return
    with locked_folder(out) as folder:
        begun = any((folder / name).exists() for name in (STATE_FILE, *parts))
        finished = any((folder / name).exists() for name in (CONFIG_FILE, WEIGHTS_FILE))
        if finished and not begun:
            raise InputError(f"{folder} holds a model without the state of its training; choose another folder")
        if (begun or finished) and not resume:
            raise InputError(f"{folder} already holds a run; add --resume to go on, or choose another folder")
        ranks.agree(0.0)
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
        Show a progress bar on standard error, where that is a terminal.
    settings : dict, optional
        Plain JSON values by name, such as seed, batch and data, that must be the same in a run that is continued.
    ranks : Ranks, optional
        The processes that train together, on one folder; they take their steps in step, and the first one writes.
    gather : callable, optional
        Brings what belongs to a checkpoint and is spread over the processes to all of them; called before each.
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
        The last figures; the caller sets `loss` at every step. Figures that are tensors are read, averaged over the
        processes, where a report or a checkpoint is due: until then nothing waits for the device.
    note : str
        What the progress bar shows beside step and loss.
    resumed : bool
        Whether the folder held a checkpoint.

    Raises
    ------
    InputError
        The run that is there was begun with other settings; or, from a step, the loss or a gradient was not finite (the
        last checkpoint stays as it was), or the budget was used up before the first step.
    CheckpointError
        The checkpoint is damaged, or of another architecture.
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
        settings: Mapping[str, Any] | None = None,
        due: Callable[[float], bool] = lambda used: False,
        seconds: float = 0.0,
        ranks: Ranks | None = None,
        gather: Callable[[], None] = lambda: None,
    ) -> None:
        self.ranks, self.gather = ranks or Ranks(), gather
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
        self._settings = json.loads(json.dumps(dict(settings or {})))
        begun = self.state.pop("settings", self._settings)
        if other := [name for name in {**begun, **self._settings} if begun.get(name) != self._settings.get(name)]:
            raise InputError(
                f"{folder} was begun with another {other[0]} ({_short(begun.get(other[0]))}) than the one asked for "
                f"({_short(self._settings.get(other[0]))}); resume it with its own, or name another folder"
            )
        if self.ranks.agree(self.step) != self.step:
            raise InputError(f"{folder} is not the same for all processes; name a folder that all machines share")
        # Whether all losses and gradients of this run were finite, and in how many steps; on the device.
        self._finite = torch.ones((), dtype=torch.bool, device=self.ranks.device)
        self._sound = torch.full((), self.step, device=self.ranks.device)
        if self.ranks.first:
            self._cut_log()

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
        shown = self.progress and self.ranks.first
        with progress_bar(total=100, desc="train", unit="%", shown=shown) as bar:
            used = self._used()
            while used < 1:
                bar.update(round(100 * used) - bar.n)
                yield used
                self._note_finite(self.line["loss"])
                self.step += 1
                self._sound += self._finite
                if self.average is not None:
                    self.average.update(self.step)
                self.line = {**self.line, "step": self.step}
                used = self._used()  # once a step: what ends the loop is reported
                due = self.due(used)
                reports, saves = due or self.step % self.report_every == 0, due or self.step % self.save_every == 0
                if reports or saves:
                    self._read_figures()
                    bar.set_postfix_str(f"step {self.step}, loss {self.line['loss']:.3f} {self.note}", refresh=False)
                if reports:
                    self.log()
                if saves:
                    self.save()
            bar.update(100 - bar.n)
        if not self.step:
            raise InputError(f"{self.folder}: the budget was used up before the first step; allow more minutes")
        if self._saved != self.step:
            self._read_figures()
            self.save()

    def _used(self) -> float:
        """The share of the budget that is used, by the first process's clock."""
        return self.ranks.agree(self.budget.fraction(self.step, self.seconds))

    def _cut_log(self) -> None:
        """Take out of the log what comes after the checkpoint: those steps are taken again."""
        path = self.folder / LOG_FILE
        if path.exists():
            kept = [line for line in read_lines(path) if self.resumed and line.get("step", 0) <= self.step]
            write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def _note_finite(self, value: Tensor | float) -> None:
        """Note on the device whether a loss or a norm is finite; `_read_figures` looks."""
        finite = torch.isfinite(value.detach()) if isinstance(value, Tensor) else torch.tensor(math.isfinite(value))
        self._finite = self._finite & finite

    def _read_figures(self) -> None:
        """Read the figures of the last step from the device, and refuse to go on if something was not finite."""
        read = {name: value for name, value in self.line.items() if isinstance(value, Tensor)}
        held = torch.cat([self._finite[None].float(), *(value.detach().float().flatten() for value in read.values())])
        finite, *figures = (self.ranks.sum_(held) / self.ranks.count).tolist()
        for name, value in read.items():
            count = value.numel()
            self.line[name], figures = figures[:count] if value.dim() else figures[0], figures[count:]
        if finite < 1:
            step = int(-self.ranks.greatest_(-self._sound))
            kept = f"the checkpoint of step {self._saved} is kept" if self._saved >= 0 else "there is no checkpoint yet"
            raise InputError(
                f"{self.folder}: the loss or a gradient is not finite at step {step}; {kept}. Look for NaN and extreme "
                "values in the data, or lower the learning rate"
            )

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
        norm = nn.utils.clip_grad_norm_([parameter for group in groups for parameter in group["params"]], clip)
        self._note_finite(norm)
        for group in groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def log(self) -> None:
        """Report, and write what is known of the last step as one line of the log."""
        if not self.ranks.first:
            return
        self.line = {"minutes": round(self.seconds / 60, 2), **self.line, **self.report()}
        append_line(self.folder / LOG_FILE, self.line)

    def save(self) -> None:
        """Write a checkpoint."""
        self.gather()
        self._saved = self.step
        if not self.ranks.first:
            return
        progress = {**self.state, "step": self.step, "seconds": self.seconds, "line": self.line}
        progress["settings"] = self._settings
        save_training_state(self.folder, self.model, self.optimizer, progress, self.average)
