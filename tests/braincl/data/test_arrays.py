"""Response sets made of two arrays."""

import hashlib

import numpy as np
import pytest
import torch
import xarray as xr
from synthetic import make_responses

import braincl
from braincl.data.responses import _read
from braincl.errors import ResponseError


@pytest.fixture
def arrays():
    dataset = make_responses()
    return dataset["response"].values, dataset["embedding"].values


def test_two_arrays_make_a_valid_set(arrays, tmp_path):
    Y, X = arrays
    found = braincl.from_arrays(Y.astype("f8"), torch.as_tensor(X), subject="S1", backbone="clip")
    np.testing.assert_array_equal(found["response"], Y)
    np.testing.assert_array_equal(found["embedding"], X)
    np.testing.assert_array_equal(found["image_id"], [hashlib.sha1(row.tobytes()).hexdigest()[:16] for row in X])
    np.testing.assert_array_equal(found["voxel_id"], [f"voxel-{number}" for number in range(7)])
    assert found.attrs["subject"] == "S1"
    assert found.attrs["backbone"] == "clip"
    assert "image_id" in found.attrs["generated_ids"]
    assert "voxel_id" in found.attrs["generated_ids"]
    braincl.save_responses(found, tmp_path / "s.nc")
    xr.testing.assert_identical(braincl.open_responses(tmp_path / "s.nc"), found)
    report = braincl.evaluate(None, found, contexts=(10,), draws=2, resamples=20).report
    assert report["subject"] == "S1"


def test_ids_that_are_given_are_kept(arrays):
    Y, X = arrays
    images, voxels = [f"p{n}" for n in range(40)], list("abcdefg")
    found = braincl.from_arrays(Y, X, image_ids=images, voxel_ids=voxels)
    np.testing.assert_array_equal(found["image_id"], images)
    np.testing.assert_array_equal(found["voxel_id"], voxels)
    assert found.attrs == {}
    assert "voxel_id" not in braincl.from_arrays(Y, X, voxel_ids=voxels).attrs["generated_ids"]


def test_rows_with_one_embedding_are_one_picture_and_one_voxel_is_enough(arrays):
    Y, X = arrays
    rows = [0, 1, 2, 1]
    averaged = braincl.average_duplicates(braincl.from_arrays(Y[[0, 1, 2, 3], 0], X[rows]))
    np.testing.assert_allclose(averaged["response"][:, 0], [Y[0, 0], (Y[1, 0] + Y[3, 0]) / 2, Y[2, 0]], rtol=1e-6)


def test_what_makes_no_set_is_refused(arrays):
    Y, X = arrays
    holed = Y.copy()
    holed[[2, 5], 4] = np.nan
    for bad_Y, bad_X, options, message in [
        (Y.T, X, {}, r"responses of shape \(7, 40\) is transposed, .*give responses\.T"),
        (Y[:-1], X, {}, "40 images in embeddings, 39 in responses"),
        (holed, X, {}, "responses: voxel 4 of 7 holds 2 NaN"),
        (Y, np.where(X > 2, np.inf, X), {}, r"embeddings: image \d+ of 40 holds"),
        (Y[..., None], X, {}, r"responses are of type float32 and shape \(40, 7, 1\)"),
        (Y.astype(str), X, {}, "responses are of type"),
        (Y, [["a"]] * 40, {}, "embeddings are no array of real numbers"),
        (Y[:, :0], X, {}, r"responses \(40, 0\)"),
        (Y, X, {"image_ids": ["a"]}, r"image_ids are 1, the responses have shape \(40, 7\)"),
        (Y, X, {"voxel_ids": ["a"] * 7}, "voxel_id 'a' occurs more than once"),
        (make_responses(), X, {}, "responses is a whole Dataset"),
    ]:
        with pytest.raises(ResponseError, match=message):
            braincl.from_arrays(bad_Y, bad_X, **options)


def test_saving_something_else_names_it(arrays, tmp_path):
    Y, X = arrays
    bare = xr.Dataset({"response": (("image", "voxel"), Y), "embedding": (("image", "feature"), X)})
    with pytest.raises(ResponseError, match=r"'image_id' .* is missing; .*braincl\.from_arrays\(responses, emb"):
        braincl.save_responses(bare, tmp_path / "s.nc")
    with pytest.raises(ResponseError, match=r"a ndarray is no response set; braincl\.from_arrays"):
        _read(Y)  # what `save_responses` and `open_responses` begin with; in tests their types are checked before
    assert list(tmp_path.iterdir()) == []
