"""The bounding box of a mesh in the 6 to 16 bytes that a token file's header has for it.

It says where the decoded mesh lies, to 1/4096 of its half-side, and how large it is. What is decoded does not depend on
it, but for the aspect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import CodecError

FIXED_BYTES = 6
"""Of half-side, longest axis, aspect and the width of the centre's integers, which come after these."""
ASPECT_STEPS = (1 << 11) - 1
SCALE_BIAS, MANTISSA_BITS, SCALE_BITS = 64, 11, 18
CENTRE_BITS = 11
"""Binary digits of a centre after the point, in half-sides."""
FARTHEST = 2.0**48
"""Half-sides from the origin, beyond which float64 leaves a mesh no digits of its own."""


Box = TypeVar("Box", bound="BoundingBox")


@dataclass(frozen=True)
class BoundingBox:
    """Half-side, aspect and centre of an axis-aligned box, as the integers of the file.

    Parameters
    ----------
    scale_code : int, 0..262143
        The longest half-side is ``(2048 + code % 2048) / 2048 * 2 ** (code // 2048 - 64)``.
    longest : int, 0..2
        The axis of the longest side; its aspect is 1.
    aspect_codes : (int, int), 0..2047
        Half-extents of the two other axes, in units of 1/2047 of the half-side.
    centre_codes : (int, int, int)
        Centre in quanta of 1/2048 of the half-side.
    """

    scale_code: int
    longest: int
    aspect_codes: tuple[int, int]
    centre_codes: tuple[int, int, int]

    @classmethod
    def from_corners(cls: type[Box], low: NDArray[np.floating], high: NDArray[np.floating]) -> Box:
        """Quantise a box.

        Half-side, aspect and centre are kept to 1/4096 of the half-side; far from the origin the centre takes the bytes
        that it needs.

        Parameters
        ----------
        low, high : arrays of shape (3,)
            Opposite corners, in the mesh's own units.

        Returns
        -------
        BoundingBox
            Or the subclass that this is called on.

        Raises
        ------
        CodecError
            The box is empty, not finite, a single point, or its size lies outside 2^-64..2^63.
        """
        low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        if low.shape != (3,) or high.shape != (3,) or not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise CodecError("the bounding box is not finite; remove NaN and infinite coordinates")
        half = high / 2 - low / 2
        longest = int(half.argmax())
        side = float(half[longest])
        if not 2.0**-SCALE_BIAS <= side < 2.0 ** (SCALE_BIAS - 1):
            raise CodecError(f"a mesh with a half-side of {side:g} is too small or too large; rescale it first")
        mantissa, exponent = math.frexp(side)
        code = ((exponent - 1 + SCALE_BIAS) << MANTISSA_BITS) + round((2 * mantissa - 1) * (1 << MANTISSA_BITS))
        scale_code = min(code, (1 << SCALE_BITS) - 1)
        one, other = (
            min(round(float(half[axis]) / side * ASPECT_STEPS), ASPECT_STEPS) for axis in range(3) if axis != longest
        )
        # Python's integers: centres may be many half-sides away
        centre = [float(low[axis] / 2 + high[axis] / 2) / _half_side(scale_code) for axis in range(3)]
        if max(map(abs, centre)) > FARTHEST:
            raise CodecError("the mesh is too small for its distance from the origin; move it to the origin first")
        x, y, z = (round(value * (1 << CENTRE_BITS)) for value in centre)
        return cls(scale_code, longest, (one, other), (x, y, z))

    @property
    def half_side(self) -> float:
        """The longest half-side, in the mesh's units."""
        return _half_side(self.scale_code)

    @property
    def aspect(self) -> NDArray[np.float64]:
        """Half-extents divided by the longest, shape (3,), 0..1."""
        values = [code / ASPECT_STEPS for code in self.aspect_codes]
        values.insert(self.longest, 1.0)
        return np.array(values)

    @property
    def centre(self) -> NDArray[np.float64]:
        """Centre of the box, shape (3,), in the mesh's units, along the box's axes."""
        return np.array(self.centre_codes, dtype=np.float64) * 2.0**-CENTRE_BITS * self.half_side

    def to_bytes(self) -> bytes:
        """Half-side, aspect and centre, as the header holds them.

        Returns
        -------
        bytes
        """
        width = _width(self.centre_codes)
        offset = 1 << width >> 1
        centre = sum((code + offset) << (width * axis) for axis, code in enumerate(self.centre_codes))
        fixed = (
            self.scale_code
            | self.longest << SCALE_BITS
            | self.aspect_codes[0] << SCALE_BITS + 2
            | self.aspect_codes[1] << SCALE_BITS + 13
            | width << SCALE_BITS + 24
        )
        return fixed.to_bytes(FIXED_BYTES, "little") + centre.to_bytes((3 * width + 7) // 8, "little")

    @classmethod
    def read(cls: type[Box], data: bytes) -> tuple[Box, int]:
        """The box at the start of some bytes.

        Parameters
        ----------
        data : bytes

        Returns
        -------
        box : BoundingBox
        size : int
            Bytes that it takes.

        Raises
        ------
        CodecError
            The bytes end early or are not what `to_bytes` writes.
        """
        fixed = int.from_bytes(data[:FIXED_BYTES], "little")
        scale_code, longest = fixed % (1 << SCALE_BITS), fixed >> SCALE_BITS & 3
        aspect, width = fixed >> SCALE_BITS + 2, fixed >> SCALE_BITS + 24
        size = FIXED_BYTES + (3 * width + 7) // 8
        if len(data) < size:
            raise CodecError("the file ends inside its header; it is truncated")
        if longest > 2:
            raise CodecError("the header names a fourth axis; the file is damaged")
        packed, offset = int.from_bytes(data[FIXED_BYTES:size], "little"), 1 << width >> 1
        x, y, z = ((packed >> (width * axis) & ((1 << width) - 1)) - offset for axis in range(3))
        box = cls(scale_code, longest, (aspect & ASPECT_STEPS, aspect >> 11 & ASPECT_STEPS), (x, y, z))
        if box.to_bytes() != data[:size]:
            raise CodecError("the header does not hold a centre; the file is damaged")
        return box, size


def _width(codes: tuple[int, int, int]) -> int:
    """The smallest number of bits that holds each of three integers, offset binary; none for three zeros."""
    width = 0
    while not all(-(1 << width >> 1) <= code < max(1, 1 << width >> 1) for code in codes):
        width += 1
    return width


def _half_side(code: int) -> float:
    exponent, mantissa = divmod(code, 1 << MANTISSA_BITS)
    return math.ldexp((1 << MANTISSA_BITS) + mantissa, exponent - SCALE_BIAS - MANTISSA_BITS)
