"""The frame of a token file: the bounding box of the mesh, how its axes are turned, and across which it is mirrored.

Points of the frame have the box's centre at the origin and its longest half-side as the unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vat3d.bitstream.bounding_box import BoundingBox
from vat3d.errors import CodecError

TURN_LIMIT = 127
"""Largest magnitude of a turn's codes: of 24 that differ by quarter turns, the turn nearest to none has no larger."""
TURN_STEP = (math.sqrt(2) - 1) / TURN_LIMIT
"""What a code of a turn counts: about .4 degrees."""
TURNS = (2 * TURN_LIMIT + 1) ** 3
NO_TURN = (0, 0, 0)
MIRRORS = 8
NO_POSE = 1
"""The number of a frame that is neither turned nor mirrored."""
POSE_BITS = (2 * MIRRORS * TURNS).bit_length()


@dataclass(frozen=True)
class Frame(BoundingBox):
    """A bounding box along turned axes, of a shape that may be its own mirror image.

    Parameters
    ----------
    scale_code, longest, aspect_codes, centre_codes
        Of the box, see `BoundingBox`.
    turn : (int, int, int), -127..127
        Rodrigues vector (axis times the tangent of half the angle) of `rotation`, in steps of `TURN_STEP`.
    mirror : int, 0..7
        The axes across whose middle the shape is its own mirror image: 1 for x, 2 for y, 4 for z, added up.

    Notes
    -----
    Turn and mirror are the frame's pose, which is not among the bytes of `to_bytes`: a file has it in its payload.
    """

    turn: tuple[int, int, int] = NO_TURN
    mirror: int = 0

    @property
    def rotation(self) -> NDArray[np.float64]:
        """The rotation matrix (3, 3) from the mesh's own axes to the frame's."""
        return turn_rotations(np.array(self.turn))

    @property
    def mirrored(self) -> NDArray[np.bool_]:
        """Whether the shape is its own mirror image across the middle of each axis, shape (3,)."""
        return np.array([bool(self.mirror >> axis & 1) for axis in range(3)])

    @property
    def mirrored_axes(self) -> str:
        """Such as "xz"."""
        return "".join(name for name, mirrored in zip("xyz", self.mirrored, strict=True) if mirrored)

    @property
    def turned_degrees(self) -> float:
        """The angle of the turn, to a tenth of a degree."""
        return round(math.degrees(2 * math.atan(TURN_STEP * math.hypot(*self.turn))), 1)

    @property
    def pose(self) -> int:
        """Turn and mirror as one number from 1 on, with which the coder of a payload starts; 1 is neither."""
        number = NO_POSE if not self.mirror else MIRRORS + self.mirror
        if self.turn == NO_TURN:
            return number
        for code in self.turn:
            number = number * (2 * TURN_LIMIT + 1) + code + TURN_LIMIT
        return number

    def with_pose(self, pose: int) -> Frame:
        """This frame in another pose.

        Parameters
        ----------
        pose : int
            A number as the property `pose` gives it.

        Returns
        -------
        Frame

        Raises
        ------
        CodecError
            There is no such pose.
        """
        turn, number = [0, 0, 0], pose
        if pose >= TURNS:
            for axis in (2, 1, 0):
                number, code = divmod(number, 2 * TURN_LIMIT + 1)
                turn[axis] = code - TURN_LIMIT
        mirror = number - MIRRORS if number != NO_POSE else 0
        found = replace(self, turn=(turn[0], turn[1], turn[2]), mirror=mirror)
        if not 0 <= mirror < MIRRORS or found.pose != pose:
            raise CodecError("the file does not end where its tokens end; it is damaged")
        return found

    def to_mesh(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Points of the frame in the mesh's own axes and units.

        Parameters
        ----------
        points : array of shape (n, 3)
            Of the frame: longest half-side 1, centred.

        Returns
        -------
        float64 array of shape (n, 3)
        """
        placed = np.asarray(points, dtype=np.float64) * self.half_side + self.centre
        return placed if self.turn == NO_TURN else placed @ self.rotation


def turn_rotations(codes: NDArray[np.integer]) -> NDArray[np.float64]:
    """Rotation matrices of turns.

    Parameters
    ----------
    codes : int array of shape (..., 3)
        Rodrigues vectors in steps of `TURN_STEP`.

    Returns
    -------
    float64 array of shape (..., 3, 3)
    """
    vector = np.asarray(codes, np.float64)[..., None] * TURN_STEP
    squared = (vector * vector).sum((-2, -1), keepdims=True)
    x, y, z = np.moveaxis(vector[..., 0], -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    turned = (1 - squared) * np.eye(3) + 2 * vector * np.swapaxes(vector, -1, -2) + 2 * cross
    return np.asarray(turned / (1 + squared))
