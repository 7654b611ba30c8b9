"""Token streams of a small model, for tests that need no network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vat3d.bitstream.coordinate_frame import Frame
from vat3d.bitstream.entropy import TOTAL, Tables, bytes_state, integer_frequencies
from vat3d.bitstream.residual import residual_ids
from vat3d.bitstream.stream import TokenStream
from vat3d.bitstream.token_model import TokenModel
from vat3d.errors import CodecError

SCALES, CODES = (3, 12, 27), 37
LATENT = (3, 4, 4, 2)


def token_model(model_id: str = "0badcafe") -> TokenModel:
    """A small model with an uneven table for each scale."""
    weights = np.random.default_rng(5).dirichlet(np.full(CODES, 0.3), size=3)
    row = np.repeat(np.arange(3), SCALES)
    tables = Tables(integer_frequencies(weights), row, np.full(sum(SCALES), -1), np.zeros(CODES))
    return TokenModel(model_id, SCALES, tables, LATENT)


def token_stream(count: int = sum(SCALES), seed: int = 0, model: TokenModel | None = None) -> TokenStream:
    """A stream of random ids around a box off the origin."""
    model = model or token_model()
    ids = np.random.default_rng(seed).integers(0, CODES, count)
    frame = Frame.from_corners(np.array([-1.0, 2.0, 3.0]), np.array([1.0, 2.5, 4.25]))
    return TokenStream(model.split(ids), frame, model)


def sparse_stream(count: int = SCALES[0] + SCALES[1], seed: int = 0) -> TokenStream:
    """The same with a residual, a fifth of which is not zero, and levels."""
    plain, rng = token_stream(count, seed), np.random.default_rng(seed)
    residual = rng.integers(-7, 8, LATENT) * (rng.random(LATENT) < 0.2)
    levels = (9, 0, 13, 2)[: len(plain.ids) + 1]
    return replace(plain, ids=[*plain.ids, residual_ids(residual)], levels=levels, residual_step=10)


def decode_ids(tables: Tables, payload: bytes, count: int) -> np.ndarray:
    """The ids of a payload that holds nothing else."""
    ids, state = tables.pop(bytes_state(payload, tables.most_bits(count) + 1), count)
    if state != 1:
        raise CodecError("the payload does not end where its tokens end")
    return ids


def uniform_tables(tokens: int, codes: int) -> Tables:
    """Tables that know nothing: every id costs log2(codes) bits, to within the rounding of `TOTAL` slots."""
    share, left = divmod(TOTAL, codes)
    frequencies = np.full((1, codes), share)
    frequencies[0, :left] += 1
    row, bucket = np.zeros(tokens, np.int64), np.zeros(codes, np.int64)
    return Tables(frequencies, row, np.full(tokens, -1), bucket)
