"""Figures on fixed validation shapes, cheap enough to be taken every few minutes of training."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
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


def data_fingerprint(datasets: Sequence[Samples]) -> str:
    """A hash of what data sets hold, so that a run is resumed with the same ones.

    Parameters
    ----------
    datasets : sequence of Dataset

    Returns
    -------
    str
        Sixteen hexadecimal digits of the indices, which name each mesh with a hash of its geometry, and of the splits.
    """
    digest = hashlib.sha256()
    for dataset in datasets:
        splits = [np.asarray(dataset.split(name)).tolist() for name in ("train", "validation")]
        digest.update(json.dumps([getattr(dataset, "index", None), splits]).encode())
    return digest.hexdigest()[:16]


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
            chosen = indices[start : start + 8]
            generators = [torch_generator(0, "validation", int(index)) for index in chosen]
            yield make_batch(dataset.batch(chosen), whole, generators, augment=False)


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
    ends, count = list(itertools.accumulate(network.config.scales)), len(network.config.scales)
    levels = {str(ends[k]): k + 1 for k in range(max(count // 2 - 1, 0), count, 2)} if quantise else {"full": count}
    latents = [network.encode(batch.points, batch.normals, batch.box)[0] for batch in batches]
    result = {}
    for label, scales in levels.items():
        overlaps, hits, shares = [], [], []
        for batch, latent in zip(batches, latents, strict=True):
            if quantise:
                latent = network.quantizer(latent, scales=scales).latent
            planes = network.planes(latent, batch.box)
            inside = batch.distances[:, : batch.volume] < 0
            distance = network.signed_distance(planes, batch.queries[:, : batch.volume], batch.box)
            both = ((distance < 0) & inside).sum(1)
            overlaps.append(both / ((distance < 0) | inside).sum(1).clamp_min(1))
            near = distance.abs() < 0.02
            shares.append(torch.stack([near.sum(), (near & (batch.distances[:, : batch.volume].abs() < 0.02)).sum()]))
            on = network.signed_distance(planes, batch.points[:, :1024], batch.box).abs() < 0.02
            hits.append(on.float().mean(1))
        found, true = torch.stack(shares).sum(0).tolist()
        recall, precision = float(torch.cat(hits).mean()), true / max(found, 1)
        result[f"iou@{label}"] = round(float(torch.cat(overlaps).mean()), 4)
        result[f"f@{label}"] = round(harmonic_mean(precision, recall), 4)
    return result
