"""Refinement of token ids by gradient steps through the frozen decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from setcore.seeding import torch_generator
from vat3d.codec.descent import descend
from vat3d.codec.effort import Schedule
from vat3d.codec.search import Choice, Search

HOT, COLD = 0.15, 0.06
"""Temperature of the draws of codes at the first and the last step, in half squared distance."""
LOOK_EVERY = 25
"""Steps between looks at the state."""


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
        return descend(search.target, search.seed, parameter, loss, count, stage, rate, schedule.samples, deadline, bar)

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
