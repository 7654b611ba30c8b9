"""Refinement of a file's sparse residual by gradient steps, under a price for its bits.

Gradient steps, straight through the rounding, on the field's loss plus the price of the residual's bits
(rate-distortion optimised quantisation). The price follows what the residual takes of the file's room. Axes: p plane, r
row and s column of the latent grid, c latent channel.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from vat3d.bitstream.residual import CLASSES, EDGES, LARGEST, STEP_CODE, STEPS, residual_bits
from vat3d.codec.descent import descend
from vat3d.codec.effort import Schedule
from vat3d.codec.token_search import TokenChoice, TokenSearch

LEARNING_RATE = 0.15
"""Of a residual's numbers at the first step, in steps of it."""
HEAD_START = 0.5
"""Share of what the tokens lack of the encoder's latent that the numbers begin with."""
AIM = 1.04
"""Share of the room that the price keeps to: bits fall on while numbers settle, and what is too much is dropped."""
MEASURE_EVERY, LOOK_EVERY = 5, 8
"""Steps between measurements of the bits, and between looks at what fits, in the second half."""


class ResidualRate:
    """Bits of residuals, as a differentiable function, from the classes that their numbers are coded in.

    In each class of a residual numbers are taken to follow a Laplace distribution, whose scale is their mean magnitude.

    Parameters
    ----------
    rounded : int tensor of shape (..., p, r, s, c)
        What a file would hold, by which classes are known.
    numbers : tensor of shape (..., p, r, s, c)
        Before they are rounded, in steps.
    """

    def __init__(self, rounded: Int[Tensor, "*b p r s c"], numbers: Float[Tensor, "*b p r s c"]) -> None:
        kinds = classes(rounded.abs()).flatten(-4)
        residuals = kinds.shape[:-1].numel()
        first = CLASSES * torch.arange(residuals, device=kinds.device).view(*kinds.shape[:-1], 1)
        place = (first + kinds).flatten()
        # In float64 on the CPU, by which the bytes of files are known; elsewhere float32 does as well.
        size = numbers.abs().flatten().to(torch.float64 if numbers.device.type == "cpu" else torch.float32)
        empty = size.new_zeros(residuals * CLASSES)
        count = empty.index_add(0, place, torch.ones_like(size)) + 10
        total = empty.index_add(0, place, size) + 3
        self.scale = (total / count).clamp(0.08, 4).float()[place].view_as(numbers)

    def bits(self, numbers: Float[Tensor, "*b p r s c"]) -> Float[Tensor, "*b"]:
        """Bits of the intervals of width 1 about numbers.

        Parameters
        ----------
        numbers : tensor of shape (..., p, r, s, c)

        Returns
        -------
        tensor of shape (...)
            Of each residual.
        """
        distance, scale = numbers.abs(), self.scale
        outside = 0.5 * torch.exp((0.5 - distance).clamp_max(0) / scale) * (1 - torch.exp(-1 / scale))
        tails = torch.exp(-(distance + 0.5) / scale) + torch.exp((distance - 0.5).clamp_max(0) / scale)
        return -torch.where(distance < 0.5, 1 - 0.5 * tails, outside).clamp_min(1e-9).log2().flatten(-4).sum(-1)


def classes(magnitudes: Int[Tensor, "*b p r s c"]) -> Int[Tensor, "*b p r s c"]:
    """What `vat3d.bitstream.residual.neighbourhood` says, on the device of a tensor.

    Parameters
    ----------
    magnitudes : int tensor of shape (..., p, r, s, c)

    Returns
    -------
    int tensor of the same shape
    """
    seen = magnitudes.clamp_max(2)
    padded = functional.pad(seen, (0, 0, 1, 1, 1, 0))
    left, above = padded[..., 1:, :-2, :], padded[..., :-1, 1:-1, :]
    cells = left + above + padded[..., :-1, :-2, :] + padded[..., :-1, 2:, :]
    told = cells.sum(-1, keepdim=True) + 3 * (seen.cumsum(-1) - seen) + 2 * (left + above)
    return torch.stack([told >= edge for edge in EDGES]).sum(0)


