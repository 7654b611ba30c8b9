"""The tokens of training shapes, with what they are called: what a generator is trained on.

A shape of a data set is turned as the catalogue says and encoded, and its tokens are refined against its signed
distance, as in `vat3d.codec.refine_tokens`, many shapes at once. In the first round shapes are as they are, in the
second mirrored, in later ones mirrored by chance, stretched, turned and bent a little. Axes: b batch, k token, n point,
c latent channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from setcore.checkpoint import load_tensors, save_tensors
from setcore.devices import autocast
from setcore.errors import InputError
from setcore.files import read_json, write_json
from setcore.parallel.prefetch import TensorGroup
from setcore.progress import progress_bar
from setcore.seeding import torch_generator
from vat3d.codec.descent import adam_step, falling_rate
from vat3d.data.catalogue import names_of, orientation
from vat3d.data.split import PROCEDURAL, split_share
from vat3d.generation.boxes import box_class
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.losses import field_loss
from vat3d.training.augment import Batch, Bend, make_batch
from vat3d.training.config import TrainConfig
from vat3d.training.validation import Samples

SHAPES_FILE, NAMES_FILE, PICTURES_FILE = "shapes.safetensors", "shapes.json", "pictures.safetensors"
PARTS = ("train", "models", "validation")
MODELS = 0.06
"""Share of the training meshes that are held out as new models of known names."""
SCALES = 4
"""That are drawn: what the finer ones hold is hardly to be told from the coarser ones, as yet."""
MOST_NAMES = 4
"""Of a shape."""
STRETCH, TURN = 0.12, 0.15
"""Shapes are stretched by up to this log-ratio an axis, and turned about the vertical by up to so many radians."""
BEND, WAVES = 0.1, 2.0
"""They are moved along each axis by up to this many half-sides, in waves of up to so many radians a half-side."""
BATCH = 16
STORED, USED = 4096, 1024
"""Volume and as many near-surface samples of a shape that are kept while it is refined, and that a step looks at."""
RATE = 0.05
"""Of the first step of refinement."""


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
        Of the first `SCALES` scales.
    box : int tensor of shape (n,)
        As in `vat3d.generation.boxes.box_class`.
    names : int tensor of shape (n, MOST_NAMES)
        From 1 on, in the order of the names; 0 for none.
    mesh : int tensor of shape (n,)
        Place of the mesh in the list of meshes.
    round : int tensor of shape (n,)
        See `round_moves`.
    """

    ids: Tensor
    box: Tensor
    names: Tensor
    mesh: Tensor
    round: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Moves(Bend):
    """How a round moves shapes: a linear map, then, once they are centred and of longest half-side 1, a bend.

    Parameters
    ----------
    depth, waves, phases : tensors
        As in `Bend`.
    linear : tensor of shape (b, 3, 3)
    """

    linear: Tensor


def round_moves(turns: Float[Tensor, "b 3 3"], round_: int, generators: Sequence[torch.Generator]) -> Moves:
    """How a round moves shapes that the catalogue turns.

    Parameters
    ----------
    turns : tensor of shape (b, 3, 3)
        Signed axes.
    round_ : int
        0: as they are; 1: mirrored; others: mirrored by chance, stretched, turned and bent a little.
    generators : sequence of torch.Generator
        One for each shape.

    Returns
    -------
    Moves
    """
    drawn = torch.stack([torch.rand(20, generator=generator) for generator in generators]) * 2 - 1
    free = float(round_ > 1)
    scale = torch.exp(drawn[:, :3] * STRETCH * free)
    angle = drawn[:, 4] * TURN * free
    scale[:, 0] *= torch.where(drawn[:, 3] < 0, -1.0, 1.0) if round_ > 1 else 1.0 - 2 * round_
    about = torch.zeros_like(turns)
    about[:, 0, 0] = about[:, 2, 2] = angle.cos()
    about[:, 0, 2], about[:, 2, 0], about[:, 1, 1] = angle.sin(), -angle.sin(), 1.0
    depth, phases, waves = drawn[:, 5:8] * BEND * free, drawn[:, 8:11] * torch.pi, drawn[:, 11:] * WAVES
    return Moves(depth, waves.view(-1, 3, 3), phases, scale[:, :, None] * (about @ turns))


def framed(points: Float[Tensor, "b n 3"]) -> tuple[Float[Tensor, "b 1 3"], Float[Tensor, "b 1 1"]]:
    """Centre and longest half-side of the boxes about points.

    Parameters
    ----------
    points : tensor of shape (b, n, 3)

    Returns
    -------
    centre : tensor of shape (b, 1, 3)
    size : tensor of shape (b, 1, 1)
    """
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    return (low + high) / 2, ((high - low) / 2).amax(2, keepdim=True)


