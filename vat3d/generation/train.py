"""Training the generator of `vat3d.generation.generator`: tokens of training shapes, then the transformer on them.

``vat3d train-generator`` encodes the named shapes of data sets (`vat3d.generation.shape_tokens`), keeps their ids in
the folder, and trains; the model there is the best so far on every second of the new models of known names (`choice`
in the figures; `models` are the others). A killed run goes on with ``--resume``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from setcore.checkpoint import load_tensors, save_model, save_tensors
from setcore.devices import autocast, check_precision
from setcore.errors import InputError
from setcore.parallel.prefetch import prefetch
from setcore.parallel.ranks import Ranks, join_ranks
from setcore.seeding import derive_seed, torch_generator
from setcore.training import Budget, MovingAverage, TrainingLoop, training_folder, warmup_cosine
from vat3d.data.corpus import CACHE
from vat3d.generation.conditions import name_vectors
from vat3d.generation.generator import load_generator
from vat3d.generation.network import GeneratorConfig, TokenTransformer, running_reconstruction
from vat3d.generation.picture_encoder import FEATURES, PATCHES
from vat3d.generation.shape_tokens import (
    NAMES_FILE,
    PARTS,
    PICTURES_FILE,
    SCALES,
    NamedSamples,
    Shapes,
    load_shapes,
    named_meshes,
    save_shapes,
    shape_tokens,
)
from vat3d.generation.training_pictures import VIEWS, picture_features
from vat3d.generation.training_shapes import ShapeDraws, TrainingShapes, as_they_are, used_names
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.quantizer import ScaleQuantizer
from vat3d.tokenizer import MeshTokenizer
from vat3d.training.validation import data_fingerprint

ROUNDS, REFINEMENT = 8, 0
"""Times a training shape is encoded, and gradient steps that refine its tokens."""
SIZES: dict[str, dict[str, int]] = {
    "default": {},
    "large": {"width": 768, "heads": 12, "hidden": 2048, "layers": 16},
}
"""Of the transformer: one that a processor trains, and one of some 120 million parameters for GPUs."""
BATCH, LEARNING_RATE = 32, 6e-4
NEAREST, SPREAD = 8, 0.5
"""Codes near another are told by their squared distance, in this share of that of the eight nearest, in the mean."""
RECOGNISER = 3000, 2e-3
"""Steps and first learning rate of `fit_recogniser`."""
REPORT_EVERY, MOST_VALIDATED, ALL = 200, 256, 10**9
"""Steps between reports, and how many shapes of each held-out part one looks at; the last looks at all."""


def logits(
    network: TokenTransformer, quantizer: ScaleQuantizer, told: TrainingShapes, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """What the network says of shapes.

    Parameters
    ----------
    network : TokenTransformer
    quantizer : ScaleQuantizer
    told : TrainingShapes
    precision : {"auto", "float32", "bfloat16"}

    Returns
    -------
    box : tensor of shape (b, n)
    codes : tensor of shape (b, k, v)
    """
    shapes, sizes = told.shapes, list(network.config.tokens)
    with torch.no_grad():
        parts = told.held.split(sizes, dim=1)
        running = [running_reconstruction(quantizer, parts, scale, len(shapes)) for scale in range(len(sizes))]
    with autocast(precision, shapes.ids.device):
        box, codes = network(told.condition(), shapes.box, told.held, quantizer.codebook, torch.cat(running, dim=1))
    return box.float(), codes.float()


def neighbours(codebook: Tensor) -> Tensor:
    """Shares that tell of every code which others would nearly do: a softmax of squared distances.

    Parameters
    ----------
    codebook : tensor of shape (v, c)

    Returns
    -------
    tensor of shape (v, v)
        Rows sum to one.
    """
    squares = torch.cdist(codebook, codebook).square()
    nearest = squares.topk(min(1 + NEAREST, len(codebook)), largest=False).values[:, 1:].mean()
    return torch.softmax(-squares / (SPREAD * nearest), dim=-1)


def training_loss(
    network: TokenTransformer, told: TrainingShapes, quantizer: ScaleQuantizer, near: Tensor, precision: str
) -> Tensor:
    """Mean cross-entropy of the box and the tokens, half of it with the code that is there, half with those near it.

    Parameters
    ----------
    network : TokenTransformer
    told : TrainingShapes
    quantizer : ScaleQuantizer
    near : tensor of shape (v, v)
        Of `neighbours`.
    precision : {"auto", "float32", "bfloat16"}

    Returns
    -------
    tensor of shape ()
    """
    box, codes = logits(network, quantizer, told, precision)
    ids = told.shapes.ids
    hard = functional.cross_entropy(codes.flatten(0, 1), ids.flatten())
    soft = -(near[ids] * torch.log_softmax(codes, dim=-1)).sum(-1).mean()
    tokens = ids.shape[1]
    return (functional.cross_entropy(box, told.shapes.box) + tokens * (hard + soft) / 2) / (1 + tokens)


@torch.no_grad()
def validate(
    network: TokenTransformer, quantizer: ScaleQuantizer, told: TrainingShapes, counts: Sequence[Tensor]
) -> dict[str, Any]:
    """Nats per token on shapes not trained on, in all and for each scale, beside the unigram and the uniform coder.

    Parameters
    ----------
    network : TokenTransformer
    quantizer : ScaleQuantizer
    told : TrainingShapes
    counts : sequence of tensors of shape (v,)
        How often each code comes in each scale in training.

    Returns
    -------
    dict
    """
    box, codes = (torch.cat(parts) for parts in zip(*_errors(network, quantizer, told), strict=True))
    sizes = list(network.config.tokens)
    scales = codes.split(sizes, dim=1)
    unigram = [
        -(share[ids] / share.sum()).log()
        for share, ids in zip(counts, told.shapes.ids.split(sizes, dim=1), strict=True)
    ]
    return {
        "nats": round(float(codes.mean()), 4),
        "unigram": round(float(torch.cat(unigram, dim=1).mean()), 4),
        "uniform": round(float(np.log(network.config.codes)), 4),
        "box": round(float(box.mean()), 3),
        "nats_by_scale": [round(float(part.mean()), 3) for part in scales],
        "unigram_by_scale": [round(float(part.mean()), 3) for part in unigram],
    }


def _errors(
    network: TokenTransformer, quantizer: ScaleQuantizer, told: TrainingShapes
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cross-entropies, in nats, of the box (b,) and of each id (b, k), of a few shapes at a time."""
    for part in told.split(64):
        box, codes = logits(network, quantizer, part)
        ids = functional.cross_entropy(codes.transpose(1, 2), part.shapes.ids, reduction="none")
        yield functional.cross_entropy(box, part.shapes.box, reduction="none"), ids


