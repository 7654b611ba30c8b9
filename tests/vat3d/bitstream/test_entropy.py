"""The entropy coder: exact round trips, sizes at the information content, every prefix codable."""

import itertools

import numpy as np
import pytest
from streams import decode_ids, uniform_tables

from vat3d.bitstream.entropy import TOTAL, Tables, fit_tables, integer_frequencies
from vat3d.errors import CodecError

SCALES, CODES = (3, 12, 27), 37


@pytest.fixture
def tables():
    """One table for the first scale, one per position for the second, buckets of the parent for the third."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(CODES, 0.2), size=1 + 12 + 4)
    row = np.concatenate([np.zeros(3), 1 + np.arange(12), np.full(27, 13)])
    parent = np.concatenate([np.full(15, -1), 3 + np.arange(27) % 12])
    return Tables(integer_frequencies(weights), row, parent, rng.integers(0, 4, CODES))


def draw(tables, rng):
    """Ids from the tables' own distribution."""
    ids = []
    for i in range(tables.tokens):
        row = tables.row[i] + (tables.bucket[ids[tables.parent[i]]] if tables.parent[i] >= 0 else 0)
        ids.append(rng.choice(tables.codes, p=tables.frequencies[row] / TOTAL))
    return np.array(ids)


def test_every_prefix_round_trips_at_its_information_content(tables):
    rng = np.random.default_rng(1)
    for _ in range(20):
        ids = draw(tables, rng)
        sizes = []
        for count in range(len(ids) + 1):
            payload = tables.encode(ids[:count])
            np.testing.assert_array_equal(decode_ids(tables, payload, count), ids[:count])
            assert len(payload) * 8 <= tables.bits(ids[:count]).sum() + 24
            sizes.append(len(payload))
        assert all(after >= before - 2 for before, after in itertools.pairwise(sizes))
        for limit in range(1, sizes[-1] + 3):
            best = max(count for count, size in enumerate(sizes) if size <= limit)
            assert tables.longest_prefix(ids, limit) == best


def test_improbable_ids_round_trip_too(tables):
    ids = np.full(tables.tokens, int(tables.frequencies[0].argmin()))
    np.testing.assert_array_equal(decode_ids(tables, tables.encode(ids), len(ids)), ids)


def test_the_bytes_are_fixed():
    """A file written today is read on every machine: the coder is integer arithmetic, pinned here."""
    assert uniform_tables(6, 10).encode(np.array([9, 0, 3, 7, 7, 1])).hex() == "20ff11"


@pytest.mark.parametrize("codes", [1, 2, 255, 1000])
def test_uniform_tables(codes):
    tables = uniform_tables(50, codes)
    ids = np.arange(50) * 7 % codes
    np.testing.assert_array_equal(decode_ids(tables, tables.encode(ids), 50), ids)
    np.testing.assert_allclose(tables.bits(ids), np.log2(codes), atol=0.03)


def test_payloads_that_nobody_wrote(tables):
    payload = tables.encode(draw(tables, np.random.default_rng(2)))
    count = tables.tokens
    for broken, wrong_count in [
        (payload + b"\x01", count),
        (payload + b"\x00", count),
        (payload, count - 5),
        (payload, count + 1),
        (payload, -1),
        (b"\x02", 0),
        (b"", 0),
        (bytes(10**6), 3),
    ]:
        with pytest.raises(CodecError):
            decode_ids(tables, broken, wrong_count)


def test_ids_outside_the_codebook(tables):
    for ids in ([CODES], [-1], np.zeros(tables.tokens + 1, int)):
        with pytest.raises(CodecError):
            tables.encode(np.array(ids))


@pytest.mark.parametrize(
    "change",
    [
        {"frequencies": np.zeros((17, CODES))},
        {"row": np.full(42, 17)},
        {"row": np.full(42, 14), "parent": np.arange(42) - 1},
        {"parent": np.arange(42)},
        {"parent": np.full(41, -1)},
        {"bucket": np.full(CODES, -1)},
    ],
)
def test_tables_that_contradict_themselves(tables, change):
    values = {name: getattr(tables, name) for name in ("frequencies", "row", "parent", "bucket")}
    with pytest.raises(CodecError, match="damaged"):
        Tables(**(values | change))


