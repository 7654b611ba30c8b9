"""What training and refinement minimise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

SHARPER, SHARPER_WEIGHT = 4.0, 0.5
"""How much finer the second term of `field_loss` looks, and its weight: without it thin parts fade away."""


def field_loss(
    logits: Float[Tensor, "b n"], signed_distance: Float[Tensor, "b n"], sharpness: float
) -> Float[Tensor, "b n"]:
    """Cross-entropy with a soft occupancy, ``sigmoid(-d / sharpness)``, in nats above its floor, at two sharpnesses.

    Near the surface the optimum is ``logit = -d / sharpness``, so that distances are learned to a fraction of a cell;
    far away the target saturates and nothing is asked but the sign. The second term, of a softness `SHARPER` times
    smaller, asks for the sign where a part is thinner than `sharpness`, and has the same optimum.
    """
    depth = -signed_distance / sharpness
    return _cross_entropy(logits, depth) + SHARPER_WEIGHT * _cross_entropy(SHARPER * logits, SHARPER * depth)


def _cross_entropy(logits: Tensor, true_logits: Tensor) -> Tensor:
    """Divergence of the probabilities that two sets of logits stand for."""
    target = torch.sigmoid(true_logits)
    floor = functional.binary_cross_entropy(target, target, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none") - floor


def gaussian_kl(mean: Float[Tensor, "*b c"], log_variance: Float[Tensor, "*b c"]) -> Float[Tensor, ""]:
    """Mean divergence from the standard normal, in nats per latent number (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
