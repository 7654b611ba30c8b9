"""Contexts are disjoint where the pictures allow, and never hold a test picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braincl.errors import ResponseError
from braincl.evaluation.splits import context_draws, default_test_images

IDS = np.array([f"{i:016x}" for i in range(60)])


@settings(max_examples=50, deadline=None)
@given(
    pictures=st.integers(8, 80),
    sizes=st.sets(st.integers(2, 60), min_size=1, max_size=4),
    draws=st.integers(1, 6),
    test_images=st.integers(2, 20),
    seed=st.integers(0, 5),
)
def test_splits_hold_what_they_promise(pictures, sizes, draws, test_images, seed):
    pool = pictures - test_images
    if pool < 2 or max(sizes) > pool:
        with pytest.raises(ResponseError):
            context_draws([str(i) for i in range(pictures)], sorted(sizes), draws, test_images, seed)
        return
    splits = context_draws([str(i) for i in range(pictures)], sorted(sizes), draws, test_images, seed)
    test = set(splits.test.tolist())
    assert len(test) == test_images
    for n, contexts in splits.contexts.items():
        assert len(contexts) == draws
        for context in contexts:
            assert len(set(context.tolist())) == n
            assert not test & set(context.tolist())
        disjoint = contexts[: pool // n]
        assert len(set(np.concatenate(disjoint).tolist())) == n * len(disjoint)


def test_a_size_is_drawn_alike_whatever_the_other_sizes_are():
    alone = context_draws(IDS, [10], 3, 12, 4)
    together = context_draws(IDS, [5, 10, 20], 3, 12, 4)
    np.testing.assert_array_equal(alone.test, together.test)
    np.testing.assert_array_equal(alone.contexts[10], together.contexts[10])


def test_the_seed_decides_and_the_order_of_the_file_does_not():
    first, again, other = (context_draws(IDS, [10], 2, 12, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.test, again.test)
    assert set(first.test.tolist()) != set(other.test.tolist())
    shuffle = np.random.default_rng(0).permutation(len(IDS))
    shuffled = context_draws(IDS[shuffle], [10], 2, 12, 0)
    np.testing.assert_array_equal(IDS[shuffle][shuffled.test], IDS[first.test])
    np.testing.assert_array_equal(IDS[shuffle][shuffled.contexts[10][1]], IDS[first.contexts[10][1]])


@pytest.mark.parametrize(
    ("sizes", "draws", "test_images", "message"),
    [
        ([49], 1, 12, "beyond the pool"),
        ([1], 1, 12, "2 or more"),
        ([], 1, 12, "2 or more"),
        ([5], 0, 12, "draws"),
        ([5], 1, 1, "at least 2"),
        ([5], 1, 59, "at least 2"),
    ],
)
def test_what_cannot_be_split_is_refused(sizes, draws, test_images, message):
    with pytest.raises(ResponseError, match=message):
        context_draws(IDS, sizes, draws, test_images, 0)


def test_a_split_of_the_pictures_is_honoured():
    held = np.arange(60) % 4 == 1  # 15 of 60
    splits = context_draws(IDS, [20, 45], 2, 15, 3, held)
    assert set(splits.test) == set(np.flatnonzero(held))
    assert set(splits.contexts[45][0]) == set(np.flatnonzero(~held))
    fewer = context_draws(IDS, [20], 2, 6, 3, held)
    assert len(fewer.test) == 6
    assert set(fewer.test) < set(np.flatnonzero(held))
    np.testing.assert_array_equal(fewer.contexts[20], splits.contexts[20])
    for sizes, test_images, message in [([46], 15, "60 pictures less 15 of the test split leave 45"),
                                        ([20], 16, "16 test images of 15 pictures of the test split")]:  # fmt: skip
        with pytest.raises(ResponseError, match=message):
            context_draws(IDS, sizes, 1, test_images, 0, held)


def test_a_repeated_picture_is_refused():
    with pytest.raises(ResponseError, match="average duplicates"):
        context_draws(["a", "b", "a", "c", "d", "e"], [2], 1, 2, 0)


def test_default_test_images():
    assert [default_test_images(pictures) for pictures in (40, 1200, 9000)] == [10, 300, 300]
