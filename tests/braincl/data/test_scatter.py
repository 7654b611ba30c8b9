"""Parts put in their places."""

import numpy as np

from braincl.data.scatter import scatter


def test_values_are_in_their_places_and_the_rest_is_filled():
    values = np.array([[1, 2], [3, 4]], np.float32)
    found = scatter(values, [3, 0], (4, 2))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[3, 4], [0, 0], [0, 0], [1, 2]])
    columns = scatter(values, np.s_[:, [2, 0]], (2, 3), fill=np.nan)
    np.testing.assert_array_equal(columns, [[2, np.nan, 1], [4, np.nan, 3]])


def test_the_fill_may_differ_from_place_to_place():
    np.testing.assert_array_equal(scatter(np.array([9]), [1], (3,), fill=np.array([5, 6, 7])), [5, 9, 7])
