"""Encoding as a search: the tokens of one mesh that decode best within a file of so many bytes.

`choose_price` quantises a latent at several prices of a bit and takes what decodes best. `refine` goes on from there:
first the tokens' vectors move freely against the mesh's own surface through the frozen decoder, which keeps the latent
within what the file's tokens can say, and are quantised anew. Then each token is drawn at random from the codes near
its vector, by a softmax with Gumbel noise whose temperature falls until the nearest code hardly changes (Yang, Bamler &
Mandt, "Improving Inference for Neural Image Compression", arXiv 2006.04240; gradients through the nearest code alone,
straight through, gain nothing here: one token moves the whole shape, and no step is small). What room a file has after
its components goes to a sparse residual of the latent (`refine_residual`). Axes: b batch (1), n point, k token, v code,
p plane, r row and s column of the latent grid, c latent channel.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from setcore.seeding import torch_generator
from vat3d.entropy import Tables
from vat3d.losses import field_loss
from vat3d.network import CodecNetwork
from vat3d.precision import autocast
from vat3d.residual import CLASSES, LARGEST, STEP_CODE, STEPS, neighbourhood, residual_bits


@dataclass(frozen=True)
class Target:
    """What a mesh's tokens should decode to, in the evaluation frame of its file.

    `box` (1, 3); `points` (n, 3) with signed distances (n,), the first `near` of them close to the surface.
    """

    box: Tensor
    points: Tensor
    distances: Tensor
    near: int


@dataclass(frozen=True)
class Schedule:
    """How much work an effort means: gradient steps on free vectors, on tokens and then on a residual."""

    free_steps: int
    steps: int
    samples: int = 2048
    learning_rate: float = 0.05
    residual_steps: int = 0


PRICES = (0.03, 0.1, 0.2, 0.4, 0.8)
"""Prices of a bit that are tried beside none, in half squared error of a token's vector at the last scale that fits."""
HOT, COLD = 0.15, 0.06
"""Temperature of the draws of codes at the first and the last step, in half squared distance."""
SHARPER_WEIGHT = 0.5
"""Of the loss's second term; without it thin parts fade away. (In training it cost more than it brought.)"""
HELD, LOOK_EVERY = 4096, 25
"""Samples kept for choosing among states, and steps between looks at them."""
RESIDUAL_RATE = 0.15
"""First learning rate of a residual's numbers, in steps of it."""
HEAD_START = 0.5
"""Share of what the tokens lack of the encoder's latent that the numbers begin with."""
AIM = 1.04
"""Share of the room that the price keeps to: bits fall on while numbers settle, and what is too much is dropped."""
FIRST_PRICE, PRICE_RATE, PRICE_GAIN, MEASURE_EVERY, RESIDUAL_LOOK = 2e-6, 8.0, 3.0, 5, 8
"""Price of a bit in loss at first (for 5,000 bits); how its logarithm follows the logarithm of bits over room, summed
over steps and as it stands (by the sum alone, bits swing about the room and end short of it); steps between
measurements of the bits, and between looks at what fits, in the second half."""
BETAS = (0.9, 0.95)
"""Decay of Adam's moving averages, of the gradient and of its square."""
EFFORTS = {"fast": Schedule(0, 0), "normal": Schedule(60, 100), "best": Schedule(150, 350)}
SPARSE_EFFORTS = {"normal": Schedule(80, 20, residual_steps=105), "best": Schedule(60, 160, residual_steps=330)}
"""The same for files with a residual, whose tokens matter less."""

Fit = Callable[[NDArray[np.int64]], int]
"""How many of some ids (all scales, flat) fit into the file."""