def train(
    datasets: Sequence[NamedSamples],
    out: str | Path,
    tokenizer: MeshTokenizer,
    budget: Budget,
    *,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    precision: str = "auto",
    device: str = "auto",
    microbatch: int | None = None,
    cache: str | Path = CACHE,
    views: int = VIEWS,
    start: str | Path | None = None,
    preset: str = "default",
) -> dict[str, Any]:
    """Train a generator of a tokenizer's tokens.

    Parameters
    ----------
    datasets : sequence of Dataset
    out : path
        Model folder.
    tokenizer : MeshTokenizer
    budget : Budget
    seed : int
    resume : bool
        Go on in `out`, with the same tokenizer, seed and data; without it a folder that holds a run or a model is
        refused.
    progress : bool
        A progress bar on standard error.
    precision : {"auto", "float32", "bfloat16"}
        Of matrix products.
    device : str
        As in `setcore.devices.find_device`.
    microbatch : int, optional
        Shapes that are on the device at once; gradients of a batch's parts add up. All, if not given.
    cache : path
        Where ``vat3d corpus`` has left the meshes, of which pictures are made.
    views : int
        Pictures of a training shape; 0: a generator that is shown none.
    start : path or name, optional
        A generator whose weights the run begins with, as far as they fit.
    preset : {"default", "large"}
        Size of the network.

    Returns
    -------
    dict
        The last figures.

    Raises
    ------
    InputError
        The folder holds a run or a model and `resume` is not set, the run there was begun otherwise, another process
        trains there, or the loss is no longer finite.
    """
    settings = {"model": tokenizer.model.model_id, "seed": seed, "data set": data_fingerprint(datasets), "views": views}
    settings["preset"] = preset
    settings["start"] = None if start is None else str(start)
    with join_ranks(device) as ranks, training_folder(out, resume, NAMES_FILE, ranks=ranks) as folder:
        codec = tokenizer.network.to(ranks.device)
        if ranks.first and not (folder / NAMES_FILE).exists():
            meshes = named_meshes(datasets)
            names = used_names(meshes["train"])
            counts = {part: ROUNDS if part == "train" else 1 for part in PARTS}
            found = {part: shape_tokens(codec, meshes[part], names, counts[part], REFINEMENT, seed) for part in PARTS}
            if views:
                tables = {part: picture_features(meshes[part], cache, counts[part], views, seed) for part in PARTS}
                if tables["train"].any():
                    save_tensors(folder / PICTURES_FILE, tables)
            listed = {part: [mesh.line["name"] for mesh in meshes[part]] for part in PARTS}
            save_shapes(folder, found, {"names": names, **settings, "meshes": listed})
        ranks.agree(0.0)  # the first process has encoded the shapes
        shapes, facts = load_shapes(folder)
        for name, value in settings.items():
            if facts.get(name) != value:
                raise InputError(f"{folder} holds tokens of {name} {facts.get(name)}, not {value}; name that one")
        pictures = load_tensors(folder / PICTURES_FILE) if (folder / PICTURES_FILE).exists() else {}
        precision = check_precision(precision)
        config = generator_config(codec, tokenizer.model.model_id, tuple(facts["names"]), bool(pictures), preset)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights"))
            network = TokenTransformer(config)
        if start is not None:
            start_from(network, load_generator(start)[0])
        if pictures:
            fit_recogniser(network, pictures["train"], shapes["train"].names[: len(pictures["train"]), 0], seed)
        return _train(
            folder, network.to(ranks.device), codec, shapes, pictures, budget, seed, progress, precision, settings,
            ranks, microbatch,
        )  # fmt: skip


