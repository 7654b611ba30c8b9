"""From stored samples to a training batch: of each shape a random subset of points, moved by a random deformation.

Deformations move the zero set exactly. Distances are carried over times the mean local scale, which is within a third
of the truth for the strengths used here and right at the surface, where it counts. Axes: b batch, n point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from setcore.parallel.prefetch import TensorGroup
from vat3d.mesh.canonical import HALF_DOMAIN
from vat3d.network.triplane import stretch_box
from vat3d.training.config import TrainConfig


@dataclass(frozen=True)
class Batch(TensorGroup):
    """Shapes of a training step, in the canonical frame.

    Parameters
    ----------
    points, normals : tensors of shape (b, n, 3)
        On the surface, for the encoder.
    box : tensor of shape (b, 3)
        Half-extents.
    queries : tensor of shape (b, m, 3)
    distances : tensor of shape (b, m)
        Signed, negative inside.
    volume : int
        So many queries, the first ones, are volume samples; the others lie near the surface.
    """

    points: Tensor
    normals: Tensor
    box: Tensor
    queries: Tensor
    distances: Tensor
    volume: int


@dataclass(frozen=True)
class Bend(TensorGroup):
    """Gentle waves: along each axis a point x moves by ``depth * sin(waves @ x + phases)``.

    Parameters
    ----------
    depth : tensor of shape (b, 3)
    waves : tensor of shape (b, 3, 3)
    phases : tensor of shape (b, 3)
    """

    depth: Tensor
    waves: Tensor
    phases: Tensor

    def bent(self, points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Points after the waves.

        Parameters
        ----------
        points : tensor of shape (b, n, 3)

        Returns
        -------
        tensor of shape (b, n, 3)
        """
        return points + self.depth[:, None] * torch.sin(points @ self.waves.transpose(1, 2) + self.phases[:, None])

    def bent_normals(self, points: Float[Tensor, "b n 3"], normals: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Normals after the waves, by the inverse transpose of their Jacobian.

        Parameters
        ----------
        points, normals : tensors of shape (b, n, 3)
            Before them.

        Returns
        -------
        tensor of shape (b, n, 3)
            Of unit length.
        """
        slope = self.depth[:, None] * torch.cos(points @ self.waves.transpose(1, 2) + self.phases[:, None])
        jacobian = torch.eye(3) + slope[..., None] * self.waves[:, None]
        found = torch.linalg.solve(jacobian.transpose(-1, -2), normals[..., None])[..., 0]
        return functional.normalize(found, dim=-1)


def make_batch(
    samples: Mapping[str, Tensor], config: TrainConfig, generators: Sequence[torch.Generator], *, augment: bool = True
) -> Batch:
    """Draw points from stored samples and deform them.

    Volume samples are drawn from inside the stretched box where there are enough: outside of it nothing is unknown.

    Parameters
    ----------
    samples : mapping of str to tensor
        As `vat3d.data.dataset.Dataset.batch` gives them.
    config : TrainConfig
    generators : sequence of torch.Generator
        One for each shape, so that what is drawn for it depends on nothing but its own.
    augment : bool
        Deform the shapes.

    Returns
    -------
    Batch
    """
    surface = _draw(samples["surface"], config.surface, generators).float()
    points, normals = surface[..., :3], functional.normalize(surface[..., 3:], dim=-1)
    box = samples["surface"][..., :3].float().abs().amax(1)
    near = _draw(samples["near"], config.near, generators).float()
    volume = samples["volume"].float()
    outside = (volume[..., :3].abs() > HALF_DOMAIN * stretch_box(box)[:, None]).any(-1)
    keys = _uniform(generators, outside.shape[1]) + outside
    chosen = keys.argsort(1)[:, : config.volume]
    volume = volume.gather(1, chosen[..., None].expand(-1, -1, 4))
    queries = torch.cat([volume, near], dim=1)
    distances, queries = queries[..., 3], queries[..., :3]
    if augment:
        points, normals, queries, distances, box = deform(points, normals, queries, distances, generators)
    return Batch(points, normals, box, queries, distances, config.volume)


def _uniform(generators: Sequence[torch.Generator], *shape: int) -> Tensor:
    """Numbers in 0..1 of each generator's own, shape (b, *shape)."""
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])


def _draw(rows: Tensor, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """`count` rows at even steps from a random start: an equal share of every stretch of the stored order."""
    stored = rows.shape[1]
    starts = torch.stack([torch.randint(stored, (1,), generator=generator) for generator in generators])
    chosen = (starts + torch.arange(count) * max(1, stored // count)) % stored
    return rows.gather(1, chosen[..., None].expand(-1, -1, rows.shape[2]))


def deform(
    points: Float[Tensor, "b n 3"],
    normals: Float[Tensor, "b n 3"],
    queries: Float[Tensor, "b m 3"],
    distances: Float[Tensor, "b m"],
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Random axis order and mirror images; for some samples a turn, a stretch along each axis, and a gentle bend.

    The result is centred on its box and scaled to longest half-side 1 again.

    Parameters
    ----------
    points, normals : tensors of shape (b, n, 3)
    queries : tensor of shape (b, m, 3)
    distances : tensor of shape (b, m)
    generators : sequence of torch.Generator
        One for each shape.

    Returns
    -------
    points, normals, queries, distances, box : tensors
    """
    batch, uniform = len(points), partial(_uniform, generators)
    order = uniform(3).argsort(1)
    signs = torch.where(uniform(3) < 0.5, -1.0, 1.0)
    matrix = functional.one_hot(order, 3).float() * signs[:, None]
    angle = (uniform(1)[:, 0] * 2 - 1) * torch.pi * (uniform(1)[:, 0] < 0.4)
    turn = torch.zeros(batch, 3, 3)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
    turn[:, 0, 1], turn[:, 1, 0], turn[:, 2, 2] = -angle.sin(), angle.sin(), 1.0
    stretch = torch.exp((uniform(3) * 2 - 1) * 0.35 * (uniform(1) < 0.7))
    linear = stretch[:, :, None] * (matrix @ turn)
    waves = (uniform(3, 3) * 2 - 1) * 2.5
    phases = uniform(3) * 2 * torch.pi
    depth = (uniform(3) * 2 - 1) * 0.1 * (uniform(1) < 0.5)

    bend = Bend(depth, waves, phases)
    straight = points @ linear.transpose(1, 2)
    moved = bend.bent(straight)
    low, high = moved.amin(1, keepdim=True), moved.amax(1, keepdim=True)
    centre = (low + high) / 2
    half = ((high - low) / 2).squeeze(1)
    size = half.amax(1)
    facing = bend.bent_normals(straight, normals @ torch.linalg.inv(linear))
    scale = stretch.log().mean(1).exp() / size
    points = (moved - centre) / size[:, None, None]
    queries = (bend.bent(queries @ linear.transpose(1, 2)) - centre) / size[:, None, None]
    return points, facing, queries, distances * scale[:, None], half / size[:, None]
