"""Entropy coding of token ids with fixed integer tables: exact on every machine, no floating point in the file.

The coder is an asymmetric numeral system (Duda, arXiv 1311.2540) whose state is one Python integer of any length, so
there is no renormalisation and no flush. Tokens are pushed last to first and come off first to last, so that the table
of a token may depend on ids decoded before it. A state below `TOTAL` would waste most of a slot number, so the last
few tokens are plain digits to the base of the codebook, above which a one marks the end; the overhead is about a byte.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vat3d.errors import CodecError

PRECISION = 16
TOTAL = 1 << PRECISION
_BACK_OFF = (4.0, 32.0, 256.0, 2048.0)
_WORTH = 0.005
"""Share of the bits that tables for positions or buckets must save to be taken in place of fewer."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Integer frequencies of the ids at every token position.

    Token `i` is coded with table ``row[i]``, or, where ``parent[i] >= 0``, with table
    ``row[i] + bucket[id of token parent[i]]``: the parent is an earlier token, which the decoder already knows.

    Parameters
    ----------
    frequencies : array of shape (n_tables, n_codes)
        Positive integers; each row sums to `TOTAL`.
    row : array of shape (n_tokens,)
    parent : array of shape (n_tokens,)
        -1 for none.
    bucket : array of shape (n_codes,)

    Raises
    ------
    CodecError
        The arrays contradict each other.
    """

    frequencies: NDArray[Any]
    row: NDArray[Any]
    parent: NDArray[Any]
    bucket: NDArray[Any]

    def __post_init__(self) -> None:
        for name in ("frequencies", "row", "parent", "bucket"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), dtype=np.int64))
        tables, codes = self.frequencies.shape if self.frequencies.ndim == 2 else (0, 0)
        tokens = self.row.size
        good = (
            bool(tables > 0)
            and bool(codes > 0)
            and self.row.shape == self.parent.shape == (tokens,)
            and self.bucket.shape == (codes,)
            and bool((self.frequencies > 0).all())
            and bool((self.frequencies.sum(1) == TOTAL).all())
            and bool((self.bucket >= 0).all())
            and bool((self.parent >= -1).all() and (self.parent < np.arange(tokens)).all())
            and bool((self.row >= 0).all())
            and bool((self.row + np.where(self.parent >= 0, self.bucket.max(initial=0), 0) < tables).all())
        )
        if not good:
            raise CodecError("the entropy tables contradict each other; the model folder is damaged, fetch it again")

    @property
    def codes(self) -> int:
        """Size of the codebook."""
        return int(self.frequencies.shape[1])

    @property
    def tokens(self) -> int:
        """Tokens of a full stream."""
        return self.row.size

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """First slot of every id, shape (n_tables, n_codes)."""
        return np.asarray(np.cumsum(self.frequencies, axis=1) - self.frequencies)

    @cached_property
    def code_bits(self) -> NDArray[np.float32]:
        """Information content of every id in every table, in bits, float32 of shape (n_tables, n_codes)."""
        return np.asarray(PRECISION - np.log2(self.frequencies), np.float32)

    @cached_property
    def _decoding(self) -> list[tuple[list[int], list[int]]]:
        return list(zip(self._starts.tolist(), self.frequencies.tolist(), strict=True))

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The table of each token of a prefix.

        Parameters
        ----------
        ids : array of shape (count,)

        Returns
        -------
        int array of shape (count,)
        """
        parent = self.parent[: ids.size]
        known = ids[np.maximum(parent, 0)]
        return self.row[: ids.size] + np.where(parent >= 0, self.bucket[known], 0)

    def _check(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        ids = np.asarray(ids, dtype=np.int64)
        if ids.ndim != 1 or ids.size > self.tokens:
            raise CodecError(f"{ids.size} token ids, but the model has {self.tokens} tokens")
        if ids.size and (ids.min() < 0 or ids.max() >= self.codes):
            raise CodecError(f"a token id lies outside 0..{self.codes - 1}")
        return ids

    @cached_property
    def _digits(self) -> int:
        """How many of the last tokens are digits: as many as fill one slot number, 16 for a codebook of one."""
        digits = 1
        while digits < PRECISION and self.codes**digits < TOTAL:
            digits += 1
        return digits

    def push(self, ids: NDArray[np.integer], state: int) -> int:
        """The state of the coder with the ids of a prefix on top of another state.

        Parameters
        ----------
        ids : array of shape (count,)
        state : int
            Above zero.

        Returns
        -------
        int

        Raises
        ------
        CodecError
            More ids than the model has tokens, or an id outside the codebook.
        """
        ids = self._check(ids)
        body = max(ids.size - self._digits, 0)
        for symbol in ids[body:][::-1].tolist():
            state = state * self.codes + symbol
        rows = self.rows(ids)[:body]
        starts = self._starts[rows, ids[:body]][::-1].tolist()
        frequencies = self.frequencies[rows, ids[:body]][::-1].tolist()
        for start, frequency in zip(starts, frequencies, strict=True):
            quotient, remainder = divmod(state, frequency)
            state = (quotient << PRECISION) + remainder + start
        return state

    def pop(self, state: int, count: int) -> tuple[NDArray[np.int64], int]:
        """The ids on top of a state.

        Parameters
        ----------
        state : int
        count : int

        Returns
        -------
        ids : int array of shape (count,)
        state : int
            What lies below them.

        Raises
        ------
        CodecError
            The model has fewer tokens.
        """
        if not 0 <= count <= self.tokens:
            raise CodecError(f"the file claims {count} tokens, but its model has {self.tokens}; the file is damaged")
        row, parent, bucket = self.row.tolist(), self.parent.tolist(), self.bucket.tolist()
        ids: list[int] = []
        for index in range(max(count - self._digits, 0)):
            table = row[index] + (bucket[ids[parent[index]]] if parent[index] >= 0 else 0)
            starts, frequencies = self._decoding[table]
            slot = state & (TOTAL - 1)
            symbol = bisect_right(starts, slot) - 1
            state = frequencies[symbol] * (state >> PRECISION) + slot - starts[symbol]
            ids.append(symbol)
        while len(ids) < count:
            state, symbol = divmod(state, self.codes)
            ids.append(symbol)
        return np.array(ids, dtype=np.int64), state

    def encode(self, ids: NDArray[np.integer], start: int = 1) -> bytes:
        """Code the ids of a prefix.

        Parameters
        ----------
        ids : array of shape (count,)
        start : int
            A number below them, from 1 on.

        Returns
        -------
        bytes

        Raises
        ------
        CodecError
            More ids than the model has tokens, or an id outside the codebook.
        """
        return state_bytes(self.push(ids, start))

    def most_bits(self, count: int) -> int:
        """A bound on the bits of a payload that holds ids above a state of 1, before it is decoded.

        Parameters
        ----------
        count : int
            How many ids.

        Returns
        -------
        int
        """
        return PRECISION * (min(count, self.tokens) + 2)

    def bits(self, ids: NDArray[np.integer]) -> NDArray[np.float64]:
        """Information content of each token.

        Parameters
        ----------
        ids : array of shape (count,)

        Returns
        -------
        float64 array of shape (count,)
            In bits.
        """
        ids = self._check(ids)
        return np.asarray(PRECISION - np.log2(self.frequencies[self.rows(ids), ids]))

    def longest_prefix(self, ids: NDArray[np.integer], max_bytes: int, start: int = 1) -> int:
        """The largest count for which ``len(encode(ids[:count], start)) <= max_bytes``.

        Parameters
        ----------
        ids : array of shape (n,)
        max_bytes : int
        start : int
            A number below the ids.

        Returns
        -------
        int

        Raises
        ------
        CodecError
            `max_bytes` is below 1: the end mark alone takes one byte.
        """
        ids = self._check(ids)
        digits = min(self._digits, ids.size)
        size = np.cumsum(self.bits(ids))[: ids.size - digits] + digits * np.log2(self.codes)
        count = digits + int(np.searchsorted(size, 8 * max_bytes + 8, side="right"))  # a byte beyond what can fit
        while len(self.encode(ids[:count], start)) > max_bytes:
            if count == 0:
                raise CodecError(f"no token fits into {max_bytes} bytes")
            count -= 1
        return count


def state_bytes(state: int) -> bytes:
    """A state of the coder as bytes, lowest first, the highest not zero.

    Parameters
    ----------
    state : int

    Returns
    -------
    bytes
    """
    return state.to_bytes((state.bit_length() + 7) // 8, "little")


def bytes_state(payload: bytes, most_bits: int) -> int:
    """The state in `payload`.

    Parameters
    ----------
    payload : bytes
    most_bits : int
        A longer one is refused.

    Returns
    -------
    int

    Raises
    ------
    CodecError
        It is empty, ends in a zero, or is longer than `most_bits`.
    """
    if not payload or payload[-1] == 0 or 8 * len(payload) > most_bits:
        raise CodecError("the file has bytes beyond its tokens; it is damaged or something was appended")
    return int.from_bytes(payload, "little")


def integer_frequencies(weights: NDArray[np.integer] | NDArray[np.floating]) -> NDArray[np.int64]:
    """Positive integers that sum to `TOTAL` in each row, in proportion to `weights` plus one slot for every id.

    Parameters
    ----------
    weights : array of shape (n_tables, n_codes)
        Counts or probabilities, not negative; a row of zeros, or next to it, becomes uniform.

    Returns
    -------
    int array of shape (n_tables, n_codes)

    Raises
    ------
    CodecError
        There are more codes than slots.
    """
    weights = np.asarray(weights, dtype=np.float64)
    codes = weights.shape[1]
    if codes > TOTAL // 2:
        raise CodecError(f"a codebook of {codes} is too large for tables of {TOTAL} slots")
    total = weights.sum(1, keepdims=True)
    known = total >= np.finfo(np.float64).tiny  # some processors cannot divide numbers below it
    share = np.where(known, weights / np.where(known, total, 1), 1 / codes)
    frequencies = np.floor(share * (TOTAL - codes)).astype(np.int64) + 1
    frequencies[np.arange(len(frequencies)), share.argmax(1)] += TOTAL - frequencies.sum(1)
    return np.asarray(frequencies)


def fit_tables(
    ids: NDArray[Any],
    scales: Sequence[int],
    codes: int,
    parent: NDArray[np.integer] | None = None,
    bucket: NDArray[np.integer] | None = None,
) -> Tables:
    """Tables from the ids of training shapes; each scale takes the kind of table that codes other shapes best.

    The kinds are: one table for the scale, one for each token position, one for each bucket of the parent token. The
    two latter are counts plus a multiple of the scale's distribution, so that rare tables fall back on it. Kind and
    multiple are chosen by coding each half of the shapes with the tables of the other half; more tables must be worth
    their place in the model.

    Parameters
    ----------
    ids : array of shape (n_shapes, n_tokens)
        -1 where a shape has no token; a parent is there wherever its children are.
    scales : sequence of int
        Tokens in each scale; they sum to n_tokens.
    codes : int
        Size of the codebook.
    parent : array of shape (n_tokens,), optional
        An earlier token for each token, -1 for none.
    bucket : array of shape (codes,), optional
        Group of each code (such as a clustering of the codebook), 0-based. Needed with `parent`.

    Returns
    -------
    Tables

    Raises
    ------
    CodecError
        Shapes disagree or ids lie outside the codebook.
    """
    ids = np.asarray(ids, dtype=np.int64)
    tokens = int(sum(scales))
    if ids.ndim != 2 or ids.shape[1] != tokens or not len(ids):
        raise CodecError(f"ids have shape {ids.shape}, expected (shapes, {tokens})")
    if ids.min() < -1 or ids.max() >= codes:
        raise CodecError(f"a token id lies outside 0..{codes - 1}")
    parent = np.full(tokens, -1) if parent is None else np.asarray(parent, dtype=np.int64)
    bucket = np.zeros(codes, dtype=np.int64) if bucket is None else np.asarray(bucket, dtype=np.int64)
    row, used_parent = np.zeros(tokens, dtype=np.int64), np.full(tokens, -1)
    blocks: list[NDArray[np.float64]] = []
    first = 0
    for size in scales:
        part = slice(first, first + size)
        labels = {"scale": np.zeros((len(ids), size), dtype=np.int64)}
        labels["position"] = np.broadcast_to(np.arange(size), (len(ids), size))
        if (parent[part] >= 0).all():
            labels["parent"] = bucket[ids[:, parent[part]]]
        kind, counts = _best_counts(ids[:, part], labels, codes, int(bucket.max()) + 1)
        offset = sum(len(block) for block in blocks)
        row[part] = offset + (np.arange(size) if kind == "position" else 0)
        if kind == "parent":
            used_parent[part] = parent[part]
        blocks.append(counts)
        first += size
    return Tables(integer_frequencies(np.concatenate(blocks)), row, used_parent, bucket)


def _best_counts(
    ids: NDArray[np.int64], labels: dict[str, NDArray[np.int64]], codes: int, buckets: int
) -> tuple[str, NDArray[np.float64]]:
    """The kind of table with the shortest cross-validated code for one scale, and its weights from all shapes."""
    half = np.arange(len(ids)) % 2 == 0
    tables = {"scale": 1, "position": ids.shape[1], "parent": buckets}
    least, kind, back_off = np.inf, "scale", 0.0
    for tried, label in labels.items():
        folds = [_counts(ids[fold], label[fold], tables[tried], codes) for fold in (half, ~half)]
        found = []
        for draws in _BACK_OFF[: 1 if tried == "scale" else None]:
            bits = 0.0
            for train, test in ((folds[0], folds[1]), (folds[1], folds[0])):
                frequencies = integer_frequencies(_backed_off(train, draws))
                bits += float((test * (PRECISION - np.log2(frequencies))).sum())
            found.append((bits, draws))
        bits, draws = min(found)
        if bits < least * (1 - _WORTH):
            least, kind, back_off = bits, tried, draws
    return kind, _backed_off(_counts(ids, labels[kind], tables[kind], codes), back_off)


def _counts(ids: NDArray[np.int64], label: NDArray[np.int64], tables: int, codes: int) -> NDArray[np.int64]:
    cells = (label * codes + ids)[ids >= 0]
    return np.bincount(cells, minlength=tables * codes).reshape(tables, codes)


def _backed_off(counts: NDArray[np.int64], back_off: float) -> NDArray[np.float64]:
    """Counts plus `back_off` draws from the distribution of all tables together."""
    pooled = counts.sum(0) + 1.0
    return np.asarray(counts + back_off * pooled / pooled.sum())
