"""Tuning a trained tokenizer to refined tokens, which is what the efforts `normal` and `best` decode.

``vat3d tune`` goes on from a model folder. An encoder's latents are blurred, and a decoder trained on them alone learns
to expect that. Here a pool of training shapes is refined all the time (`vat3d.training.refined_pool`), as
`vat3d.codec.refine_tokens` and `vat3d.codec.refine_residual` do it, and the same gradients tune the decoder (an
auto-decoder, Park et al., DeepSDF, arXiv 1901.05103, that forgets each shape after some visits). Every few steps a
batch of ordinary training keeps the encoder in step. The quantiser, and with it the meaning of a token, stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from setcore.seeding import numpy_generator, torch_generator
from setcore.training import Budget, MovingAverage, TrainingLoop, training_folder
from vat3d.network.codec_network import CodecNetwork
from vat3d.pretrained import load_pretrained
from vat3d.training.augment import make_batch
from vat3d.training.export import export
from vat3d.training.rate import CodeUse
from vat3d.training.refined_pool import (
    Pool,
    TuningConfig,
)
from vat3d.training.train import averaged_network, draw, figures, learning_rate, losses
from vat3d.training.validation import Samples, fixed_batches


def tune(
    model: str | Path,
    datasets: Sequence[Samples],
    out: str | Path,
    config: TuningConfig,
    budget: Budget,
    *,
    resume: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Tune the tokenizer of a model folder.

    Parameters
    ----------
    model : path or name
        A model folder or an embedded model.
    datasets : sequence of Dataset
        Each gives an equal share of every batch.
    out : path
        Receives a model folder as `vat3d.training.train.train` writes it.
    config : TuningConfig
    budget : Budget
    seed : int
    resume : bool
        Go on in `out`; without it a folder that holds a run is refused.
    progress : bool
        A progress bar on standard error.

    Returns
    -------
    dict
        The last figures.

    Raises
    ------
    InputError
        The folder holds a run and `resume` is not set, another process trains there, or a data set has no training
        meshes.
    CodecError, CheckpointError
        There is no such model, or its folder is damaged.
    """
    network, _, facts = load_pretrained(model)
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
    loop.state = {"tokens": [0.0] * 3, "residuals": [0.0] * 3} | loop.state
    parts: dict[str, float] = {}
    for fraction in loop:
        step = loop.step
        if step < config.groups or pool.age(step)[1] == 0:
            pool.fill(network, step)
        loss = float(pool.visit(network, step))
        if step % config.encoder_every == 0:
            generator = torch_generator(pool.seed, "step", step)
            samples = draw(pool.datasets, pool.splits, training, numpy_generator(pool.seed, "data", step))
            encoded, parts, ids, _ = losses(
                network, make_batch(samples, training, generator), training, 1.0, use, generator
            )
            encoded.backward()
            use.update(ids)
        loop.descend(learning_rate(step, fraction, training))
        means, third = (
            loop.state["residuals" if pool.sparse(step) else "tokens"],
            3 * pool.age(step)[1] // config.visits,
        )
        means[third] += (loss - means[third]) / min(step / 6 + 1, 100)
        loop.line = {"loss": loss, **{name: loop.state[name] for name in ("tokens", "residuals")}, **parts}
    facts = {name: facts[name] for name in ("step", "samples", "minutes") if name in facts}
    facts |= {"tuning_steps": loop.step, "tuning_minutes": round(loop.seconds / 60, 1)}
    tuned = averaged_network(codec, average).requires_grad_(False)
    export(folder, tuned, pool.datasets, facts, seed=pool.seed, count=training.table_shapes)
    return {"seconds": round(loop.seconds, 1), **loop.line}
