"""Shapes that are their own mirror image: the networks see one half, and the file says so.

The frame of a file holds the whole shape. Where it is its own mirror image across the middle of an axis, tokens are
spent on the upper half alone, which the networks see as large as they see whole shapes: cut off a little below the
middle, so that the cut's own wall stays clear of what is decoded. Decoding asks for every point above or below the
middle as one above it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setcore.seeding import numpy_generator
from vat3d.bitstream.coordinate_frame import Frame
from vat3d.mesh.solid import SHELL

OVERLAP = 0.05
"""How far below the middle a shape is cut, in half-sides."""


class MirroredView:
    """What the networks see of a shape in a file's frame: all of it, or its half by one, two or three axes.

    Attributes
    ----------
    whole_extents : float64 array of shape (3,)
        Half-extents of the box of the whole, see `frame_extents`.
    centre : float64 array of shape (3,)
        The middle of the box of that part.
    scale : float
        Its longest half-side; 1 for the whole.
    box : float32 tensor of shape (1, 3)
        Its half-extents over `scale`, which the networks are told.

    Parameters
    ----------
    frame : Frame
    """

    def __init__(self, frame: Frame) -> None:
        self.whole_extents, self._mirrored = frame_extents(frame), frame.mirrored
        low, high = np.where(self._mirrored, -OVERLAP, -self.whole_extents), self.whole_extents
        self.centre, self._extents = (high + low) / 2, (high - low) / 2
        self.scale = float(self._extents.max())
        self.box: Tensor = torch.from_numpy((self._extents / self.scale).astype(np.float32))[None]

    def seen(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Move points of the file's frame into that of the networks.

        Parameters
        ----------
        points : array of shape (n, 3)

        Returns
        -------
        array of shape (n, 3)
        """
        return (points - self.centre) / self.scale if self._mirrored.any() else points

    def folded(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Replace points below the middle of a mirrored axis by their images above it.

        Parameters
        ----------
        points : array of shape (n, 3)
            Of the file's frame.

        Returns
        -------
        array of shape (n, 3)
        """
        return np.where(self._mirrored, np.abs(points), points) if self._mirrored.any() else points

    def side(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """What points below the cut are to be multiplied by, and directions there, to become their images.

        Parameters
        ----------
        points : array of shape (n, 3)
            Of the file's frame.

        Returns
        -------
        array of shape (n, 3)
            1 and -1.
        """
        return np.where(self._mirrored & (points < -OVERLAP), -1.0, 1.0)

    def cut(self, points: NDArray[np.float64], distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Signed distances to the part that the networks see.

        Parameters
        ----------
        points : array of shape (n, 3)
            Of the file's frame.
        distances : array of shape (n,)
            Their signed distances to the whole.

        Returns
        -------
        array of shape (n,)
        """
        past = np.where(self._mirrored, -OVERLAP - points, -np.inf).max(1)
        return np.asarray(np.maximum(distances, past))

    def surface(
        self,
        points: NDArray[np.float64],
        normals: NDArray[np.float64],
        area: float,
        inside: Callable[[NDArray[np.float64]], NDArray[np.bool_]],
        seed: int,
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """As many points and normals on the surface of the part that the networks see, the walls of its cuts included.

        Parameters
        ----------
        points, normals : arrays of shape (n, 3)
            Uniform on the surface of the whole, in the file's frame, in random order.
        area : float
            Of that surface.
        inside : callable
            Whether points (n, 3) of the file's frame are inside the whole.
        seed : int

        Returns
        -------
        points, normals : arrays of shape (n, 3)
        """
        side = self.side(points)
        points, normals = side * points, side * normals
        low, high = self.centre - self._extents, self.centre + self._extents
        left = area / 2 ** self._mirrored.sum()
        for axis in np.flatnonzero(self._mirrored):
            wall = numpy_generator(seed, "cut", int(axis)).uniform(low, high, (len(points), 3))
            wall[:, axis] = -OVERLAP
            wall = wall[inside(wall)]
            walls = np.delete(high - low, axis).prod() * len(wall) / len(points)
            count = min(int(len(points) * walls / (walls + left)), len(wall))
            points = np.concatenate([wall[:count], points[: len(points) - count]])
            outward = np.tile(-np.eye(3)[axis], (count, 1))
            normals = np.concatenate([outward, normals[: len(normals) - count]])
            left += walls
        return points, normals


def frame_extents(frame: Frame) -> NDArray[np.float64]:
    """Half-extents of a frame's box: those of the file, and no thinner than a shell.

    Parameters
    ----------
    frame : Frame

    Returns
    -------
    array of shape (3,)
    """
    return np.maximum(frame.aspect, SHELL)