def fit_recogniser(network: TokenTransformer, pictures: Tensor, names: Tensor, seed: int) -> None:
    """Teach a network which names pictures go by: a linear classifier of the means of their features, then frozen.

    Parameters
    ----------
    network : TokenTransformer
    pictures : tensor of shape (m, r, v, p, c)
        Of `vat3d.generation.training_pictures.picture_features`.
    names : int tensor of shape (m,)
        Of each mesh, from 1 on; 0 for none. Rare ones are shown more often than they are.
    seed : int
    """
    known = torch.nonzero(pictures.any(-1).any(-1).any(-1).any(-1) & (names > 0)).flatten()
    if network.recognise is None or not len(known):
        return
    seen, label = pictures[known].mean(-2, dtype=torch.float32).flatten(1, 2), names[known] - 1
    weight = 1 / torch.bincount(label)[label].sqrt()
    generator = torch_generator(seed, "recognise")
    optimizer = torch.optim.AdamW(network.recognise.parameters(), lr=RECOGNISER[1], weight_decay=0.1, betas=(0.9, 0.98))
    for step in range(RECOGNISER[0]):
        rows = torch.multinomial(weight, BATCH, replacement=True, generator=generator)
        pick = torch.randint(seen.shape[1], (BATCH,), generator=generator)
        found = network.recognise(seen[rows, pick])
        optimizer.param_groups[0]["lr"] = RECOGNISER[1] * (1 - step / RECOGNISER[0])
        optimizer.zero_grad()
        functional.cross_entropy(found, label[rows], label_smoothing=0.1).backward()
        optimizer.step()
    network.recognise.requires_grad_(False)


@torch.no_grad()
def start_from(network: TokenTransformer, other: TokenTransformer) -> None:
    """Take over what a trained generator has of the same shape; names keep their vectors wherever they stand now.

    Parameters
    ----------
    network : TokenTransformer
    other : TokenTransformer
    """
    state, trained = network.state_dict(), other.state_dict()
    for name, tensor in state.items():
        by_name = name == "name.weight" or name.startswith("recognise.")
        if not by_name and name in trained and trained[name].shape == tensor.shape:
            tensor.copy_(trained[name])
    places = {name: 1 + place for place, name in enumerate(other.config.names)}
    for place, name in enumerate(network.config.names):
        if name in places and state["name.weight"].shape[1] == trained["name.weight"].shape[1]:
            state["name.weight"][1 + place] = trained["name.weight"][places[name]]


