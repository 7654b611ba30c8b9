"""Tuning a trained tokenizer to refined tokens, which is what the efforts `normal` and `best` decode.

``python -m vat3d.tuning MODEL DATASET... --out MODEL_DIR [--minutes M | --steps N] [--resume]`` goes on from a model
folder. An encoder's latents are blurred, and a decoder trained on them alone learns to expect that. Here a pool of
training shapes is refined all the time, as `vat3d.refine` does it, at first with free vectors, then with what the
quantiser makes of them, and the same gradients tune the decoder (an auto-decoder, Park et al., DeepSDF,
arXiv 1901.05103, that forgets each shape after some visits). Every few steps a batch of ordinary training keeps the
encoder in step. The quantiser, and with it the meaning of a token, stays as it is. Axes: b batch, k token, c latent
channel.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from setcore.cli import Parser, add_json_flag, add_training_flags, print_result, run
from setcore.seeding import derive_seed, numpy_generator, torch_generator
from setcore.training import Budget, MovingAverage, TrainingLoop, training_folder
from vat3d.augment import Batch, make_batch
from vat3d.config import TrainConfig
from vat3d.losses import field_loss
from vat3d.network import CodecNetwork
from vat3d.precision import autocast
from vat3d.prepare import Dataset
from vat3d.rate import CodeUse
from vat3d.refine import falling_rate
from vat3d.release import export, load_release
from vat3d.tokenizer import model_folder
from vat3d.train import averaged_network, draw, figures, learning_rate, losses, training_splits
from vat3d.validation import Samples, fixed_batches

MOMENTS = (0.9, 0.95)


@dataclass(frozen=True)
class TuningConfig:
    """How a tokenizer is tuned.

    Parameters
    ----------
    training : TrainConfig
        Of the ordinary batches, and of the schedule of the network's learning rate.
    groups : int
        Batches of shapes in the pool, each at a stage of its own.
    visits : int
        Steps that a batch stays in the pool.
    free : float
        Share of the visits with free vectors; after it they are quantised.
    vector_rate : float
        Learning rate of the vectors at the first visit; it falls by a cosine.
    fewest : int
        A shape has between so many and all tokens, log-uniformly.
    stored : int
        Volume and as many near-surface samples that are kept of a shape while it is in the pool.
    encoder_every : int
        Steps between batches of ordinary training.
    table_batches : int
        Batches that are refined at the end, so that the entropy tables know such tokens, too.
    """

    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(batch=16, learning_rate=3e-4, cooldown=0.7, warmup=100)
    )
    groups: int = 8
    visits: int = 24
    free: float = 2 / 3
    vector_rate: float = 0.05
    fewest: int = 100
    stored: int = 4096
    encoder_every: int = 6
    table_batches: int = 16


class Pool(nn.Module):
    """Shapes whose token vectors are being refined; with `moments`, the optimiser's state, all that a checkpoint needs.

    Step s visits group s mod `groups`. Group g is filled at its first visit, and again after every `visits` of its
    visits, g visits earlier the first time, so that the groups are at different stages.
    """

    vectors: Tensor
    moments: Tensor

    def __init__(self, network: CodecNetwork, config: TuningConfig, datasets: Sequence[Samples], seed: int) -> None:
        super().__init__()
        self.config, self.datasets, self.seed = config, datasets, seed
        self.splits = training_splits(datasets)
        self.scales = network.config.scales
        shape = (config.groups, config.training.batch, sum(self.scales), network.config.channels)
        self.register_buffer("vectors", torch.zeros(shape))
        self.register_buffer("moments", torch.zeros(2, *shape))
        self._batches: dict[int, tuple[int, Batch, Tensor]] = {}

    def age(self, step: int) -> tuple[int, int]:
        """Which filling of its group step `step` meets, and how many visits that has had."""
        return divmod(step // self.config.groups + self._head_start(step), self.config.visits)

    def _head_start(self, step: int) -> int:
        """Visits that the first filling of the group goes without."""
        return step % self.config.groups * self.config.visits // self.config.groups

    def shapes(self, step: int) -> tuple[Batch, Tensor]:
        """The group's shapes with all their samples, and how many tokens each keeps (b,)."""
        group, (filling, _) = step % self.config.groups, self.age(step)
        if group not in self._batches or self._batches[group][0] != filling:
            config = replace(self.config.training, volume=self.config.stored, near=self.config.stored)
            rng = numpy_generator(self.seed, "pool", group, filling)
            generator = torch_generator(self.seed, "pool", group, filling)
            batch = make_batch(draw(self.datasets, self.splits, config, rng), config, generator)
            low, high = math.log(min(self.config.fewest, sum(self.scales))), math.log(sum(self.scales))
            kept = torch.exp(low + (high - low) * torch.rand(config.batch, generator=generator)).round().long()
            self._batches[group] = filling, batch, kept
        return self._batches[group][1:]

    @torch.no_grad()
    def fill(self, network: CodecNetwork, step: int) -> None:
        """The encoder's tokens as first vectors."""
        batch, kept = self.shapes(step)
        with autocast(self.config.training.bfloat16):
            mean = network.encode(batch.points, batch.normals, batch.box)[0]
        ids = torch.cat(network.quantizer(mean.float(), kept).ids, dim=1)
        group = step % self.config.groups
        self.vectors[group], self.moments[:, group] = 0.0, 0.0
        self.vectors[group, :, : ids.shape[1]] = network.quantizer.codebook[ids.clamp_min(0)] * (ids >= 0)[..., None]

    @torch.no_grad()
    def move(self, vectors: Tensor, step: int) -> None:
        """One step of Adam by the gradient of the group's vectors; that of dropped tokens is zero, and so they stay."""
        assert vectors.grad is not None
        group, (filling, visit) = step % self.config.groups, self.age(step)
        began = self._head_start(step) if filling == 0 else 0
        first, second = self.moments[:, group]
        first.lerp_(vectors.grad, 1 - MOMENTS[0])
        second.lerp_(vectors.grad.square(), 1 - MOMENTS[1])
        count = visit - began + 1
        mean, power = first / (1 - MOMENTS[0] ** count), second / (1 - MOMENTS[1] ** count)
        rate = falling_rate(self.config.vector_rate, visit, self.config.visits)
        self.vectors[group] -= rate * mean / (power.sqrt() + 1e-8)


