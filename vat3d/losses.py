"""What training and refinement minimise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def field_loss(
    logits: Float[Tensor, "b n"], signed_distance: Float[Tensor, "b n"], sharpness: float
) -> Float[Tensor, "b n"]:
    """Cross-entropy with a soft occupancy, ``sigmoid(-d / sharpness)``, in nats above its floor.

    Near the surface the optimum is ``logit = -d / sharpness``, so that distances are learned to a fraction of a cell;
    far away the target saturates and nothing is asked but the sign.
    """
    target = torch.sigmoid(-signed_distance / sharpness)
    floor = functional.binary_cross_entropy(target, target, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none") - floor


def gaussian_kl(mean: Float[Tensor, "*b c"], log_variance: Float[Tensor, "*b c"]) -> Float[Tensor, ""]:
    """Mean divergence from the standard normal, in nats per latent number (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