def generator_config(
    codec: CodecNetwork, model_id: str, names: tuple[str, ...], pictures: bool, preset: str
) -> GeneratorConfig:
    """The architecture for a tokenizer.

    Parameters
    ----------
    codec : CodecNetwork
    model_id : str
    names : tuple of str
    pictures : bool
        Whether it is shown pictures.
    preset : str
        A key of `SIZES`.

    Returns
    -------
    GeneratorConfig
    """
    return GeneratorConfig(
        model_id, codec.config.scales[:SCALES], codec.config.codes, codec.config.channels, names=names,
        picture=FEATURES if pictures else 0, patches=PATCHES, **SIZES[preset],
    )  # fmt: skip


def _train(
    folder: Path, network: TokenTransformer, codec: CodecNetwork, shapes: dict[str, Shapes],
    pictures: dict[str, Tensor], budget: Budget, seed: int, progress: bool, precision: str, settings: dict[str, Any],
    ranks: Ranks, microbatch: int | None,
) -> dict[str, Any]:  # fmt: skip
    share, quantizer, config = ranks.share(BATCH, microbatch), codec.quantizer, network.config
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.1, betas=(0.9, 0.98))
    average = MovingAverage(network, 0.998)
    sizes, vectors = list(config.tokens), torch.from_numpy(name_vectors(config.names))
    counts = [
        (1.0 + torch.bincount(part.flatten(), minlength=config.codes)).to(ranks.device)
        for part in shapes["train"].ids.split(sizes, dim=1)
    ]
    averaged = TokenTransformer(config).eval().to(ranks.device)
    held = {part: as_they_are(shapes[part], vectors, pictures.get(part)).to(ranks.device) for part in PARTS[1:]}
    held["choice"] = held["models"].map(itemgetter(slice(None, None, 2)))
    held["models"] = held["models"].map(itemgetter(slice(1 % len(shapes["models"]), None, 2)))

    def report(most: int = MOST_VALIDATED) -> dict[str, Any]:
        averaged.load_state_dict(average.state)
        line: dict[str, Any] = {}
        for part, told in held.items():
            chosen = told.map(itemgetter(slice(None, None, -(-len(told.shapes) // most))))
            line[part] = validate(averaged, quantizer, replace(chosen, pictures=None), counts)
            if pictures:
                line[part]["nats_shown"] = validate(averaged, quantizer, chosen.shown(), counts)["nats"]
        if line["choice"]["nats"] < loop.state.get("best", math.inf):
            loop.state["best"] = line["choice"]["nats"]
            facts = {"step": loop.step, "seconds": round(loop.seconds, 1), **line}
            save_model(folder, config, averaged, half=True, facts=facts)
        return line

    loop = TrainingLoop(
        folder, network, optimizer, average, budget, report,
        report_every=REPORT_EVERY, save_every=REPORT_EVERY, progress=progress, settings=settings, ranks=ranks,
    )  # fmt: skip
    module = ranks.wrap(
        network,
        partial(training_loss, quantizer=quantizer, near=neighbours(quantizer.codebook.detach()), precision=precision),
        find_unused_parameters=bool(pictures),
    )
    draws = ShapeDraws(shapes["train"], vectors, config.codes, seed, pictures.get("train"))

    def told(step: int) -> TrainingShapes:
        first = step * BATCH
        return draws(range(first + share.start, first + share.stop), step)

    batches = prefetch(told, itertools.count(loop.step), ranks.device, 0)  # a millisecond each
    for fraction, batch in zip(loop, batches, strict=False):  # the loop ends first
        parts, found = batch.split(microbatch), []
        for part in ranks.accumulate(module, parts):
            loss = module(part)
            (loss / len(parts)).backward()
            found.append(loss.detach())
        loop.descend(LEARNING_RATE * warmup_cosine(fraction))
        loop.line = {"loss": torch.stack(found).mean()}
    line = {"step": loop.step, "seconds": round(loop.seconds, 1)}
    if ranks.first:
        line |= report(ALL)
    return line
