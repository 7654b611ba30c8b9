"""What tokens should decode to: signed distances at sample points; and the surface that the encoder is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setcore.parallel.prefetch import TensorGroup
from setcore.seeding import derive_seed, numpy_generator
from vat3d.mesh.canonical import HALF_DOMAIN
from vat3d.mesh.solid import NEAR_SIGMAS
from vat3d.network.triplane import stretch_box
from vat3d.placement.placed_shape import PlacedShape

SURFACE_POINTS = 8192
FAST_SAMPLES, SLOW_SAMPLES = (4_000, 4_000), (40_000, 20_000)
"""Near-surface and volume samples of a mesh that the search for its tokens sees."""


@dataclass(frozen=True)
class Target(TensorGroup):
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


@dataclass(frozen=True)
class ShapeSamples(TensorGroup):
    """What the search for a file sees of a shape.

    Parameters
    ----------
    points, normals : tensors of shape (1, n, 3)
        Surface for the encoder, as the networks see it.
    surface : array of shape (n, 3)
        Points on the surface of the whole, in the file's frame.
    target : Target
    volume : VolumeSamples
        The target's volume samples, in the file's frame.
    """

    points: Tensor
    normals: Tensor
    surface: NDArray[np.float64]
    target: Target
    volume: VolumeSamples


def sample_shape(shape: PlacedShape, seed: int, near_count: int, volume_count: int) -> ShapeSamples:
    """Sample a shape for the encoder and for refinement.

    Parameters
    ----------
    shape : PlacedShape
    seed : int
    near_count, volume_count : int
        Samples of the target near the surface, and all over what the networks see.

    Returns
    -------
    ShapeSamples
    """
    view, solid = shape.view, shape.solid
    rng, encoder_seed = numpy_generator(seed, "target"), derive_seed(seed, "encode")
    on_surface = solid.surface_samples(near_count, derive_seed(seed, "target"))[0]
    points, normals = solid.surface_samples(SURFACE_POINTS, encoder_seed)
    sigma = view.scale * np.where(np.arange(near_count) % 2, *NEAR_SIGMAS)[:, None]
    near = on_surface + sigma * rng.standard_normal(on_surface.shape)
    reach = view.scale * HALF_DOMAIN * stretch_box(view.box)[0].double().numpy()
    volume = rng.uniform(view.centre - reach, view.centre + reach, (volume_count, 3))
    # In two calls, so that the solid of the other fill rule finds the same volume points' winding numbers again.
    distances = np.concatenate([solid.signed_distance(part) for part in (near, volume)])
    placed = np.concatenate([near, volume])
    placed[:near_count] *= view.side(placed[:near_count])
    depths = view.cut(placed, distances) / view.scale
    target = Target(view.box, _tensor(view.seen(placed)), _tensor(depths), near_count)
    shown, normals = view.surface(points, normals, solid.area, solid.contains, encoder_seed)
    inside = VolumeSamples(placed[near_count:].astype(np.float32), distances[near_count:] < 0)
    return ShapeSamples(_tensor(view.seen(shown))[None], _tensor(normals)[None], points, target, inside)


def draw_samples(target: Target, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Some of a target's samples, half of them near the surface.

    Parameters
    ----------
    target : Target
    generator : torch.Generator
        Of the target's device.
    count : int

    Returns
    -------
    points : tensor of shape (count, 3)
        Near-surface samples first.
    distances : tensor of shape (count,)
    """
    far = len(target.points) - target.near
    device = target.points.device
    near_rows = torch.randint(target.near, (count // 2,), generator=generator, device=device)
    far_rows = target.near + torch.randint(far, (count - count // 2,), generator=generator, device=device)
    rows = torch.cat([near_rows, far_rows])
    return target.points[rows], target.distances[rows]


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
