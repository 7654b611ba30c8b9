"""What tokens should decode to: signed distances at sample points; and the surface that the encoder is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setcore.seeding import derive_seed, numpy_generator
from vat3d.codec.placed_shape import PlacedShape
from vat3d.mesh.canonical import HALF_DOMAIN
from vat3d.mesh.solid import NEAR_SIGMAS
from vat3d.network.triplane import stretch_box

SURFACE_POINTS = 8192
FAST_SAMPLES, SLOW_SAMPLES = (4_000, 4_000), (40_000, 20_000)
"""Near-surface and volume samples of a mesh that the search for its tokens sees."""


@dataclass(frozen=True)
class Target:
    """Signed distances that a mesh's tokens should decode to, as the networks see its file's frame.

    Parameters
    ----------
    box : tensor of shape (1, 3)
        Half-extents of what the networks see.
    points : tensor of shape (n, 3)
        The first `near` of them are close to the surface.
    distances : tensor of shape (n,)
        Negative inside.
    near : int
    """

    box: Tensor
    points: Tensor
    distances: Tensor
    near: int


@dataclass(frozen=True)
class VolumeSamples:
    """Points all over the file's frame.

    Parameters
    ----------
    points : float32 array of shape (n, 3)
    inside : bool array of shape (n,)
        Whether they lie inside the mesh.
    """

    points: NDArray[np.float32]
    inside: NDArray[np.bool_]


def sample_target(shape: PlacedShape, seed: int, near_count: int, volume_count: int) -> tuple[Target, VolumeSamples]:
    """Near-surface and volume samples of what the networks see of a shape.

    Parameters
    ----------
    shape : PlacedShape
    seed : int
    near_count, volume_count : int

    Returns
    -------
    target : Target
    volume : VolumeSamples
        The volume samples again.
    """
    rng, view = numpy_generator(seed, "target"), shape.view
    surface = shape.solid.surface_samples(near_count, derive_seed(seed, "target"))[0]
    sigma = view.scale * np.where(np.arange(near_count) % 2, *NEAR_SIGMAS)[:, None]
    near = surface + sigma * rng.standard_normal(surface.shape)
    reach = view.scale * HALF_DOMAIN * stretch_box(view.box)[0].double().numpy()
    volume = rng.uniform(view.centre - reach, view.centre + reach, (volume_count, 3))
    # In two calls, so that the solid of the other fill rule finds the same volume points' winding numbers again.
    distances = np.concatenate([shape.solid.signed_distance(part) for part in (near, volume)]) * shape.to_file.scale
    placed = shape.to_file(np.concatenate([near, volume]))
    placed[:near_count] *= view.side(placed[:near_count])
    depths = view.cut(placed, distances) / view.scale
    target = Target(view.box, _tensor(view.seen(placed)), _tensor(depths), near_count)
    return target, VolumeSamples(placed[near_count:].astype(np.float32), distances[near_count:] < 0)


def encoder_input(shape: PlacedShape, seed: int) -> tuple[Tensor, Tensor, NDArray[np.float64]]:
    """The surface that the encoder is shown of a shape.

    Parameters
    ----------
    shape : PlacedShape
    seed : int

    Returns
    -------
    points, normals : tensors of shape (1, n, 3)
        As the networks see them.
    surface : array of shape (n, 3)
        Points of the whole surface, in the file's frame.
    """
    seed, view = derive_seed(seed, "encode"), shape.view
    points, normals = shape.solid.surface_samples(SURFACE_POINTS, seed)
    surface = shape.to_file(points)
    area = shape.solid.area * shape.to_file.scale**2
    shown, normals = view.surface(surface, normals, area, shape.contains, seed)
    return _tensor(view.seen(shown))[None], _tensor(normals)[None], surface


def draw_samples(target: Target, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Some of a target's samples, half of them near the surface.

    Parameters
    ----------
    target : Target
    generator : torch.Generator
    count : int

    Returns
    -------
    points : tensor of shape (count, 3)
        Near-surface samples first.
    distances : tensor of shape (count,)
    """
    far = len(target.points) - target.near
    near_rows = torch.randint(target.near, (count // 2,), generator=generator)
    far_rows = target.near + torch.randint(far, (count - count // 2,), generator=generator)
    rows = torch.cat([near_rows, far_rows])
    return target.points[rows], target.distances[rows]


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
