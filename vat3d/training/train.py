"""Training a tokenizer: one command from data sets to a model folder, which a kill cannot hurt.

The curriculum: first an autoencoder with a Gaussian latent; from `quantise_from` of the budget on the quantiser, each
sample keeping a random number of its tokens, so that every prefix of a file is a file; volume samples weigh more than
near-surface ones at first. All random numbers come from the seed and the step or the shape's number, so that a resumed
run equals an uninterrupted one (with `--steps`, in float32, at the same number of threads), and one of several
processes (``torchrun --nproc-per-node 8 -m vat3d train ...``) equals one of a single process but for rounding.

On two cores `--preset default` sees about twenty shapes a second; an hour gives a usable tokenizer, and training
resumed with a larger budget goes on from where it stood.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from setcore.devices import autocast
from setcore.parallel.prefetch import prefetch
from setcore.parallel.ranks import Ranks, join_ranks
from setcore.seeding import derive_seed, torch_generator
from setcore.training import Budget, MovingAverage, TrainingLoop, training_folder
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.config import CodecConfig
from vat3d.network.losses import field_loss, gaussian_kl
from vat3d.training.augment import Batch
from vat3d.training.batches import TrainingBatch, TrainingShapes
from vat3d.training.config import TrainConfig
from vat3d.training.export import export
from vat3d.training.rate import CodeUse
from vat3d.training.validation import Samples, data_fingerprint, fixed_batches, validate


def losses(
    network: CodecNetwork, batch: TrainingBatch, config: TrainConfig, fraction: float, bits: Sequence[Tensor] | None
) -> tuple[Tensor, dict[str, Tensor], list[Tensor], list[Tensor]]:
    """Loss of one batch: a mean over its shapes, so that parts of a batch may be computed one by one or elsewhere.

    Parameters
    ----------
    network : CodecNetwork
    batch : TrainingBatch
    config : TrainConfig
    fraction : float
        Of the budget that is used.
    bits : sequence of tensors of shape (1, v), optional
        What each code costs at each scale. None: there is no quantiser yet.

    Returns
    -------
    loss : tensor of shape ()
    parts : dict of tensors of shape ()
        For the progress line.
    ids, inputs : lists of tensors
        Of the quantiser; empty without one.
    """
    shapes = batch.shapes
    with autocast(config.precision, batch.noise.device):
        mean, log_variance = network.encode(shapes.points, shapes.normals, shapes.box)
        latent = mean + batch.noise * torch.exp(0.5 * log_variance)
        loss = config.kl_weight * gaussian_kl(mean, log_variance)
        ids: list[Tensor] = []
        inputs: list[Tensor] = []
        parts = {}
        if bits is not None:
            with autocast("float32", batch.noise.device):
                price = None
                if config.price_high:
                    price = batch.price * network.quantizer.weights()[batch.kept - 1]
                quantized = network.quantizer(latent, batch.kept, price, bits)
            ids, inputs, latent = quantized.ids, quantized.inputs, quantized.latent
            power = mean.detach().square().flatten(1).mean(1).clamp_min(1e-6)
            codebook, commitment = (quantized.loss / power).mean(1)
            loss = loss + config.codebook * codebook + config.commitment * commitment
            parts["vq"] = commitment.detach()
        logits = network.field(network.planes(latent, shapes.box), shapes.queries, shapes.box)
        errors = field_loss(logits, shapes.distances, network.config.sharpness)
    near_weight = config.near_weight_first + (config.near_weight_last - config.near_weight_first) * min(
        1.0, 2 * fraction
    )
    volume, near = errors[:, : shapes.volume].mean(), errors[:, shapes.volume :].mean()
    loss = loss + volume + near_weight * near
    parts |= {"volume": volume.detach(), "near": near.detach(), "std": mean.detach().std()}
    return loss, parts, ids, inputs


def learning_rate(step: int, fraction: float, config: TrainConfig) -> float:
    """Warm-up by steps, then constant, then from `cooldown` of the budget on a cosine down to a hundredth.

    Parameters
    ----------
    step : int
    fraction : float
        Of the budget that is used.
    config : TrainConfig

    Returns
    -------
    float
    """
    rise = min(1.0, (step + 1) / config.warmup)
    late = max(0.0, fraction - config.cooldown) / (1 - config.cooldown)
    return config.learning_rate * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * late)))


def train(
    datasets: Sequence[Samples],
    out: str | Path,
    codec: CodecConfig,
    config: TrainConfig,
    budget: Budget,
    *,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    on_start: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train a tokenizer into the model folder `out`.

    Parameters
    ----------
    datasets : sequence of Dataset
        Each gives an equal share of every batch.
    out : path
        Receives `config.json`, `model.safetensors` (the moving average of the weights), `tables.safetensors` (entropy
        tables), `training_state.safetensors` and `training_log.jsonl`.
    codec, config : CodecConfig, TrainConfig
    budget : Budget
        Steps, or minutes of training, those of earlier runs included.
    seed : int
    resume : bool
        Go on in `out`, with the same seed, data and settings; without it a folder that holds a model is refused.
    progress : bool
        A progress bar on standard error.
    on_start : callable
        Called by the first process when nothing has been refused and training begins.

    Returns
    -------
    dict
        The last line of the log: step, seconds, samples, losses and validation figures.

    Raises
    ------
    InputError
        The folder holds a run or a model and `resume` is not set, the run there was begun otherwise, another process
        trains there, a data set has no training meshes, or the loss is no longer finite.
    """
    shapes = TrainingShapes(datasets, codec, config, seed)
    with join_ranks(config.device) as ranks, training_folder(out, resume, ranks=ranks) as folder:
        return _train(folder, shapes, budget, progress, ranks, on_start)


