"""Refinement: the tokens of one mesh, improved against its own surface through the frozen decoder.

Each kept token has a vector of its own that starts at the code the encoder chose. Gradient steps on fresh samples move
the vectors; the decoder always sees their nearest codes (straight-through, Bengio et al. 2013), so what is minimised
is what the file will hold. Axes: b batch (1), n point, k token, c latent channel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from setcore.seeding import torch_generator
from vat3d.entropy import PRECISION, Tables
from vat3d.losses import field_loss
from vat3d.network import CodecNetwork


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
    """How much work an effort means: gradient steps, samples a step, and the price of a bit in code distance."""

    steps: int
    samples: int = 2048
    learning_rate: float = 0.1
    rate: float = 0.15


PULL = 0.02
"""Share of the way to its code that a vector is moved each step, so that none drifts off."""
HELD, LOOK_EVERY = 8192, 25
"""Samples kept for choosing among states, and steps between looks at them."""
EFFORTS = {"fast": Schedule(0), "normal": Schedule(150), "best": Schedule(600)}


def refine(
    network: CodecNetwork,
    target: Target,
    ids: Sequence[NDArray[np.int64]],
    fit: Callable[[NDArray[np.int64]], int],
    tables: Tables,
    schedule: Schedule,
    *,
    seed: int = 0,
    deadline: float | None = None,
    progress: bool = False,
) -> NDArray[np.int64]:
    """Improve token ids by gradient steps; returns the ids (count,) of the best state met.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    target : Target
    ids : list of int arrays
        All scales, as the encoder chose them.
    fit : callable
        How many of some ids (all scales, flat) fit into the file.
    tables : Tables
        What each id costs in bits.
    schedule : Schedule
    seed : int
    deadline : float, optional
        A reading of `time.perf_counter` after which no further step is begun.
    progress : bool
        A progress bar on standard error.
    """
    quantizer, config = network.quantizer, network.config
    flat = np.concatenate(list(ids))
    ends = np.cumsum(config.scales)
    kept = fit(flat)
    codebook = quantizer.codebook.detach()
    vectors = codebook[torch.from_numpy(flat)].clone().requires_grad_()
    optimizer = torch.optim.Adam([vectors], lr=schedule.learning_rate, betas=(0.9, 0.95))
    held = _subset(target, torch_generator(seed, "held"), HELD)
    best: tuple[float, NDArray[np.int64]] = (math.inf, flat[:kept])
    half_power = codebook.square().sum(1) / 2
    price = torch.zeros(len(flat), 1)

    def decode_loss(chosen: Tensor, straight: Tensor, points: Tensor, distances: Tensor) -> Tensor:
        latent = torch.zeros(1, 3, config.grid, config.grid, config.channels)
        start = 0
        for scale, (size, end) in enumerate(zip(config.scales, ends, strict=True)):
            if start >= kept:
                break
            stop = min(end, kept)
            part = codebook[chosen[start:stop]] + straight[start:stop]
            latent = latent + quantizer.expand(functional.pad(part, (0, 0, 0, end - stop))[None], scale)
            start += size
        with torch.autocast("cpu", torch.bfloat16):
            logits = network.field(network.planes(latent, target.box), points[None], target.box)
        return field_loss(logits, distances[None], config.sharpness)[0]

    def choose(count: int) -> Tensor:
        scores = half_power - vectors[:count].detach() @ codebook.T
        return (scores + price[:count]).argmin(1)

    def consider() -> None:
        nonlocal best, kept, price
        with torch.no_grad():
            chosen = choose(len(flat))
            now = chosen.numpy()
            price = schedule.rate * id_costs(tables, now)
            kept = fit(now)
            loss = float(_weigh(decode_loss(chosen, torch.zeros_like(vectors), *held), len(held[0]) // 2))
        if loss < best[0]:
            best = (loss, now[:kept].copy())

    consider()
    for step in tqdm(range(schedule.steps), desc="refine", unit="step", disable=not progress):
        if deadline is not None and time.perf_counter() > deadline:
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / schedule.steps)))
        generator = torch_generator(seed, "refine", step)
        points, distances = _subset(target, generator, schedule.samples)
        chosen = choose(kept)
        straight = (vectors - vectors.detach())[:kept]
        loss = _weigh(decode_loss(chosen, straight, points, distances), schedule.samples // 2)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            vectors[: len(chosen)].lerp_(codebook[chosen], PULL)
        if (step + 1) % LOOK_EVERY == 0 or step + 1 == schedule.steps:
            consider()
    return best[1]


def id_costs(tables: Tables, ids: NDArray[np.int64]) -> Tensor:
    """Bits that each code would cost at each token (tokens, codes), the tokens before it being as in `ids`."""
    known = tables.bucket[ids[np.maximum(tables.parent, 0)]]
    rows = tables.row + np.where(tables.parent >= 0, known, 0)
    return torch.from_numpy((PRECISION - np.log2(tables.frequencies))[rows].astype(np.float32))


def _weigh(errors: Tensor, near: int) -> Tensor:
    """Mean over near-surface and over volume samples, with equal weight."""
    return errors[:near].mean() + errors[near:].mean()


def _subset(target: Target, generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Half of `count` near-surface samples, then half volume samples."""
    far = len(target.points) - target.near
    near_rows = torch.randint(target.near, (count // 2,), generator=generator)
    far_rows = target.near + torch.randint(far, (count - count // 2,), generator=generator)
    rows = torch.cat([near_rows, far_rows])
    return target.points[rows], target.distances[rows]