def moved(batch: Batch, moves: Moves) -> Batch:
    """Shapes after a move; centred, with a longest half-side of 1.

    Distances are carried over times the mean local scale, as in `vat3d.training.augment`.

    Parameters
    ----------
    batch : Batch
    moves : Moves
        Of `round_moves`.

    Returns
    -------
    Batch
    """
    points, queries = (part @ moves.linear.transpose(1, 2) for part in (batch.points, batch.queries))
    normals = functional.normalize(batch.normals @ torch.linalg.inv(moves.linear), dim=-1)
    local = torch.linalg.det(moves.linear).abs().pow(1 / 3)[:, None]
    centre, size = framed(points)
    points, queries, local = (points - centre) / size, (queries - centre) / size, local / size[..., 0]
    points, normals, queries = moves.bent(points), moves.bent_normals(points, normals), moves.bent(queries)
    centre, size = framed(points)
    points, queries, local = (points - centre) / size, (queries - centre) / size, local / size[..., 0]
    return Batch(points, normals, points.abs().amax(1), queries, batch.distances * local, batch.volume)


def refined_ids(network: CodecNetwork, batch: Batch, steps: int, seed: int) -> Tensor:
    """The ids of shapes: those of the encoder's latents, or of vectors that gradient steps bring nearer to the shapes.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    batch : Batch
        On the network's device.
    steps : int
        0: as the encoder says.
    seed : int
        Of the samples that each step looks at.

    Returns
    -------
    int tensor of shape (b, tokens)
    """
    quantizer = network.quantizer
    with torch.no_grad(), autocast("auto", network.device):
        latent = network.encode(batch.points, batch.normals, batch.box)[0]
    with torch.no_grad():
        ids = torch.cat(quantizer(latent.float(), scales=SCALES).ids, dim=1)
    vectors = quantizer.codebook[ids].detach().clone().requires_grad_(steps > 0)
    moments = torch.zeros_like(vectors), torch.zeros_like(vectors)
    kept = batch.queries.shape[1]
    for step in range(steps):
        generator = torch_generator(seed, "refine", step)
        rows = torch.cat([
            torch.randint(first, first + batch.volume, (USED,), generator=generator)
            for first in (0, kept - batch.volume)
        ]).to(network.device)  # fmt: skip
        with autocast("auto", network.device):
            planes = network.planes(quantizer.from_vectors(vectors), batch.box)
            logits = network.field(planes, batch.queries[:, rows], batch.box)
            errors = field_loss(logits, batch.distances[:, rows], network.config.sharpness)
        loss = (errors[:, :USED].mean(1) + errors[:, USED:].mean(1)).sum()
        (gradient,) = torch.autograd.grad(loss, vectors)
        adam_step(vectors, gradient, moments, step + 1, falling_rate(RATE, step, steps))
    if steps:
        with torch.no_grad():
            ids = torch.cat(quantizer(quantizer.from_vectors(vectors), scales=SCALES).ids, dim=1)
    return ids


@dataclass(frozen=True)
class NamedMesh:
    """A mesh of a data set that is trained or validated on.

    Parameters
    ----------
    dataset : Dataset
    row : int
        In the data set.
    names : tuple of str
        The narrowest first.
    """

    dataset: NamedSamples
    row: int
    names: tuple[str, ...]

    @property
    def line(self) -> dict[str, Any]:
        """Of the data set's index."""
        return self.dataset.index[self.row]

    def move(self, round_: int, seed: int) -> Moves:
        """How a round moves it; a function of its name.

        Parameters
        ----------
        round_ : int
        seed : int

        Returns
        -------
        Moves
        """
        turn = torch.from_numpy(orientation(self.line)).float()[None]
        return round_moves(turn, round_, [torch_generator(seed, "move", round_, self.line["name"])])

    def moved_vertices(self, vertices: NDArray[np.float64], round_: int, seed: int) -> NDArray[np.float64]:
        """The vertices of its mesh as a round moves them.

        Parameters
        ----------
        vertices : array of shape (n, 3)
        round_ : int
        seed : int

        Returns
        -------
        array of shape (n, 3)
            Whose box is centred, of longest half-side 1, before the waves.
        """
        move = self.move(round_, seed).map(Tensor.double)
        points = torch.tensor(vertices)[None] @ move.linear.transpose(1, 2)
        centre, size = framed(points)
        return np.asarray(move.bent((points - centre) / size)[0].numpy())


