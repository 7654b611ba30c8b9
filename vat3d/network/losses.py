"""What training and refinement minimise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

SHARPER = 4.0
"""How many times softer the first term of `field_loss` is than its second."""


def field_loss(
    logits: Float[Tensor, "b n"], signed_distance: Float[Tensor, "b n"], sharpness: float, sharper_weight: float = 0.0
) -> Float[Tensor, "b n"]:
    """Cross-entropy with a soft occupancy, ``sigmoid(-d / sharpness)``, in nats above its floor.

    Near the surface the optimum is ``logit = -d / sharpness``, so that distances are learned to a fraction of a cell;
    far away the target saturates and nothing is asked but the sign. A second term of weight `sharper_weight`, `SHARPER`
    times less soft and with the same optimum, asks for the sign in parts thinner than `sharpness`.

    Parameters
    ----------
    logits : tensor of shape (b, n)
        Of the network, positive inside.
    signed_distance : tensor of shape (b, n)
        True distances, negative inside.
    sharpness : float
        Length over which a distance makes a logit of 1.
    sharper_weight : float

    Returns
    -------
    tensor of shape (b, n)
        In nats.
    """
    depth = -signed_distance / sharpness
    loss = _cross_entropy(logits, depth)
    if sharper_weight:
        loss = loss + sharper_weight * _cross_entropy(SHARPER * logits, SHARPER * depth)
    return loss


def _cross_entropy(logits: Tensor, true_logits: Tensor) -> Tensor:
    """Divergence of the probabilities that two sets of logits stand for."""
    target = torch.sigmoid(true_logits)
    floor = functional.binary_cross_entropy(target, target, reduction="none")
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="none") - floor


def gaussian_kl(mean: Float[Tensor, "*b c"], log_variance: Float[Tensor, "*b c"]) -> Float[Tensor, ""]:
    """Mean divergence from the standard normal, in nats per latent number (Kingma & Welling 2014, appendix B).

    Parameters
    ----------
    mean, log_variance : tensors of one shape

    Returns
    -------
    tensor of shape ()
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
