"""Training a tokenizer: one command from data sets to a model folder, which a kill cannot hurt.

The curriculum: first an autoencoder with a Gaussian latent; from `quantise_from` of the budget on the quantiser, each
sample keeping a random number of its tokens, so that every prefix of a file is a file; volume samples weigh more than
near-surface ones at first. All random numbers come from the seed and the step, so that a resumed run equals an
uninterrupted one (with `--steps`, in float32, at the same number of threads).

On two cores `--preset default` sees about twenty shapes a second; an hour gives a usable tokenizer, and training
resumed with a larger budget goes on from where it stood.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from setcore.errors import InputError
from setcore.seeding import derive_seed, numpy_generator, torch_generator
from setcore.training import Budget, MovingAverage, TrainingLoop, training_folder
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.config import CodecConfig
from vat3d.network.losses import field_loss, gaussian_kl
from vat3d.network.precision import autocast
from vat3d.training.augment import Batch, make_batch
from vat3d.training.config import TrainConfig
from vat3d.training.export import export
from vat3d.training.rate import CodeUse, bit_prices, kept_tokens
from vat3d.training.validation import Samples, fixed_batches, validate


def losses(
    network: CodecNetwork, batch: Batch, config: TrainConfig, fraction: float, use: CodeUse | None,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float], list[Tensor], list[Tensor]]:  # fmt: skip
    """Loss of one batch.

    Parameters
    ----------
    network : CodecNetwork
    batch : Batch
    config : TrainConfig
    fraction : float
        Of the budget that is used.
    use : CodeUse, optional
        None: there is no quantiser yet.
    generator : torch.Generator

    Returns
    -------
    loss : tensor of shape ()
    parts : dict
        For the progress line.
    ids, inputs : lists of tensors
        Of the quantiser; empty without one.
    """
    with autocast(config.precision):
        mean, log_variance = network.encode(batch.points, batch.normals, batch.box)
        noise = torch.randn(mean.shape, generator=generator)
        latent = mean + noise * torch.exp(0.5 * log_variance)
        loss = config.kl_weight * gaussian_kl(mean, log_variance)
        ids: list[Tensor] = []
        inputs: list[Tensor] = []
        parts = {}
        if use is not None:
            with torch.autocast("cpu", enabled=False):
                scales = network.config.scales
                kept = kept_tokens(scales, len(mean), generator)
                price = None
                if config.price_high:
                    price = bit_prices(kept, network.quantizer.weights(), config, generator)
                quantized = network.quantizer(latent, kept, price, use.bits())
            ids, inputs, latent = quantized.ids, quantized.inputs, quantized.latent
            codebook, commitment = quantized.loss / mean.detach().square().mean().clamp_min(1e-6)
            loss = loss + config.codebook * codebook + config.commitment * commitment
            parts["vq"] = float(commitment.detach())
        logits = network.field(network.planes(latent, batch.box), batch.queries, batch.box)
        errors = field_loss(logits, batch.distances, network.config.sharpness)
    near_weight = config.near_weight_first + (config.near_weight_last - config.near_weight_first) * min(
        1.0, 2 * fraction
    )
    volume, near = errors[:, : batch.volume].mean(), errors[:, batch.volume :].mean()
    loss = loss + volume + near_weight * near
    parts |= {"volume": float(volume.detach()), "near": float(near.detach()), "std": float(mean.detach().std())}
    return loss, parts, ids, inputs


def draw(
    datasets: Sequence[Samples], splits: Sequence[Any], config: TrainConfig, rng: np.random.Generator
) -> Mapping[str, Tensor]:
    """Stored samples of an equal share of a batch from every data set.

    Parameters
    ----------
    datasets : sequence of Dataset
    splits : sequence of int arrays
        Indices to draw from, of each data set.
    config : TrainConfig
    rng : numpy.random.Generator

    Returns
    -------
    mapping of str to tensor
    """
    owners = np.sort(rng.permutation(np.arange(config.batch) % len(datasets)))
    drawn = []
    for number, (dataset, split) in enumerate(zip(datasets, splits, strict=True)):
        count = int((owners == number).sum())
        if count:
            drawn.append(dataset.batch(rng.choice(split, count)))
    return {name: torch.cat([samples[name] for samples in drawn]) for name in drawn[0]}


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
        Go on in `out`; without it a folder that holds a model is refused.
    progress : bool
        A progress bar on standard error.

    Returns
    -------
    dict
        The last line of the log: step, seconds, samples, losses and validation figures.

    Raises
    ------
    InputError
        The folder holds a run and `resume` is not set, another process trains there, or a data set has no training
        meshes.
    """
    splits = training_splits(datasets)
    with training_folder(out, resume) as folder:
        return _train(folder, datasets, splits, codec, config, budget, seed, progress)


