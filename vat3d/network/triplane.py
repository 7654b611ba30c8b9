"""The triplane frame: three axis-aligned planes over the unit cube, and what cells and points know of their place.

A mesh is brought into the network's frame (longest half-side 1, box centred) and then stretched so that its box fills
the cube: every token then speaks of a place where there is something, and thin axes are held more finely.
Axes: b batch, n point, p plane (3), r cells along a plane's side, k token.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vat3d.mesh.canonical import HALF_DOMAIN

MINIMUM_BOX = 0.15
"""Half-extents below this are not stretched further: a sheet is not blown up into a cube."""
PLANE_AXES = ((0, 1, 2), (1, 2, 0), (2, 0, 1))
"""For each plane: the axis along its rows, along its columns, and the one it looks along; turned by one each."""


def stretch_box(box: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3"]:
    """The half-extents that are mapped to 1.

    Parameters
    ----------
    box : tensor of shape (b, 3)
        Half-extents of the mesh, in the network's frame.

    Returns
    -------
    tensor of shape (b, 3)
    """
    return box.clamp_min(MINIMUM_BOX)


def fourier(values: Float[Tensor, "*b d"], octaves: int) -> Float[Tensor, "*b f"]:
    """The values with their sines and cosines at pi 2^0 ... pi 2^(octaves - 1).

    Parameters
    ----------
    values : tensor of shape (..., d)
    octaves : int

    Returns
    -------
    tensor of shape (..., d (1 + 2 octaves))
    """
    rates = math.pi * 2.0 ** torch.arange(octaves, dtype=values.dtype, device=values.device)
    angles = values[..., None] * rates
    return torch.cat([values, angles.sin().flatten(-2), angles.cos().flatten(-2)], dim=-1)


def cell_features(side: int, octaves: int = 4) -> Float[Tensor, "k f"]:
    """Features of the place of each of the 3 side^2 plane cells: Fourier features in space, and which plane it is.

    Parameters
    ----------
    side : int
        Cells along a plane's side.
    octaves : int

    Returns
    -------
    tensor of shape (3 side^2, f)
    """
    centres = (torch.arange(side) + 0.5) / side * 2 - 1
    u, v = (grid.flatten() for grid in torch.meshgrid(centres, centres, indexing="ij"))
    rows = []
    for plane, (first, second, _) in enumerate(PLANE_AXES):
        position = torch.zeros(side * side, 3)
        position[:, first], position[:, second] = u, v
        rows.append(torch.cat([fourier(position, octaves), torch.eye(3)[plane].expand(side * side, 3)], dim=-1))
    return torch.cat(rows)


def to_planes(points: Float[Tensor, "b n 3"]) -> Float[Tensor, "b p n 3"]:
    """Coordinates as each plane sees them: along its rows, along its columns, and in depth.

    Parameters
    ----------
    points : tensor of shape (b, n, 3)

    Returns
    -------
    tensor of shape (b, 3, n, 3)
    """
    return torch.stack([points.roll(-plane, -1) for plane in range(len(PLANE_AXES))], dim=1)


def plane_cells(uv: Float[Tensor, "b p n 2"], side: int) -> tuple[Int[Tensor, "b p n"], Float[Tensor, "b p n 2"]]:
    """The cell that holds each point.

    Parameters
    ----------
    uv : tensor of shape (b, p, n, 2)
        Coordinates along rows and columns of each plane.
    side : int
        Cells along a plane's side.

    Returns
    -------
    cell : int tensor of shape (b, p, n)
        Flat index over (b, p, row, column).
    offset : tensor of shape (b, p, n, 2)
        Of the point from the cell's middle, in cells.
    """
    scaled = (uv / HALF_DOMAIN + 1) * (side / 2)
    cell = scaled.floor().clamp(0, side - 1)
    batch, planes = uv.shape[:2]
    plane_index = torch.arange(batch * planes, device=uv.device).view(batch, planes, 1)
    row, column = cell.long().unbind(-1)
    return (plane_index * side + row) * side + column, scaled - cell - 0.5


def patchify(grid: Float[Tensor, "b p r r c"]) -> Float[Tensor, "b k d"]:
    """2 x 2 cells to one token.

    Parameters
    ----------
    grid : tensor of shape (b, p, r, r, c)

    Returns
    -------
    tensor of shape (b, p r^2 / 4, 4 c)
    """
    b, p, r, _, c = grid.shape
    return grid.view(b, p, r // 2, 2, r // 2, 2, c).transpose(3, 4).reshape(b, p * (r // 2) ** 2, 4 * c)


def unpatchify(tokens: Float[Tensor, "b k d"], side: int) -> Float[Tensor, "b p r r c"]:
    """The inverse of `patchify`.

    Parameters
    ----------
    tokens : tensor of shape (b, k, d)
    side : int
        Tokens along a plane's side.

    Returns
    -------
    tensor of shape (b, 3, 2 side, 2 side, d / 4)
    """
    b, _, d = tokens.shape
    return tokens.view(b, 3, side, side, 2, 2, d // 4).transpose(3, 4).reshape(b, 3, 2 * side, 2 * side, d // 4)
