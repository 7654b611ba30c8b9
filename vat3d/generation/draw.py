"""Drawing the tokens of new shapes, one after another, from a trained transformer.

Axes: b batch, k token, v code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from setcore.errors import InputError
from setcore.seeding import torch_generator
from vat3d.generation.network import Condition, Kept, TokenTransformer, running_reconstruction
from vat3d.network.quantizer import ScaleQuantizer

Head = Callable[[Tensor], Tensor]
"""Of positions (b, d), to logits (b, v)."""


@dataclass(frozen=True)
class DrawOptions:
    """How ids are drawn.

    Parameters
    ----------
    temperature : float
        Of the logits; above 0.
    top_p : float
        Ids are drawn from the most probable ones that together have this share, at least (nucleus sampling, Holtzman et
        al. 2020, arXiv 1904.09751).
    guidance : float
        Logits move by this multiple of what the condition changes (classifier-free guidance, Ho & Salimans, arXiv
        2207.12598); 1 is none.
    cooling : float
        What the temperature is multiplied by from each scale to the next: what finer ones hold is half noise, and noise
        that is drawn makes surfaces rough.
    """

    temperature: float = 1.0
    top_p: float = 0.8
    guidance: float = 2.0
    cooling: float = 0.4

    def check(self) -> None:
        """Refuse numbers that mean nothing.

        Raises
        ------
        InputError
        """
        above = 0 < self.temperature < math.inf and 0 < self.cooling < math.inf
        if not above or not 0 < self.top_p <= 1 or not 0 <= self.guidance < math.inf:
            raise InputError(
                f"temperature is {self.temperature}, cooling {self.cooling}, top_p {self.top_p}, guidance "
                f"{self.guidance}; give the first two above 0, top_p in (0, 1], and a guidance of 0 or more"
            )


@dataclass(frozen=True)
class Drawn:
    """Shapes as tokens.

    Parameters
    ----------
    box : int tensor of shape (b,)
        As in `vat3d.generation.boxes.box_class`.
    ids : list of int tensors of shape (b, k)
        Of each scale.
    likelihood : tensor of shape (b,)
        Mean logarithm of the probability of the drawn ids under the condition, as they are without temperature and
        guidance.
    """

    box: Tensor
    ids: list[Tensor]
    likelihood: Tensor


def draw_nucleus(logits: Float[Tensor, "b v"], top_p: float, uniform: Float[Tensor, " b"]) -> Int[Tensor, " b"]:
    """The codes at given places of the distribution over the most probable codes that together have a share.

    Parameters
    ----------
    logits : tensor of shape (b, v)
    top_p : float
        That share, at least.
    uniform : tensor of shape (b,)
        Places in 0..1.

    Returns
    -------
    int tensor of shape (b,)
    """
    shares, order = torch.softmax(logits.double(), dim=-1).sort(dim=-1, descending=True, stable=True)
    ends = shares.cumsum(-1)
    kept = torch.where(ends - shares < top_p, shares, 0.0).cumsum(-1)
    place = (kept < uniform[:, None].double() * kept[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
    return order.gather(-1, place[:, None])[:, 0]


class _Walk:
    """The sequences as far as they are drawn, once under the condition and, for guidance, once under none."""

    def __init__(self, network: TokenTransformer, conditions: Sequence[Condition], guidance: float) -> None:
        self.network, self.guidance = network, guidance
        starts = [network.condition(condition) for condition in conditions]
        self.kept = [Kept([], start.shape[1] - 1) for start in starts]
        self.last = [network.walk(start, kept)[:, -1] for start, kept in zip(starts, self.kept, strict=True)]

    def extend(self, states: Tensor) -> None:
        self.last = [self.network.walk(states, kept)[:, -1] for kept in self.kept]

    def logits(self, head: Head) -> tuple[Tensor, Tensor]:
        """Those under the condition, and those to draw from."""
        asked, *free = (head(last).float() for last in self.last)
        return asked, free[0] + self.guidance * (asked - free[0]) if free else asked


@torch.no_grad()
def draw_shapes(
    network: TokenTransformer,
    quantizer: ScaleQuantizer,
    asked: Condition,
    seeds: Sequence[Sequence[int]],
    options: DrawOptions,
    box: Int[Tensor, " b"] | None = None,
    known: Sequence[Int[Tensor, "b _"]] = (),
) -> Drawn:
    """Draw shapes.

    Parameters
    ----------
    network : TokenTransformer
    quantizer : ScaleQuantizer
    asked : Condition
    seeds : sequence of b sequences of int
        What a shape is depends on its own alone.
    options : DrawOptions
    box : int tensor of shape (b,), optional
        Where it is given.
    known : sequence of int tensors of shape (b, k), optional
        Ids of the first scales, where they are given.

    Returns
    -------
    Drawn
    """
    config, device, count = network.config, asked.name.device, len(seeds)
    tokens = sum(config.tokens)
    uniform = torch.stack([torch.rand(tokens + 1, generator=torch_generator(*seed, "draw")) for seed in seeds])
    uniform = uniform.to(device)
    conditions = [asked]
    if options.guidance != 1 and not asked.empty:
        conditions.append(Condition(torch.zeros_like(asked.name), torch.zeros_like(asked.words), empty=True))
    walk, likelihood = _Walk(network, conditions, options.guidance), torch.zeros(count, device=device)

    def draw(head: Head, place: int, scale: int = 0) -> Tensor:
        plain, logits = walk.logits(head)
        temperature = options.temperature * options.cooling**scale
        chosen = draw_nucleus(logits / temperature, options.top_p, uniform[:, place])
        likelihood.add_(torch.log_softmax(plain, -1).gather(1, chosen[:, None])[:, 0])
        return chosen

    box = draw(network.to_box, tokens) if box is None else box
    to_code = partial(network.to_code, codebook=quantizer.codebook)
    scales, ids, first = [part.to(device) for part in known], torch.zeros(count, 0, dtype=torch.long, device=device), 0
    for scale, size in enumerate(config.tokens):
        told = running_reconstruction(quantizer, scales, scale, count)
        if scale < len(known):
            held = torch.cat([ids[:, -1:], scales[scale][:, :-1]], dim=1)
            walk.extend(network.positions(first, box, held, quantizer.codebook, told))
            ids = scales[scale]
        else:
            found = []
            for k in range(size):
                walk.extend(network.positions(first + k, box, ids[:, -1:], quantizer.codebook, told[:, k : k + 1]))
                ids = draw(to_code, first + k, scale)[:, None]
                found.append(ids)
            scales.append(torch.cat(found, dim=1))
        first += size
    return Drawn(box, scales, likelihood / (tokens + 1))
