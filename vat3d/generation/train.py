"""Training the generator of `vat3d.generation.generator`: the tokens of training shapes, then the transformer on them.

``vat3d train-generator`` encodes the shapes of data sets at their own pose, mirrored and stretched a little, keeps
their ids in the folder, and trains. A killed run goes on with ``--resume``.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from setcore.checkpoint import load_tensors, save_model, save_tensors
from setcore.devices import autocast, check_precision
from setcore.errors import InputError
from setcore.files import read_json, write_json
from setcore.parallel.prefetch import TensorGroup, prefetch
from setcore.parallel.ranks import Ranks, join_ranks
from setcore.progress import progress_bar
from setcore.seeding import derive_seed, numpy_generator, torch_generator
from setcore.training import Budget, MovingAverage, TrainingLoop, training_folder, warmup_cosine
from vat3d.generation.generator import GeneratorConfig, ScaleTransformer, box_class, running_inputs
from vat3d.network.codec_network import CodecNetwork
from vat3d.tokenizer import MeshTokenizer
from vat3d.training.augment import make_batch
from vat3d.training.config import TrainConfig
from vat3d.training.validation import Samples, data_fingerprint

SHAPES_FILE, NAMES_FILE = "shapes.safetensors", "names.json"
SCALES = 6
ROUNDS, STRETCH = 3, 0.12
"""Times a training shape is encoded, each time mirrored by chance and stretched by up to this log-ratio an axis."""
NAMED_SOURCES = ("procedural", "sweethome3d-furniture")
"""Sources whose category says what a shape is; elsewhere it is a folder's name."""
FEWEST = 20
"""Shapes that a category must have."""
BATCH, LEARNING_RATE = 32, 1e-3
NAMELESS, WRONG = 0.15, 0.05
"""Share of training shapes whose category is withheld, and of ids that the inputs have wrong, as samples will."""
REPORT_EVERY, MOST_VALIDATED = 200, 512
"""Steps between reports, and how many validation shapes one looks at, a fortieth of the time; the last looks at all."""


@runtime_checkable
class NamedSamples(Samples, Protocol):
    """What this asks of a data set; `vat3d.data.dataset.Dataset` is one."""

    index: list[dict[str, Any]]


@dataclass(frozen=True)
class Shapes(TensorGroup):
    """Tokens of shapes.

    Parameters
    ----------
    ids : int tensor of shape (n, tokens)
    box : int tensor of shape (n,)
        As in `box_class`.
    category : int tensor of shape (n,)
        From 1 on; 0 for none.
    """

    ids: Tensor
    box: Tensor
    category: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def category_names(datasets: Sequence[NamedSamples]) -> list[list[str]]:
    """Category of each mesh of each data set; empty where it has none, or one of fewer than `FEWEST` meshes.

    Parameters
    ----------
    datasets : sequence of Dataset

    Returns
    -------
    list of lists of str
    """
    named = [
        [line["category"].lower() if line["source"] in NAMED_SOURCES else "" for line in dataset.index]
        for dataset in datasets
    ]
    counts = Counter(name for names in named for name in names)
    return [[name if counts[name] >= FEWEST else "" for name in names] for names in named]