def test_integer_frequencies_are_positive_and_sum_up():
    weights = np.random.default_rng(0).dirichlet(np.full(900, 0.01), size=7)
    weights[3] = 0
    frequencies = integer_frequencies(weights)
    assert (frequencies > 0).all()
    assert (frequencies.sum(1) == TOTAL).all()
    np.testing.assert_allclose(frequencies[3] / TOTAL, 1 / 900, rtol=0.02, atol=900 / TOTAL)


def test_fitted_tables_find_each_scales_structure():
    """Scale 1 depends on the position, scale 2 on the parent, scale 3 on nothing: near the entropy for new shapes."""
    rng = np.random.default_rng(0)
    buckets = np.arange(CODES) % 4
    by_position = rng.dirichlet(np.full(CODES, 0.1), size=3)
    by_parent = rng.dirichlet(np.full(CODES, 0.1), size=4)
    plain = rng.dirichlet(np.full(CODES, 0.3))
    parent = np.concatenate([np.full(3, -1), np.arange(12) % 3, 3 + np.arange(27) % 12])

    def shapes(n):
        first = np.stack([rng.choice(CODES, n, p=p) for p in by_position], 1)
        second = np.array([[rng.choice(CODES, p=by_parent[buckets[row[k % 3]]]) for k in range(12)] for row in first])
        return np.concatenate([first, second, rng.choice(CODES, (n, 27), p=plain)], 1)

    def entropy(p):
        return float(-(p * np.log2(np.maximum(p, 1e-30))).sum())

    tables = fit_tables(shapes(400), SCALES, CODES, parent, buckets)
    assert tables.row[:3].tolist() == [0, 1, 2]
    assert (tables.parent[3:15] == parent[3:15]).all()
    assert (tables.parent[15:] == -1).all()
    assert len(np.unique(tables.row[15:])) == 1
    test = shapes(200)
    bits = np.mean([tables.bits(ids) for ids in test], axis=0)
    optimal_first = np.mean([entropy(p) for p in by_position])
    assert bits[:3].mean() < optimal_first + 0.15
    assert bits[15:].mean() < entropy(plain) + 0.1
    for ids in test[:5]:
        np.testing.assert_array_equal(decode_ids(tables, tables.encode(ids), 42), ids)


def test_absent_tokens_do_not_count():
    ids = np.random.default_rng(0).integers(0, CODES, (60, sum(SCALES)))
    cut = ids.copy()
    cut[40:, SCALES[0] :] = -1
    tables = fit_tables(cut, SCALES, CODES)
    first = slice(0, SCALES[0])
    np.testing.assert_array_equal(
        tables.frequencies[tables.row[first]], (few := fit_tables(ids, SCALES, CODES)).frequencies[few.row[first]]
    )
    rest = fit_tables(ids[:40], SCALES, CODES)
    np.testing.assert_array_equal(tables.frequencies[tables.row[-1]], rest.frequencies[rest.row[-1]])


def test_fit_tables_names_wrong_shapes():
    with pytest.raises(CodecError, match="expected"):
        fit_tables(np.zeros((5, 41), int), SCALES, CODES)
    with pytest.raises(CodecError, match="outside"):
        fit_tables(np.full((5, 42), CODES), SCALES, CODES)


@pytest.mark.parametrize("weight", [0.0, 2e-323, 1e-310])
def test_rows_of_next_to_nothing_are_uniform(weight):
    """Hypothesis met them; with old versions of numpy the quotient of such numbers overflows on some processors."""
    frequencies = integer_frequencies(np.array([[weight] * 9, [1.0] * 9]))
    np.testing.assert_array_equal(frequencies[0], frequencies[1])