@dataclass(frozen=True)
class Choice:
    """Ids of all scales, flat; how many of them fit; the price of a bit they were chosen at, in half squared error of
    the latent; and the loss of what decodes from those that fit."""

    ids: NDArray[np.int64]
    kept: int
    price: float
    loss: float

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The ids that fit."""
        return self.ids[: self.kept]


def falling_rate(first: float, step: int, steps: int) -> float:
    """Learning rate of vectors at step `step` of `steps`: a cosine from `first` down to a fiftieth."""
    return first * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


class Search:
    """What the two stages share: how a choice of tokens decodes, and what it costs.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    target : Target
    fit : callable
    tables : Tables
        What each id costs in bits.
    seed : int
    limit : int, optional
        So many tokens are chosen at least, in whole scales: more than fit. All, if not given.
    """

    def __init__(
        self,
        network: CodecNetwork,
        target: Target,
        fit: Fit,
        tables: Tables,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.network, self.target, self.fit, self.tables, self.seed = network, target, fit, tables, seed
        quantizer, scales = network.quantizer, network.config.scales
        last = len(scales) if limit is None else int(np.searchsorted(np.cumsum(scales), limit)) + 1
        self.scales = list(scales[:last])
        self.weights = quantizer.weights()
        self.codebook = quantizer.codebook.detach()
        self.held = _subset(target, torch_generator(seed, "held"), HELD)

    def field_error(self, latent: Tensor, points: Tensor, distances: Tensor) -> Tensor:
        """Mean loss of what `latent` decodes to; half of the points near the surface."""
        with autocast():
            planes = self.network.planes(latent, self.target.box)
            logits = self.network.field(planes, points[None], self.target.box)
        errors = field_loss(logits, distances[None], self.network.config.sharpness, SHARPER_WEIGHT)[0]
        near = len(points) // 2
        return errors[:near].mean() + errors[near:].mean()

    def latent(self, vectors: Float[Tensor, "k c"]) -> Float[Tensor, "1 p r r c"]:
        """The latent of the first tokens' vectors."""
        return self.network.quantizer.from_vectors(vectors[None])

    @torch.no_grad()
    def judge(self, ids: NDArray[np.int64], price: float) -> Choice:
        """What the prefix of `ids` that fits decodes to, on the held samples."""
        kept = self.fit(ids)
        loss = self.field_error(self.latent(self.codebook[torch.from_numpy(ids[:kept])]), *self.held)
        return Choice(ids, kept, price, float(loss))

    def costs(self, ids: NDArray[np.int64], price: float) -> Float[Tensor, "k v"]:
        """What each code costs at each token, in half squared error of the token's vector, the others as in `ids`."""
        return id_costs(self.tables, ids) * (price / self.weights[: len(ids)])[:, None]

    @torch.no_grad()
    def choose_price(self, latent: Float[Tensor, "1 p r r c"], given: NDArray[np.int64] | None = None) -> Choice:
        """Quantise `latent` at several prices of a bit; the choice that decodes best from what fits. `given`, ids of
        the first scales, stay."""
        first = None if given is None else torch.from_numpy(given)[None]
        kept = torch.tensor([sum(self.scales)])

        def quantised(*price_and_bits: Any) -> NDArray[np.int64]:
            found = self.network.quantizer(latent, kept, *price_and_bits, given=first)
            return np.asarray(torch.cat(found.ids, dim=1)[0].numpy())

        best = self.judge(quantised(), 0.0)
        ids, unit = best.ids, float(self.weights[best.kept - 1])
        for price in PRICES:
            bits = id_costs(self.tables, ids).split(self.scales)
            ids = quantised(torch.tensor([price * unit]), bits)
            best = min(best, self.judge(ids, price * unit), key=lambda choice: choice.loss)
        return best


