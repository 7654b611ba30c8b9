"""Figures on fixed validation shapes, cheap enough to be taken every few minutes of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from setcore.evaluation.mesh_metrics import harmonic_mean
from setcore.seeding import torch_generator
from vat3d.network.codec_network import CodecNetwork
from vat3d.training.augment import Batch, make_batch
from vat3d.training.config import TrainConfig


@runtime_checkable
class Samples(Protocol):
    """What training asks of a data set; `vat3d.data.dataset.Dataset` is one."""

    def split(self, name: str) -> Any:
        """Indices of the meshes of a split.

        Parameters
        ----------
        name : {"train", "validation"}

        Returns
        -------
        int array
        """

    def batch(self, indices: Any) -> dict[str, Tensor]:
        """Sample tensors of some meshes.

        Parameters
        ----------
        indices : sequence of int

        Returns
        -------
        dict of tensors
        """


def fixed_batches(datasets: Sequence[Samples], config: TrainConfig, count: int = 48) -> Iterator[Batch]:
    """Validation shapes, evenly from the data sets, at their own pose.

    Parameters
    ----------
    datasets : sequence of Dataset
    config : TrainConfig
    count : int
        Shapes.

    Yields
    ------
    Batch
    """
    whole = dataclasses.replace(config, volume=4096, near=64)
    for dataset in datasets:
        indices = np.asarray(dataset.split("validation"))[: count // len(datasets)]
        for start in range(0, len(indices), 8):
            yield make_batch(
                dataset.batch(indices[start : start + 8]), whole, torch_generator(0, "validation"), augment=False
            )


@torch.no_grad()
def validate(network: CodecNetwork, batches: Sequence[Batch], quantise: bool) -> dict[str, float]:
    """Volume IoU and a stand-in for F@.02 on fixed batches, for several prefixes of the tokens.

    The stand-in is the harmonic mean of the share of surface points where the decoded distance is below .02, and the
    share of all query points decoded closer than .02 to the surface that truly are, weighted over volume samples.
    Without batches (no validation meshes) there are no figures.

    Parameters
    ----------
    network : CodecNetwork
    batches : sequence of Batch
    quantise : bool
        Look at prefixes of tokens, not at the latent alone.

    Returns
    -------
    dict
    """
    if not batches:
        return {}
    ends = [int(end) for end in np.cumsum(network.config.scales)]
    levels = {str(end): end for end in ends[len(ends) // 2 - 1 :: 2]} if quantise else {"full": ends[-1]}
    result = {}
    for label, kept in levels.items():
        overlaps, hits, found, true = [], [], 0, 0
        for batch in batches:
            latent, _ = network.encode(batch.points, batch.normals, batch.box)
            if quantise:
                latent = network.quantizer(latent, torch.full((len(latent),), kept)).latent
            planes = network.planes(latent, batch.box)
            inside = batch.distances[:, : batch.volume] < 0
            distance = network.signed_distance(planes, batch.queries[:, : batch.volume], batch.box)
            both = ((distance < 0) & inside).sum(1)
            overlaps.append(both / ((distance < 0) | inside).sum(1).clamp_min(1))
            near = distance.abs() < 0.02
            found += int(near.sum())
            true += int((near & (batch.distances[:, : batch.volume].abs() < 0.02)).sum())
            on = network.signed_distance(planes, batch.points[:, :1024], batch.box).abs() < 0.02
            hits.append(on.float().mean(1))
        recall, precision = float(torch.cat(hits).mean()), true / max(found, 1)
        result[f"iou@{label}"] = round(float(torch.cat(overlaps).mean()), 4)
        result[f"f@{label}"] = round(harmonic_mean(precision, recall), 4)
    return result
