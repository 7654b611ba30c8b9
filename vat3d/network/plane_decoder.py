"""Latent grid to feature planes, and feature planes to a signed distance at any point.

Axes: b batch, n query point, p plane (3), r cells along a plane's side, k token, d width, c latent channel, f feature.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vat3d.mesh.canonical import HALF_DOMAIN
from vat3d.network.blocks import ConvBlock, JointBlocks, convolve
from vat3d.network.config import CodecConfig
from vat3d.network.triplane import cell_features, fourier, patchify, stretch_box, to_planes, unpatchify


class PlaneDecoder(nn.Module):
    """Joint in-context transformer over learned plane tokens and latent tokens, then convolutional upsampling.

    Parameters
    ----------
    config : CodecConfig
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.token_side = config.grid // 2
        self.repeats = config.plane // config.grid
        width, stem, features = config.width, config.stem, config.features
        anchors = cell_features(self.token_side)
        self.register_buffer("anchors", anchors, persistent=False)
        self.latent = nn.Linear(4 * config.channels, width)
        self.latent_anchor = nn.Linear(anchors.shape[-1], width)
        self.plane_anchor = nn.Linear(anchors.shape[-1], width)
        self.box = nn.Linear(fourier(torch.zeros(3), 2).shape[-1], width)
        self.plane_tokens = nn.Parameter(torch.randn(len(anchors), width) * 0.02)
        self.joint = JointBlocks(width, config.heads, config.hidden, config.decoder_layers)
        self.norm = nn.LayerNorm(width)
        self.spread = nn.Linear(width, 4 * stem)
        self.skip = nn.Conv2d(config.channels, stem, 3, padding=1)
        self.coarse = nn.Sequential(ConvBlock(stem), ConvBlock(stem))
        middle = (stem + features) // 2
        self.raise_1 = nn.Linear(stem, 4 * middle)
        self.medium = ConvBlock(middle)
        self.raise_2 = nn.Linear(middle, 4 * features)
        self.fine = ConvBlock(features)
        if config.detail:
            self.raise_3 = nn.Linear(features, 4 * config.detail)
            self.finest = ConvBlock(config.detail)
        self.detail = bool(config.detail)

    def forward(
        self, latent: Float[Tensor, "b p r r c"], box: Float[Tensor, "b 3"]
    ) -> list[Float[Tensor, "b p _ _ _"]]:
        """Feature planes of a latent grid.

        Parameters
        ----------
        latent : tensor of shape (b, 3, r, r, c)
        box : tensor of shape (b, 3)
            Half-extents of the mesh.

        Returns
        -------
        list of tensors of shape (b, 3, side, side, f)
            Of ``config.plane`` cells a side and, with ``config.detail``, of twice as many.
        """
        batch = len(latent)
        tokens = self.latent(patchify(latent)) + self.latent_anchor(self.anchors)
        planes = self.plane_tokens + self.plane_anchor(self.anchors) + self.box(fourier(box, 2))[:, None]
        planes = unpatchify(self.spread(self.norm(self.joint(planes, tokens))), self.token_side).flatten(0, 1)
        planes = self.coarse(planes + convolve(self.skip, latent.flatten(0, 1)))
        planes = self.medium(raise_planes(self.raise_1(planes)))
        planes = self.fine(raise_planes(self.raise_2(planes)))
        levels = [planes]
        if self.detail:
            levels.append(self.finest(raise_planes(self.raise_3(planes))))
        return [level.unflatten(0, (batch, 3)) for level in levels]


def raise_planes(planes: Float[Tensor, "m r r c"]) -> Float[Tensor, "m s s d"]:
    """Channels to space: twice the side, a quarter of the channels.

    Parameters
    ----------
    planes : tensor of shape (m, r, r, c)

    Returns
    -------
    tensor of shape (m, 2 r, 2 r, c / 4)
    """
    m, r, _, c = planes.shape
    return planes.view(m, r, r, 2, 2, c // 4).transpose(2, 3).reshape(m, 2 * r, 2 * r, c // 4)


class FieldHead(nn.Module):
    """Bilinear samples of the three planes and the point's own place, to one logit: positive inside.

    Parameters
    ----------
    config : CodecConfig
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        place = fourier(torch.zeros(3), 4).shape[-1] + 6
        self.place = nn.Linear(place, config.head)
        self.planes = nn.Linear(3 * config.features, config.head)
        self.detail = nn.Linear(3 * config.detail, config.head, bias=False) if config.detail else None
        self.middle = nn.Linear(config.head, config.head)
        self.out = nn.Linear(config.head, 1)

    def forward(
        self,
        planes: Sequence[Float[Tensor, "b p _ _ _"]],
        points: Float[Tensor, "b n 3"],
        box: Float[Tensor, "b 3"],
    ) -> Float[Tensor, "b n"]:
        """Logits at points.

        Parameters
        ----------
        planes : sequence of tensors
            Of `PlaneDecoder`.
        points : tensor of shape (b, n, 3)
            In the network's frame.
        box : tensor of shape (b, 3)

        Returns
        -------
        float32 tensor of shape (b, n)
        """
        stretched = points / stretch_box(box)[:, None]
        grid = (to_planes(stretched)[..., :2].flip(-1).flatten(0, 1)[:, :, None] / HALF_DOMAIN).contiguous()
        place = torch.cat([fourier(stretched, 4), points, box[:, None].expand_as(points)], dim=-1)
        hidden = self.planes(_sample(planes[0], grid)) + self.place(place)
        if self.detail is not None:
            hidden = hidden + self.detail(_sample(planes[1], grid))
        hidden = functional.silu(self.middle(functional.silu(hidden)))
        result: Tensor = self.out(hidden).float().squeeze(-1)
        return result


def _sample(planes: Float[Tensor, "b p R R f"], grid: Float[Tensor, "m n 1 2"]) -> Float[Tensor, "b n d"]:
    """Bilinear samples of every plane, side by side. (Eight times slower where `grid` is not contiguous.)"""
    images = planes.flatten(0, 1).permute(0, 3, 1, 2).float()
    sampled = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return sampled[..., 0].view(len(planes), -1, grid.shape[1]).transpose(1, 2)
