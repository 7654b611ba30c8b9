"""The shapes that training steps see, in an order that a seed alone decides.

The n-th shape of a run, its deformation, the noise on its latent, how many tokens it keeps and what a bit is worth to
it depend on the seed and n: not on the process that works on it, nor on the batches and microbatches it comes in.
Axes: b batch, p plane, r cells along the latent grid's side, c latent channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from setcore.errors import InputError
from setcore.parallel.prefetch import TensorGroup
from setcore.seeding import numpy_generator, torch_generator
from vat3d.network.config import CodecConfig
from vat3d.training.augment import Batch, make_batch
from vat3d.training.config import TrainConfig
from vat3d.training.rate import bit_prices, kept_tokens
from vat3d.training.validation import Samples


@dataclass(frozen=True)
class TrainingBatch(TensorGroup):
    """All that goes into a step of training.

    Parameters
    ----------
    shapes : Batch
    noise : tensor of shape (b, 3, r, r, c)
        Standard normal, for the latent.
    kept : int tensor of shape (b,)
        Tokens of each shape.
    price : tensor of shape (b,)
        Of a bit, as `vat3d.training.rate.bit_prices` draws it.
    """

    shapes: Batch
    noise: Tensor
    kept: Tensor
    price: Tensor


class TrainingShapes:
    """Training shapes by their number in an endless sequence, an equal share of every data set.

    Parameters
    ----------
    datasets : sequence of Dataset
    codec : CodecConfig
    config : TrainConfig
    seed : int

    Raises
    ------
    InputError
        A data set has no training meshes.
    """

    def __init__(self, datasets: Sequence[Samples], codec: CodecConfig, config: TrainConfig, seed: int) -> None:
        self.datasets, self.codec, self.config, self.seed = datasets, codec, config, seed
        self.splits = training_splits(datasets)

    def generators(self, sequence: str, numbers: range) -> list[torch.Generator]:
        """The generators of some shapes, which go on from draw to draw.

        Parameters
        ----------
        sequence : str
        numbers : range

        Returns
        -------
        list of torch.Generator
        """
        return [torch_generator(self.seed, sequence, number) for number in numbers]

    def shapes(
        self, sequence: str, numbers: range, generators: Sequence[torch.Generator], config: TrainConfig | None = None
    ) -> Batch:
        """Some shapes of a sequence, deformed.

        Parameters
        ----------
        sequence : str
            There may be several, such as that of the steps.
        numbers : range
        generators : sequence of torch.Generator
            Of these shapes.
        config : TrainConfig, optional
            How many points are drawn, if not as many as of training.

        Returns
        -------
        Batch
        """
        drawn = []
        for number in numbers:
            which = number % len(self.datasets)
            row = numpy_generator(self.seed, sequence, "shape", number).choice(self.splits[which])
            drawn.append(self.datasets[which].batch([int(row)]))
        samples = {name: torch.cat([part[name] for part in drawn]) for name in drawn[0]}
        return make_batch(samples, config or self.config, generators)

    def batch(self, step: int, share: range) -> TrainingBatch:
        """What a step needs.

        Parameters
        ----------
        step : int
        share : range
            The places in the step's batch that this process works on.

        Returns
        -------
        TrainingBatch
        """
        first = step * self.config.batch
        numbers = range(first + share.start, first + share.stop)
        drawn = self.generators("step", numbers)
        shapes, size = self.shapes("step", numbers, drawn), (3, self.codec.grid, self.codec.grid, self.codec.channels)
        return TrainingBatch(
            shapes,
            noise=torch.stack([torch.randn(size, generator=generator) for generator in drawn]),
            kept=torch.cat([kept_tokens(self.codec.scales, 1, generator) for generator in drawn]),
            price=torch.cat([bit_prices(1, self.config, generator) for generator in drawn]),
        )


def training_splits(datasets: Sequence[Samples]) -> list[Any]:
    """Indices of the training meshes of each data set.

    Parameters
    ----------
    datasets : sequence of Dataset

    Returns
    -------
    list of int arrays

    Raises
    ------
    InputError
        A data set has none.
    """
    splits = [np.asarray(dataset.split("train")) for dataset in datasets]
    if not splits or not all(map(len, splits)):
        raise InputError("a data set has no training meshes; prepare more, or leave it out")
    return splits