class _Price:
    """The price of a bit, in loss, that keeps a residual to its room.

    Its logarithm follows that of bits over room, summed over the steps and as it stands. (By the sum alone, bits swing
    about the room and end short of it.)
    """

    FIRST, EXPONENT = 2e-6, -1.3
    """The price at first, of a residual of 5,000 bits, and how it depends on the room."""
    SUMMED, STANDING = 8.0, 3.0

    def __init__(self, room: float, steps: int) -> None:
        self.room, self.steps, self.size = room, steps, 0.0
        self.steady: float = self.FIRST * (room / 5000) ** self.EXPONENT

    def at(self, step: int, rounded: Tensor) -> float:
        if step % MEASURE_EVERY == 0:
            self.size = residual_bits(rounded.cpu().numpy())
        excess = max(-0.5, min(0.5, math.log(max(self.size, 1.0) / (AIM * self.room))))
        self.steady *= math.exp(self.SUMMED / self.steps * excess)
        return self.steady * math.exp(self.STANDING * excess)


def refine_residual(
    search: TokenSearch,
    base: TokenChoice,
    wanted: Float[Tensor, "1 p r s c"],
    schedule: Schedule,
    room: float,
    fits: Callable[[NDArray[np.int64]], bool],
    *,
    deadline: float | None = None,
    progress: bool = False,
) -> NDArray[np.int64] | None:
    """The sparse residual of a file.

    Parameters
    ----------
    search : TokenSearch
    base : TokenChoice
        The tokens, which stay.
    wanted : tensor of shape (1, p, r, s, c)
        The encoder's latent, towards which the residual starts.
    schedule : Schedule
    room : float
        Bits for the residual.
    fits : callable
        Whether a residual fits into the file, as one of zeros does.
    deadline : float, optional
        A reading of `time.perf_counter` after which no further step is begun.
    progress : bool
        A progress bar on standard error.

    Returns
    -------
    int array of shape (p, r, s, c), optional
        In steps of ``STEPS[STEP_CODE]``; None if it is empty.
    """
    with torch.no_grad():
        latent = search.latent(search.coded(base.tokens))
    numbers = (HEAD_START / STEPS[STEP_CODE] * (wanted - latent)[0]).clone().requires_grad_()
    steps = schedule.residual_steps
    price = _Price(room, steps)

    def loss(step: int, *samples: Tensor) -> Tensor:
        now = _rounded(numbers)
        told = numbers + (numbers.round() - numbers).detach()
        bits = ResidualRate(now, numbers.detach()).bits(numbers)
        return search.field_error(latent + STEPS[STEP_CODE] * told, *samples) + price.at(step, now) * bits

    best, least = np.zeros(numbers.shape, np.int64), base.loss
    for step in descend(
        search.target, search.seed, "residual", numbers, loss, steps=steps, rate=LEARNING_RATE,
        samples=schedule.samples, deadline=deadline, progress=progress,
    ):  # fmt: skip
        if 2 * step >= steps and ((step + 1) % LOOK_EVERY == 0 or step + 1 == steps):
            with torch.no_grad():
                now = _trimmed(numbers, room, fits)
                told = torch.from_numpy(now).to(latent.device)
                error = float(search.field_error(latent + STEPS[STEP_CODE] * told, *search.held))
            if error < least:
                best, least = now, error
    return best if best.any() else None


def _rounded(numbers: Tensor) -> Tensor:
    return numbers.detach().round().clamp(-LARGEST, LARGEST).long()


def _trimmed(numbers: Tensor, room: float, fits: Callable[[NDArray[np.int64]], bool]) -> NDArray[np.int64]:
    """What fits: of the numbers that are not zero, as few as must be are dropped, those of least magnitude first.

    (Many lie just above one half, so that a threshold would drop too many at once.)
    """
    numbers = numbers.detach().cpu()
    whole = np.asarray(_rounded(numbers).numpy())
    order = np.flatnonzero(whole)
    order = order[np.argsort(numbers.abs().numpy().ravel()[order], kind="stable")]

    def without(dropped: int) -> NDArray[np.int64]:
        kept = whole.ravel().copy()
        kept[order[:dropped]] = 0
        return kept.reshape(whole.shape)

    enough = bisect.bisect_left(range(len(order)), True, key=lambda count: residual_bits(without(count)) <= room)
    return next(kept for kept in map(without, range(enough, len(order) + 1)) if fits(kept))
