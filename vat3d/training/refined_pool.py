"""A pool of training shapes whose tokens or residuals are being refined."""

from __future__ import annotations

import bisect
import itertools
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from setcore.devices import autocast
from setcore.parallel.prefetch import TensorGroup
from setcore.parallel.ranks import Ranks
from setcore.seeding import torch_generator
from vat3d.codec.descent import adam_step, falling_rate
from vat3d.network.codec_network import CodecNetwork
from vat3d.training.augment import Batch
from vat3d.training.batches import TrainingBatch, TrainingShapes
from vat3d.training.config import TrainConfig
from vat3d.training.visits import Visit


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

    def settings(self) -> dict[str, Any]:
        """What a run that is continued must have in common with its beginning.

        Returns
        -------
        dict
        """
        return asdict(self) | {"training": self.training.settings()}


@dataclass(frozen=True)
class Filling(TensorGroup):
    """Shapes that come into the pool.

    Parameters
    ----------
    shapes : Batch
        With all their samples.
    kept : int tensor of shape (b,)
        How many tokens each keeps.
    price : tensor of shape (b,)
        Of a bit.
    """

    shapes: Batch
    kept: Tensor
    price: Tensor


@dataclass(frozen=True)
class TuningInputs(TensorGroup):
    """All that goes into a step of tuning.

    Parameters
    ----------
    filling : Filling, optional
        Of the step's group, where the pool does not hold it yet.
    rows : int tensor of shape (k,)
        Samples of the group's shapes that the step looks at.
    noise : tensor of shape (b, 3, r, r, c), optional
        In 0..1, for rounding, where the step's residuals are not settled.
    training : TrainingBatch, optional
        Of ordinary training, where the step has one.
    """

    filling: Filling | None
    rows: Tensor
    noise: Tensor | None
    training: TrainingBatch | None


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
    def move(self, group: int, rows: slice, gradient: Tensor, rate: float, count: int) -> None:
        """A step of some of a group's numbers; where no gradient ever was, nothing moves.

        Parameters
        ----------
        group : int
        rows : slice
        gradient : tensor
        rate : float
        count : int
            Number of the step, from 1 on.
        """
        moments = self.moments[0, group, rows], self.moments[1, group, rows]
        adam_step(self.values[group, rows], gradient, moments, count, rate)

    @torch.no_grad()
    def gather(self, rows: slice, ranks: Ranks) -> None:
        """Bring all rows of every group together, of which each process moves its own.

        Parameters
        ----------
        rows : slice
            Those of this process.
        ranks : Ranks
        """
        if ranks.count == 1:
            return
        for held in (self.values, *self.moments):
            own = held[:, rows].clone()
            held.zero_()[:, rows] = own
            ranks.sum_(held)