def new_network(codec: CodecConfig, seed: int) -> CodecNetwork:
    """A network with weights that depend on `seed` alone; the global random state is left as it was.

    Parameters
    ----------
    codec : CodecConfig
    seed : int

    Returns
    -------
    CodecNetwork
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return CodecNetwork(codec)


def _train(
    folder: Path, source: TrainingShapes, budget: Budget, progress: bool, ranks: Ranks, on_start: Callable[[], None]
) -> dict[str, Any]:
    config, codec, seed = source.config, source.codec, source.seed
    share = ranks.share(config.batch, config.microbatch)
    network = new_network(codec, seed).to(ranks.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4, betas=(0.9, 0.98))
    use = CodeUse(len(codec.scales), codec.codes).to(ranks.device)
    whole = nn.ModuleDict({"network": network, "use": use})  # what a checkpoint holds
    average = MovingAverage(whole, config.average)
    fixed = [batch.to(ranks.device) for batch in fixed_batches(source.datasets, config)] if ranks.first else []
    loop = TrainingLoop(
        folder, whole, optimizer, average, budget,
        lambda: figures(averaged_network(codec, average), fixed, use if loop.state["quantise"] else None),
        report_every=config.report_every, save_every=config.save_every, progress=progress, ranks=ranks,
        settings={
            "seed": seed, "data set": data_fingerprint(source.datasets), "network": asdict(codec),
            "configuration": config.settings(),
        },
    )  # fmt: skip
    if ranks.first:
        on_start()
    loop.state = {"samples": 0, "quantise": False} | loop.state
    network.quantizer.requires_grad_(loop.state["quantise"])
    module = ranks.wrap(network, losses)
    batches = prefetch(lambda step: source.batch(step, share), itertools.count(loop.step), ranks.device, config.workers)
    for fraction, batch in zip(loop, batches, strict=False):  # the loop ends first
        if not loop.state["quantise"] and fraction >= config.quantise_from:
            loop.state["quantise"] = True
            start_quantizer(network, source, share, ranks)
            average.adopt("network.quantizer.")
            module = ranks.wrap(network, losses)
        bits = use.bits() if loop.state["quantise"] else None
        parts = batch.split(config.microbatch)
        found = []
        for part in ranks.accumulate(module, parts):
            loss, line, ids, inputs = module(part, config, fraction, bits)
            (loss / len(parts)).backward()
            found.append(({"loss": loss.detach(), **line}, ids, inputs))
        loop.descend(learning_rate(loop.step, fraction, config))
        loop.state["samples"] += config.batch
        if bits is not None:
            use.update(ranks.sum_(torch.stack([use.count(ids) for _, ids, _ in found]).sum(0)))
            if (loop.step + 1) % config.revive_every == 0:
                revive(network, use, found, torch_generator(seed, "revive", loop.step), ranks)
        lines = [line for line, _, _ in found]
        means = {name: torch.stack([line[name] for line in lines]).mean() for name in lines[0]}
        loop.line = {"samples": loop.state["samples"], **means}
    if ranks.first:
        facts = {"step": loop.step, "samples": loop.state["samples"], "minutes": round(loop.seconds / 60, 1)}
        count = min(config.table_shapes, 32 * sum(map(len, source.splits)))
        export(folder, averaged_network(codec, average), source.datasets, facts, seed=seed, count=count)
    return {"seconds": round(loop.seconds, 1), **loop.line}


@torch.no_grad()
def start_quantizer(network: CodecNetwork, source: TrainingShapes, share: range, ranks: Ranks) -> None:
    """Let the quantiser join, from the latents of `basis_shapes` deformed training shapes.

    One batch is enough where there are no components.

    Parameters
    ----------
    network : CodecNetwork
    source : TrainingShapes
    share : range
        The places in a batch that this process works on.
    ranks : Ranks
    """
    config = source.config
    steps = -(-config.basis_shapes // config.batch) if network.config.components else 1

    def basis(step: int) -> Batch:
        first = step * config.batch
        numbers = range(first + share.start, first + share.stop)
        return source.shapes("basis", numbers, source.generators("basis", numbers))

    means = []
    for batch in prefetch(basis, range(steps), ranks.device, config.workers):
        with autocast(config.precision, ranks.device):
            found = [network.encode(part.points, part.normals, part.box)[0] for part in batch.split(config.microbatch)]
        means.append(ranks.gather(torch.cat(found)))
    network.quantizer.initialise(torch.cat(means), torch_generator(source.seed, "quantiser"))
    for tensor in network.quantizer.state_dict().values():
        ranks.first_(tensor)
    network.quantizer.load_state_dict(network.quantizer.state_dict())  # what is made of them, too
    network.quantizer.requires_grad_()


@torch.no_grad()
def revive(
    network: CodecNetwork, use: CodeUse, found: Sequence[tuple[Any, Sequence[Tensor], Sequence[Tensor]]],
    generator: torch.Generator, ranks: Ranks,
) -> None:  # fmt: skip
    """Put dead codes onto vectors of the batch of all processes; the first one draws them.

    Parameters
    ----------
    network : CodecNetwork
    use : CodeUse
    found : sequence of tuples
        Of each part of this process's batch; ids and inputs of the quantiser come last.
    generator : torch.Generator
    ranks : Ranks
    """
    dead = use.dead()
    ids, inputs = (
        [ranks.gather(torch.cat(parts)) for parts in zip(*(kind[which] for kind in found), strict=True)]
        for which in (1, 2)
    )
    if ranks.first:
        network.quantizer.revive(ids, inputs, dead, generator)
    ranks.first_(network.quantizer.codebook.data)
    use.revived(dead)


def averaged_network(codec: CodecConfig, average: MovingAverage) -> CodecNetwork:
    """The network with the moving average of the weights.

    Parameters
    ----------
    codec : CodecConfig
    average : MovingAverage

    Returns
    -------
    CodecNetwork
    """
    prefix = "network."
    network = CodecNetwork(codec).to(next(iter(average.state.values())).device)
    network.load_state_dict(
        {name.removeprefix(prefix): t for name, t in average.state.items() if name.startswith(prefix)}
    )
    return network.eval()


def figures(network: CodecNetwork, fixed: Sequence[Batch], use: CodeUse | None) -> dict[str, Any]:
    """Validation figures, and, once there is a quantiser, how many codes each scale uses.

    Parameters
    ----------
    network : CodecNetwork
    fixed : sequence of Batch
    use : CodeUse, optional

    Returns
    -------
    dict
    """
    found: dict[str, Any] = validate(network, fixed, use is not None)
    if use is not None:
        found["perplexity"] = [round(value) for value in use.perplexity()]
        found["in_use"] = use.in_use()
    return found
