"""Training the generator of `vat3d.generation.generator`: the tokens of training shapes, then the transformer on them.

``vat3d train-generator`` encodes the shapes of data sets at their own pose, mirrored and stretched a little, keeps
their ids in the folder, and trains. A killed run goes on with ``--resume``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from setcore.checkpoint import load_tensors, save_model, save_tensors
from setcore.errors import InputError
from setcore.files import read_json, write_json
from setcore.seeding import derive_seed, numpy_generator, torch_generator
from setcore.training import Budget, MovingAverage, TrainingLoop, training_folder, warmup_cosine
from vat3d.generation.generator import GeneratorConfig, ScaleTransformer, box_class, running_inputs
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.precision import autocast, check_precision
from vat3d.tokenizer import MeshTokenizer
from vat3d.training.augment import make_batch
from vat3d.training.config import TrainConfig
from vat3d.training.validation import Samples

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
REPORT_EVERY = 200


@runtime_checkable
class NamedSamples(Samples, Protocol):
    """What this asks of a data set; `vat3d.data.dataset.Dataset` is one."""

    index: list[dict[str, Any]]


@dataclass(frozen=True)
class Shapes:
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

    def take(self, rows: Any) -> Shapes:
        """Some of the shapes.

        Parameters
        ----------
        rows : slice or int array

        Returns
        -------
        Shapes
        """
        return Shapes(self.ids[rows], self.box[rows], self.category[rows])


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


@torch.inference_mode()
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
    """
    config = TrainConfig(volume=8, near=8)
    names = category_names(datasets)
    numbers = {name: 1 + number for number, name in enumerate(categories)}
    ids, boxes, labels = [], [], []
    for number, dataset in enumerate(datasets):
        rows = np.asarray(dataset.split(split))
        chunks = np.array_split(rows, max(1, len(rows) // 16))
        for step, chunk in enumerate(tqdm(chunks * rounds, desc=f"encode {split}", disable=not sys.stderr.isatty())):
            generator = torch_generator(seed, split, number, step)
            batch = make_batch(dataset.batch(chunk), config, generator, augment=False)
            points, normals = batch.points, batch.normals
            if step >= len(chunks):
                scale = torch.exp((torch.rand(len(points), 1, 3, generator=generator) * 2 - 1) * STRETCH)
                scale[..., 0] *= torch.where(torch.rand(len(points), 1, generator=generator) < 0.5, -1, 1)
                points, normals = points * scale, functional.normalize(normals / scale, dim=-1)
            low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
            half = ((high - low) / 2).amax(2, keepdim=True)
            points = (points - (low + high) / 2) / half
            box = ((high - low) / 2 / half)[:, 0]
            with autocast():
                mean = network.encode(points, normals, box)[0]
            found = network.quantizer(mean.float(), torch.full((len(mean),), sum(network.config.scales[:SCALES])))
            ids.append(torch.cat(found.ids, dim=1))
            boxes.append(torch.from_numpy(box_class(box.numpy())))
            labels += [numbers.get(names[number][row], 0) for row in chunk]
    return Shapes(torch.cat(ids), torch.cat(boxes), torch.tensor(labels))


def cross_entropies(
    network: ScaleTransformer,
    codec: CodecNetwork,
    shapes: Shapes,
    generator: torch.Generator | None = None,
    precision: str = "float32",
) -> tuple[Tensor, list[Tensor]]:
    """Mean cross-entropy of the box, and that of each id.

    Parameters
    ----------
    network : ScaleTransformer
    codec : CodecNetwork
    shapes : Shapes
    generator : torch.Generator, optional
        Withholds some categories, and makes some ids wrong that the inputs are made of, as in training.
    precision : {"auto", "float32", "bfloat16"}

    Returns
    -------
    box : tensor of shape ()
        In nats.
    scales : list of tensors of shape (b, k)
    """
    tokens = list(network.config.tokens)
    category, told = shapes.category, shapes.ids
    if generator is not None:
        category = category * (torch.rand(len(shapes), generator=generator) >= NAMELESS)
        wrong = torch.rand(told.shape, generator=generator) < WRONG
        told = torch.where(wrong, torch.randint(network.config.codes, told.shape, generator=generator), told)
    with torch.no_grad():
        inputs = running_inputs(codec.quantizer, told.split(tokens, dim=1), len(tokens))
        inputs[0] = inputs[0].expand(len(shapes), -1, -1)
    with autocast(precision):
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
    found = [cross_entropies(network, codec, shapes.take(slice(k, k + 64)))[1] for k in range(0, len(shapes), 64)]
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
        Go on in `out`; without it a folder that holds a run is refused.
    progress : bool
        A progress bar on standard error.
    precision : {"auto", "float32", "bfloat16"}
        Of matrix products.

    Returns
    -------
    dict
        The last figures.

    Raises
    ------
    InputError
        The folder holds a run and `resume` is not set, or another process trains there.
    """
    with training_folder(out, resume) as folder:
        codec = tokenizer.network
        model_id = tokenizer.model.model_id
        if not (folder / NAMES_FILE).exists():
            names = sorted({name for names in category_names(datasets) for name in names} - {""})
            shapes = {
                split: shape_tokens(codec, datasets, split, names, rounds, seed)
                for split, rounds in (("train", ROUNDS), ("validation", 1))
            }
            save_tensors(
                folder / SHAPES_FILE,
                {f"{split}.{key}": value for split, part in shapes.items() for key, value in vars(part).items()},
            )
            write_json(folder / NAMES_FILE, {"model": model_id, "categories": names})
        names, stored = read_json(folder / NAMES_FILE), load_tensors(folder / SHAPES_FILE)
        if names["model"] != model_id:
            raise InputError(f"{folder} holds tokens of model {names['model']}, not {model_id}; pass that as --model")
        shapes = {
            split: Shapes(*(stored[f"{split}.{key}"] for key in ("ids", "box", "category")))
            for split in ("train", "validation")
        }
        config = GeneratorConfig(
            model_id, codec.config.scales[:SCALES], codec.config.codes, codec.config.channels,
            categories=tuple(names["categories"]),
        )  # fmt: skip
        return _train(folder, config, codec, shapes, budget, seed, progress, check_precision(precision))


def _train(
    folder: Path,
    config: GeneratorConfig,
    codec: CodecNetwork,
    shapes: dict[str, Shapes],
    budget: Budget,
    seed: int,
    progress: bool,
    precision: str,
) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        network = ScaleTransformer(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.05, betas=(0.9, 0.98))
    average = MovingAverage(network, 0.998)
    counts = [
        1.0 + torch.bincount(part.flatten(), minlength=config.codes)
        for part in shapes["train"].ids.split(list(config.tokens), dim=1)
    ]
    averaged = ScaleTransformer(config).eval()

    def report() -> dict[str, Any]:
        averaged.load_state_dict(average.state)
        return validate(averaged, codec, shapes["validation"], counts)

    loop = TrainingLoop(
        folder, network, optimizer, average, budget, report,
        report_every=REPORT_EVERY, save_every=REPORT_EVERY, progress=progress,
    )  # fmt: skip
    for fraction in loop:
        rows = numpy_generator(seed, "batch", loop.step).integers(len(shapes["train"]), size=BATCH)
        generator = torch_generator(seed, "step", loop.step)
        box, scales = cross_entropies(network, codec, shapes["train"].take(rows), generator, precision)
        loss = torch.stack([box, *(part.mean() for part in scales)]).mean()  # coarse scales decide what it will be
        loss.backward()
        loop.descend(LEARNING_RATE * warmup_cosine(fraction))
        loop.line = {"loss": round(float(loss.detach()), 4)}
    line = {"step": loop.step, "seconds": round(loop.seconds, 1), **report()}
    save_model(folder, config, averaged, half=True, facts=line)
    return line