class Pool(nn.Module):
    """Shapes whose token vectors or residuals are being refined.

    Step s visits group s mod `groups`. Group g is filled at its first visit, and again after every `visits` of its
    visits, g visits earlier the first time, so that the groups are at different stages. Of several processes each works
    on the rows of its share.

    Parameters
    ----------
    config : TuningConfig
    source : TrainingShapes
    share : range
        The places in a group that this process works on.

    Attributes
    ----------
    means : tensor of shape (2, 3)
        Moving averages of the loss, of tokens and of residuals, in each third of the visits.
    """

    means: Tensor

    def __init__(self, config: TuningConfig, source: TrainingShapes, share: range) -> None:
        super().__init__()
        self.config, self.source, self.share, self.rows = config, source, share, slice(share.start, share.stop)
        codec = source.codec
        self.base, ends = codec.base_tokens, list(itertools.accumulate(codec.scales))
        self.most = min(config.most, ends[-1])
        self.scales = 1 + bisect.bisect_left(ends, self.most)
        self.tokens = ends[self.scales - 1]
        groups = config.groups, config.training.batch
        self.vectors = Moving(*groups, ends[-1], codec.channels)
        self.residual = Moving(*groups, 3, codec.grid, codec.grid, codec.channels)
        self.register_buffer("means", torch.zeros(2, 3))
        self._held: dict[int, Filling] = {}

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

    def settled(self, step: int) -> bool:
        """Whether what `step` refines is quantised or rounded already.

        Parameters
        ----------
        step : int

        Returns
        -------
        bool
        """
        return self.age(step)[1] >= self.config.free * self.config.visits

    def is_new(self, step: int) -> bool:
        """Whether `step` fills its group.

        Parameters
        ----------
        step : int

        Returns
        -------
        bool
        """
        return step < self.config.groups or self.age(step)[1] == 0

    def filling(self, step: int) -> Filling:
        """The shapes of a step's group.

        Parameters
        ----------
        step : int

        Returns
        -------
        Filling
        """
        config, training = self.config, self.config.training
        first = (self.age(step)[0] * config.groups + step % config.groups) * training.batch
        numbers = range(first + self.share.start, first + self.share.stop)
        drawn = self.source.generators("pool", numbers)
        many = replace(training, volume=config.stored, near=config.stored)
        shapes = self.source.shapes("pool", numbers, drawn, many)
        kept = _between(min(config.fewest, self.most), self.most, drawn).round().long()
        if self.sparse(step):
            kept = torch.full_like(kept, self.base)
        return Filling(shapes, kept, _between(config.cheap, config.dear, drawn))

    def inputs(self, step: int, first: int) -> TuningInputs:
        """What a step needs.

        Parameters
        ----------
        step : int
        first : int
            The step at which this run of the program began: there the pool holds no shapes.

        Returns
        -------
        TuningInputs
        """
        training, codec = self.config.training, self.source.codec
        drawn = torch_generator(self.source.seed, "visit", step)
        rows = torch.cat([
            torch.randint(self.config.stored, (training.volume,), generator=drawn),
            self.config.stored + torch.randint(self.config.stored, (training.near,), generator=drawn),
        ])  # fmt: skip
        noise = None
        if self.sparse(step) and not self.settled(step):
            places = range(step * training.batch + self.share.start, step * training.batch + self.share.stop)
            size = 3, codec.grid, codec.grid, codec.channels
            noise = torch.stack(
                [torch.rand(size, generator=drawn) for drawn in self.source.generators("noise", places)]
            )
        return TuningInputs(
            self.filling(step) if self.is_new(step) or step - first < self.config.groups else None,
            rows,
            noise,
            self.source.batch(step, self.share) if step % self.config.encoder_every == 0 else None,
        )

    @torch.no_grad()
    def fill(self, network: CodecNetwork, step: int, filling: Filling) -> None:
        """Hold the shapes of a step's group; if they are new there, begin with the encoder's tokens, without residuals.

        Parameters
        ----------
        network : CodecNetwork
        step : int
        filling : Filling
        """
        group, training = step % self.config.groups, self.config.training
        self._held[group] = filling
        if not self.is_new(step):
            return
        self.vectors.start(group, 0.0)
        self.residual.start(group, 0.0)
        found = []
        for part in filling.split(training.microbatch):
            shapes = part.shapes
            with autocast(training.precision, part.kept.device):
                mean = network.encode(shapes.points, shapes.normals, shapes.box)[0]
            ids = torch.cat(network.quantizer(mean.float(), part.kept, scales=self.scales).ids, dim=1)
            found.append(network.quantizer.codebook[ids.clamp_min(0)] * (ids >= 0)[..., None])
        self.vectors.values[group, self.rows, : self.tokens] = torch.cat(found)

    def visit(self, step: int, inputs: TuningInputs) -> Visit:
        """What a step refines.

        Parameters
        ----------
        step : int
        inputs : TuningInputs
            Of that step.

        Returns
        -------
        Visit
            Its values want gradients, for `move`.
        """
        group, rows, sparse = step % self.config.groups, inputs.rows, self.sparse(step)
        held, vectors = self._held[group], self.vectors.values[group, self.rows]
        shapes = replace(
            held.shapes, queries=held.shapes.queries[:, rows], distances=held.shapes.distances[:, rows],
            volume=self.config.training.volume,
        )  # fmt: skip
        values = self.residual.values[group, self.rows] if sparse else vectors[:, : self.tokens]
        base = vectors[:, : self.base] if sparse else None
        return Visit(values.clone(), shapes, held.kept, held.price, base, inputs.noise)

    def move(self, step: int, gradient: Tensor) -> None:
        """Move what a step refines.

        Parameters
        ----------
        step : int
        gradient : tensor
            Of the loss, the mean over the group, by the values of the visit.
        """
        filling, visit = self.age(step)
        count = visit - (self._head_start(step) if filling == 0 else 0) + 1
        group = step % self.config.groups
        if self.sparse(step):
            rate = falling_rate(self.config.residual_rate, visit, self.config.visits)
            self.residual.move(group, self.rows, gradient, rate, count)
        else:
            rate = falling_rate(self.config.vector_rate, visit, self.config.visits)
            later = self.vectors.values.shape[2] - self.tokens
            whole = torch.nn.functional.pad(gradient, (0, 0, 0, later))
            self.vectors.move(group, self.rows, whole, rate, count)

    def note(self, step: int, loss: Tensor) -> None:
        """Add a step's loss to the moving averages.

        Parameters
        ----------
        step : int
        loss : tensor of shape ()
        """
        third = 3 * self.age(step)[1] // self.config.visits
        self.means[int(self.sparse(step)), third].lerp_(loss, 1 / min(step / 6 + 1, 100))

    def gather(self, ranks: Ranks) -> None:
        """Bring what the processes refine together, for a checkpoint.

        Parameters
        ----------
        ranks : Ranks
        """
        self.vectors.gather(self.rows, ranks)
        self.residual.gather(self.rows, ranks)
        self.means.copy_(ranks.sum_(self.means.clone()) / ranks.count)


def _between(low: float, high: float, generators: list[torch.Generator]) -> Tensor:
    """Numbers drawn log-uniformly, one by each generator."""
    share = torch.cat([torch.rand(1, generator=generator) for generator in generators])
    return torch.exp(math.log(low) + (math.log(high) - math.log(low)) * share)
