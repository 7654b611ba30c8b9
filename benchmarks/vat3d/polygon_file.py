"""Files of the bare polygon coder: a header of 16 bytes, or more far from the origin, then the mesh or its half.

The header says where the mesh lies, how it is turned, across which axes it is its own mirror image, and how many cells
of the grid lie along its longest side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from polygon_coder import decode_polygons, encode_polygons

from vat3d.bitstream.coordinate_frame import Frame

HEADER_BYTES = 16
"""At least so many are charged."""
POSE_BYTES = 4


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid on which the vertices of a file lie, in its frame.

    Parameters
    ----------
    frame : Frame
        Of the whole mesh.
    cells : int, 2..255
        Along its longest side.
    """

    frame: Frame
    cells: int

    @property
    def low(self) -> NDArray[np.int64]:
        """The lowest index on each axis: the middle where the mesh is mirrored there, shape (3,)."""
        return np.where(self.frame.mirrored, 0, -self.high)

    @property
    def high(self) -> NDArray[np.int64]:
        """The highest index on each axis, shape (3,)."""
        return np.ceil(self.frame.aspect * self.cells / 2 - 1e-9).astype(np.int64)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Places on each axis, shape (3,)."""
        return self.high - self.low + 1


def write_polygons(grid: Grid, points: NDArray[np.int64], faces: NDArray[np.int64]) -> bytes:
    """The file of a mesh, or of the upper half of one that is its own mirror image.

    Parameters
    ----------
    grid : Grid
    points : int array of shape (n, 3)
        From `grid.low` to `grid.high`, all of them corners of faces.
    faces : int array of shape (m, 3)
        Each with three different corners.

    Returns
    -------
    bytes
    """
    header = grid.frame.to_bytes() + grid.frame.pose.to_bytes(POSE_BYTES, "little") + bytes([grid.cells])
    return header.ljust(HEADER_BYTES, b"\0") + encode_polygons(points - grid.low, faces, grid.sizes)


def read_polygons(data: bytes) -> tuple[Grid, NDArray[np.int64], NDArray[np.int64]]:
    """What `write_polygons` was given, vertices and faces in another order.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    grid : Grid
    points : int array of shape (n, 3)
    faces : int array of shape (m, 3)
    """
    frame, size = Frame.read(data)
    pose = int.from_bytes(data[size : size + POSE_BYTES], "little")
    grid = Grid(frame.with_pose(pose), data[size + POSE_BYTES])
    points, faces = decode_polygons(data[max(HEADER_BYTES, size + POSE_BYTES + 1) :], grid.sizes)
    return grid, points + grid.low, faces


def whole_mesh(
    grid: Grid, points: NDArray[np.int64], faces: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The mesh that a file stands for, its mirror images beside it, in the mesh's own units.

    Parameters
    ----------
    grid : Grid
    points : int array of shape (n, 3)
    faces : int array of shape (m, 3)

    Returns
    -------
    vertices : float64 array
    faces : int64 array
    """
    vertices = points * (2 / grid.cells)
    for axis in np.flatnonzero(grid.frame.mirrored):
        faces = np.concatenate([faces, faces[:, ::-1] + len(vertices)])
        vertices = np.concatenate([vertices, vertices * np.where(np.arange(3) == axis, -1, 1)])
    return grid.frame.to_mesh(vertices), faces