def refine(
    search: Search,
    start: Choice,
    schedule: Schedule,
    *,
    still: int = 0,
    deadline: float | None = None,
    progress: bool = False,
) -> Choice:
    """Improve a choice of tokens by gradient steps; returns the best state met, by the loss on held samples.

    Parameters
    ----------
    search : Search
    start : Choice
    schedule : Schedule
    still : int
        So many tokens, whole scales, the first ones, stay as they are. Steps that look at all tokens alone spoil what
        the coarse ones of the encoder, which was trained to be cut anywhere, decode to by themselves.
    deadline : float, optional
        A reading of `time.perf_counter` after which no further step is begun.
    progress : bool
        A progress bar on standard error.
    """
    bar = tqdm(total=schedule.free_steps + schedule.steps, desc="refine", unit="step", disable=not progress)
    first = start.ids[:still]
    unmoved = search.codebook[torch.from_numpy(first)]

    def latent(moved: Float[Tensor, "k c"]) -> Float[Tensor, "1 p r r c"]:
        return search.latent(torch.cat([unmoved, moved]))

    def steps(
        count: int, parameter: Tensor, stage: str, loss: Callable[[int, Tensor, Tensor], Tensor]
    ) -> Iterator[int]:
        rate = schedule.learning_rate
        return _descend(search, parameter, loss, count, stage, rate, schedule.samples, deadline, bar)

    def move_freely(start: Choice) -> Choice:
        """What is chosen for the latent of vectors that need not be codes, if it is better."""
        vectors = search.codebook[torch.from_numpy(start.tokens[still:])].clone().requires_grad_()

        def loss(step: int, *samples: Tensor) -> Tensor:
            return search.field_error(latent(vectors), *samples)

        for _ in steps(schedule.free_steps, vectors, "free", loss):
            pass
        return min(start, search.choose_price(latent(vectors.detach()), first), key=lambda choice: choice.loss)

    def move_tokens(start: Choice) -> Choice:
        """The best state met while the codes of each token settle."""
        best, costs, kept = start, search.costs(start.ids, start.price)[still:], start.kept - still
        vectors = search.codebook[torch.from_numpy(start.ids[still:])].clone().requires_grad_()
        half_power = search.codebook.square().sum(1) / 2

        def distances(tokens: int) -> Tensor:
            """Half the squared distance to each code, plus its cost and what is the same for all codes."""
            return half_power - vectors[:tokens] @ search.codebook.T + costs[:tokens]

        def loss(step: int, *samples: Tensor) -> Tensor:
            temperature = HOT * (COLD / HOT) ** (step / schedule.steps)
            draw = torch.rand(kept, len(half_power), generator=torch_generator(search.seed, "codes", step))
            gumbel = -torch.log(-torch.log(draw.clamp(1e-9, 1 - 1e-7)))
            shares = torch.softmax(gumbel - distances(kept) / temperature, dim=1)
            return search.field_error(latent(shares @ search.codebook), *samples)

        for step in steps(schedule.steps, vectors, "tokens", loss):
            if (step + 1) % LOOK_EVERY == 0 or step + 1 == schedule.steps:
                with torch.no_grad():
                    ids = distances(len(vectors)).argmin(1).numpy()
                now = search.judge(np.concatenate([first, ids]), start.price)
                costs, kept = search.costs(now.ids, start.price)[still:], now.kept - still
                best = min(best, now, key=lambda choice: choice.loss)
        return best

    best = start
    if schedule.free_steps:
        best = move_freely(best)
    if schedule.steps:
        best = move_tokens(best)
    bar.close()
    return best


class Rate:
    """Bits of a residual, as a differentiable function, from the classes that its numbers are coded in.

    In each class numbers are taken to follow a Laplace distribution, whose scale is their mean magnitude.
    """

    def __init__(self, rounded: NDArray[np.int64], numbers: Float[Tensor, "p r s c"]) -> None:
        kinds = torch.from_numpy(neighbourhood(np.abs(rounded))).flatten()
        count = torch.bincount(kinds, minlength=CLASSES) + 10
        total = torch.bincount(kinds, numbers.abs().flatten().double(), minlength=CLASSES) + 3
        self.scale = (total / count).clamp(0.08, 4).float()[kinds].view_as(numbers)

    def bits(self, numbers: Float[Tensor, "p r s c"]) -> Float[Tensor, ""]:
        """Of the intervals of width 1 about `numbers`."""
        distance, scale = numbers.abs(), self.scale
        outside = 0.5 * torch.exp((0.5 - distance).clamp_max(0) / scale) * (1 - torch.exp(-1 / scale))
        tails = torch.exp(-(distance + 0.5) / scale) + torch.exp((distance - 0.5).clamp_max(0) / scale)
        return -torch.where(distance < 0.5, 1 - 0.5 * tails, outside).clamp_min(1e-9).log2().sum()


