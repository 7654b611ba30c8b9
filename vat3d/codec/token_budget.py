"""What decides the number of tokens of a file: its bytes, and whether it has a residual."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vat3d.bitstream.bounding_box import FIXED_BYTES
from vat3d.bitstream.coordinate_frame import Frame
from vat3d.bitstream.header import header_bytes
from vat3d.bitstream.residual import STEP_BITS
from vat3d.bitstream.stream import LEVEL_BITS, THICKNESS_BITS, tokens_within
from vat3d.bitstream.token_model import TokenModel
from vat3d.network.config import CodecConfig

LEAST_ROOM = 96
"""Bytes after the tokens from which on a residual is worth its place."""
FROZEN_SHARE = 0.125
"""Share of the tokens below a residual that stay as the encoder chose them, but whole scales."""
CENTRE_ROOM, SMALL_FILE = 9, 64
"""Bytes that the centre of the box is granted, whatever it takes, in all but small files: so a mesh has the same tokens
wherever it lies, within 4,096 half-sides of the origin."""
UNCODED_BYTES = 2
"""Of a token, at most; no code is longer."""
TOKEN_HEADROOM = 2
"""So many times the tokens that a file would hold uncoded are chosen; even coded, fewer fit."""


@dataclass(frozen=True)
class TokenBudget:
    """How many tokens the file of one mesh may have.

    Parameters
    ----------
    model : TokenModel
    frame : Frame
    max_bytes : int
        Size of the file, header included, less what the centre is granted beyond what it takes.
    below_residual : int
        Tokens that the file has below a residual; 0: it has none.
    most : int
        No more tokens than this, even if they fit.
    """

    model: TokenModel
    frame: Frame
    max_bytes: int
    below_residual: int
    most: int

    def fitting(self, ids: NDArray[np.int64]) -> int:
        """How many tokens the file has.

        Parameters
        ----------
        ids : array of shape (count,)

        Returns
        -------
        int

        Raises
        ------
        CodecError
            Not even the first scale fits.
        """
        return tokens_within(ids[: self.most], self.frame, self.model, self.max_bytes)

    def leaving_room(self) -> TokenBudget:
        """The budget of the tokens alone, if there is to be a residual beside them.

        Returns
        -------
        TokenBudget
        """
        return replace(self, most=self.below_residual) if self.below_residual else self

    @property
    def n_frozen(self) -> int:
        """How many tokens stay as the encoder chose them: steps that look at all tokens together spoil what the coarse
        ones decode to by themselves."""
        ends = np.cumsum(self.model.scales)
        return int(ends[ends <= self.below_residual * FROZEN_SHARE].max(initial=0))

    @property
    def n_chosen(self) -> int:
        """How many tokens are chosen, more than fit."""
        return int(TOKEN_HEADROOM * (8 * self.max_bytes / math.log2(self.model.tables.codes)))

    def residual_bits(self, used_bytes: int, scales: int) -> float:
        """Bits that a residual may take.

        Parameters
        ----------
        used_bytes : int
            Of a file without it.
        scales : int
            Of tokens.

        Returns
        -------
        float
        """
        return 8.0 * (self.max_bytes - used_bytes) - STEP_BITS - THICKNESS_BITS - LEVEL_BITS * scales


def token_budget(config: CodecConfig, model: TokenModel, frame: Frame, max_bytes: int | None) -> TokenBudget:
    """The budget of one file.

    A file has a residual where there is room for one worth its place. Below it are all scales of components where a
    third of the file holds them, so that this third decodes well, too.

    Parameters
    ----------
    config : CodecConfig
    model : TokenModel
    frame : Frame
    max_bytes : int, optional
        None: as many as all tokens take, and no residual.

    Returns
    -------
    TokenBudget
    """
    if max_bytes is None:
        return TokenBudget(model, frame, UNCODED_BYTES * sum(model.scales) + header_bytes(frame), 0, sum(model.scales))
    if max_bytes >= SMALL_FILE:
        max_bytes -= max(0, CENTRE_ROOM - (len(frame.to_bytes()) - FIXED_BYTES))
    many, few = sum(config.scales[: len(config.components)]), config.base_tokens

    def least_bytes(count: int) -> float:
        return header_bytes(frame) + (count * math.log2(config.codes) + LEVEL_BITS * len(config.components)) / 8

    below = 0
    if few and least_bytes(few) + LEAST_ROOM <= max_bytes:
        below = many if 3 * least_bytes(many) <= max_bytes else few
    return TokenBudget(model, frame, max_bytes, below, sum(model.scales))
