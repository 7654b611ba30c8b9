"""Meta-training: response sets of several subjects in, a model folder out.

First the population prior is fitted, its settings chosen inside the training data
(`braincl.training.population_prior`). Then the network's set transformer, which weights its closed-form experts, is
trained in three stages (`braincl.training.config`): simulated subjects whose populations differ from the prior by known
amounts, with contexts of one size; the same over all sizes; the training subjects themselves, each with the prior of
the fold that leaves it out, so that the network learns how far a prior may be trusted on somebody new. The best weights
on validation pictures are kept, the untrained ones among the candidates: training cannot make the closed form worse
there.

Training starts from what the embedded agnostic weights have learned, if the config names them.

Every draw's random numbers depend on the seed and its number alone, so that a resumed run equals an uninterrupted one,
and one of several processes (``torchrun --nproc-per-node 8 -m braincl train ...``) one of a single process.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from braincl.data.torch_settings import plain_torch
from braincl.estimators.base import standardiser
from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.config import SharedContextConfig
from braincl.models.model_folder import ModelCard, find_model, load_model, save_encoder, short_ids
from braincl.models.network import InContextNetwork
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.models.shared_context import SharedContextNetwork
from braincl.simulation.shifted_subject import simulate_shifted_subject
from braincl.training.config import PRESETS, Stage, TrainConfig
from braincl.training.population_prior import PopulationFit, data_fingerprint, load_or_fit
from braincl.training.tasks import Task, TrainingSets, make_tasks, read_subjects, some_voxels
from setcore.errors import InputError
from setcore.evaluation.metrics import pearson_r
from setcore.parallel.ranks import Ranks, join_ranks
from setcore.seeding import derive_seed, numpy_generator
from setcore.training import STATE_FILE, Budget, TrainingLoop, training_folder, warmup_cosine

POPULATION_FILE = "population.safetensors"
PRIOR_RIDGE_SHARE = 0.5
"""Of a network that was trained on several subjects, whose left-out ones a mixture did not predict better."""


@plain_torch()
def meta_train(
    datasets: Sequence[xr.Dataset | str | Path],
    config: TrainConfig | None = None,
    out: str | Path = "model",
    *,
    budget: Budget | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    exclude_images: Collection[str] = (),
) -> InContextNetwork:
    """Meta-learn a network, of either architecture, on the subjects of `datasets`.

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
        Steps, or minutes of training (default 15), resumes included; the fit of the population prior comes before.
    seed : int
    resume : bool
        Continue from the last checkpoint in `out`, in the stage where it stands; with the same seed, threads and number
        of steps the result equals that of an uninterrupted run. A larger budget never leads back to an earlier stage.
    progress : bool
        Show a progress line.
    exclude_images : collection of str
        The `image_id` of pictures that nothing is to be learned from, such as those that will be tested on.

    Returns
    -------
    InContextNetwork
        With the best weights on validation.

    Raises
    ------
    ResponseError
        A response set cannot be used, embeddings differ in width or backbone, or an excluded picture is nowhere.
    InputError
        `out` holds a model already and `resume` is not set, was begun with other data or another seed, schedule or
        other settings, is in use, or cannot be written; the loss is no longer finite; or the model that training starts
        from has another network.
    ModelError, CheckpointError
        There is no model to start from, or it cannot be read.

    Examples
    --------
    >>> import braincl
    >>> import numpy as np
    >>> from braincl.models.config import SharedContextConfig
    >>> from braincl.training.config import TrainConfig
    >>> from setcore.training import Budget
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(60, 9)), rng.normal(size=(60, 5))
    >>> sets = [braincl.from_arrays(Y, X, subject=name) for name in ("S1", "S2")]
    >>> small = TrainConfig(network=SharedContextConfig(width=8, heads=2, hidden=8, layers=1), voxels=8)
    >>> network = braincl.meta_train(sets, small, out="model", budget=Budget(steps=1), progress=False)
    >>> braincl.InContextEncoder.from_pretrained("model").training_subjects
    ['S1', 'S2']
    """
    config = config or PRESETS["small"]
    resuming = resume and (Path(out) / STATE_FILE).is_file()
    start = {} if resuming else _learned(config)
    budget = budget or Budget(minutes=15.0)
    sets = read_subjects(datasets, config.agnostic, config.most_voxels, seed, exclude_images)
    groups = sets.groups
    with join_ranks(config.device) as ranks, training_folder(out, resume, POPULATION_FILE, ranks=ranks) as folder:
        if not ranks.first:
            ranks.agree(0.0)  # the first process fits the population
        fits = [
            load_or_fit(folder / (f"{number}-" * (number > 0) + POPULATION_FILE), subjects, seed, progress=progress)
            for number, subjects in enumerate(groups)
        ]
        if ranks.first:
            ranks.agree(0.0)
        if not config.agnostic:
            features, mixture = groups[0][0].X.shape[1], fits[0].mixture
            network = replace(config.network, features=features)
            if isinstance(network, SharedContextConfig):
                network = replace(network, components=0 if mixture is None else len(mixture.means))
                several = mixture is None and len({subject.name for subject in groups[0]}) > 1
                if several and network.leave_one_out and network.scales[:1] == (1.0,):
                    network = replace(network, prior_ridge_share=PRIOR_RIDGE_SHARE)
            config = replace(config, network=network)
        trainer = _Trainer(folder, sets, fits, config, seed, start, ranks)
        return trainer.run(budget, progress)


class _Responses(NamedTuple):
    context: NDArray[np.float32]  # (n, V)
    targets: NDArray[np.float32]  # (t, V)


class _Trainer:
    def __init__(
        self, folder: Path, sets: TrainingSets, fits: list[PopulationFit], config: TrainConfig, seed: int,
        start: dict[str, Tensor], ranks: Ranks,
    ) -> None:  # fmt: skip
        self.ranks, self.share = ranks, ranks.share(config.batch)
        self.folder, self.fits, self.subjects = folder, fits, [subject for group in sets.groups for subject in group]
        self.config, self.seed, self.sets, self.start = config, seed, sets, start
        self.losses: list[Tensor] = []  # since the last report, where the network is: none is waited for
        self.device = ranks.device
        self.held_out: dict[int, list[tuple[NDArray[np.int64], _Responses, _Responses, float]]] = {}
        self.tasks = [
            task for group, fit in zip(sets.groups, fits, strict=True) for task in make_tasks(group, fit, config, seed)
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "network"))
            self.network = _make_network(config.network).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    def run(self, budget: Budget, progress: bool) -> InContextNetwork:
        """Train from the start or the last checkpoint on."""
        schedule, every = self.config.schedule, self.config.report_every
        configuration = {name: value for name, value in asdict(self.config).items() if name != "device"}
        self.loop = loop = TrainingLoop(
            self.folder, self.network, self.optimizer, None, budget, self._report, report_every=every, save_every=every,
            progress=progress, due=lambda used: used >= 1 or schedule.at(used) > loop.state["stage"],
            ranks=self.ranks,
            settings={
                "schedule": str(schedule), "seed": self.seed, "data set": data_fingerprint(self.subjects),
                "configuration": configuration,
            },
        )  # fmt: skip
        if not loop.resumed:
            loop.state = {"stage": schedule.at(0.0), "best": math.inf, "history": []}
            if self.start:  # the closed form stays the first candidate
                if self.ranks.first:
                    self._report()
                self.network.load_state_dict(self.start, strict=False)
            loop.log()
            loop.save()
        self.module = module = self._shared_loss()
        for used in loop:
            loop.state["stage"] = max(loop.state["stage"], schedule.at(used))
            stage = schedule.stages[loop.state["stage"]]
            draws = [loop.step * self.config.batch + place for place in self.share]
            found = [self._gradient(draw, stage) for draw in self.ranks.accumulate(module, draws)]
            loss = self.ranks.sum_(torch.stack(found).mean()) / self.ranks.count
            loop.descend(self.config.learning_rate * warmup_cosine(used), self.config.clip)
            self.losses.append(loss)
            loop.line = {"loss": loss}
        self.ranks.agree(0.0)  # the first process has written the model
        return load_model(self.folder)[0]

    def _shared_loss(self) -> torch.nn.Module:
        return self.ranks.wrap(self.network, lambda _, *data: self._loss(*data)[0], find_unused_parameters=True)

    def _gradient(self, draw: int, stage: Stage) -> Tensor:
        """Add the gradients of one draw's loss to those in the network; returns the loss."""
        config, rng = self.config, numpy_generator(self.seed, "step", draw)
        task = self.tasks[rng.integers(len(self.tasks))]
        pictures = len(task.train)
        largest = min(stage.max_context, pictures - min(config.queries, pictures // 4))
        low, high = np.log([min(stage.min_context, largest), largest])
        size = round(math.exp(rng.uniform(low, high)))
        rows = task.train[rng.permutation(pictures)[: size + config.queries]]
        X = task.subject.X[rows]
        if rng.random() < stage.simulated:
            # A mixture is there because it predicts better; a quarter of the subjects still have none of its groups.
            prior = task.gaussian if task.mixture is None or rng.random() < 0.25 else task.mixture
            Y = simulate_shifted_subject(prior, X, config.voxels, rng)
        else:
            count = int(np.exp(rng.uniform(np.log(16), np.log(max(config.voxels, 17)))))
            Y = task.subject.responses(rows, some_voxels(task.subject.Y.shape[1], count, rng))
        self._use(task)
        self.network.train()
        loss: Tensor = self.module(X[:size], Y[:size], X[size:], Y[size:])
        torch.autograd.backward(loss / len(self.share))
        return loss.detach()

    def _use(self, task: Task | PopulationFit) -> None:
        if isinstance(self.network, SharedContextNetwork) and not self.config.agnostic:
            self.network.set_prior(task.gaussian, task.mixture)

    def _loss(
        self, X: NDArray[Any], Y: NDArray[Any], queries: NDArray[Any], targets: NDArray[Any]
    ) -> tuple[Tensor, Tensor]:
        """Squared error and negative log likelihood per standardised query response; also the predictions (t, V)."""
        standardise = standardiser(Y)
        context, wanted = (
            torch.as_tensor(standardise(values), dtype=torch.float32).to(self.device, non_blocking=True)
            for values in (Y, targets)
        )
        weight = 1 / wanted.var(dim=0).clamp(min=0.2)  # a voxel counts alike however far its context's variance is off
        if isinstance(self.network, PerVoxelNetwork):
            weights, bias = self.network(torch.as_tensor(X).to(context), context)
            predicted = torch.as_tensor(queries).to(context) @ weights.T + bias
            return ((wanted - predicted).square() * weight).mean(), predicted.detach()
        assert isinstance(self.network, SharedContextNetwork)
        conditioned = self.network.condition(torch.as_tensor(X), context)
        told = self.network.tell(conditioned, context, slice(0, context.shape[1]))
        predicted, variance = self.network.predictive_moments(
            told, self.network.ask(conditioned, torch.as_tensor(queries))
        )
        error = (wanted - predicted).square()
        loss = ((error + 0.5 * (error / variance + variance.log())) * weight).mean()
        return loss, predicted.detach()

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Loss on validation pictures, real and simulated subjects as in the last stage, and r of the real ones.

        Simulated subjects count because the sessions of one or two animals cannot tell what a new one will be like.
        """
        self.network.eval()
        losses, found, prior_r, share = [], [], [], self.config.schedule.real.simulated
        for number, task in enumerate(self.tasks):
            self._use(task)
            for context, real, shifted, baseline in self._held_out(number):
                X, queries = task.subject.X[context], task.subject.X[task.validation]
                loss, predicted = self._loss(X, real.context, queries, real.targets)
                simulated, _ = self._loss(X, shifted.context, queries, shifted.targets)
                losses.append((1 - share) * loss + share * simulated)
                varying = standardiser(real.context).varying
                found.append(np.nanmean(pearson_r(real.targets[:, varying], predicted.cpu().numpy())))
                prior_r.append(baseline)
        return {
            "validation_loss": float(torch.stack(losses).mean()),
            "validation_r": float(np.mean(found)),
            "prior_ridge_r": float(np.mean(prior_r)),
        }

    def _held_out(self, number: int) -> list[tuple[NDArray[np.int64], _Responses, _Responses, float]]:
        """Contexts of a task with responses of the subject and of a simulated one, and population-prior ridge's r."""
        if number not in self.held_out:
            task, rng, contexts = self.tasks[number], numpy_generator(self.seed, "validation", number), []
            voxels, every = (
                some_voxels(task.subject.Y.shape[1], self.config.voxels, rng),
                np.arange(len(task.subject.X)),
            )
            Y = task.subject.responses(every, voxels)
            Y = Y[:, Y[task.validation].std(axis=0) > 1e-6]
            prior = task.mixture or task.gaussian
            shifted = simulate_shifted_subject(prior, task.subject.X, self.config.voxels, rng)
            for size in self.config.validation_contexts:
                context = rng.permutation(task.train)[: min(size, len(task.train))]
                ridge = PriorRidge(task.gaussian, device=self.config.device).fit(task.subject.X[context], Y[context])
                baseline = pearson_r(Y[task.validation], ridge.predict(task.subject.X[task.validation]))
                r = float(np.nanmean(baseline[standardiser(Y[context]).varying]))
                real, simulated = (_Responses(values[context], values[task.validation]) for values in (Y, shifted))
                contexts.append((context, real, simulated, r))
            self.held_out[number] = contexts
        return self.held_out[number]

    def _report(self) -> dict[str, Any]:
        """Validate, and keep the weights if they are the best so far."""
        loop, stage = self.loop, self.config.schedule.names[self.loop.state["stage"]]
        loss = float(torch.stack(self.losses).mean()) if self.losses else 0.0
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
        if isinstance(self.network, PerVoxelNetwork):
            reason = "a per_voxel network holds no population prior"
        card = ModelCard(
            training_subjects=names, prior_reason=reason, backbone=self.sets.backbone, training=training,
            training_images=short_ids(self.sets.images),
        )  # fmt: skip
        save_encoder(self.folder, self.network, card)


def _make_network(config: SharedContextConfig | PerVoxelConfig) -> SharedContextNetwork | PerVoxelNetwork:
    return PerVoxelNetwork(config) if isinstance(config, PerVoxelConfig) else SharedContextNetwork(config)


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
    wanted = dict(_make_network(config.network).named_parameters())
    if {name: part.shape for name, part in learned.items()} != {name: part.shape for name, part in wanted.items()}:
        raise InputError(f"training cannot start from {config.start}: its network has other sizes; set start to ''")
    return learned
