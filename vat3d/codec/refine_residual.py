"""Refinement of the sparse residual under a price for its bits."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from vat3d.bitstream.residual import CLASSES, LARGEST, STEP_CODE, STEPS, neighbourhood, residual_bits
from vat3d.codec.descent import descend
from vat3d.codec.effort import Schedule
from vat3d.codec.search import Choice, Search

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
    for step in descend(
        search.target, search.seed, numbers, loss, count, "residual", rate, schedule.samples, deadline, bar
    ):
        if 2 * step >= count and ((step + 1) % RESIDUAL_LOOK == 0 or step + 1 == count):
            with torch.no_grad():
                now = trimmed()
                error = float(search.field_error(latent + STEPS[STEP_CODE] * torch.from_numpy(now), *search.held))
            if error < least:
                best, least = now, error
    bar.close()
    return best if best.any() else None
