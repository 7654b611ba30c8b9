"""How much work each effort means."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Steps of refinement.

    Parameters
    ----------
    free_steps : int
        Gradient steps on vectors that need not be codes.
    steps : int
        Gradient steps on tokens.
    samples : int
        Points that each step looks at.
    learning_rate : float
        Of vectors, in units of the codebook, at the first step.
    residual_steps : int
        Gradient steps on a residual.
    prices : bool
        Whether tokens are chosen at several prices of a bit.
    trial_steps : int
        Gradient steps on free vectors after which frames and fill rules are compared; refinement then begins anew.
    """

    free_steps: int
    steps: int
    samples: int = 2048
    learning_rate: float = 0.05
    residual_steps: int = 0
    prices: bool = True
    trial_steps: int = 12


EFFORTS = {
    "fast": Schedule(28, 0, learning_rate=0.04, prices=False, trial_steps=0),
    "normal": Schedule(60, 100),
    "best": Schedule(150, 350),
}
RESIDUAL_EFFORTS = {
    "fast": Schedule(12, 0, learning_rate=0.04, residual_steps=20, prices=False, trial_steps=0),
    "normal": Schedule(80, 20, residual_steps=105),
    "best": Schedule(60, 160, residual_steps=330),
}
"""The same for files with a residual, whose tokens matter less."""
