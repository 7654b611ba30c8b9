"""The bounding box of a mesh in the 6 to 13 bytes that a token file's header has for it.

It is quantised once, when a mesh is encoded; everything after uses the quantised numbers, so that encoder and decoder
agree to the last bit on where things are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import CodecError

FIXED_BYTES = 5
"""Of the half-side (2) and of the longest axis and the aspect (3); the centre comes after these."""
ASPECT_STEPS = (1 << 11) - 1
SCALE_BIAS, MANTISSA_BITS = 128, 8
CENTRE_BYTES = 8
"""A centre is rounded more coarsely rather than take more bytes than this, as far as `CENTRE_BITS` goes."""
CENTRE_BITS = (9, 8, 7, 6)
"""Binary digits of a centre after the point, in half-sides; finest first."""


Box = TypeVar("Box", bound="BoundingBox")


@dataclass(frozen=True)
class BoundingBox:
    """Half-side, aspect and centre of an axis-aligned box, as the integers of the file.

    Parameters
    ----------
    scale_code : int, 0..65535
        The longest half-side is ``(256 + code % 256) / 256 * 2 ** (code // 256 - 128)``.
    longest : int, 0..2
        The axis of the longest side; its aspect is 1.
    aspect_codes : (int, int), 0..2047
        Half-extents of the two other axes, in units of 1/2047 of the half-side.
    centre_codes : (int, int, int)
        Centre in quanta of ``2 ** -centre_bits`` half-sides.
    centre_bits : int
        9, 8, 7 or 6.
    """

    scale_code: int
    longest: int
    aspect_codes: tuple[int, int]
    centre_codes: tuple[int, int, int]
    centre_bits: int = CENTRE_BITS[0]

    @classmethod
    def from_corners(cls: type[Box], low: NDArray[np.floating], high: NDArray[np.floating]) -> Box:
        """Quantise a box.

        The half-side is kept to .2 %, the aspect to 1/4094 of it, the centre to 1/1024 of it; far from the origin the
        centre is rounded more coarsely, at most to 1/128, to keep it within `CENTRE_BYTES`, and where even that is too
        little it takes the bytes it needs.

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
            The box is empty, not finite, a single point, or its size lies outside 2^-128..2^127.
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
        scale_code = min(code, (1 << 16) - 1)
        one, other = (
            min(round(float(half[axis]) / side * ASPECT_STEPS), ASPECT_STEPS) for axis in range(3) if axis != longest
        )
        quantised = _half_side(scale_code)
        # Python's integers and exact fractions: centres may be many half-sides away
        centre = [float(low[axis] / 2 + high[axis] / 2) / quantised for axis in range(3)]
        if max(map(abs, centre)) > 2.0**52:
            raise CodecError("the mesh is too small for its distance from the origin; move it to the origin first")
        for bits in CENTRE_BITS:
            x, y, z = (round(value * (1 << bits)) for value in centre)
            if len(_centre_bytes((x, y, z), bits)) <= CENTRE_BYTES:
                break
        return cls(scale_code, longest, (one, other), (x, y, z), bits)

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
        return np.array(self.centre_codes, dtype=np.float64) * 2.0**-self.centre_bits * self.half_side

    def to_bytes(self) -> bytes:
        """Half-side, aspect and centre, as the header holds them.

        Returns
        -------
        bytes
        """
        aspect = self.longest << 22 | self.aspect_codes[0] << 11 | self.aspect_codes[1]
        fixed = self.scale_code.to_bytes(2, "little") + aspect.to_bytes(3, "little")
        return fixed + _centre_bytes(self.centre_codes, self.centre_bits)

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
        if len(data) <= FIXED_BYTES:
            raise CodecError("the file ends inside its header; it is truncated")
        scale_code, aspect = int.from_bytes(data[:2], "little"), int.from_bytes(data[2:FIXED_BYTES], "little")
        longest = aspect >> 22
        if longest > 2:
            raise CodecError("the header names a fourth axis; the file is damaged")
        width, bits = data[FIXED_BYTES] >> 2, CENTRE_BITS[data[FIXED_BYTES] & 3]
        end = FIXED_BYTES + 1 + (3 * width + 7) // 8
        packed, offset = int.from_bytes(data[FIXED_BYTES + 1 : end], "little"), 1 << width >> 1
        x, y, z = ((packed >> (width * axis) & ((1 << width) - 1)) - offset for axis in range(3))
        box = cls(scale_code, longest, (aspect >> 11 & ASPECT_STEPS, aspect & ASPECT_STEPS), (x, y, z), bits)
        if _centre_bytes(box.centre_codes, bits) != data[FIXED_BYTES:end]:
            raise CodecError("the header does not hold a centre; the file is damaged")
        return box, end


def _centre_bytes(codes: tuple[int, int, int], bits: int) -> bytes:
    """One byte for quantum and width, then three integers of the smallest width that holds them all, offset binary."""
    width = 0
    while not all(-(1 << width >> 1) <= code < max(1, 1 << width >> 1) for code in codes):
        width += 1
    offset = 1 << width >> 1
    packed = sum((code + offset) << (width * axis) for axis, code in enumerate(codes))
    return bytes([width << 2 | CENTRE_BITS.index(bits)]) + packed.to_bytes((3 * width + 7) // 8, "little")


def _half_side(code: int) -> float:
    exponent, mantissa = divmod(code, 1 << MANTISSA_BITS)
    return math.ldexp((1 << MANTISSA_BITS) + mantissa, exponent - SCALE_BIAS - MANTISSA_BITS)