def refine_residual(
    search: Search,
    base: Choice,
    wanted: Float[Tensor, "1 p r s c"],
    schedule: Schedule,
    room: float,
    fits: Callable[[NDArray[np.int64]], bool],
    *,
    deadline: float | None = None,
    progress: bool = False,
) -> NDArray[np.int64] | None:
    """The sparse residual of a file, in steps of ``STEPS[STEP_CODE]``, shape (p, r, s, c); None if it is empty.

    Gradient steps, straight through the rounding, on the field's loss plus the price of the residual's bits. The price
    follows what the residual takes of the room.

    Parameters
    ----------
    search : Search
    base : Choice
        The tokens, which stay.
    wanted : tensor of shape (1, p, r, s, c)
        The encoder's latent, towards which the residual starts.
    schedule : Schedule
    room : float
        Bits for the residual.
    fits : callable
        Whether a residual fits into the file, as one of zeros does.
    deadline, progress
        As in `refine`.
    """
    with torch.no_grad():
        latent = search.latent(search.codebook[torch.from_numpy(base.tokens)])
    numbers = (HEAD_START / STEPS[STEP_CODE] * (wanted - latent)[0]).clone().requires_grad_()
    steady, size = FIRST_PRICE * (room / 5000) ** -1.3, 0.0

    def rounded() -> NDArray[np.int64]:
        return numbers.detach().round().clamp(-LARGEST, LARGEST).long().numpy()

    def loss(step: int, *samples: Tensor) -> Tensor:
        nonlocal steady, size
        now = rounded()
        if step % MEASURE_EVERY == 0:
            size = residual_bits(now)
        excess = max(-0.5, min(0.5, math.log(max(size, 1.0) / (AIM * room))))
        steady *= math.exp(PRICE_RATE / schedule.residual_steps * excess)
        price = steady * math.exp(PRICE_GAIN * excess)
        told = numbers + (numbers.round() - numbers).detach()
        bits = Rate(now, numbers.detach()).bits(numbers)
        return search.field_error(latent + STEPS[STEP_CODE] * told, *samples) + price * bits

    def trimmed() -> NDArray[np.int64]:
        """What fits: of the numbers that are not zero, as few as must be are dropped, those of least magnitude first.

        (Many lie just above one half, so that a threshold would drop too many at once.)
        """
        whole = rounded()
        order = np.flatnonzero(whole)
        order = order[np.argsort(numbers.detach().abs().numpy().ravel()[order], kind="stable")]

        def without(dropped: int) -> NDArray[np.int64]:
            kept = whole.ravel().copy()
            kept[order[:dropped]] = 0
            return kept.reshape(whole.shape)

        enough = bisect.bisect_left(range(len(order)), True, key=lambda count: residual_bits(without(count)) <= room)
        return next(kept for kept in map(without, range(enough, len(order) + 1)) if fits(kept))

    best, least = np.zeros(numbers.shape, np.int64), base.loss
    bar = tqdm(total=schedule.residual_steps, desc="residual", unit="step", disable=not progress)
    count, rate = schedule.residual_steps, RESIDUAL_RATE
    for step in _descend(search, numbers, loss, count, "residual", rate, schedule.samples, deadline, bar):
        if 2 * step >= count and ((step + 1) % RESIDUAL_LOOK == 0 or step + 1 == count):
            with torch.no_grad():
                now = trimmed()
                error = float(search.field_error(latent + STEPS[STEP_CODE] * torch.from_numpy(now), *search.held))
            if error < least:
                best, least = now, error
    bar.close()
    return best if best.any() else None


def _descend(
    search: Search,
    parameter: Tensor,
    loss: Callable[[int, Tensor, Tensor], Tensor],
    count: int,
    stage: str,
    first_rate: float,
    samples: int,
    deadline: float | None,
    bar: tqdm[Any],
) -> Iterator[int]:
    """Adam on `parameter` under a cosine; yields after each step. (torch.optim takes seconds to import.)"""
    mean, power = torch.zeros_like(parameter), torch.zeros_like(parameter)
    for step in range(count):
        if deadline is not None and time.perf_counter() > deadline:
            return
        drawn = _subset(search.target, torch_generator(search.seed, stage, step), samples)
        (gradient,) = torch.autograd.grad(loss(step, *drawn), parameter)
        mean.lerp_(gradient, 1 - BETAS[0])
        power.lerp_(gradient.square(), 1 - BETAS[1])
        spread = (power / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(1e-8)
        rate = falling_rate(first_rate, step, count) / (1 - BETAS[0] ** (step + 1))
        with torch.no_grad():
            parameter.addcdiv_(mean, spread, value=-rate)
        bar.update()
        yield step


def id_costs(tables: Tables, ids: NDArray[np.int64]) -> Tensor:
    """Bits that each code would cost at each of the first tokens (tokens, codes), those before it being as in `ids`."""
    return torch.from_numpy(tables.code_bits[tables.rows(ids)])


def _subset(target: Target, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Half of `count` near-surface samples, then half volume samples."""
    far = len(target.points) - target.near
    near_rows = torch.randint(target.near, (count // 2,), generator=generator)
    far_rows = target.near + torch.randint(far, (count - count // 2,), generator=generator)
    rows = torch.cat([near_rows, far_rows])
    return target.points[rows], target.distances[rows]
