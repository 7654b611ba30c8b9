"""Where a mesh lies: its bounding box in the few bytes of a token file's header; how it is turned, and mirrored.

Quantised once, when a mesh is encoded; everything after uses the quantised numbers, so both sides agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from vat3d.errors import CodecError

FIXED_BYTES = 5  # half-side 2, longest axis and aspect 3
ASPECT_STEPS = (1 << 11) - 1
SCALE_BIAS, MANTISSA = 128, 8
CENTRE_BYTES = 8
CENTRE_BITS = (9, 8, 7, 6)  # finest first
TURN_LIMIT = 127
"""Largest magnitude of a turn's codes: of 24 that differ by quarter turns, the turn nearest to none has no larger."""
TURN_STEP = (math.sqrt(2) - 1) / TURN_LIMIT
"""What a code of a turn counts: about .4 degrees."""
TURNS = (2 * TURN_LIMIT + 1) ** 3
NO_TURN = (0, 0, 0)
MIRRORS = 8
NO_POSE = 1


@dataclass(frozen=True)
class Frame:
    """Half-side, aspect and centre of a bounding box, as the integers of the file, and the turn of its axes.

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
    turn : (int, int, int), -127..127
        Rodrigues vector (axis times the tangent of half the angle) of `rotation`, in steps of `TURN_STEP`.
    mirror : int, 0..7
        The axes across whose middle the shape is its own mirror image: 1 for x, 2 for y, 4 for z, added up.

    Turn and mirror are the frame's pose, which is not among the bytes of `to_bytes`: a file has it in its payload.
    """

    scale_code: int
    longest: int
    aspect_codes: tuple[int, int]
    centre_codes: tuple[int, int, int]
    centre_bits: int = CENTRE_BITS[0]
    turn: tuple[int, int, int] = NO_TURN
    mirror: int = 0

    @classmethod
    def from_box(cls, low: np.ndarray, high: np.ndarray) -> Frame:
        """Quantise the bounding box `low`..`high` (3,), in the mesh's own units.

        The half-side is kept to .2 %, the aspect to 1/4094 of it, the centre to 1/1024 of it; far from the origin
        the centre is rounded more coarsely, at most to 1/128, to keep it within `CENTRE_BYTES`, and where even that
        is too little it takes the bytes it needs.

        Raises
        ------
        CodecError
            The box is empty, not finite, a single point, or its size lies outside 2^-128..2^128.
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
        code = ((exponent - 1 + SCALE_BIAS) << MANTISSA) + round((2 * mantissa - 1) * (1 << MANTISSA))
        scale_code = min(code, (1 << 16) - 1)
        others = [axis for axis in range(3) if axis != longest]
        aspect = tuple(min(round(float(half[axis]) / side * ASPECT_STEPS), ASPECT_STEPS) for axis in others)
        quantised = _half_side(scale_code)
        # Python's integers and exact fractions: centres may be many half-sides away
        centre = [float(low[axis] / 2 + high[axis] / 2) / quantised for axis in range(3)]
        if max(map(abs, centre)) > 2.0**52:
            raise CodecError("the mesh is too small for its distance from the origin; move it to the origin first")
        for bits in CENTRE_BITS:
            codes = tuple(round(value * (1 << bits)) for value in centre)
            if len(_write_centre(codes, bits)) <= CENTRE_BYTES:  # type: ignore[arg-type]
                break
        return cls(scale_code, longest, aspect, codes, bits)  # type: ignore[arg-type]

    @property
    def half_side(self) -> float:
        """The longest half-side, in the mesh's units."""
        return _half_side(self.scale_code)

    @property
    def aspect(self) -> np.ndarray:
        """Half-extents divided by the longest, shape (3,), 0..1."""
        values = [code / ASPECT_STEPS for code in self.aspect_codes]
        values.insert(self.longest, 1.0)
        return np.array(values)

    @property
    def centre(self) -> np.ndarray:
        """Centre of the box, shape (3,), in the mesh's units, along the frame's axes."""
        return np.array(self.centre_codes, dtype=np.float64) * 2.0**-self.centre_bits * self.half_side

    @property
    def rotation(self) -> np.ndarray:
        """The rotation matrix (3, 3) from the mesh's own axes to the frame's."""
        return turn_rotations(np.array(self.turn))

    @property
    def mirrored(self) -> np.ndarray:
        """Whether the shape is its own mirror image across the middle of each axis, bool array of shape (3,)."""
        return np.array([bool(self.mirror >> axis & 1) for axis in range(3)])

    @property
    def mirrored_axes(self) -> str:
        """Such as "xz"."""
        return "".join(name for name, mirrored in zip("xyz", self.mirrored, strict=True) if mirrored)

    @property
    def turned_degrees(self) -> float:
        """The angle of the turn, to a tenth of a degree."""
        tangent = TURN_STEP * math.hypot(*self.turn)
        return round(math.degrees(2 * math.atan(tangent)), 1)

    @property
    def pose(self) -> int:
        """Turn and mirror as one number from 1 on, to start the coder of a payload with; 1 is neither."""
        start = NO_POSE if not self.mirror else MIRRORS + self.mirror
        if self.turn == NO_TURN:
            return start
        for code in self.turn:
            start = start * (2 * TURN_LIMIT + 1) + code + TURN_LIMIT
        return start

    def posed(self, pose: int) -> Frame:
        """This frame in the pose of such a number.

        Raises
        ------
        CodecError
            There is no such pose.
        """
        turn, start = [0, 0, 0], pose
        if pose >= TURNS:
            for axis in (2, 1, 0):
                start, code = divmod(start, 2 * TURN_LIMIT + 1)
                turn[axis] = code - TURN_LIMIT
        mirror = start - MIRRORS if start != NO_POSE else 0
        found = replace(self, turn=tuple(turn), mirror=mirror)  # type: ignore[arg-type]
        if not 0 <= mirror < MIRRORS or found.pose != pose:
            raise CodecError("the file does not end where its tokens end; it is damaged")
        return found

    def to_input(self, points: np.ndarray) -> np.ndarray:
        """Points of the frame (longest half-side 1, centred), shape (n, 3), in the mesh's own axes and units."""
        placed = np.asarray(points, dtype=np.float64) * self.half_side + self.centre
        return placed if self.turn == NO_TURN else placed @ self.rotation

    def to_bytes(self) -> bytes:
        """Half-side, aspect, centre."""
        aspect = self.longest << 22 | self.aspect_codes[0] << 11 | self.aspect_codes[1]
        fixed = self.scale_code.to_bytes(2, "little") + aspect.to_bytes(3, "little")
        return fixed + _write_centre(self.centre_codes, self.centre_bits)

    @classmethod
    def read(cls, data: bytes, position: int) -> tuple[Frame, int]:
        """The frame at `position` of `data` and the position after it.

        Raises
        ------
        CodecError
            The bytes end early or are not what `to_bytes` writes.
        """
        if len(data) <= position + FIXED_BYTES:
            raise CodecError("the file ends inside its header; it is truncated")
        scale_code = int.from_bytes(data[position : position + 2], "little")
        aspect = int.from_bytes(data[position + 2 : position + FIXED_BYTES], "little")
        longest = aspect >> 22
        if longest > 2:
            raise CodecError("the header names a fourth axis; the file is damaged")
        position += FIXED_BYTES
        width, bits = data[position] >> 2, CENTRE_BITS[data[position] & 3]
        end = position + 1 + (3 * width + 7) // 8
        packed = int.from_bytes(data[position + 1 : end], "little")
        offset = 1 << width >> 1
        codes = tuple((packed >> (width * axis) & ((1 << width) - 1)) - offset for axis in range(3))
        frame = cls(scale_code, longest, (aspect >> 11 & ASPECT_STEPS, aspect & ASPECT_STEPS), codes, bits)  # type: ignore[arg-type]
        if _write_centre(frame.centre_codes, bits) != data[position:end]:
            raise CodecError("the header does not hold a centre; the file is damaged")
        return frame, end


def turn_rotations(codes: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of the codes (..., 3) of turns."""
    vector = np.asarray(codes, np.float64)[..., None] * TURN_STEP
    squared = (vector * vector).sum((-2, -1), keepdims=True)
    x, y, z = np.moveaxis(vector[..., 0], -1, 0)
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*x.shape, 3, 3)
    return ((1 - squared) * np.eye(3) + 2 * vector * np.swapaxes(vector, -1, -2) + 2 * cross) / (1 + squared)


def _write_centre(codes: tuple[int, int, int], bits: int) -> bytes:
    """One byte for quantum and width, then three integers of the smallest width that holds them all, offset binary."""
    width = 0
    while not all(-(1 << width >> 1) <= code < max(1, 1 << width >> 1) for code in codes):
        width += 1
    offset = 1 << width >> 1
    packed = sum((code + offset) << (width * axis) for axis, code in enumerate(codes))
    return bytes([width << 2 | CENTRE_BITS.index(bits)]) + packed.to_bytes((3 * width + 7) // 8, "little")


def _half_side(code: int) -> float:
    return math.ldexp((1 << MANTISSA) + code % (1 << MANTISSA), code // (1 << MANTISSA) - SCALE_BIAS - MANTISSA)
