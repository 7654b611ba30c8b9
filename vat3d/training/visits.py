"""What a step of tuning refines, and its loss.

Axes: b batch, k token, p plane, r row and s column of the latent grid, c latent channel.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from setcore.devices import autocast
from setcore.parallel.prefetch import TensorGroup
from vat3d.bitstream.residual import LARGEST, STEP_CODE, STEPS
from vat3d.codec.refine_residual import ResidualRate
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.losses import field_loss
from vat3d.training.augment import Batch
from vat3d.training.config import TrainConfig


@dataclass(frozen=True)
class Visit(TensorGroup):
    """What a step refines, and against what.

    Parameters
    ----------
    values : tensor of shape (b, k, c) or (b, 3, r, r, c)
        The vectors of tokens, or residuals in steps.
    shapes : Batch
        With the samples of this step alone.
    kept, price : tensors of shape (b,)
        As in `Filling`.
    base : tensor of shape (b, k, c), optional
        The vectors of the tokens below a residual.
    noise : tensor of shape (b, 3, r, r, c), optional
    """

    values: Tensor
    shapes: Batch
    kept: Tensor
    price: Tensor
    base: Tensor | None
    noise: Tensor | None


def visit_loss(network: CodecNetwork, visit: Visit, training: TrainConfig, settled: bool) -> tuple[Tensor, Tensor]:
    """The loss of what a visit decodes to: a mean over its shapes.

    Parameters
    ----------
    network : CodecNetwork
    visit : Visit
    training : TrainConfig
    settled : bool
        Vectors are quantised, residuals are rounded; gradients go straight through.

    Returns
    -------
    loss : tensor of shape ()
        With the price of residuals.
    shown : tensor of shape ()
        Without it.
    """
    shapes = visit.shapes
    if visit.base is None:
        latent, bits = _of_vectors(network, visit, settled), torch.zeros_like(visit.price)
    else:
        with torch.no_grad():
            latent = network.quantizer.from_vectors(visit.base)
        told, bits = residual_in_training(visit.values, visit.noise)
        latent = latent + STEPS[STEP_CODE] * told
    with autocast(training.precision, latent.device):
        logits = network.field(network.planes(latent, shapes.box), shapes.queries, shapes.box)
        errors = field_loss(logits, shapes.distances, network.config.sharpness)
    shown = errors[:, : shapes.volume].mean() + errors[:, shapes.volume :].mean()
    return shown + (visit.price * bits).mean(), shown.detach()


def _of_vectors(network: CodecNetwork, visit: Visit, settled: bool) -> Tensor:
    """Latents of vectors (b, k, c), of which each shape has its own number."""
    count = visit.values.shape[1]
    present = (torch.arange(count, device=visit.values.device) < visit.kept[:, None])[..., None]
    latent = network.quantizer.from_vectors(visit.values * present)
    if settled:
        with torch.no_grad():
            scales = 1 + bisect.bisect_left(list(itertools.accumulate(network.config.scales)), count)
            coded = network.quantizer(latent, visit.kept, scales=scales).latent
        latent = latent + (coded - latent).detach()
    return latent


def residual_in_training(
    numbers: Float[Tensor, "b p r s c"], noise: Float[Tensor, "b p r s c"] | None
) -> tuple[Float[Tensor, "b p r s c"], Float[Tensor, " b"]]:
    """What a residual decodes as while it is refined, and its bits.

    Parameters
    ----------
    numbers : tensor of shape (b, p, r, s, c)
    noise : tensor of shape (b, p, r, s, c), optional
        In 0..1, for rounding. Without it numbers are rounded, and gradients go straight through.

    Returns
    -------
    told : tensor of shape (b, p, r, s, c)
    bits : tensor of shape (b,)
    """
    rounded = numbers.detach().round().clamp(-LARGEST, LARGEST)
    if noise is None:
        told, priced = numbers + (rounded - numbers).detach(), numbers
    else:
        told = priced = numbers + noise - 0.5
    return told, ResidualRate(rounded.long(), numbers.detach()).bits(priced)
