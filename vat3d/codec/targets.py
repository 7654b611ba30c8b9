"""What a mesh's tokens should decode to: signed distances at sample points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setcore.seeding import derive_seed, numpy_generator
from vat3d.bitstream.frame import Frame
from vat3d.codec.half import MirroredView
from vat3d.codec.level_search import Volume
from vat3d.mesh.canonical import CanonicalMesh
from vat3d.mesh.solid import Solid
from vat3d.network.triplane import EXTENT, stretch_box

SURFACE_POINTS = 8192
FAST_SAMPLES, SLOW_SAMPLES = (4_000, 4_000), (40_000, 20_000)
"""Near-surface and volume samples of a mesh that the search for its tokens sees."""
NEAR_SIGMAS = (0.01, 0.04)


class CanonicalToFile:
    """Points of a canonical mesh's frame, moved into the frame as the header holds it."""

    def __init__(self, mesh: CanonicalMesh, frame: Frame) -> None:
        self.scale = mesh.half_side / frame.half_side
        self.shift = (mesh.centre - frame.centre) / frame.half_side

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points * self.scale + self.shift

    def back(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (points - self.shift) / self.scale


def sample_target(
    solid: Solid, place: CanonicalToFile, half: MirroredView, seed: int, near_count: int, volume_count: int
) -> tuple[Target, Volume]:
    """Near-surface and volume samples of what the networks see of a mesh, volume samples inside the part of space that
    the planes cover; and the latter in the file's frame."""
    rng = numpy_generator(seed, "target")
    surface = solid.surface_samples(near_count, derive_seed(seed, "target"))[0]
    sigma = half.scale * np.where(np.arange(near_count) % 2, *NEAR_SIGMAS)[:, None]
    near = surface + sigma * rng.standard_normal(surface.shape)
    reach = half.scale * EXTENT * stretch_box(half.box)[0].double().numpy()
    volume = rng.uniform(half.centre - reach, half.centre + reach, (volume_count, 3))
    # In two calls, so that the solid of the other fill rule finds the same volume points' winding numbers again.
    distances = np.concatenate([solid.signed_distance(part) for part in (near, volume)]) * place.scale
    placed = place(np.concatenate([near, volume]))
    placed[:near_count] *= half.side(placed[:near_count])
    depths = half.cut(placed, distances) / half.scale
    target = Target(half.box, as_tensor(half.seen(placed)), as_tensor(depths), near_count)
    return target, (placed[near_count:].astype(np.float32), distances[near_count:] < 0)


def as_tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


@dataclass(frozen=True)
class Target:
    """What a mesh's tokens should decode to, in the evaluation frame of its file.

    `box` (1, 3); `points` (n, 3) with signed distances (n,), the first `near` of them close to the surface.
    """

    box: Tensor
    points: Tensor
    distances: Tensor
    near: int


def draw_samples(target: Target, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Half of `count` near-surface samples, then half volume samples."""
    far = len(target.points) - target.near
    near_rows = torch.randint(target.near, (count // 2,), generator=generator)
    far_rows = target.near + torch.randint(far, (count - count // 2,), generator=generator)
    rows = torch.cat([near_rows, far_rows])
    return target.points[rows], target.distances[rows]