def named_meshes(datasets: Sequence[NamedSamples]) -> dict[str, list[NamedMesh]]:
    """The meshes of data sets that have names, by what they are for; all of them where none has one.

    Parameters
    ----------
    datasets : sequence of Dataset

    Returns
    -------
    dict
        `train`; `models`: a share of the data sets' training meshes, by their names, which are validated on as new
        models of known names, and procedural shapes for validation, whose families are trained on; `validation`: those
        of names that are held out.
    """
    found: dict[str, list[NamedMesh]] = {part: [] for part in PARTS}
    for dataset in datasets:
        for split in ("train", "validation"):
            for row in dataset.split(split):
                line = dataset.index[row]
                known = split == "train" or line["source"] in PROCEDURAL  # others of the family are trained on
                held = split == "validation" or split_share(str(line["name"])) < MODELS
                part = ("models" if known else "validation") if held else "train"
                found[part].append(NamedMesh(dataset, int(row), names_of(line)))
    named = {part: [mesh for mesh in meshes if mesh.names] for part, meshes in found.items()}
    kept = named if named["train"] else found
    if not kept["models"] and len(kept["train"]) > 1:  # a small data set
        first = min(kept["train"], key=lambda mesh: split_share(str(mesh.line["name"])))
        kept["train"].remove(first)
        kept["models"].append(first)
    return kept


@torch.no_grad()
def shape_tokens(
    network: CodecNetwork,
    meshes: Sequence[NamedMesh],
    names: Sequence[str],
    rounds: int,
    steps: int,
    seed: int,
) -> Shapes:
    """Encode meshes.

    Parameters
    ----------
    network : CodecNetwork
    meshes : sequence of NamedMesh
    names : sequence of str
        Those that are numbered, from 1 on.
    rounds : int
    steps : int
        Of refinement.
    seed : int

    Returns
    -------
    Shapes
        One round after another.

    Raises
    ------
    InputError
        There are none.
    """
    if not meshes:
        raise InputError("the data sets have no meshes for a part of training or validation; prepare more")
    config = TrainConfig(volume=STORED if steps else 8, near=STORED if steps else 8)
    numbers = {name: 1 + number for number, name in enumerate(names)}
    ids, boxes, starts = [], [], range(0, len(meshes), BATCH)
    for step in progress_bar(range(len(starts) * rounds), desc="encode"):
        round_, first = step // len(starts), starts[step % len(starts)]
        part = meshes[first : first + BATCH]
        drawn = [torch_generator(seed, "samples", round_, first + number) for number in range(len(part))]
        batch = make_batch(_stacked([mesh.dataset.batch([mesh.row]) for mesh in part]), config, drawn, augment=False)
        moves = [vars(mesh.move(round_, seed)) for mesh in part]
        batch = moved(batch, Moves(**_stacked(moves)))
        with torch.enable_grad():
            ids.append(refined_ids(network, batch.to(network.device), steps, seed + step).cpu())
        boxes.append(torch.from_numpy(box_class(batch.box.numpy())))
    labels = torch.zeros(len(meshes), MOST_NAMES, dtype=torch.long)
    for number, mesh in enumerate(meshes):
        known = [numbers[name] for name in mesh.names if name in numbers][:MOST_NAMES]
        labels[number, : len(known)] = torch.tensor(known, dtype=torch.long)
    places = torch.arange(len(meshes)).repeat(rounds)
    which = torch.arange(rounds).repeat_interleave(len(meshes))
    return Shapes(torch.cat(ids), torch.cat(boxes), labels.repeat(rounds, 1), places, which)


def _stacked(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def save_shapes(folder: Path, shapes: Mapping[str, Shapes], facts: Mapping[str, Any]) -> None:
    """Keep shapes in a folder, as small as they go.

    Parameters
    ----------
    folder : path
    shapes : mapping of str to Shapes
        By part.
    facts : mapping
        Plain JSON values that are kept beside them: names, meshes, and what they were made of.
    """
    small = {
        f"{part}.{key}": value.to(torch.int16 if key in ("ids", "box", "names") else torch.int32)
        for part, held in shapes.items()
        for key, value in vars(held).items()
    }
    save_tensors(folder / SHAPES_FILE, small)
    write_json(folder / NAMES_FILE, dict(facts))  # last: it says that the shapes are whole


def load_shapes(folder: Path) -> tuple[dict[str, Shapes], dict[str, Any]]:
    """What `save_shapes` kept.

    Parameters
    ----------
    folder : path

    Returns
    -------
    dict of str to Shapes
    dict

    Raises
    ------
    InputError
        A file is absent or damaged.
    """
    facts, stored = read_json(folder / NAMES_FILE), load_tensors(folder / SHAPES_FILE)
    keys = Shapes.__dataclass_fields__
    shapes = {part: Shapes(**{key: stored[f"{part}.{key}"].long() for key in keys}) for part in PARTS}
    return shapes, facts
