"""Meta-training: response sets of several subjects in, a model folder out.

First the population prior is fitted, its settings chosen inside the training data
(`braincl.training.population_prior`). Then the network's set transformer, which weights its closed-form experts, is
trained in three stages (`braincl.training.config`): simulated subjects whose populations differ from the prior by known
amounts, with contexts of one size; the same over all sizes; the training subjects themselves, each with the prior of
the fold that leaves it out, so that the network learns how far a prior may be trusted on somebody new. The best weights
on validation pictures are kept, the untrained ones among the candidates: training cannot make the closed form worse
there.

Training starts from what the embedded agnostic weights have learned, if the config names them.

Every step's random numbers depend on the seed and the step alone, so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from braincl.estimators.base import standardiser
from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.model_folder import ModelCard, find_model, load_model, save_encoder
from braincl.models.shared_context import SharedContextNetwork
from braincl.simulation.shifted_subject import simulate_shifted_subject
from braincl.training.config import PRESETS, Stage, TrainConfig, stored_schedule
from braincl.training.population_prior import PopulationFit, Subject, load_or_fit
from braincl.training.tasks import Task, make_tasks, read_subjects
from setcore.errors import InputError
from setcore.evaluation.metrics import pearson_r
from setcore.files import locked_folder
from setcore.seeding import derive_seed, numpy_generator
from setcore.training import STATE_FILE, Budget, Stopwatch, TrainingLoop, warmup_cosine

POPULATION_FILE = "population.safetensors"


def meta_train(
    datasets: Sequence[xr.Dataset | str | Path],
    config: TrainConfig | None = None,
    out: str | Path = "model",
    *,
    budget: Budget | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
) -> SharedContextNetwork:
    """Meta-learn a `shared_context` network on the subjects of `datasets`.

    Parameters
    ----------
    datasets : sequence of response sets or paths
        Equal embeddings throughout, unless the config is agnostic. Sessions of one subject share the attribute
        `subject`; more subjects are better.
    config : TrainConfig, optional
        Default: the preset "small".
    out : folder
        Made if need be; holds the model, the state of training and a log of it.
    budget : Budget, optional
        Steps, or minutes of time used (default 15), resumes included.
    seed : int
    resume : bool
        Continue from the last checkpoint in `out`, in the stage where it stands; with the same seed, threads and number
        of steps the result equals that of an uninterrupted run. A larger budget never leads back to an earlier stage.
    progress : bool
        Show a progress line.

    Returns
    -------
    SharedContextNetwork
        With the best weights on validation.

    Raises
    ------
    ResponseError
        A response set cannot be used, or embeddings differ in width or backbone.
    InputError
        `out` holds a model already and `resume` is not set, was trained on other data or with another schedule or other
        settings, is in use, or cannot be written; or the model that training starts from has another network.
    ModelError, CheckpointError
        There is no model to start from, or it cannot be read.
    """
    config = config or PRESETS["small"]
    resuming = resume and (Path(out) / STATE_FILE).is_file()
    start = {} if resuming else _learned(config)
    budget = budget or Budget(minutes=15.0)
    groups, backbone = read_subjects(datasets, config.agnostic)
    with locked_folder(out) as folder:
        if not resume and any((folder / name).exists() for name in (STATE_FILE, POPULATION_FILE, "config.json")):
            raise InputError(f"{folder} holds a model already; pass --resume to go on, or name another folder")
        stopwatch = Stopwatch()
        fits = [
            load_or_fit(folder / (f"{number}-" * (number > 0) + POPULATION_FILE), subjects, seed)
            for number, subjects in enumerate(groups)
        ]
        if not config.agnostic:
            components = len(fits[0].mixture.means) if fits[0].mixture is not None else 0
            shape = replace(config.network, features=groups[0][0].X.shape[1], components=components)
            config = replace(config, network=shape)
        return _Trainer(folder, groups, fits, config, seed, backbone, start).run(budget, stopwatch.seconds, progress)


class _Trainer:
    def __init__(
        self, folder: Path, groups: list[list[Subject]], fits: list[PopulationFit], config: TrainConfig, seed: int,
        backbone: str, start: dict[str, Tensor],
    ) -> None:  # fmt: skip
        self.folder, self.fits, self.subjects = folder, fits, [subject for group in groups for subject in group]
        self.config, self.seed, self.backbone, self.start = config, seed, backbone, start
        self.losses: list[float] = []  # since the last report
        self.tasks = [
            task for group, fit in zip(groups, fits, strict=True) for task in make_tasks(group, fit, config, seed)
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "network"))
            self.network = SharedContextNetwork(config.network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def run(self, budget: Budget, seconds: float, progress: bool) -> SharedContextNetwork:
        """Train from the start or the last checkpoint on; `seconds` of the budget are used before a start."""
        schedule, every = self.config.schedule, self.config.report_every
        self.loop = loop = TrainingLoop(
            self.folder, self.network, self.optimizer, None, budget, self._report, report_every=every, save_every=every,
            progress=progress, due=lambda used: used >= 1 or schedule.at(used) > loop.state["stage"], seconds=seconds,
        )  # fmt: skip
        if loop.resumed:
            self._check(loop.state)
        else:
            loop.state = {
                "stage": schedule.at(0.0), "best": math.inf, "history": [], "config": asdict(self.config),
                "fingerprint": self._fingerprint(),
            }  # fmt: skip
            if self.start:  # the closed form stays the first candidate
                self._report()
                self.network.load_state_dict(self.start, strict=False)
            loop.log()
            loop.save()
        for used in loop:
            loop.state["stage"] = max(loop.state["stage"], schedule.at(used))
            loss = self._gradient(loop.step, schedule.stages[loop.state["stage"]])
            loop.descend(self.config.learning_rate * warmup_cosine(used), self.config.clip)
            self.losses.append(loss)
            loop.line = {"loss": loss}
        network, _ = load_model(self.folder)
        return cast(SharedContextNetwork, network)

    def _gradient(self, step: int, stage: Stage) -> float:
        """Leave the gradients of one step's loss in the network; returns the loss."""
        config, rng = self.config, numpy_generator(self.seed, "step", step)
        task = self.tasks[rng.integers(len(self.tasks))]
        X, Y = task.subject.X[task.train], task.subject.Y[task.train]
        largest = min(stage.max_context, len(X) - min(config.queries, len(X) // 4))
        low, high = np.log([min(stage.min_context, largest), largest])
        size = round(math.exp(rng.uniform(low, high)))
        order = rng.permutation(len(X))[: size + config.queries]
        if rng.random() < stage.simulated:
            # A mixture is there because it predicts better; a quarter of the subjects still have none of its groups.
            prior = task.gaussian if task.mixture is None or rng.random() < 0.25 else task.mixture
            Y = simulate_shifted_subject(prior, X[order], config.voxels, rng)
            X = X[order]
        else:
            count = int(np.exp(rng.uniform(np.log(16), np.log(max(config.voxels, 17)))))
            X, Y = X[order], Y[order][:, rng.permutation(Y.shape[1])[:count]]
        self._use(task)
        self.network.train()
        loss, _ = self._loss(X[:size], Y[:size], X[size:], Y[size:])
        torch.autograd.backward(loss)
        return float(loss.detach())

    def _use(self, task: Task | PopulationFit) -> None:
        if not self.config.agnostic:
            self.network.set_prior(task.gaussian, task.mixture)

    def _loss(
        self, X: NDArray[Any], Y: NDArray[Any], queries: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[Tensor, Tensor]:
        """Squared error and negative log likelihood per standardised query response; also the predictions (t, V)."""
        standardise = standardiser(Y)
        context, wanted = (torch.as_tensor(standardise(values), dtype=torch.float32) for values in (Y, targets))
        conditioned = self.network.condition(torch.as_tensor(X), context)
        voxels = slice(0, context.shape[1])
        predicted, variance = self.network.predictive_moments(conditioned, context, voxels, torch.as_tensor(queries))
        error = (wanted.T - predicted).square()
        weight = 1 / wanted.var(dim=0).clamp(min=0.2)  # a voxel counts alike however far its context's variance is off
        loss = ((error + 0.5 * (error / variance + variance.log())) * weight[:, None]).mean()
        return loss, predicted.detach().T

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Loss on validation pictures, real and simulated subjects as in the last stage, and r of the real ones.

        Simulated subjects count because the sessions of one or two animals cannot tell what a new one will be like.
        """
        self.network.eval()
        losses, model_r, prior_r, share = [], [], [], self.config.schedule.real.simulated
        for index, task in enumerate(self.tasks):
            self._use(task)
            rng = numpy_generator(self.seed, "validation", index)
            X, Y = task.subject.X, task.subject.Y[:, rng.permutation(task.subject.Y.shape[1])[: self.config.voxels]]
            Y = Y[:, Y[task.validation].std(axis=0) > 1e-6]
            shifted = simulate_shifted_subject(task.mixture or task.gaussian, X, self.config.voxels, rng)
            for size in self.config.validation_contexts:
                context = rng.permutation(task.train)[: min(size, len(task.train))]
                loss, predicted = self._loss(X[context], Y[context], X[task.validation], Y[task.validation])
                simulated, _ = self._loss(X[context], shifted[context], X[task.validation], shifted[task.validation])
                losses.append((1 - share) * float(loss) + share * float(simulated))
                varying = standardiser(Y[context]).varying
                baseline = PriorRidge(task.gaussian).fit(X[context], Y[context]).predict(X[task.validation])
                model_r.append(np.nanmean(pearson_r(Y[task.validation][:, varying], predicted.numpy())))
                prior_r.append(np.nanmean(pearson_r(Y[task.validation], baseline)[varying]))
        return {
            "validation_loss": float(np.mean(losses)),
            "validation_r": float(np.mean(model_r)),
            "prior_ridge_r": float(np.mean(prior_r)),
        }

    def _report(self) -> dict[str, Any]:
        """Validate, and keep the weights if they are the best so far."""
        loop, stage = self.loop, self.config.schedule.names[self.loop.state["stage"]]
        loss = float(np.mean(self.losses)) if self.losses else 0.0
        self.losses.clear()
        row: dict[str, Any] = {"step": loop.step, "stage": stage, "loss": loss, **self._validate()}
        loop.state["history"].append(row)
        if row["validation_loss"] < loop.state["best"]:
            loop.state["best"] = row["validation_loss"]
            self._save_model(row)
        loop.note = f"{stage} validation r {row['validation_r']:.3f} prior_ridge {row['prior_ridge_r']:.3f}"
        return row

    def _save_model(self, row: dict[str, Any]) -> None:
        self._use(self.fits[0])
        reports = [fit.report for fit in self.fits]
        training = {
            "seed": self.seed, "train_config": asdict(self.config),
            "population": reports if len(reports) > 1 else reports[0], "best": row,
        }  # fmt: skip
        names = sorted({subject.name for subject in self.subjects})
        reason = "the model is agnostic of embeddings and holds no population prior" if self.config.agnostic else ""
        card = ModelCard(training_subjects=names, prior_reason=reason, backbone=self.backbone, training=training)
        save_encoder(self.folder, self.network, card)

    def _check(self, saved: dict[str, Any]) -> None:
        """A run is resumed with the data, schedule and settings that it was begun with."""
        begun = stored_schedule({"train_config": saved.get("config", {})}, str(self.folder))
        if begun != self.config.schedule:
            raise InputError(
                f"{self.folder} was begun with another schedule ({begun}) than the one asked for "
                f"({self.config.schedule}); resume it with its own, or name another folder"
            )
        if saved["fingerprint"] != self._fingerprint():
            raise InputError(f"{self.folder} was trained on other data or settings; name another folder")

    def _fingerprint(self) -> str:
        """What a checkpoint must agree with to be resumed."""
        digest = hashlib.sha256(json.dumps([asdict(self.config), self.seed], sort_keys=True).encode())
        for subject in self.subjects:
            digest.update(f"{subject.name} {subject.X.shape} {subject.Y.shape}".encode())
            digest.update(np.ascontiguousarray(subject.Y).data)
        return digest.hexdigest()


def _learned(config: TrainConfig) -> dict[str, Tensor]:
    """What the model that training starts from has learned, by name of parameter; nothing without one.

    Raises
    ------
    ModelError, CheckpointError
        There is no such model, or it cannot be read.
    InputError
        Its network has other sizes.
    """
    if not config.start:
        return {}
    learned: dict[str, Tensor] = dict(load_model(find_model(config.start))[0].named_parameters())
    wanted = dict(SharedContextNetwork(config.network).named_parameters())
    if {name: part.shape for name, part in learned.items()} != {name: part.shape for name, part in wanted.items()}:
        raise InputError(f"training cannot start from {config.start}: its network has other sizes; set start to ''")
    return learned
