"""Analytic training shapes, boxes and ellipsoids, and a tokenizer small enough for tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import manifold3d
import numpy as np
import torch
import trimesh
from torch import Tensor
from torch.nn import functional

from setcore.seeding import torch_generator
from vat3d.mesh.solid import Solid
from vat3d.network.config import CodecConfig
from vat3d.training.config import TrainConfig

CODEC = CodecConfig(
    width=32, hidden=32, encoder_layers=1, decoder_layers=1, plane=32, grid=8, stem=16, features=8, head=16,
    channels=4, codes=32, sides=(1, 2, 3, 4, 6, 8),
)  # fmt: skip
COMPONENTS = dataclasses.replace(CODEC, components=(4, 12, 40), band=5, sides=(6, 8))
TRAIN = TrainConfig(
    batch=3, surface=512, volume=128, near=96, warmup=4, report_every=4, save_every=5, revive_every=3,
    table_shapes=32, basis_shapes=30, precision="float32", device="cpu", workers=0,
)  # fmt: skip


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    """One for each shape of a batch."""
    return [torch_generator(seed, number) for number in range(count)]


def box_distance(points: Tensor, half: Tensor) -> Tensor:
    """Signed distance to a centred box."""
    outside = points.abs() - half
    return outside.clamp_min(0).norm(dim=-1) + outside.amax(-1).clamp_max(0)


def ellipsoid_distance(points: Tensor, half: Tensor) -> Tensor:
    """Signed distance to a centred ellipsoid, to first order."""
    near = (points / half).norm(dim=-1)
    return near * (near - 1) / (points / half**2).norm(dim=-1).clamp_min(1e-6)


def accepted(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """manifold3d takes the mesh, and trimesh finds a closed, consistently wound volume."""
    solid = manifold3d.Manifold(manifold3d.Mesh64(np.ascontiguousarray(vertices), faces.astype(np.uint64)))
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    return solid.status() == manifold3d.Error.NoError and solid.volume() > 0 and mesh.is_volume


def volume_fraction(solid: Solid, n: int = 4096) -> float:
    """Share of the bounding box of a solid's mesh that is inside, from `n` fixed points."""
    low, high = solid.mesh.vertices.min(0), solid.mesh.vertices.max(0)
    return float(solid.contains(low + (high - low) * np.random.default_rng(0).random((n, 3))).mean())


class Toy:
    """Shape i is a box (odd) or an ellipsoid (even) of random half-extents, the longest 1."""

    def __init__(self, count: int = 40, samples: int = 2048) -> None:
        self.count, self.samples = count, samples

    def split(self, name: str) -> np.ndarray:
        held = self.count - 8
        return np.arange(held) if name == "train" else np.arange(held, self.count)

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        shapes = [self._shape(int(index)) for index in indices]
        return {kind: torch.stack([shape[kind] for shape in shapes]).half() for kind in shapes[0]}

    def _shape(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        half = torch.rand(3, generator=generator) * 0.8 + 0.2
        half = half / half.max()
        directions = functional.normalize(torch.randn(self.samples, 3, generator=generator), dim=-1)
        if index % 2:
            share = directions.abs() / half
            points = directions / share.amax(-1, keepdim=True)
            normals = functional.one_hot(share.argmax(-1), 3) * directions.sign()
            distance = box_distance
        else:
            points, normals, distance = (
                directions * half,
                functional.normalize(directions / half, dim=-1),
                ellipsoid_distance,
            )
        near = points + 0.03 * torch.randn(self.samples, 3, generator=generator)
        volume = (torch.rand(self.samples, 3, generator=generator) * 2 - 1) * 1.05
        return {
            "surface": torch.cat([points, normals], -1),
            "near": torch.cat([near, distance(near, half)[:, None]], -1),
            "volume": torch.cat([volume, distance(volume, half)[:, None]], -1),
        }


class Killed(Toy):
    """A data set whose process dies at one draw, as a kill would have it."""

    def __init__(self, draws: int) -> None:
        super().__init__()
        self.left = draws

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().batch(indices)


class Named(Toy):
    """Toy shapes whose data set says what they are."""

    def __init__(self, count: int = 40) -> None:
        super().__init__(count)
        self.index = [
            {"name": f"robosuite/{i}.obj", "source": "robosuite", "category": "", "group": ("chair", "lamp")[i % 2]}
            for i in range(count)
        ]
