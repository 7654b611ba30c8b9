"""Refinement of tokens by gradient steps through the frozen decoder.

First the tokens' vectors move freely against the mesh's own surface, which keeps the latent within what the file's
tokens can say, and are quantised anew. Then each token is drawn at random from the codes near its vector, by a softmax
with Gumbel noise whose temperature falls until the nearest code hardly changes (Yang, Bamler & Mandt, "Improving
Inference for Neural Image Compression", arXiv 2006.04240). Gradients through the nearest code alone, straight through,
gain nothing here: one token moves the whole shape, and no step is small. Axes: k token, v code, c latent channel, p
plane, r row and column of the latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from setcore.seeding import torch_generator
from vat3d.codec.descent import Loss, descend
from vat3d.codec.effort import Schedule
from vat3d.codec.token_search import TokenChoice, TokenSearch

FIRST_TEMPERATURE, LAST_TEMPERATURE = 0.15, 0.06
"""Of the draws of codes at the first and the last step, in half squared distance."""
LOOK_EVERY = 25
"""Steps between looks at the state."""


class _Refinement:
    """Tokens of which the first stay as they are while the others move."""

    def __init__(
        self,
        search: TokenSearch,
        frozen: NDArray[np.int64],
        schedule: Schedule,
        deadline: float | None,
        progress: bool,
    ) -> None:
        self.search, self.frozen, self.schedule = search, frozen, schedule
        self.deadline, self.progress = deadline, progress
        self.frozen_vectors = search.coded(frozen)

    def latent(self, moved: Float[Tensor, "k c"]) -> Float[Tensor, "1 p r r c"]:
        return self.search.latent(torch.cat([self.frozen_vectors, moved]))

    def vectors(self, ids: NDArray[np.int64]) -> Float[Tensor, "k c"]:
        """Those of the tokens that move."""
        return self.search.coded(ids[len(self.frozen) :]).clone().requires_grad_()

    def move_freely(self, start: TokenChoice) -> TokenChoice:
        """What is chosen for the latent of vectors that need not be codes, if it is better."""
        vectors = self.vectors(start.tokens)

        def loss(step: int, *samples: Tensor) -> Tensor:
            return self.search.field_error(self.latent(vectors), *samples)

        for _ in self._steps("free", vectors, loss, self.schedule.free_steps):
            pass
        found = self.search.choose_price(self.latent(vectors.detach()), self.frozen)
        return min(start, found, key=lambda choice: choice.loss)

    def move_tokens(self, start: TokenChoice) -> TokenChoice:
        """The best state met while the codes of each token settle."""
        search, steps, n_frozen = self.search, self.schedule.steps, len(self.frozen)
        best, costs, kept = start, search.costs(start.ids, start.price)[n_frozen:], start.kept - n_frozen
        vectors = self.vectors(start.ids)
        half_power = search.codebook.square().sum(1) / 2

        def distances(tokens: int) -> Tensor:
            """Half the squared distance to each code, plus its cost and what is the same for all codes."""
            return half_power - vectors[:tokens] @ search.codebook.T + costs[:tokens]

        def loss(step: int, *samples: Tensor) -> Tensor:
            temperature = FIRST_TEMPERATURE * (LAST_TEMPERATURE / FIRST_TEMPERATURE) ** (step / steps)
            generator = torch_generator(search.seed, "codes", step, device=search.device)
            draw = torch.rand(kept, len(half_power), generator=generator, device=search.device)
            gumbel = -torch.log(-torch.log(draw.clamp(1e-9, 1 - 1e-7)))
            shares = torch.softmax(gumbel - distances(kept) / temperature, dim=1)
            return search.field_error(self.latent(shares @ search.codebook), *samples)

        for step in self._steps("tokens", vectors, loss, steps):
            if (step + 1) % LOOK_EVERY == 0 or step + 1 == steps:
                with torch.no_grad():
                    ids = distances(len(vectors)).argmin(1).cpu().numpy()
                now = search.evaluate(np.concatenate([self.frozen, ids]), start.price)
                costs, kept = search.costs(now.ids, start.price)[n_frozen:], now.kept - n_frozen
                best = min(best, now, key=lambda choice: choice.loss)
        return best

    def _steps(self, stage: str, parameter: Tensor, loss: Loss, steps: int) -> Iterator[int]:
        return descend(
            self.search.target, self.search.seed, stage, parameter, loss, steps=steps,
            rate=self.schedule.learning_rate, samples=self.schedule.samples, deadline=self.deadline,
            progress=self.progress,
        )  # fmt: skip


def refine(
    search: TokenSearch,
    start: TokenChoice,
    schedule: Schedule,
    *,
    n_frozen: int = 0,
    deadline: float | None = None,
    progress: bool = False,
) -> TokenChoice:
    """Improve a choice of tokens by gradient steps.

    Parameters
    ----------
    search : TokenSearch
    start : TokenChoice
    schedule : Schedule
    n_frozen : int
        So many tokens, whole scales, the first ones, stay as they are.
    deadline : float, optional
        A reading of `time.perf_counter` after which no further step is begun.
    progress : bool
        Progress bars on standard error.

    Returns
    -------
    TokenChoice
        The best state met, by the loss on held samples.
    """
    refinement, best = _Refinement(search, start.ids[:n_frozen], schedule, deadline, progress), start
    if schedule.free_steps:
        best = refinement.move_freely(best)
    if schedule.steps:
        best = refinement.move_tokens(best)
    return best
