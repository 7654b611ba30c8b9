"""Tuning a trained tokenizer to refined tokens, which is what the efforts `normal` and `best` decode.

``vat3d tune`` goes on from a model folder. An encoder's latents are blurred, and a decoder trained on them alone learns
to expect that. Here a pool of training shapes is refined all the time (`vat3d.training.refined_pool`), as
`vat3d.codec.refine_tokens` and `vat3d.codec.refine_residual` do it, and the same gradients tune the decoder (an
auto-decoder, Park et al., DeepSDF, arXiv 1901.05103, that forgets each shape after some visits). Every few steps a
batch of ordinary training keeps the encoder in step. The quantiser, and with it the meaning of a token, stays as it is.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from setcore.parallel.prefetch import prefetch
from setcore.parallel.ranks import Ranks, join_ranks
from setcore.training import Budget, MovingAverage, TrainingLoop, training_folder
from vat3d.network.codec_network import CodecNetwork
from vat3d.pretrained import load_pretrained
from vat3d.training.batches import TrainingBatch, TrainingShapes
from vat3d.training.export import export
from vat3d.training.rate import CodeUse
from vat3d.training.refined_pool import Pool, TuningConfig
from vat3d.training.train import averaged_network, figures, learning_rate, losses
from vat3d.training.validation import Samples, data_fingerprint, fixed_batches
from vat3d.training.visits import Visit, visit_loss

ENCODER_FIGURES = ("vq", "volume", "near", "std")
"""Of the last batch of ordinary training, beside those of the pool."""


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
        Go on in `out`, with the same model, seed, data and settings; without it a folder that holds a run or a model
        is refused.
    progress : bool
        A progress bar on standard error.

    Returns
    -------
    dict
        The last figures.

    Raises
    ------
    InputError
        The folder holds a run or a model and `resume` is not set, the run there was begun otherwise, another process
        trains there, a data set has no training meshes, or the loss is no longer finite.
    CodecError, CheckpointError
        There is no such model, or its folder is damaged.
    """
    network, token_model, facts = load_pretrained(model)
    source = TrainingShapes(datasets, network.config, config.training, seed)
    with join_ranks(config.training.device) as ranks, training_folder(out, resume, ranks=ranks) as folder:
        network = network.to(ranks.device).train().requires_grad_(True)
        return _tune(folder, network, source, config, facts, budget, progress, token_model.model_id, ranks)


def tuning_loss(
    network: CodecNetwork, visit: Visit, batch: TrainingBatch | None, config: TuningConfig, settled: bool,
    bits: Sequence[Tensor],
) -> tuple[Tensor, Tensor, dict[str, Tensor], list[Tensor]]:  # fmt: skip
    """Loss of a visit to the pool and, where the step has one, of a batch of ordinary training.

    Parameters
    ----------
    network : CodecNetwork
    visit : Visit
    batch : TrainingBatch, optional
    config : TuningConfig
    settled : bool
    bits : sequence of tensors of shape (1, v)
        What each code costs at each scale.

    Returns
    -------
    loss : tensor of shape ()
    shown : tensor of shape ()
        That of the visit, without the price of residuals.
    parts : dict of tensors of shape ()
        Of the batch.
    ids : list of tensors
        Of the batch; empty without one.
    """
    loss, shown = visit_loss(network, visit, config.training, settled)
    if batch is None:
        return loss, shown, {}, []
    encoded, parts, ids, _ = losses(network, batch, config.training, 1.0, bits)
    return loss + encoded, shown, parts, ids


def _tune(
    folder: Path, network: CodecNetwork, source: TrainingShapes, config: TuningConfig, facts: dict[str, Any],
    budget: Budget, progress: bool, model_id: str, ranks: Ranks,
) -> dict[str, Any]:  # fmt: skip
    training, codec = config.training, network.config
    network.quantizer.requires_grad_(False)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=1e-4, betas=(0.9, 0.98))
    pool = Pool(config, source, ranks.share(training.batch, training.microbatch)).to(ranks.device)
    use = CodeUse(len(codec.scales), codec.codes).to(ranks.device)
    average = MovingAverage(nn.ModuleDict({"network": network}), training.average)
    fixed = [batch.to(ranks.device) for batch in fixed_batches(source.datasets, training)] if ranks.first else []
    loop = TrainingLoop(
        folder, nn.ModuleDict({"network": network, "use": use, "pool": pool}), optimizer, average, budget,
        lambda: figures(averaged_network(codec, average), fixed, use),
        report_every=training.report_every, save_every=training.save_every, progress=progress, ranks=ranks,
        gather=lambda: pool.gather(ranks),
        settings={
            "model": model_id, "seed": source.seed, "data set": data_fingerprint(source.datasets),
            "configuration": config.settings(),
        },
    )  # fmt: skip
    module = ranks.wrap(network, tuning_loss, find_unused_parameters=True)  # few steps have a batch for the encoder
    first, encoder = loop.step, {name: loop.line[name] for name in ENCODER_FIGURES if name in loop.line}
    coming = prefetch(lambda step: pool.inputs(step, first), itertools.count(first), ranks.device, training.workers)
    for fraction, inputs in zip(loop, coming, strict=False):  # the loop ends first
        step = loop.step
        if inputs.filling is not None:
            pool.fill(network, step, inputs.filling)
        visits = pool.visit(step, inputs).split(training.microbatch)
        batches: Sequence[TrainingBatch | None] = [None] * len(visits)
        if inputs.training is not None:
            batches = inputs.training.split(training.microbatch)
        shown, counts, lines, bits = [], [], [], use.bits()
        for visit, batch in ranks.accumulate(module, list(zip(visits, batches, strict=True))):
            visit.values.requires_grad_()
            loss, seen, line, ids = module(visit, batch, config, pool.settled(step), bits)
            (loss / len(visits)).backward()
            shown.append(seen)
            if batch is not None:
                counts.append(use.count(ids))
                lines.append(line)
        gradients = [visit.values.grad for visit in visits if visit.values.grad is not None]
        pool.move(step, torch.cat(gradients) / ranks.count)
        pool.note(step, torch.stack(shown).mean())
        if counts:
            use.update(ranks.sum_(torch.stack(counts).sum(0)))
        loop.descend(learning_rate(step, fraction, training))
        if lines:
            encoder = {name: torch.stack([line[name] for line in lines]).mean() for name in lines[0]}
        tokens, residuals = pool.means.clone()
        loop.line = {"loss": torch.stack(shown).mean(), "tokens": tokens, "residuals": residuals, **encoder}
    if ranks.first:
        facts = {name: facts[name] for name in ("step", "samples", "minutes") if name in facts}
        facts |= {"tuning_steps": loop.step, "tuning_minutes": round(loop.seconds / 60, 1)}
        tuned = averaged_network(codec, average).requires_grad_(False)
        export(folder, tuned, source.datasets, facts, seed=source.seed, count=training.table_shapes)
    return {"seconds": round(loop.seconds, 1), **loop.line}
