"""The token file as an object: ids of each scale, and everything else that a file holds.

The payload is one integer. It starts as the pose of the frame; then come the thickness, the residual, the levels of the
scales and the token ids, each pushed on top of what is there, so that a reader meets them in the opposite order
(`FORMAT.md`). Parts that a file does not have are left out, and its header says so.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from setcore.errors import InputError, naming
from setcore.files import write_bytes
from vat3d.bitstream.coordinate_frame import NO_POSE, POSE_BITS, Frame
from vat3d.bitstream.entropy import bytes_state, state_bytes
from vat3d.bitstream.header import (
    LEVELS,
    LEVELS_FLAG,
    POSE_FLAG,
    RESIDUAL_FLAG,
    THICKNESS_FLAG,
    Header,
    header_bytes,
    read_header,
    sealed,
)
from vat3d.bitstream.residual import (
    RAW_BITS,
    STEP_BITS,
    STEPS,
    check_residual_ids,
    pop_residual,
    push_residual,
    residual_ids,
    residual_numbers,
)
from vat3d.bitstream.token_model import TokenModel, embedded_model
from vat3d.errors import CodecError
from vat3d.mesh.thin_parts import SOLID_WALL_FLAG

LEVEL_BITS, THICKNESS_BITS = 3, 4
THICKNESSES = 1 << THICKNESS_BITS

MOST_BYTES = 1 << 20
"""Of a file that is read; they have kilobytes."""


def html_table(title: str, facts: Mapping[str, Any]) -> str:
    """What a notebook shows of an object.

    Parameters
    ----------
    title : str
    facts : mapping of str to object
        Names and values.

    Returns
    -------
    str
    """
    rows = (f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>" for name, value in facts.items())
    return f"<b>{html.escape(title)}</b><table>{''.join(rows)}</table>"


@dataclass(frozen=True, eq=False, repr=False)
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
        where thin parts would break, or where so few tokens would leave nothing inside. Each is one of `LEVELS`; all 0,
        if not given.
    residual_step : int, optional
        The last scale is a residual, in steps of ``STEPS[residual_step]`` of `vat3d.bitstream.residual`.
    thickness : int
        Parts thinner than 1 to 7 hundredths of a half-side decode as flat sheets, or, with `SOLID_WALL_FLAG` added, as
        thin walls. 0: everything stays as thick as it decodes.

    Raises
    ------
    CodecError
        Something that no file can hold.

    Examples
    --------
    >>> import trimesh
    >>> from vat3d import MeshTokenizer, TokenStream
    >>> tok = MeshTokenizer.from_pretrained()
    >>> stream = tok.encode(trimesh.creation.box((2, 1, 1)), max_bytes=256, effort="fast")
    >>> coarse = stream.truncate(2)  # the first two scales are a file of their own
    >>> len(coarse.to_bytes()) < len(stream.to_bytes())
    True
    >>> TokenStream.from_bytes(stream.to_bytes()).count == stream.count
    True
    """

    ids: list[NDArray[np.int64]]
    frame: Frame
    model: TokenModel
    report: dict[str, Any] = field(default_factory=dict)
    levels: tuple[int, ...] = ()
    residual_step: int | None = None
    thickness: int = 0

    def __post_init__(self) -> None:
        ids = [np.asarray(part, dtype=np.int64) for part in self.ids]
        levels = tuple(self.levels) or (LEVELS[0],) * len(ids)
        self.model.check_ids(ids if self.residual_step is None else ids[:-1])
        if self.residual_step is not None:
            check_residual_ids(ids[-1], self.model.latent, self.residual_step)
        if not 0 <= self.thickness < THICKNESSES or self.thickness == SOLID_WALL_FLAG:
            raise CodecError(f"thickness {self.thickness} is not 0..7, nor one of 1..7 plus {SOLID_WALL_FLAG}")
        if len(levels) != len(ids) or not set(levels) <= set(LEVELS):
            raise CodecError(f"levels {levels} of {len(ids)} scales are not each one of {LEVELS}")
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "levels", levels)

    def __repr__(self) -> str:
        scales = f"{self.count} tokens in {len(self.tokens)} scales"
        residual = "" if self.residual_step is None else " and a residual"
        return f"TokenStream({len(self.to_bytes())} bytes: {scales}{residual}; model {self.model_id})"

    def _repr_html_(self) -> str:
        facts: dict[str, Any] = {"bytes": len(self.to_bytes()), "tokens of each scale": [len(s) for s in self.tokens]}
        if self.residual is not None:
            facts["residual"] = f"{np.count_nonzero(self.residual)} numbers"
        if "f_score@0.02" in self.report:
            facts["F-score at .02"] = f"{self.report['f_score@0.02']:.3f}"
        return html_table("TokenStream", {**facts, "model": self.model_id})

    @property
    def model_id(self) -> str:
        """Eight hexadecimal digits."""
        return self.model.model_id

    @property
    def level(self) -> int:
        """Level of the last scale present, at which the stream decodes."""
        return self.levels[-1]

    @property
    def tokens(self) -> list[NDArray[np.int64]]:
        """The ids of the scales of tokens, without the residual."""
        return self.ids if self.residual_step is None else self.ids[:-1]

    @property
    def residual(self) -> NDArray[np.int64] | None:
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
            raw_bits += self.ids[-1].size * RAW_BITS
        total, header = len(self.to_bytes()), header_bytes(self.frame)
        return {"bytes": total, "header": header, "payload": total - header, "payload_raw": (raw_bits + 7) // 8}

    def to_bytes(self) -> bytes:
        """The file.

        Returns
        -------
        bytes
        """
        flags = (
            LEVELS_FLAG * (len(set(self.levels)) > 1)
            + THICKNESS_FLAG * (self.thickness != 0)
            + POSE_FLAG * (self.frame.pose != NO_POSE)
            + RESIDUAL_FLAG * (self.residual_step is not None)
        )
        state = _push_thickness(self.frame.pose, self.thickness)
        if self.residual is not None and self.residual_step is not None:
            state = push_residual(self.residual, state) * len(STEPS) + self.residual_step
        state = _push_levels(state, self.levels)
        payload = state_bytes(self.model.tables.push(np.concatenate(self.tokens), state))
        return sealed(Header(self.model_id, self.count, self.level, self.frame, flags), payload)

    @classmethod
    def from_bytes(cls, data: bytes, model: TokenModel | None = None) -> TokenStream:
        """Read a file.

        Parameters
        ----------
        data : bytes
        model : TokenModel, optional
            Whose file it must be; by default the embedded model that the file names.

        Returns
        -------
        TokenStream

        Raises
        ------
        CodecError
            The file is truncated, altered, longer than it should be, of another version, or belongs to another model.
        """
        header, payload = read_header(bytes(data))
        if model is None:
            model = embedded_model(header.model_id)
        elif model.model_id != header.model_id:
            raise CodecError(
                f"the file was written with model {header.model_id}, not with {model.model_id}; use that model"
            )
        if header.count == 0:
            raise CodecError("the file holds no tokens; it is damaged")
        scales = int(np.searchsorted(np.cumsum(model.scales), header.count)) + 1
        has_levels, has_thickness, has_pose, has_residual = (
            bool(header.flags & flag) for flag in (LEVELS_FLAG, THICKNESS_FLAG, POSE_FLAG, RESIDUAL_FLAG)
        )
        present = scales + has_residual
        most_bits = LEVEL_BITS * has_levels * present + THICKNESS_BITS * has_thickness + (POSE_BITS if has_pose else 1)
        if has_residual:
            most_bits += STEP_BITS + 24 * math.prod(model.latent)
        state = bytes_state(payload, most_bits + model.tables.most_bits(header.count))
        tokens, state = model.tables.pop(state, header.count)
        ids, levels, step, thickness = model.split(tokens), (header.level,) * present, None, 0
        if has_levels:
            levels, state = _pop_levels(state, present - 1)
            levels = (*levels, header.level)
        if has_residual:
            state, step = divmod(state, len(STEPS))
            residual, state = pop_residual(state, model.latent)
            ids.append(residual_ids(residual))
        if has_thickness:
            state, thickness = divmod(state, THICKNESSES)
        frame = header.frame.with_pose(state)
        said = has_levels == (len(set(levels)) > 1), has_thickness == (thickness != 0), has_pose == (state != NO_POSE)
        if not all(said):
            raise CodecError("the file does not hold what its header names; it is damaged")
        return cls(ids, frame, model, levels=levels, residual_step=step, thickness=thickness)

    def save(self, path: str | Path) -> None:
        """Write the file, atomically.

        Parameters
        ----------
        path : path
            Usually ends in ``.vat``.
        """
        write_bytes(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | Path, model: TokenModel | None = None) -> TokenStream:
        """Read a file from disk; as `from_bytes`.

        Parameters
        ----------
        path : path
        model : TokenModel, optional

        Returns
        -------
        TokenStream

        Raises
        ------
        InputError
            The file cannot be read.
        CodecError
            As of `from_bytes`; the message names the file.
        """
        with naming(path):
            return cls.from_bytes(read_token_file(path), model)

    def truncate(self, scales: int) -> TokenStream:
        """The first scales as a stream of its own, a coarser file of the same mesh.

        Parameters
        ----------
        scales : int
            From 1 to as many as there are; a residual counts as one.

        Returns
        -------
        TokenStream

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
        """The first tokens, the last scale perhaps partial; without the residual.

        Parameters
        ----------
        count : int
            From 1 to as many tokens as there are.

        Returns
        -------
        TokenStream

        Raises
        ------
        CodecError
            Fewer than one, or more than there are.
        """
        if not 1 <= count <= self.count:
            raise CodecError(f"cannot keep {count} tokens of {self.count}")
        ids = self.model.split(np.concatenate(self.tokens)[:count])
        return replace(self, ids=ids, levels=self.levels[: len(ids)], residual_step=None, report=dict(self.report))

    def fit(self, max_bytes: int) -> TokenStream:
        """The longest prefix whose file is small enough; a residual is kept whole or not at all.

        Parameters
        ----------
        max_bytes : int
            Size of the file, header included.

        Returns
        -------
        TokenStream

        Raises
        ------
        CodecError
            Not even the first scale fits.
        """
        if self.residual_step is not None and len(self.to_bytes()) <= max_bytes:
            return self
        tokens = np.concatenate(self.tokens)
        levels = self.levels[: len(self.tokens)]
        return self.prefix(tokens_within(tokens, self.frame, self.model, max_bytes, levels, self.thickness))


def tokens_within(
    ids: NDArray[np.int64],
    frame: Frame,
    model: TokenModel,
    max_bytes: int,
    levels: Sequence[int] | None = None,
    thickness: int = THICKNESSES - 1,
) -> int:
    """How many tokens a file holds.

    Parameters
    ----------
    ids : array of shape (count,)
    frame : Frame
    model : TokenModel
    max_bytes : int
        Size of the file, header included.
    levels : sequence of int, optional
        Of the scales that `ids` make; if not given, the file has room for any levels.
    thickness : int
        By default the file has room for any.

    Returns
    -------
    int

    Raises
    ------
    CodecError
        Not even the first scale fits.
    """
    room = max_bytes - header_bytes(frame)
    present = len(model.split(ids))
    start = _push_thickness(frame.pose, thickness)
    for scales, end in zip(range(present, 0, -1), np.cumsum(model.scales)[present - 1 :: -1], strict=True):
        state = _push_levels(start, levels[:scales] if levels else any_levels(scales))
        count = model.tables.longest_prefix(ids[:end], room, state) if 8 * room >= state.bit_length() else 0
        if count > end - model.scales[scales - 1]:
            break
    if count < min(model.scales[0], ids.size):
        least = header_bytes(frame) + len(model.tables.encode(ids[: model.scales[0]]))
        raise CodecError(f"{max_bytes} bytes do not hold the first scale, which takes {least}; allow more bytes")
    return count


def any_levels(scales: int) -> tuple[int, ...]:
    """Levels that take as many bits of a file as any do.

    Parameters
    ----------
    scales : int

    Returns
    -------
    tuple of int
    """
    return (LEVELS[-1],) * (scales - 1) + (LEVELS[0],)


def read_token_file(path: str | Path) -> bytes:
    """The bytes of a token file.

    Parameters
    ----------
    path : path

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        The file cannot be read, or is too large for a token file.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{path} is too large for a token file")
    return data


def read_model_id(data: bytes) -> str:
    """The id of the model that wrote a file, after the file's checksum has been verified.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    str
        Eight hexadecimal digits.

    Raises
    ------
    CodecError
        The file is damaged.
    """
    return read_header(bytes(data))[0].model_id


def _push_thickness(state: int, thickness: int) -> int:
    return state * THICKNESSES + thickness if thickness else state


def _push_levels(state: int, levels: Sequence[int]) -> int:
    """The state with the numbers of the levels but the last on top, the first one uppermost, unless all are alike."""
    if len(set(levels)) > 1:
        for level in levels[-2::-1]:
            state = state * len(LEVELS) + LEVELS.index(level)
    return state


def _pop_levels(state: int, count: int) -> tuple[tuple[int, ...], int]:
    levels = []
    for _ in range(count):
        state, number = divmod(state, len(LEVELS))
        levels.append(LEVELS[number])
    return tuple(levels), state
