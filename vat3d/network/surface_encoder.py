"""Surface points to a Gaussian latent on three planes.

Axes: b batch, n surface point, p plane (3), r cells along a plane's side, k token, d width, c latent channel.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vat3d.network.blocks import ConvBlock, JointBlocks, convolve
from vat3d.network.config import CodecConfig
from vat3d.network.triplane import cell_features, fourier, patchify, plane_cells, to_planes, unpatchify

SPLAT_CHANNELS = 16


@torch.no_grad()
def splat(points: Float[Tensor, "b n 3"], normals: Float[Tensor, "b n 3"], side: int) -> Float[Tensor, "b p r r f"]:
    """Draw oriented points onto the three planes.

    A cell holds the means over its points of the offset within the cell, depth, its square, its sines and cosines, the
    normal and the size of the normal's depth component; the least and greatest depth; and the logarithm of the count,
    in units of the mean count so that the number of points does not matter.

    Parameters
    ----------
    points : array of shape (b, n, 3)
        In stretched units.
    normals : array of shape (b, n, 3)
    side : int
        Cells along a plane's side.

    Returns
    -------
    tensor of shape (b, 3, side, side, f)
    """
    seen, facing = to_planes(points), to_planes(normals)
    index, offset = plane_cells(seen[..., :2], side)
    depth = seen[..., 2:]
    waves = fourier(depth, 2)[..., 1:]
    one = torch.ones_like(depth)
    values = torch.cat([one, offset, depth, depth.square(), waves, facing, facing[..., 2:].abs()], dim=-1)
    batch, count = points.shape[:2]
    flat, cells = index.flatten(), batch * 3 * side * side
    sums = values.new_zeros(cells, values.shape[-1]).index_add_(0, flat, values.flatten(0, 2))
    hits = sums[:, :1]
    flat_depth = depth.flatten()
    least = depth.new_full((cells,), 2.0).scatter_reduce_(0, flat, flat_depth, "amin")[:, None]
    greatest = depth.new_full((cells,), -2.0).scatter_reduce_(0, flat, flat_depth, "amax")[:, None]
    occupied = (hits > 0).float()
    density = torch.log1p(hits * (side * side / count))
    features = [density, occupied, sums[:, 1:] / hits.clamp_min(1), least * occupied, greatest * occupied]
    return torch.cat(features, dim=-1).view(batch, 3, side, side, -1)


class PointFeatures(nn.Module):
    """Learned features of oriented points as each plane sees them, averaged over the points of a cell.

    What `splat` cannot say: which depth goes with which normal, where several layers lie behind one another.

    Parameters
    ----------
    channels : int
    """

    OCTAVES = 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = nn.Linear(2 + fourier(torch.zeros(1), self.OCTAVES).shape[-1] + 3, 2 * channels)
        self.out = nn.Linear(2 * channels, channels)

    def forward(
        self, points: Float[Tensor, "b n 3"], normals: Float[Tensor, "b n 3"], side: int
    ) -> Float[Tensor, "b p r r f"]:
        """Means over the cells of planes of `side` cells a side; zero in empty cells.

        Parameters
        ----------
        points, normals : tensors of shape (b, n, 3)
        side : int

        Returns
        -------
        tensor of shape (b, 3, side, side, f)
        """
        seen = to_planes(points)
        index, offset = plane_cells(seen[..., :2], side)
        rows = torch.cat([offset, fourier(seen[..., 2:], self.OCTAVES), to_planes(normals)], dim=-1)
        features = self.out(functional.silu(self.enter(rows))).float()
        flat, cells = index.flatten(), len(points) * 3 * side * side
        sums = features.new_zeros(cells, features.shape[-1]).index_add(0, flat, features.flatten(0, 2))
        hits = sums.new_zeros(cells).index_add_(0, flat, sums.new_ones(len(flat))).clamp_min(1)
        result: Tensor = (sums / hits[:, None]).view(len(points), 3, side, side, -1)
        return result


class SurfaceEncoder(nn.Module):
    """Splat, convolutional stem, joint in-context transformer over learned latents and plane-cell tokens.

    Only the latents are kept; with the stem's local features they give mean and log-variance of the latent grid.

    Parameters
    ----------
    config : CodecConfig
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.side = config.plane
        self.token_side = config.grid // 2
        stem, width = config.stem, config.width
        self.points = PointFeatures(config.points) if config.points else None
        self.enter = nn.Conv2d(SPLAT_CHANNELS + 3 + config.points, stem // 2, 2, stride=2)
        self.local = ConvBlock(stem // 2)
        self.down = nn.Conv2d(stem // 2, stem, 2, stride=2)
        self.stem = nn.Sequential(ConvBlock(stem), ConvBlock(stem))
        self.cell = nn.Linear(4 * stem, width)
        self.box = nn.Linear(fourier(torch.zeros(3), 2).shape[-1], width)
        anchors = cell_features(self.token_side)
        self.register_buffer("anchors", anchors, persistent=False)
        self.cell_anchor = nn.Linear(anchors.shape[-1], width)
        self.latent_anchor = nn.Linear(anchors.shape[-1], width)
        self.latents = nn.Parameter(torch.randn(len(anchors), width) * 0.02)
        self.joint = JointBlocks(width, config.heads, config.hidden, config.encoder_layers)
        self.norm = nn.LayerNorm(width)
        self.spread = nn.Linear(width, 4 * stem)
        self.mix = ConvBlock(stem)
        self.head = nn.Linear(stem, 2 * config.channels)

    def forward(
        self, points: Float[Tensor, "b n 3"], normals: Float[Tensor, "b n 3"], box: Float[Tensor, "b 3"]
    ) -> tuple[Float[Tensor, "b p r r c"], Float[Tensor, "b p r r c"]]:
        """Mean and log-variance of the latent grid.

        Parameters
        ----------
        points, normals : tensors of shape (b, n, 3)
            Surface points in stretched units; normals in the network's frame.
        box : tensor of shape (b, 3)
            Half-extents in the network's frame, the longest 1.

        Returns
        -------
        mean, log_variance : tensors of shape (b, 3, r, r, c)
        """
        batch = len(points)
        planes = [
            splat(points, normals, self.side).flatten(0, 1),
            torch.eye(3, device=points.device).repeat(batch, 1)[:, None, None].expand(-1, self.side, self.side, -1),
        ]
        if self.points is not None:
            planes.append(self.points(points, normals, self.side).flatten(0, 1))
        local = self.local(convolve(self.enter, torch.cat(planes, dim=-1)))
        local = self.stem(convolve(self.down, local)).unflatten(0, (batch, 3))
        cells = self.cell(patchify(local)) + self.cell_anchor(self.anchors)
        latents = self.latents + self.latent_anchor(self.anchors) + self.box(fourier(box, 2))[:, None]
        latents = self.norm(self.joint(latents, cells))
        fused = local + unpatchify(self.spread(latents), self.token_side)
        fused = self.mix(fused.flatten(0, 1)).unflatten(0, (batch, 3))
        mean, log_variance = self.head(functional.silu(fused)).float().chunk(2, dim=-1)
        return mean, log_variance.clamp(-12, 4)
