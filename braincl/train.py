"""Meta-training: response sets of several subjects in, a model folder out.

First the population prior is fitted, its settings chosen inside the training data (`braincl.population`). Then the gate
of the network is trained on contexts drawn from the training subjects, each with the prior of the fold that leaves it
out, so that it learns how far a prior may be trusted on somebody new; a share of the steps shows simulated subjects
that stray from the prior by known amounts. The best weights on validation pictures are kept, the untrained gate among
the candidates: training cannot make the closed form worse there.

Every step's random numbers depend on the seed and the step alone, so that a resumed run equals an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from braincl.base import standardiser
from braincl.encoder import ModelCard, load_model, save_encoder
from braincl.errors import ResponseError
from braincl.network import SharedContextConfig, SharedContextNetwork
from braincl.population import PopulationFit, Subject, fit_population, make_folds
from braincl.prior import Prior
from braincl.prior_ridge import PriorRidge
from braincl.responses import average_duplicates, open_responses
from braincl.stray import simulate_stray
from setcore.checkpoint import load_tensors, save_tensors
from setcore.errors import InputError
from setcore.files import locked_folder
from setcore.metrics import pearson_r
from setcore.seeding import derive_seed, numpy_generator
from setcore.training import (
    STATE_FILE,
    Budget,
    Stopwatch,
    load_training_state,
    save_training_state,
    warmup_cosine,
)

POPULATION_FILE = "population.safetensors"


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `meta_train`.

    Attributes
    ----------
    network : SharedContextConfig
        `features` and `components` are set from the data.
    agnostic : bool
        Train a network without a population prior, which takes any embedding; the prior of the training subjects then
        only makes the simulated ones.
    min_context, max_context : int
        Pictures in a context, drawn log-uniformly.
    queries, voxels : int
        Query pictures and (at most) voxels of a step.
    simulated : float
        Share of steps on simulated subjects.
    learning_rate, weight_decay, clip : float
    validation_images : int
        Pictures per data set that are kept for validation (at most a fifth of them).
    validation_contexts : tuple of int
    report_every : int
        Steps between validations, which are also the checkpoints.
    """

    network: SharedContextConfig = field(default_factory=SharedContextConfig)
    agnostic: bool = False
    min_context: int = 8
    max_context: int = 400
    queries: int = 100
    voxels: int = 256
    simulated: float = 0.4
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    validation_images: int = 200
    validation_contexts: tuple[int, ...] = (20, 100, 300)
    report_every: int = 50


PRESETS = {
    "small": TrainConfig(),
    "agnostic": TrainConfig(agnostic=True),
    "paper": TrainConfig(
        network=SharedContextConfig(width=64, hidden=128, layers=3), max_context=1000, queries=200, voxels=1024
    ),
}


