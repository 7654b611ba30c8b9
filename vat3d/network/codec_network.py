"""The whole tokenizer network: encoder, quantiser, decoder, field.

Axes: b batch, n point, p plane (3), r cells along the latent grid's side, c latent channel, k token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vat3d.network.config import CodecConfig
from vat3d.network.plane_decoder import FieldHead, PlaneDecoder
from vat3d.network.quantizer import ScaleQuantizer
from vat3d.network.surface_encoder import SurfaceEncoder
from vat3d.network.triplane import stretch_box


class CodecNetwork(nn.Module):
    """Variational tokenizer: surface points to a Gaussian latent grid to multi-scale codes to a signed distance.

    All points and distances are in the network's frame; `box` holds a mesh's half-extents there, the longest 1, and
    reaches both sides (a file's header carries it).

    Parameters
    ----------
    config : CodecConfig
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = SurfaceEncoder(config)
        self.quantizer = ScaleQuantizer(config)
        self.decoder = PlaneDecoder(config)
        self.field = FieldHead(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.quantizer.codebook.device

    def encode(
        self, points: Float[Tensor, "b n 3"], normals: Float[Tensor, "b n 3"], box: Float[Tensor, "b 3"]
    ) -> tuple[Float[Tensor, "b p r r c"], Float[Tensor, "b p r r c"]]:
        """The Gaussian over the latent grid of some surfaces.

        Parameters
        ----------
        points, normals : tensors of shape (b, n, 3)
            On the surface.
        box : tensor of shape (b, 3)

        Returns
        -------
        mean, log_variance : tensors of shape (b, 3, r, r, c)
        """
        result: tuple[Tensor, Tensor] = self.encoder(points / stretch_box(box)[:, None], normals, box)
        return result

    def planes(self, latent: Float[Tensor, "b p r r c"], box: Float[Tensor, "b 3"]) -> list[Tensor]:
        """Feature planes of a latent grid.

        Parameters
        ----------
        latent : tensor of shape (b, 3, r, r, c)
        box : tensor of shape (b, 3)

        Returns
        -------
        list of tensors
            As in `PlaneDecoder`.
        """
        result: list[Tensor] = self.decoder(latent, box)
        return result

    def signed_distance(
        self, planes: Sequence[Tensor], points: Float[Tensor, "b n 3"], box: Float[Tensor, "b 3"]
    ) -> Float[Tensor, "b n"]:
        """Approximate signed distance, negative inside; outside the box at least the distance to the box.

        Parameters
        ----------
        planes : sequence of tensors
            Of `planes` or `decode`.
        points : tensor of shape (b, n, 3)
        box : tensor of shape (b, 3)

        Returns
        -------
        tensor of shape (b, n)
        """
        distance = -self.config.sharpness * self.field(planes, points, box)
        return torch.maximum(distance, box_distance(points, box))

    def decode(
        self,
        ids: Sequence[Int[Tensor, "b _"]],
        box: Float[Tensor, "b 3"],
        residual: Float[Tensor, "b p r r c"] | None = None,
    ) -> list[Tensor]:
        """Feature planes of a prefix of tokens, and of what a residual adds to their latent.

        Parameters
        ----------
        ids : sequence of int tensors of shape (b, k)
            Of the first scales; the last one may hold fewer than its full count.
        box : tensor of shape (b, 3)
        residual : tensor of shape (b, 3, r, r, c), optional
            In units of the latent.

        Returns
        -------
        list of tensors
            As in `PlaneDecoder`.
        """
        latent = self.quantizer.dequantize(ids)
        return self.planes(latent if residual is None else latent + residual, box)


def box_distance(points: Float[Tensor, "b n 3"], box: Float[Tensor, "b 3"]) -> Float[Tensor, "b n"]:
    """Signed distance to the faces of a centred box (the greatest of the six; exact inside).

    Parameters
    ----------
    points : tensor of shape (b, n, 3)
    box : tensor of shape (b, 3)
        Half-extents.

    Returns
    -------
    tensor of shape (b, n)
    """
    return (points.abs() - box[:, None]).amax(-1)
