"""The token file: a few bytes of header, then entropy-coded token ids. `FORMAT.md` describes it byte by byte."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vat3d.bitstream.entropy import state_bytes
from vat3d.bitstream.frame import MIRRORS, NO_POSE, TURNS, Frame
from vat3d.bitstream.header import (
    COUNT_BYTES,
    CRC_BYTES,
    MAGIC,
    POSED,
    header_bytes,
    parse_file,
)
from vat3d.bitstream.residual import LARGEST, STEPS, pop_residual, push_residual, residual_ids, residual_numbers
from vat3d.bitstream.token_model import COUNT_BITS, TokenModel, embedded_model
from vat3d.errors import CodecError

LEVEL_STEP = 0.001
LEVELS = (0, 1, 2, 3, 4, 6, 9, 13)
"""Levels, in steps of `LEVEL_STEP` half-sides, that scales can have; scales of one level may have any of 0 to 7."""
_POSE_BITS = (2 * MIRRORS * TURNS).bit_length()


@dataclass(frozen=True, eq=False)
class TokenStream:
    """An encoded mesh: ids per scale, where the mesh lies, and the model they belong to.

    Parameters
    ----------
    ids : list of int64 arrays, one per scale present; the last scale of tokens may hold fewer than its full count
        A residual is a scale after these: the latent's numbers in steps, 0 1 -1 2 -2 ... as ids 0 1 2 3 4 ...
    frame : Frame
    model : TokenModel
    report : dict
        What the encoder found, did and reached; not part of the file.
    levels : tuple of int, one per scale present
        Decoded up to a scale, the surface lies where the distance is the scale's level times `LEVEL_STEP`: above 0
        where thin parts would break, or where so few tokens would leave nothing inside. All 0, if not given.
    residual_step : int, optional
        The last scale is a residual, in steps of ``STEPS[residual_step]`` of `vat3d.bitstream.residual`.
    width : int, 0 to 15
        Parts thinner than its remainder by 8, in hundredths of a half-side, decode flat; from 8 on, as thin walls.
    """

    ids: list[np.ndarray]
    frame: Frame
    model: TokenModel
    report: dict[str, Any] = field(default_factory=dict)
    levels: tuple[int, ...] = ()
    residual_step: int | None = None
    width: int = 0

    def __post_init__(self) -> None:
        everything = [np.asarray(part, dtype=np.int64) for part in self.ids]
        present = everything if self.residual_step is None else everything[:-1]
        sizes = [part.size for part in present]
        whole = list(self.model.scales[: len(sizes)])
        if (
            not sizes
            or len(sizes) > len(self.model.scales)
            or sizes[:-1] != whole[:-1]
            or not 0 < sizes[-1] <= whole[-1]
        ):
            raise CodecError(f"ids come in scales of {sizes}, but the model's are {list(self.model.scales)}")
        flat = np.concatenate(present)
        if flat.min() < 0 or flat.max() >= self.model.tables.codes:
            raise CodecError(f"a token id lies outside 0..{self.model.tables.codes - 1}")
        if self.residual_step is not None:
            numbers = everything[-1]
            if not self.model.latent or numbers.shape != (math.prod(self.model.latent),):
                raise CodecError(f"a residual of shape {numbers.shape} does not fit a latent of {self.model.latent}")
            if not numbers.any() or numbers.min() < 0 or numbers.max() > 2 * LARGEST:
                raise CodecError(f"the residual is empty, or an id of it lies outside 0..{2 * LARGEST}")
            if not 0 <= self.residual_step < len(STEPS):
                raise CodecError(f"residual step {self.residual_step} lies outside 0..{len(STEPS) - 1}")
        if not 0 <= self.width < 16:
            raise CodecError(f"width {self.width} lies outside 0..15")
        levels = tuple(self.levels) or (0,) * len(everything)
        if len(levels) != len(everything) or not (_alike(levels) or set(levels) <= set(LEVELS)):
            raise CodecError(f"levels {levels} of {len(everything)} scales are not each one of {LEVELS}")
        if self.residual_step is not None and not set(levels) <= set(LEVELS):
            raise CodecError(f"levels {levels} beside a residual are not each one of {LEVELS}")
        object.__setattr__(self, "ids", everything)
        object.__setattr__(self, "levels", levels)

    @property
    def model_id(self) -> str:
        """Eight hexadecimal digits."""
        return self.model.model_id

    @property
    def scales(self) -> tuple[int, ...]:
        """Tokens present in each scale."""
        return tuple(part.size for part in self.ids)

    @property
    def level(self) -> int:
        """Level of the last scale present, at which the stream decodes."""
        return self.levels[-1]

    @property
    def tokens(self) -> list[np.ndarray]:
        """The ids of the scales of tokens, without the residual."""
        return self.ids if self.residual_step is None else self.ids[:-1]

    @property
    def residual(self) -> np.ndarray | None:
        """The numbers of the residual in steps, shape `model.latent`."""
        if self.residual_step is None:
            return None
        return residual_numbers(self.ids[-1]).reshape(self.model.latent)

    @property
    def count(self) -> int:
        """Tokens present."""
        return sum(part.size for part in self.tokens)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the file: header, coded payload, and what the payload would take at whole bits per id."""
        raw_bits = self.count * max(1, (self.model.tables.codes - 1).bit_length())
        if self.residual_step is not None:
            raw_bits += self.ids[-1].size * (2 * LARGEST).bit_length()
        total = len(self.to_bytes())
        header = len(self._header()) + CRC_BYTES
        return {"bytes": total, "header": header, "payload": total - header, "payload_raw": (raw_bits + 7) // 8}

    def _header(self) -> bytes:
        """Everything before the payload; the checksum that closes the file counts as header, too."""
        alike = _alike(self.levels) and self.residual_step is None
        level = self.level if alike else LEVELS.index(self.level)
        version = 4 if self.residual_step is not None else 3 if not alike else 2 if level else 1
        return (
            MAGIC
            + bytes([version + POSED * (self.frame.pose != NO_POSE) | self.width << 4])
            + bytes.fromhex(self.model_id)
            + (self.count | level << COUNT_BITS).to_bytes(COUNT_BYTES, "little")
            + self.frame.to_bytes()
        )

    def to_bytes(self) -> bytes:
        """The file."""
        tables, tokens = self.model.tables, np.concatenate(self.tokens)
        if self.residual is None or self.residual_step is None:
            payload = tables.encode(tokens, _start(self.levels, self.frame))
        else:
            state = push_residual(self.residual, self.frame.pose) * len(STEPS) + self.residual_step
            state = _with_numbers(state, self.levels[:-1])
            payload = state_bytes(tables.push(tokens, state))
        body = self._header() + payload
        return body + zlib.crc32(body).to_bytes(CRC_BYTES, "little")

    @classmethod
    def from_bytes(cls, data: bytes, model: TokenModel | None = None) -> TokenStream:
        """Read a file.

        Parameters
        ----------
        data : bytes
        model : TokenModel, optional
            Whose file it must be; by default the embedded model that the file names.

        Raises
        ------
        CodecError
            The file is truncated, altered, longer than it should be, of a newer version, or belongs to another model.
        """
        model_id, version, posed, width, count, level, frame, payload = parse_file(bytes(data))
        if model is None:
            model = embedded_model(model_id)[1]
        elif model.model_id != model_id:
            raise CodecError(f"the file was written with model {model_id}, not with {model.model_id}; use that model")
        if count == 0:
            raise CodecError("the file holds no tokens; it is damaged")
        scales = int(np.searchsorted(np.cumsum(model.scales), count)) + 1
        numbers = scales if version > 3 else scales - 1 if version > 2 else 0  # of levels, beside the last one's
        start_bits = 3 * numbers + (_POSE_BITS if posed else 1)
        if version > 3:
            if not model.latent:
                raise CodecError(f"the file has a residual, but model {model_id} came without its configuration")
            start_bits += 3 + 24 * math.prod(model.latent)
        flat, state = model.tables.decode_with(payload, count, start_bits)
        ids, levels, step = model.split(flat), [level] * scales, None
        if version > 2:
            state, levels = _without_numbers(state, numbers)
            levels.append(LEVELS[level])
        if version > 3:
            state, step = divmod(state, len(STEPS))
            residual, state = pop_residual(state, model.latent)
            ids.append(residual_ids(residual))
        if (version == 3 and _alike(levels)) or (state != NO_POSE) != posed:
            raise CodecError("the file does not end where its content ends, or has a later version; it is damaged")
        return cls(ids, frame.posed(state), model, levels=tuple(levels), residual_step=step, width=width)

    def truncate(self, scales: int) -> TokenStream:
        """The first `scales` scales as a stream of its own, a coarser file of the same mesh.

        Raises
        ------
        CodecError
            Fewer than one, or more than there are.
        """
        if not 1 <= scales <= len(self.ids):
            raise CodecError(f"cannot keep {scales} scales of {len(self.ids)}; choose 1..{len(self.ids)}")
        step = self.residual_step if scales == len(self.ids) else None
        return replace(
            self, ids=self.ids[:scales], levels=self.levels[:scales], residual_step=step, report=dict(self.report)
        )

    def prefix(self, count: int) -> TokenStream:
        """The first `count` tokens, the last scale perhaps partial; without the residual."""
        if not 1 <= count <= self.count:
            raise CodecError(f"cannot keep {count} tokens of {self.count}")
        ids = self.model.split(np.concatenate(self.tokens)[:count])
        return replace(self, ids=ids, levels=self.levels[: len(ids)], residual_step=None, report=dict(self.report))

    def fit(self, max_bytes: int) -> TokenStream:
        """The longest prefix whose file takes at most `max_bytes`; a residual is kept whole or not at all.

        Raises
        ------
        CodecError
            Not even the first scale fits.
        """
        if self.residual_step is not None and len(self.to_bytes()) <= max_bytes:
            return self
        levels = self.levels[: len(self.tokens)]
        return self.prefix(tokens_within(np.concatenate(self.tokens), self.frame, self.model, max_bytes, levels))


def tokens_within(
    ids: np.ndarray, frame: Frame, model: TokenModel, max_bytes: int, levels: Sequence[int] | None = None
) -> int:
    """How many of `ids`, shape (count,), a file of at most `max_bytes` holds; whatever its levels, if none are given.

    Raises
    ------
    CodecError
        Not even the first scale fits.
    """
    room = max_bytes - header_bytes(frame)
    present = len(model.split(ids))
    for scales, end in zip(range(present, 0, -1), np.cumsum(model.scales)[present - 1 :: -1], strict=True):
        start = _start(levels[:scales] if levels else (LEVELS[-1],) * (scales - 1) + (0,), frame)
        count = model.tables.longest_prefix(ids[:end], room, start) if 8 * room >= start.bit_length() else 0
        if count > end - model.scales[scales - 1]:
            break
    if count < min(model.scales[0], ids.size):
        least = header_bytes(frame) + len(model.tables.encode(ids[: model.scales[0]]))
        raise CodecError(f"{max_bytes} bytes do not hold the first scale, which takes {least}; allow more bytes")
    return count


def _alike(levels: Sequence[int]) -> bool:
    """Whether a file says its level once, in three bits: it is the same for all scales, and at most 7."""
    return len(set(levels)) == 1 and 0 <= levels[0] < 1 << (16 - COUNT_BITS)


def _start(levels: Sequence[int], frame: Frame) -> int:
    """What lies below the ids of a file without a residual: its pose, and where they are not alike, levels."""
    return frame.pose if _alike(levels) else _with_numbers(frame.pose, levels[:-1])


def _with_numbers(state: int, levels: Sequence[int]) -> int:
    """The state of the coder with the numbers of levels on top, the first one uppermost."""
    for level in levels[::-1]:
        state = state * len(LEVELS) + LEVELS.index(level)
    return state


def _without_numbers(state: int, count: int) -> tuple[int, list[int]]:
    """The state below the numbers of `count` levels, and these levels."""
    levels = []
    for _ in range(count):
        state, index = divmod(state, len(LEVELS))
        levels.append(LEVELS[index])
    return state, levels


def read_model_id(data: bytes) -> str:
    """The id of the model that wrote a file, after the file's checksum has been verified.

    Raises
    ------
    CodecError
        The file is damaged.
    """
    return parse_file(bytes(data))[0]