@torch.no_grad()
def shape_tokens(
    network: CodecNetwork,
    datasets: Sequence[NamedSamples],
    split: str,
    categories: Sequence[str],
    rounds: int,
    seed: int,
) -> Shapes:
    """Encode the shapes of a split: as they are in the first round, mirrored and stretched in later ones.

    Parameters
    ----------
    network : CodecNetwork
    datasets : sequence of Dataset
    split : {"train", "validation"}
    categories : sequence of str
        Those that are numbered, from 1 on.
    rounds : int
    seed : int

    Returns
    -------
    Shapes

    Raises
    ------
    InputError
        There are none.
    """
    config = TrainConfig(volume=8, near=8)
    names = category_names(datasets)
    numbers = {name: 1 + number for number, name in enumerate(categories)}
    ids, boxes, labels = [], [], []
    for number, dataset in enumerate(datasets):
        rows = np.asarray(dataset.split(split))
        if not len(rows):
            continue
        chunks = np.array_split(rows, max(1, len(rows) // 16))
        for step, chunk in enumerate(progress_bar(chunks * rounds, desc=f"encode {split}")):
            drawn = [torch_generator(seed, split, number, step, int(row)) for row in chunk]
            batch = make_batch(dataset.batch(chunk), config, drawn, augment=False)
            points, normals = batch.points, batch.normals
            if step >= len(chunks):
                share = torch.stack([torch.rand(1, 4, generator=generator) for generator in drawn])
                scale = torch.exp((share[..., :3] * 2 - 1) * STRETCH)
                scale[..., 0] *= torch.where(share[..., 3] < 0.5, -1, 1)
                points, normals = points * scale, functional.normalize(normals / scale, dim=-1)
            low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
            half = ((high - low) / 2).amax(2, keepdim=True)
            points = (points - (low + high) / 2) / half
            box = ((high - low) / 2 / half)[:, 0]
            with autocast("auto", network.device):
                mean = network.encode(*(part.to(network.device) for part in (points, normals, box)))[0]
            found = network.quantizer(mean.float(), scales=SCALES)
            ids.append(torch.cat(found.ids, dim=1).cpu())
            boxes.append(torch.from_numpy(box_class(box.numpy())))
            labels += [numbers.get(names[number][row], 0) for row in chunk]
    if not ids:
        raise InputError(f"the data sets have no {split} meshes; prepare more")
    return Shapes(torch.cat(ids), torch.cat(boxes), torch.tensor(labels))


@dataclass(frozen=True)
class Told(TensorGroup):
    """What the network is told in training of shapes, some of it withheld or wrong.

    Parameters
    ----------
    shapes : Shapes
        As they are.
    ids : int tensor of shape (b, tokens)
        Of which the inputs are made.
    category : int tensor of shape (b,)
    """

    shapes: Shapes
    ids: Tensor
    category: Tensor


def training_shapes(shapes: Shapes, codes: int, seed: int, numbers: range) -> Told:
    """Shapes of an endless sequence; what is drawn for one depends on the seed and its number alone.

    Parameters
    ----------
    shapes : Shapes
        To draw from.
    codes : int
    seed : int
    numbers : range

    Returns
    -------
    Told
    """
    rows = [int(numpy_generator(seed, "shape", number).integers(len(shapes))) for number in numbers]
    drawn, chosen = [torch_generator(seed, "told", number) for number in numbers], shapes.map(lambda part: part[rows])
    tokens = shapes.ids.shape[1]
    known = torch.cat([torch.rand(1, generator=generator) for generator in drawn]) >= NAMELESS
    wrong = torch.stack([torch.rand(tokens, generator=generator) for generator in drawn]) < WRONG
    others = torch.stack([torch.randint(codes, (tokens,), generator=generator) for generator in drawn])
    return Told(chosen, torch.where(wrong, others, chosen.ids), chosen.category * known)


def training_loss(network: ScaleTransformer, told: Told, codec: CodecNetwork, precision: str) -> Tensor:
    """Mean over the box and the scales of their mean cross-entropies: coarse scales decide what a shape will be.

    Parameters
    ----------
    network : ScaleTransformer
    told : Told
    codec : CodecNetwork
    precision : {"auto", "float32", "bfloat16"}

    Returns
    -------
    tensor of shape ()
    """
    box, scales = cross_entropies(network, codec, told.shapes, told, precision)
    return torch.stack([box, *(part.mean() for part in scales)]).mean()


def cross_entropies(
    network: ScaleTransformer,
    codec: CodecNetwork,
    shapes: Shapes,
    told: Told | None = None,
    precision: str = "float32",
) -> tuple[Tensor, list[Tensor]]:
    """Mean cross-entropy of the box, and that of each id.

    Parameters
    ----------
    network : ScaleTransformer
    codec : CodecNetwork
    shapes : Shapes
    told : Told, optional
        What the network is told of them, if not all.
    precision : {"auto", "float32", "bfloat16"}

    Returns
    -------
    box : tensor of shape ()
        In nats.
    scales : list of tensors of shape (b, k)
    """
    tokens = list(network.config.tokens)
    category, ids = (shapes.category, shapes.ids) if told is None else (told.category, told.ids)
    with torch.no_grad():
        inputs = running_inputs(codec.quantizer, ids.split(tokens, dim=1), len(tokens))
        inputs[0] = inputs[0].expand(len(shapes), -1, -1)
    with autocast(precision, ids.device):
        box, codes = network(category, shapes.box, inputs)
    errors = functional.cross_entropy(codes.float().flatten(0, 1), shapes.ids.flatten(), reduction="none")
    scales = errors.view_as(shapes.ids).split(tokens, dim=1)
    return functional.cross_entropy(box.float(), shapes.box), list(scales)


@torch.no_grad()
def validate(
    network: ScaleTransformer, codec: CodecNetwork, shapes: Shapes, counts: Sequence[Tensor]
) -> dict[str, Any]:
    """Nats per token on shapes not trained on, in all and for each scale, beside the unigram and the uniform coder.

    Parameters
    ----------
    network : ScaleTransformer
    codec : CodecNetwork
    shapes : Shapes
    counts : sequence of tensors of shape (v,)
        How often each code comes in each scale in training.

    Returns
    -------
    dict
    """
    found = [cross_entropies(network, codec, part)[1] for part in shapes.split(64)]
    scales = [torch.cat(parts) for parts in zip(*found, strict=True)]
    unigram = [
        -(share[ids] / share.sum()).log()
        for share, ids in zip(counts, shapes.ids.split(list(network.config.tokens), dim=1), strict=True)
    ]
    return {
        "nats": round(float(torch.cat(scales, dim=1).mean()), 4),
        "unigram": round(float(torch.cat(unigram, dim=1).mean()), 4),
        "uniform": round(float(np.log(network.config.codes)), 4),
        "nats_by_scale": [round(float(part.mean()), 3) for part in scales],
        "unigram_by_scale": [round(float(part.mean()), 3) for part in unigram],
    }


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
    settings = {"model": tokenizer.model.model_id, "seed": seed, "data set": data_fingerprint(datasets)}
    with join_ranks(device) as ranks, training_folder(out, resume, NAMES_FILE, ranks=ranks) as folder:
        codec = tokenizer.network.to(ranks.device)
        model_id = tokenizer.model.model_id
        if ranks.first and not (folder / NAMES_FILE).exists():
            names = sorted({name for names in category_names(datasets) for name in names} - {""})
            shapes = {
                split: shape_tokens(codec, datasets, split, names, rounds, seed)
                for split, rounds in (("train", ROUNDS), ("validation", 1))
            }
            save_tensors(
                folder / SHAPES_FILE,
                {f"{split}.{key}": value for split, part in shapes.items() for key, value in vars(part).items()},
            )
            write_json(folder / NAMES_FILE, {"categories": names, **settings})
        ranks.agree(0.0)  # the first process has encoded the shapes
        names, stored = read_json(folder / NAMES_FILE), load_tensors(folder / SHAPES_FILE)
        for name, value in settings.items():
            if names.get(name) != value:
                raise InputError(f"{folder} holds tokens of {name} {names.get(name)}, not {value}; name that one")
        shapes = {
            split: Shapes(*(stored[f"{split}.{key}"] for key in ("ids", "box", "category")))
            for split in ("train", "validation")
        }
        config = GeneratorConfig(
            model_id, codec.config.scales[:SCALES], codec.config.codes, codec.config.channels,
            categories=tuple(names["categories"]),
        )  # fmt: skip
        precision = check_precision(precision)
        return _train(folder, config, codec, shapes, budget, seed, progress, precision, settings, ranks, microbatch)


def _train(
    folder: Path, config: GeneratorConfig, codec: CodecNetwork, shapes: dict[str, Shapes], budget: Budget, seed: int,
    progress: bool, precision: str, settings: dict[str, Any], ranks: Ranks, microbatch: int | None,
) -> dict[str, Any]:  # fmt: skip
    share = ranks.share(BATCH, microbatch)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        network = ScaleTransformer(config).to(ranks.device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.98))
    average = MovingAverage(network, 0.998)
    counts = [
        (1.0 + torch.bincount(part.flatten(), minlength=config.codes)).to(ranks.device)
        for part in shapes["train"].ids.split(list(config.tokens), dim=1)
    ]
    averaged = ScaleTransformer(config).eval().to(ranks.device)
    validation = shapes["validation"].to(ranks.device)
    some = validation.map(lambda part: part[:: -(-len(validation) // MOST_VALIDATED)])

    def report(chosen: Shapes = some) -> dict[str, Any]:
        averaged.load_state_dict(average.state)
        return validate(averaged, codec, chosen, counts)

    loop = TrainingLoop(
        folder, network, optimizer, average, budget, report,
        report_every=REPORT_EVERY, save_every=REPORT_EVERY, progress=progress, settings=settings, ranks=ranks,
    )  # fmt: skip
    module = ranks.wrap(network, partial(training_loss, codec=codec, precision=precision))

    def told(step: int) -> Told:
        first = step * BATCH
        return training_shapes(shapes["train"], config.codes, seed, range(first + share.start, first + share.stop))

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
        line |= report(validation)
        save_model(folder, config, averaged, half=True, facts=line)
    return line
