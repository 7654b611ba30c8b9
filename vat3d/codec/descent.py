"""Adam on one tensor, under a cosine schedule."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from setcore.seeding import torch_generator
from vat3d.codec.targets import Target, draw_samples

BETAS = (0.9, 0.95)
"""Decay of Adam's moving averages, of the gradient and of its square."""


def falling_rate(first: float, step: int, steps: int) -> float:
    """Learning rate of vectors at step `step` of `steps`: a cosine from `first` down to a fiftieth."""
    return first * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def descend(
    target: Target,
    seed: int,
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
        drawn = draw_samples(target, torch_generator(seed, stage, step), samples)
        (gradient,) = torch.autograd.grad(loss(step, *drawn), parameter)
        mean.lerp_(gradient, 1 - BETAS[0])
        power.lerp_(gradient.square(), 1 - BETAS[1])
        spread = (power / (1 - BETAS[1] ** (step + 1))).sqrt_().add_(1e-8)
        rate = falling_rate(first_rate, step, count) / (1 - BETAS[0] ** (step + 1))
        with torch.no_grad():
            parameter.addcdiv_(mean, spread, value=-rate)
        bar.update()
        yield step