def refined_loss(network: CodecNetwork, pool: Pool, step: int) -> tuple[Tensor, Tensor]:
    """Loss of the group that `step` visits, and its vectors with a gradient to come (b, k, c)."""
    config = pool.config
    batch, kept = pool.shapes(step)
    most = int(kept.max())
    vectors = pool.vectors[step % config.groups].clone().requires_grad_()
    present = (torch.arange(most) < kept[:, None])[..., None]
    latent = network.quantizer.from_vectors(vectors[:, :most] * present)
    if pool.age(step)[1] >= config.free * config.visits:
        with torch.no_grad():
            coded = network.quantizer(latent, kept).latent
        latent = latent + (coded - latent).detach()
    generator = torch_generator(pool.seed, "visit", step)
    near = batch.queries.shape[1] - batch.volume
    rows = torch.cat([
        torch.randint(batch.volume, (config.training.volume,), generator=generator),
        batch.volume + torch.randint(near, (config.training.near,), generator=generator),
    ])  # fmt: skip
    with autocast(config.training.bfloat16):
        logits = network.field(network.planes(latent, batch.box), batch.queries[:, rows], batch.box)
        errors = field_loss(logits, batch.distances[:, rows], network.config.sharpness)
    return errors[:, : config.training.volume].mean() + errors[:, config.training.volume :].mean(), vectors


def refined_latents(
    network: CodecNetwork, datasets: Sequence[Samples], config: TuningConfig, *, seed: int = 0, progress: bool = True
) -> list[tuple[Tensor, Tensor]]:
    """Latents of training shapes after `config.visits` steps on free vectors through the frozen network; with each
    batch how many tokens its shapes keep (b,)."""
    pool = Pool(network, replace(config, groups=1, free=1.0), datasets, derive_seed(seed, "tables"))
    found = []
    steps = range(config.table_batches * config.visits)
    for step in tqdm(steps, desc="tokens for tables", unit="step", disable=not progress):
        if pool.age(step)[1] == 0:
            pool.fill(network, step)
        loss, vectors = refined_loss(network, pool, step)
        loss.backward()
        pool.move(vectors, step)
        if pool.age(step)[1] == config.visits - 1:
            found.append((network.quantizer.from_vectors(pool.vectors[0]), pool.shapes(step)[1]))
    return found