def training_splits(datasets: Sequence[Samples]) -> list[Any]:
    """Indices of the training meshes of each data set.

    Parameters
    ----------
    datasets : sequence of Dataset

    Returns
    -------
    list of int arrays

    Raises
    ------
    InputError
        A data set has none.
    """
    splits = [np.asarray(dataset.split("train")) for dataset in datasets]
    if not splits or not all(len(split) for split in splits):
        raise InputError("a data set has no training meshes; prepare more, or leave it out")
    return splits


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
    folder: Path,
    datasets: Sequence[Samples],
    splits: Sequence[Any],
    codec: CodecConfig,
    config: TrainConfig,
    budget: Budget,
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    network = new_network(codec, seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4, betas=(0.9, 0.98))
    use = CodeUse(len(codec.scales), codec.codes)
    whole = nn.ModuleDict({"network": network, "use": use})  # what a checkpoint holds
    average = MovingAverage(whole, config.average)
    fixed = list(fixed_batches(datasets, config))
    loop = TrainingLoop(
        folder, whole, optimizer, average, budget,
        lambda: figures(averaged_network(codec, average), fixed, use if loop.state["quantise"] else None),
        report_every=config.report_every, save_every=config.save_every, progress=progress,
    )  # fmt: skip
    loop.state = {"samples": 0, "quantise": False} | loop.state
    for fraction in loop:
        generator = torch_generator(seed, "step", loop.step)
        batch = make_batch(draw(datasets, splits, config, numpy_generator(seed, "data", loop.step)), config, generator)
        if not loop.state["quantise"] and fraction >= config.quantise_from:
            loop.state["quantise"] = True
            network.quantizer.initialise(_latents(network, datasets, splits, config, seed), generator)
            average.adopt("network.quantizer.")
        loss, parts, ids, inputs = losses(
            network, batch, config, fraction, use if loop.state["quantise"] else None, generator
        )
        loss.backward()
        loop.descend(learning_rate(loop.step, fraction, config))
        loop.state["samples"] += config.batch
        if ids:
            use.update(ids)
            if (loop.step + 1) % config.revive_every == 0:
                dead = use.dead()
                network.quantizer.revive(inputs, dead, generator)
                use.revived(dead)
        loop.line = {"samples": loop.state["samples"], "loss": float(loss.detach()), **parts}
    facts = {"step": loop.step, "samples": loop.state["samples"], "minutes": round(loop.seconds / 60, 1)}
    export(
        folder,
        averaged_network(codec, average),
        datasets,
        facts,
        seed=seed,
        count=min(config.table_shapes, 32 * sum(map(len, splits))),
    )
    return {"seconds": round(loop.seconds, 1), **loop.line}


@torch.no_grad()
def _latents(
    network: CodecNetwork, datasets: Sequence[Samples], splits: Sequence[Any], config: TrainConfig, seed: int
) -> Tensor:
    """Latents of `config.basis_shapes` deformed training shapes; one batch is enough where there are no components."""
    means = []
    for step in range(-(-config.basis_shapes // config.batch) if network.config.components else 1):
        samples = draw(datasets, splits, config, numpy_generator(seed, "basis", step))
        batch = make_batch(samples, config, torch_generator(seed, "basis", step))
        with autocast(config.precision):
            means.append(network.encode(batch.points, batch.normals, batch.box)[0])
    return torch.cat(means)


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
    network = CodecNetwork(codec)
    prefix = "network."
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