class _Task(NamedTuple):
    """One data set with the priors that have not seen it, its validation pictures apart."""

    subject: Subject
    gaussian: Prior
    mixture: Prior | None
    train: NDArray[np.int64]
    validation: NDArray[np.int64]


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
        Equal embeddings throughout. Sessions of one subject share the attribute `subject`; more subjects are better.
    config : TrainConfig, optional
        Default: the preset "small".
    out : folder
        Made if need be; holds the model and the state of training.
    budget : Budget, optional
        Steps, or minutes of time used (default 15), resumes included.
    seed : int
    resume : bool
        Go on from the last checkpoint in `out`; with the same seed, threads and number of steps the result equals that
        of an uninterrupted run.
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
        `out` holds a model already and `resume` is not set, is in use, or cannot be written.
    """
    config = config or PRESETS["small"]
    budget = budget or Budget(minutes=15.0)
    opened = [open_responses(source) for source in datasets]
    subjects = prepare_subjects(opened)
    stated = {str(dataset.attrs.get("backbone", "")) for dataset in opened} - {""}
    backbone = "" if config.agnostic or not stated else stated.pop()  # `prepare_subjects` refuses more than one
    with locked_folder(out) as folder:
        if not resume and any((folder / name).exists() for name in (STATE_FILE, POPULATION_FILE, "config.json")):
            raise InputError(f"{folder} holds a model already; pass --resume to go on, or name another folder")
        stopwatch = Stopwatch()
        fit = _load_or_fit(folder, subjects, seed)
        if not config.agnostic:
            components = len(fit.mixture.means) if fit.mixture is not None else 0
            shape = replace(config.network, features=subjects[0].X.shape[1], components=components)
            config = replace(config, network=shape)
        trainer = _Trainer(folder, subjects, fit, config, budget, seed, backbone)
        return trainer.run(stopwatch, progress)


def prepare_subjects(datasets: Sequence[xr.Dataset | str | Path]) -> list[Subject]:
    """Validated subjects; pictures that were shown again are averaged.

    Raises
    ------
    ResponseError
    """
    if not datasets:
        raise ResponseError("training needs at least one response set")
    subjects, backbones = [], set()
    for position, source in enumerate(datasets):
        dataset = average_duplicates(open_responses(source))
        name = str(dataset.attrs.get("subject", "")) or f"subject {position}"
        subjects.append(Subject(name, dataset["embedding"].values, dataset["response"].values))
        backbones.add(str(dataset.attrs.get("backbone", "")))
        if len(subjects[-1].X) < 20:
            raise ResponseError(f"{name}: {len(subjects[-1].X)} pictures; training needs at least 20 in each set")
    widths = sorted({subject.X.shape[1] for subject in subjects})
    if len(widths) > 1 or len(backbones - {""}) > 1:
        raise ResponseError(
            f"the response sets have embeddings of {widths} features from {sorted(backbones)}; embed all of them with "
            "one backbone"
        )
    return subjects


class _Trainer:
    def __init__(
        self, folder: Path, subjects: list[Subject], fit: PopulationFit, config: TrainConfig, budget: Budget, seed: int,
        backbone: str,
    ) -> None:  # fmt: skip
        self.folder, self.subjects, self.fit = folder, subjects, fit
        self.config, self.budget, self.seed, self.backbone = config, budget, seed, backbone
        self.tasks = _make_tasks(subjects, fit, config, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "network"))
            self.network = SharedContextNetwork(config.network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.best = math.inf
        self.history: list[dict[str, float]] = []

    def run(self, stopwatch: Stopwatch, progress: bool) -> SharedContextNetwork:
        step, losses = 0, [0.0]
        if (self.folder / STATE_FILE).is_file():
            saved = load_training_state(self.folder, self.network, self.optimizer)
            if saved["fingerprint"] != self._fingerprint():
                raise InputError(f"{self.folder} was trained on other data or settings; name another folder")
            step, self.best, self.history = saved["step"], saved["best"], saved["history"]
            stopwatch = Stopwatch(saved["seconds"])
        else:
            self._report(step, stopwatch, 0.0)
        voxels, started = 0, stopwatch.seconds
        with tqdm(disable=not progress, unit="step", desc="braincl train", initial=step) as bar:
            while (used := self.budget.fraction(step, stopwatch.seconds)) < 1:
                for group in self.optimizer.param_groups:
                    group["lr"] = self.config.learning_rate * warmup_cosine(used)
                loss, count = self._step(step)
                losses.append(loss)
                step, voxels = step + 1, voxels + count
                bar.update()
                last = self.budget.fraction(step, stopwatch.seconds) >= 1
                if step % self.config.report_every == 0 or last:
                    row = self._report(step, stopwatch, float(np.mean(losses[-self.config.report_every :])))
                    bar.set_postfix_str(
                        f"loss {row['loss']:.3f} validation r {row['validation_r']:.3f} prior_ridge "
                        f"{row['prior_ridge_r']:.3f} {voxels / (stopwatch.seconds - started):.0f} voxels/s"
                    )
        return self._finish()

    def _step(self, step: int) -> tuple[float, int]:
        """One optimiser step; returns the loss and the number of voxels."""
        config, rng = self.config, numpy_generator(self.seed, "step", step)
        task = self.tasks[rng.integers(len(self.tasks))]
        X, Y = task.subject.X[task.train], task.subject.Y[task.train]
        largest = min(config.max_context, len(X) - min(config.queries, len(X) // 4))
        low, high = np.log([min(config.min_context, largest), largest])
        size = round(math.exp(rng.uniform(low, high)))
        order = rng.permutation(len(X))[: size + config.queries]
        if rng.random() < config.simulated:
            Y = simulate_stray(task.gaussian if task.mixture is None or rng.random() < 0.5 else task.mixture,
                               X[order], config.voxels, rng)  # fmt: skip
            X = X[order]
        else:
            count = int(np.exp(rng.uniform(np.log(16), np.log(max(config.voxels, 17)))))
            X, Y = X[order], Y[order][:, rng.permutation(Y.shape[1])[:count]]
        self._use(task)
        self.network.train()
        loss, _ = self._loss(X[:size], Y[:size], X[size:], Y[size:])
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self.optimizer.step()
        return float(loss.detach()), Y.shape[1]

    def _use(self, task: _Task | PopulationFit) -> None:
        if not self.config.agnostic:
            self.network.set_prior(task.gaussian, task.mixture)

    def _loss(
        self, X: NDArray[Any], Y: NDArray[Any], queries: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[Tensor, Tensor]:
        """Squared error and negative log likelihood per standardised query response; also the predictions (t, V)."""
        standardise = standardiser(Y)
        context, wanted = (torch.as_tensor(standardise(values), dtype=torch.float32) for values in (Y, targets))
        reading = self.network.read(torch.as_tensor(X), context)
        predicted, variance = self.network.moments(
            reading, context, slice(0, context.shape[1]), torch.as_tensor(queries)
        )
        error = (wanted.T - predicted).square()
        weight = 1 / wanted.var(dim=0).clamp(min=0.2)  # a voxel counts alike however far its context's variance is off
        loss = ((error + 0.5 * (error / variance + variance.log())) * weight[:, None]).mean()
        return loss, predicted.detach().T

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Loss on validation pictures, real and simulated subjects in the shares of training, and r of the real ones.

        Simulated subjects count because the sessions of one or two animals cannot tell what a new one will be like.
        """
        self.network.eval()
        losses, model_r, prior_r = [], [], []
        for index, task in enumerate(self.tasks):
            self._use(task)
            rng = numpy_generator(self.seed, "validation", index)
            X, Y = task.subject.X, task.subject.Y[:, rng.permutation(task.subject.Y.shape[1])[: self.config.voxels]]
            Y = Y[:, Y[task.validation].std(axis=0) > 1e-6]
            stray = simulate_stray(task.gaussian, X, self.config.voxels, rng)
            for size in self.config.validation_contexts:
                context = rng.permutation(task.train)[: min(size, len(task.train))]
                loss, predicted = self._loss(X[context], Y[context], X[task.validation], Y[task.validation])
                simulated, _ = self._loss(X[context], stray[context], X[task.validation], stray[task.validation])
                losses.append((1 - self.config.simulated) * float(loss) + self.config.simulated * float(simulated))
                live = standardiser(Y[context]).live
                baseline = PriorRidge(task.gaussian).fit(X[context], Y[context]).predict(X[task.validation])
                model_r.append(np.nanmean(pearson_r(Y[task.validation][:, live], predicted.numpy())))
                prior_r.append(np.nanmean(pearson_r(Y[task.validation], baseline)[live]))
        return {
            "validation_loss": float(np.mean(losses)),
            "validation_r": float(np.mean(model_r)),
            "prior_ridge_r": float(np.mean(prior_r)),
        }

    def _report(self, step: int, stopwatch: Stopwatch, loss: float) -> dict[str, float]:
        """Validate, keep the weights if they are the best so far, write a checkpoint."""
        row = {"step": step, "loss": loss, **self._validate()}
        self.history.append(row)
        if row["validation_loss"] < self.best:
            self.best = row["validation_loss"]
            self._save_model(row)
        save_training_state(self.folder, self.network, self.optimizer, {
            "step": step, "seconds": stopwatch.seconds, "best": self.best, "history": self.history,
            "fingerprint": self._fingerprint(),
        })  # fmt: skip
        return row

    def _save_model(self, row: dict[str, float]) -> None:
        self._use(self.fit)
        training = {"seed": self.seed, "train_config": asdict(self.config), "population": self.fit.report, "best": row}
        names = sorted({subject.name for subject in self.subjects})
        reason = "the model is agnostic of embeddings and holds no population prior" if self.config.agnostic else ""
        card = ModelCard(training_subjects=names, prior_reason=reason, backbone=self.backbone, training=training)
        save_encoder(self.folder, self.network, card)

    def _finish(self) -> SharedContextNetwork:
        network, _ = load_model(self.folder)
        assert isinstance(network, SharedContextNetwork)
        return network

    def _fingerprint(self) -> str:
        """What a checkpoint must agree with to be resumed."""
        digest = hashlib.sha256(json.dumps([asdict(self.config), self.seed], sort_keys=True).encode())
        for subject in self.subjects:
            digest.update(f"{subject.name} {subject.X.shape} {subject.Y.shape}".encode())
            digest.update(np.ascontiguousarray(subject.Y).tobytes())
        return digest.hexdigest()