def tune(
    model: str | Path,
    datasets: Sequence[Samples],
    out: str | Path,
    config: TuningConfig,
    budget: Budget,
    *,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Tune the tokenizer of a model folder into the model folder `out`; returns the last figures.

    Parameters
    ----------
    model : path or name
        A model folder or an embedded model.
    datasets : sequence of Dataset
        Each gives an equal share of every batch.
    out : path
        Receives a model folder as `vat3d.train.train` writes it.
    config : TuningConfig
    budget : Budget
    seed : int
    resume : bool
        Go on in `out`; without it a folder that holds a run is refused.
    progress : bool
        A progress bar on standard error.

    Raises
    ------
    InputError
        The folder holds a run and `resume` is not set, another process trains there, or a data set has no training
        meshes.
    CodecError, CheckpointError
        There is no such model, or its folder is damaged.
    """
    network, _, facts = load_release(model_folder(model))
    pool = Pool(network, config, datasets, seed)
    with training_folder(out, resume) as folder:
        return _tune(folder, network.train().requires_grad_(True), pool, facts, budget, progress)


def _tune(
    folder: Path, network: CodecNetwork, pool: Pool, facts: dict[str, Any], budget: Budget, progress: bool
) -> dict[str, Any]:
    config, training, codec = pool.config, pool.config.training, network.config
    network.quantizer.requires_grad_(False)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=1e-4, betas=(0.9, 0.98))
    use = CodeUse(len(codec.scales), codec.codes)
    average = MovingAverage(nn.ModuleDict({"network": network}), training.average)
    fixed = list(fixed_batches(pool.datasets, training))
    loop = TrainingLoop(
        folder, nn.ModuleDict({"network": network, "use": use, "pool": pool}), optimizer, average, budget,
        lambda: figures(averaged_network(codec, average), fixed, use),
        report_every=training.report_every, save_every=training.save_every, progress=progress,
    )  # fmt: skip
    loop.state = {"refined": [0.0, 0.0, 0.0]} | loop.state
    parts: dict[str, float] = {}
    for fraction in loop:
        step = loop.step
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, fraction, training)
        optimizer.zero_grad(set_to_none=True)
        if step < config.groups or pool.age(step)[1] == 0:
            pool.fill(network, step)
        loss, vectors = refined_loss(network, pool, step)
        loss.backward()
        pool.move(vectors, step)
        if step % config.encoder_every == 0:
            generator = torch_generator(pool.seed, "step", step)
            samples = draw(pool.datasets, pool.splits, training, numpy_generator(pool.seed, "data", step))
            encoded, parts, ids, _ = losses(
                network, make_batch(samples, training, generator), training, 1.0, use, generator
            )
            encoded.backward()
            use.update(ids)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        third = 3 * pool.age(step)[1] // config.visits
        loop.state["refined"][third] += (float(loss.detach()) - loop.state["refined"][third]) / min(step / 3 + 1, 100)
        loop.line = {"loss": float(loss.detach()), "refined": loop.state["refined"], **parts}
    facts = {name: facts[name] for name in ("step", "samples", "minutes") if name in facts}
    facts |= {"tuning_steps": loop.step, "tuning_minutes": round(loop.seconds / 60, 1)}
    tuned = averaged_network(codec, average).requires_grad_(False)
    refined = refined_latents(tuned, pool.datasets, config, seed=pool.seed, progress=progress)
    export(folder, tuned, pool.datasets, facts, refined=refined, seed=pool.seed, count=training.table_shapes)
    return {"seconds": round(loop.seconds, 1), **loop.line}


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = Parser(prog="vat3d.tuning", description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="a model folder or an embedded model")
    parser.add_argument("datasets", nargs="+", metavar="DATASET")
    parser.add_argument("--out", required=True, metavar="MODEL_DIR")
    add_training_flags(parser)
    add_json_flag(parser)
    parser.set_defaults(handler=_handle)
    return run(parser, argv)


def _handle(args: argparse.Namespace) -> None:
    result = tune(
        args.model, [Dataset(folder) for folder in args.datasets], args.out, TuningConfig(),
        Budget(steps=args.steps, minutes=args.minutes), seed=args.seed, resume=args.resume,
    )  # fmt: skip
    print_result({"out": args.out, **result}, args.json, f"{args.out}: {json.dumps(result)}")


if __name__ == "__main__":
    sys.exit(main())
