"""The sparse residual: its classes, its bits, and that nothing is lost."""

import math

import numpy as np
import pytest

from vat3d.bitstream.residual import EDGES, LARGEST, neighbourhood, pop_residual, push_residual, residual_bits
from vat3d.errors import CodecError

SHAPE = (3, 5, 4, 2)


def sparse(seed: int, share: float, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-LARGEST, LARGEST + 1, shape) * (rng.random(shape) < share)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
@pytest.mark.parametrize("below", [1, 2, 12345678901234567890])
def test_round_trip(share, below):
    for seed in range(5):
        values = sparse(seed, share)
        state = push_residual(values, below)
        back, left = pop_residual(state, SHAPE)
        assert np.array_equal(back, values)
        assert left == below
        taken = state.bit_length() - below.bit_length()
        assert abs(taken - residual_bits(values)) < 12  # a first slot costs whole bits


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("shape", [SHAPE, (3, 16, 16, 8)])
def test_bits_are_what_the_coder_takes(share, shape):
    values = sparse(7, share, shape)
    state = push_residual(values, 1 << 2000)
    assert abs(math.log2(state >> state.bit_length() - 60) + state.bit_length() - 2060 - residual_bits(values)) < 1e-6


def test_a_state_that_reads_is_the_only_one_for_its_numbers():
    rng = np.random.default_rng(0)
    for bits in (1, 17, 200, 900):
        state = int.from_bytes(rng.bytes(bits // 8 + 1), "little") + 1
        values, left = pop_residual(state, SHAPE)
        if left:
            assert push_residual(values, left) == state


def test_a_neighbourhood_is_what_the_format_says_and_nothing_later():
    values = sparse(1, 0.4)
    magnitudes = np.abs(values)
    kinds = neighbourhood(magnitudes)
    seen = np.minimum(magnitudes, 2)

    def cell(p, r, s):
        inside = r >= 0 and 0 <= s < SHAPE[2]
        return seen[p, r, s] if inside else np.zeros(SHAPE[3], int)

    for p, r, s, c in np.ndindex(SHAPE):
        left, above = cell(p, r, s - 1), cell(p, r - 1, s)
        beside = left + above + cell(p, r - 1, s - 1) + cell(p, r - 1, s + 1)
        a = 3 * seen[p, r, s, :c].sum() + beside.sum() + 2 * (left[c] + above[c])
        assert kinds[p, r, s, c] == sum(edge <= a for edge in EDGES)
    for later in np.ndindex(SHAPE):
        changed = magnitudes.copy()
        changed[later] += 3
        before = np.ravel_multi_index(later, SHAPE)
        assert np.array_equal(neighbourhood(changed).ravel()[: before + 1], kinds.ravel()[: before + 1])


def test_zeros_are_nearly_free_and_clusters_cheaper_than_scattered_numbers():
    shape = (3, 16, 16, 8)
    empty, together = np.zeros(shape, int), np.zeros(shape, int)
    assert residual_bits(empty) < 0.02 * empty.size
    together[1, 4:8, 6:10] = 1
    apart = np.random.default_rng(0).permutation(together.ravel()).reshape(shape)
    assert residual_bits(together) < 0.6 * residual_bits(apart)


def test_numbers_that_are_too_large_are_refused():
    values = np.zeros(SHAPE, int)
    values[2, 4, 3, 1] = LARGEST + 1
    with pytest.raises(CodecError, match="outside"):
        push_residual(values, 1)