def _make_tasks(subjects: list[Subject], fit: PopulationFit, config: TrainConfig, seed: int) -> list[_Task]:
    tasks = []
    for fold, gaussian, mixture in fit.folds:
        for index in fold.datasets:
            subject = subjects[index]
            if fold.voxels is not None:
                subject = subject._replace(Y=subject.Y[:, fold.voxels[0]])
            order = numpy_generator(seed, "validation pictures", index).permutation(len(subject.X))
            held = min(config.validation_images, len(order) // 5)
            tasks.append(_Task(subject, gaussian, mixture, np.sort(order[held:]), np.sort(order[:held])))
    return tasks


def _load_or_fit(folder: Path, subjects: list[Subject], seed: int) -> PopulationFit:
    """The population prior, from the folder where an earlier run has fitted it to the same data."""
    path = folder / POPULATION_FILE
    shapes = json.dumps([[s.name, *s.X.shape, s.Y.shape[1]] for s in subjects] + [seed])
    if path.is_file():
        return _unpack(load_tensors(path), subjects, shapes, path)
    fit = fit_population(subjects, seed=seed)
    save_tensors(path, _pack(fit, shapes))
    return fit


def _pack(fit: PopulationFit, shapes: str) -> dict[str, Tensor]:
    priors = {"all.gaussian": fit.gaussian, "all.mixture": fit.mixture}
    for number, (_, gaussian, mixture) in enumerate(fit.folds):
        priors |= {f"{number}.gaussian": gaussian, f"{number}.mixture": mixture}
    tensors = {
        f"{name}.{part}": torch.as_tensor(value)
        for name, prior in priors.items() if prior is not None
        for part, value in vars(prior).items()
    }  # fmt: skip
    text = json.dumps({"shapes": shapes, "report": fit.report})
    return tensors | {"report": torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)}


def _unpack(tensors: dict[str, Tensor], subjects: list[Subject], shapes: str, path: Path) -> PopulationFit:
    text = json.loads(bytes(tensors["report"].tolist()).decode())
    if text["shapes"] != shapes:
        raise InputError(f"{path} was fitted on other data or with another seed; name another folder")

    def prior(name: str) -> Prior | None:
        if f"{name}.means" not in tensors:
            return None
        return Prior(*(tensors[f"{name}.{part}"].numpy() for part in ("log_weights", "means", "covariances", "shares")))

    def gaussian(name: str) -> Prior:
        found = prior(f"{name}.gaussian")
        assert found is not None
        return found

    folds = [(fold, gaussian(str(n)), prior(f"{n}.mixture")) for n, fold in enumerate(make_folds(subjects))]
    return PopulationFit(gaussian("all"), prior("all.mixture"), folds, text["report"])
