"""Adam on one tensor, under a cosine schedule (Kingma & Ba, arXiv 1412.6980). `torch.optim` takes seconds to import."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from setcore.progress import progress_bar
from setcore.seeding import torch_generator
from vat3d.codec.targets import Target, draw_samples

Loss = Callable[[int, Tensor, Tensor], Tensor]
"""Of the number of a step, points (n, 3) and distances (n,)."""
DECAY = (0.9, 0.95)
"""Of the moving averages, of the gradient and of its square."""


def falling_rate(first: float, step: int, steps: int) -> float:
    """Learning rate under a cosine that ends at a fiftieth.

    Parameters
    ----------
    first : float
        Learning rate of step 0.
    step, steps : int

    Returns
    -------
    float
    """
    return first * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def adam_step(values: Tensor, gradient: Tensor, moments: tuple[Tensor, Tensor], count: int, rate: float) -> None:
    """One step of Adam, in place.

    Parameters
    ----------
    values, gradient : tensors of one shape
    moments : pair of tensors of that shape
        Moving averages of the gradient and of its square; zero before the first step.
    count : int
        Number of the step, from 1 on.
    rate : float
    """
    mean, power = moments
    mean.lerp_(gradient, 1 - DECAY[0])
    power.lerp_(gradient.square(), 1 - DECAY[1])
    spread = (power / (1 - DECAY[1] ** count)).sqrt_().add_(1e-8)
    values.addcdiv_(mean, spread, value=-rate / (1 - DECAY[0] ** count))


def descend(
    target: Target,
    seed: int,
    stage: str,
    parameter: Tensor,
    loss: Loss,
    *,
    steps: int,
    rate: float,
    samples: int,
    deadline: float | None,
    progress: bool,
) -> Iterator[int]:
    """Minimise a loss on random samples of a target.

    Parameters
    ----------
    target : Target
    seed : int
    stage : str
        Names the samples that are drawn, and the progress bar.
    parameter : tensor
        What moves.
    loss : callable
        Of the step's number, points (n, 3) and distances (n,).
    steps : int
    rate : float
        Learning rate of the first step.
    samples : int
        Of each step.
    deadline : float, optional
        A reading of `time.perf_counter` after which no further step is begun.
    progress : bool
        A progress bar on standard error.

    Yields
    ------
    int
        The number of each step, after it.
    """
    moments = torch.zeros_like(parameter), torch.zeros_like(parameter)
    with progress_bar(total=steps, desc=stage, unit="step", shown=progress) as bar:
        for step in range(steps):
            if deadline is not None and time.perf_counter() > deadline:
                return
            drawn = draw_samples(target, torch_generator(seed, stage, step, device=parameter.device), samples)
            (gradient,) = torch.autograd.grad(loss(step, *drawn), parameter)
            adam_step(parameter, gradient, moments, step + 1, falling_rate(rate, step, steps))
            bar.update()
            yield step
