"""A pool of training shapes whose tokens or residuals are being refined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from setcore.seeding import numpy_generator, torch_generator
from vat3d.bitstream.residual import LARGEST, STEP_CODE, STEPS
from vat3d.codec.descent import adam_step, falling_rate
from vat3d.codec.refine_residual import ResidualRate
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.losses import field_loss
from vat3d.network.precision import autocast
from vat3d.training.augment import Batch, make_batch
from vat3d.training.config import TrainConfig
from vat3d.training.train import draw, training_splits
from vat3d.training.validation import Samples


@dataclass(frozen=True)
class TuningConfig:
    """How a tokenizer is tuned.

    Parameters
    ----------
    training : TrainConfig
        Of the ordinary batches, and of the schedule of the network's learning rate.
    groups : int
        Batches of shapes in the pool, each at a stage of its own.
    visits : int
        Steps that a batch stays in the pool.
    free : float
        Share of the visits with free vectors, or with noise for rounding; after it they are quantised, or rounded.
    vector_rate, residual_rate : float
        Learning rate of the vectors, and of the residual in steps of it, at the first visit; it falls by a cosine.
    fewest, most : int
        A shape has between so many tokens, log-uniformly.
    residuals : int
        Of so many fillings of the pool one has tokens alone, the others residuals.
    cheap, dear : float
        The price of a residual's bits in loss lies between these, log-uniformly.
    stored : int
        Volume and as many near-surface samples that are kept of a shape while it is in the pool.
    encoder_every : int
        Steps between batches of ordinary training.
    """

    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(batch=16, learning_rate=3e-4, cooldown=0.7, warmup=100)
    )
    groups: int = 8
    visits: int = 24
    free: float = 2 / 3
    vector_rate: float = 0.05
    residual_rate: float = 0.2
    fewest: int = 100
    most: int = 400
    residuals: int = 3
    cheap: float = 5e-7
    dear: float = 1e-5
    stored: int = 4096
    encoder_every: int = 6


class Moving(nn.Module):
    """Numbers of every group, and the state of their optimiser (Adam), which is all that a checkpoint needs.

    Parameters
    ----------
    *shape : int
        Groups, then the shape of each one's numbers.
    """

    values: Tensor
    moments: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(shape))
        self.register_buffer("moments", torch.zeros(2, *shape))

    def start(self, group: int, values: Tensor | float) -> None:
        """First values of a group.

        Parameters
        ----------
        group : int
        values : tensor or float
        """
        self.values[group], self.moments[:, group] = values, 0.0

    @torch.no_grad()
    def move(self, group: int, gradient: Tensor, rate: float, count: int) -> None:
        """A step of a group's numbers; where no gradient ever was, nothing moves.

        Parameters
        ----------
        group : int
        gradient : tensor
        rate : float
        count : int
            Number of the step, from 1 on.
        """
        adam_step(self.values[group], gradient, (self.moments[0, group], self.moments[1, group]), count, rate)


class Pool(nn.Module):
    """Shapes whose token vectors or residuals are being refined.

    Step s visits group s mod `groups`. Group g is filled at its first visit, and again after every `visits` of its
    visits, g visits earlier the first time, so that the groups are at different stages.

    Parameters
    ----------
    network : CodecNetwork
    config : TuningConfig
    datasets : sequence of Dataset
    seed : int
    """

    def __init__(self, network: CodecNetwork, config: TuningConfig, datasets: Sequence[Samples], seed: int) -> None:
        super().__init__()
        self.config, self.datasets, self.seed = config, datasets, seed
        self.splits = training_splits(datasets)
        codec = network.config
        self.scales, self.base = codec.scales, codec.base_tokens
        groups = config.groups, config.training.batch
        self.vectors = Moving(*groups, sum(self.scales), codec.channels)
        self.residual = Moving(*groups, 3, codec.grid, codec.grid, codec.channels)
        self._batches: dict[int, tuple[int, Batch, Tensor, Tensor]] = {}

    def age(self, step: int) -> tuple[int, int]:
        """Which filling of its group step `step` meets, and how many visits that has had.

        Parameters
        ----------
        step : int

        Returns
        -------
        filling, visit : int
        """
        return divmod(step // self.config.groups + self._head_start(step), self.config.visits)

    def _head_start(self, step: int) -> int:
        """Visits that the first filling of the group goes without."""
        return step % self.config.groups * self.config.visits // self.config.groups

    def sparse(self, step: int) -> bool:
        """Whether the shapes that `step` meets have a residual.

        Parameters
        ----------
        step : int

        Returns
        -------
        bool
        """
        return self.base > 0 and (step % self.config.groups + self.age(step)[0]) % self.config.residuals > 0

    def shapes(self, step: int) -> tuple[Batch, Tensor, Tensor]:
        """The shapes of a step's group.

        Parameters
        ----------
        step : int

        Returns
        -------
        batch : Batch
            With all their samples.
        kept : int tensor of shape (b,)
            How many tokens each keeps.
        price : tensor of shape (b,)
            Of a bit.
        """
        group, (filling, _) = step % self.config.groups, self.age(step)
        if group not in self._batches or self._batches[group][0] != filling:
            config = replace(self.config.training, volume=self.config.stored, near=self.config.stored)
            rng = numpy_generator(self.seed, "pool", group, filling)
            generator = torch_generator(self.seed, "pool", group, filling)
            batch = make_batch(draw(self.datasets, self.splits, config, rng), config, generator)
            most = min(self.config.most, sum(self.scales))
            kept = _between(min(self.config.fewest, most), most, config.batch, generator).round().long()
            if self.sparse(step):
                kept = torch.full_like(kept, self.base)
            prices = _between(self.config.cheap, self.config.dear, config.batch, generator)
            self._batches[group] = filling, batch, kept, prices
        return self._batches[group][1:]

    @torch.no_grad()
    def fill(self, network: CodecNetwork, step: int) -> None:
        """Fill a step's group with the encoder's tokens, and residuals of zero.

        Parameters
        ----------
        network : CodecNetwork
        step : int
        """
        batch, kept, _ = self.shapes(step)
        with autocast(self.config.training.precision):
            mean = network.encode(batch.points, batch.normals, batch.box)[0]
        ids = torch.cat(network.quantizer(mean.float(), kept).ids, dim=1)
        group = step % self.config.groups
        self.vectors.start(group, 0.0)
        self.vectors.values[group, :, : ids.shape[1]] = (
            network.quantizer.codebook[ids.clamp_min(0)] * (ids >= 0)[..., None]
        )
        self.residual.start(group, 0.0)

    def visit(self, network: CodecNetwork, step: int) -> Tensor:
        """Move what is refined of a step's group by one step, and leave the gradient of its loss in the network.

        Parameters
        ----------
        network : CodecNetwork
        step : int

        Returns
        -------
        tensor of shape ()
            The loss.
        """
        sparse, group, (filling, visit) = self.sparse(step), step % self.config.groups, self.age(step)
        moving, first = (
            (self.residual, self.config.residual_rate) if sparse else (self.vectors, self.config.vector_rate)
        )
        values = moving.values[group].clone().requires_grad_()
        latent, bits = (self._with_residual if sparse else self._of_vectors)(network, step, values)
        batch, _, prices = self.shapes(step)
        loss = _field_error(network, batch, latent, self.config.training, torch_generator(self.seed, "visit", step))
        (loss + (prices * bits).mean()).backward()
        assert values.grad is not None
        count = visit - (self._head_start(step) if filling == 0 else 0) + 1
        moving.move(group, values.grad, falling_rate(first, visit, self.config.visits), count)
        return loss.detach()

    def _settled(self, step: int) -> bool:
        return self.age(step)[1] >= self.config.free * self.config.visits

    def _of_vectors(self, network: CodecNetwork, step: int, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of vectors (b, k, c), and bits, which have no part in the loss."""
        kept = self.shapes(step)[1]
        most = int(kept.max())
        present = (torch.arange(most) < kept[:, None])[..., None]
        latent = network.quantizer.from_vectors(vectors[:, :most] * present)
        if self._settled(step):
            with torch.no_grad():
                coded = network.quantizer(latent, kept).latent
            latent = latent + (coded - latent).detach()
        return latent, torch.zeros(len(latent))

    def _with_residual(self, network: CodecNetwork, step: int, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Latents of the first tokens and residuals (b, p, r, s, c), and the residuals' bits (b,)."""
        with torch.no_grad():
            latent = network.quantizer.from_vectors(self.vectors.values[step % self.config.groups, :, : self.base])
        generator = torch_generator(self.seed, "noise", step)
        told, bits = residual_in_training(numbers, self._settled(step), generator)
        return latent + STEPS[STEP_CODE] * told, bits


def residual_in_training(
    numbers: Float[Tensor, "b p r s c"], settled: bool, generator: torch.Generator
) -> tuple[Float[Tensor, "b p r s c"], Float[Tensor, " b"]]:
    """What a residual decodes as while it is refined, and its bits.

    Parameters
    ----------
    numbers : tensor of shape (b, p, r, s, c)
    settled : bool
        Rounded, with gradients straight through; else with noise for rounding.
    generator : torch.Generator

    Returns
    -------
    told : tensor of shape (b, p, r, s, c)
    bits : tensor of shape (b,)
    """
    rounded = numbers.detach().round().clamp(-LARGEST, LARGEST)
    if settled:
        told, priced = numbers + (rounded - numbers).detach(), numbers
    else:
        told = priced = numbers + torch.rand(numbers.shape, generator=generator) - 0.5
    rates = [ResidualRate(whole.long().numpy(), part) for whole, part in zip(rounded, numbers.detach(), strict=True)]
    return told, torch.stack([rate.bits(part) for rate, part in zip(rates, priced, strict=True)])


def _between(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """Numbers drawn log-uniformly."""
    return torch.exp(math.log(low) + (math.log(high) - math.log(low)) * torch.rand(count, generator=generator))


def _field_error(
    network: CodecNetwork, batch: Batch, latent: Tensor, training: TrainConfig, generator: torch.Generator
) -> Tensor:
    """Mean loss of some of the batch's volume samples, plus that of near-surface samples."""
    near = batch.queries.shape[1] - batch.volume
    rows = torch.cat([
        torch.randint(batch.volume, (training.volume,), generator=generator),
        batch.volume + torch.randint(near, (training.near,), generator=generator),
    ])  # fmt: skip
    with autocast(training.precision):
        logits = network.field(network.planes(latent, batch.box), batch.queries[:, rows], batch.box)
        errors = field_loss(logits, batch.distances[:, rows], network.config.sharpness)
    return errors[:, : training.volume].mean() + errors[:, training.volume :].mean()
