"""Response sets: what is accepted, what is refused by name, averaging and joining."""

import numpy as np
import pytest
import xarray as xr
from synthetic import FEATURES, IMAGES, VOXELS, make_responses, with_grid

import braincl
from braincl.data.responses import open_embeddings
from braincl.errors import ResponseError
from setcore.errors import InputError


def test_round_trip_keeps_everything(tmp_path):
    dataset = with_grid(make_responses())
    trials = np.random.default_rng(0).standard_normal((IMAGES, 3, VOXELS)).astype("f4")
    trials[4:, 2] = np.nan
    dataset["response_trials"] = (("image", "repeat", "voxel"), trials)
    dataset = dataset.assign_coords(noise_ceiling=("voxel", np.linspace(0, 1, VOXELS)))
    braincl.save_responses(dataset, tmp_path / "s.nc")
    back = braincl.open_responses(tmp_path / "s.nc")
    xr.testing.assert_equal(back, dataset)
    assert back.attrs["subject"] == "S0"
    np.testing.assert_array_equal(back.attrs["affine"], dataset.attrs["affine"])
    np.testing.assert_array_equal(back.attrs["grid_shape"], dataset.attrs["grid_shape"])
    assert [p.name for p in tmp_path.iterdir()] == ["s.nc"]


def test_float64_is_cast_and_axes_are_ordered():
    dataset = make_responses()
    turned = dataset.astype("f8").transpose("voxel", "feature", "image")
    opened = braincl.open_responses(turned)
    assert opened["response"].dims == ("image", "voxel")
    assert opened["embedding"].dims == ("image", "feature")
    assert opened["response"].dtype == opened["embedding"].dtype == np.float32
    np.testing.assert_array_equal(opened["response"], dataset["response"])


def test_opening_leaves_the_given_dataset_alone():
    dataset = make_responses().astype("f8")
    before = dataset.copy(deep=True)
    braincl.open_responses(dataset)
    xr.testing.assert_identical(dataset, before)


def test_ids_that_are_variables_or_bytes_become_string_coordinates():
    dataset = make_responses()
    ids = dataset["image_id"].values
    dataset = dataset.drop_vars("image_id").assign(image_id=("image", ids.astype("S16")))
    opened = braincl.open_responses(dataset)
    assert "image_id" in opened.coords
    np.testing.assert_array_equal(opened["image_id"], ids)


def test_bytes_that_are_not_utf_8_are_spelt_out():
    names = np.array([b"caf\xe9", *[f"p{n}".encode() for n in range(IMAGES - 1)]])
    opened = braincl.open_responses(make_responses().assign_coords(image_id=("image", names)))
    assert opened["image_id"].values[:2].tolist() == ["caf\\xe9", "p0"]


def test_duplicates_are_averaged_in_order_of_appearance():
    dataset = make_responses()
    rows = np.array([5, 2, 5, 9, 2, 5])
    repeated = dataset.isel(image=rows).copy(deep=True)
    repeated["response"] = repeated["response"] + xr.DataArray(np.arange(6, dtype="f4"), dims="image")
    averaged = braincl.average_duplicates(repeated)
    np.testing.assert_array_equal(averaged["image_id"], dataset["image_id"][[5, 2, 9]])
    np.testing.assert_array_equal(averaged["duplicates"], [3, 2, 1])
    shift = np.array([(0 + 2 + 5) / 3, (1 + 4) / 2, 3])[:, None]
    np.testing.assert_allclose(averaged["response"], dataset["response"].values[[5, 2, 9]] + shift, rtol=1e-5)
    np.testing.assert_allclose(averaged["embedding"], dataset["embedding"].values[[5, 2, 9]], rtol=1e-6)


def test_averages_are_over_trials_where_their_numbers_are_known():
    dataset = make_responses()
    repeated = dataset.isel(image=[0, 1, 0, 2, 0]).copy(deep=True).assign_coords(repeats=("image", [3, 3, 2, 1, 1]))
    repeated["response"] = repeated["response"] + xr.DataArray(np.float32([0, 0, 6, 0, 12]), dims="image")
    averaged = braincl.average_duplicates(repeated)
    np.testing.assert_array_equal(averaged["repeats"], [6, 3, 1])
    assert averaged["repeats"].dtype.kind == "i"
    np.testing.assert_array_equal(averaged["duplicates"], [3, 1, 1])
    shift = np.array([(2 * 6 + 1 * 12) / 6, 0, 0])[:, None]
    np.testing.assert_allclose(averaged["response"], dataset["response"].values[:3] + shift, rtol=1e-5)


def test_ceilings_beyond_one_by_rounding_are_one():
    given = np.array([1 + 1e-7, -1e-9, 0.5, np.nan, 1, 0, 1 + 9e-6])
    found = braincl.open_responses(make_responses().assign_coords(noise_ceiling=("voxel", given)))
    np.testing.assert_array_equal(found["noise_ceiling"], [1, 0, 0.5, np.nan, 1, 0, 1])
    for wrong in (1.01, -0.01):
        with pytest.raises(ResponseError, match="share of variance"):
            braincl.open_responses(
                make_responses().assign_coords(noise_ceiling=("voxel", np.where(given == 0.5, wrong, 0.5)))
            )


def test_join_refuses_two_embeddings_of_one_picture():
    dataset = make_responses()
    features = xr.concat([dataset[["embedding"]], dataset[["embedding"]].isel(image=[3])], "image")
    bare = dataset.drop_vars("embedding")
    joined, missing = braincl.join_embeddings(bare, features)  # the same twice is no contradiction
    assert missing == []
    np.testing.assert_allclose(joined["embedding"], dataset["embedding"], rtol=1e-6)
    features["embedding"][-1] += 5
    with pytest.raises(ResponseError, match=f"{dataset['image_id'].values[3]}' occurs with different embeddings"):
        braincl.join_embeddings(bare, features)


def test_trials_of_duplicates_are_joined():
    dataset = make_responses().isel(image=[0, 1, 0])
    trials = np.arange(3 * 2 * VOXELS, dtype="f4").reshape(3, 2, VOXELS)
    dataset["response_trials"] = (("image", "repeat", "voxel"), trials)
    joined = braincl.average_duplicates(dataset)["response_trials"].values
    np.testing.assert_array_equal(joined[0], np.concatenate([trials[0], trials[2]]))
    np.testing.assert_array_equal(joined[1, :2], trials[1])
    assert np.isnan(joined[1, 2:]).all()


def test_averaging_without_duplicates_changes_nothing():
    dataset = make_responses()
    xr.testing.assert_identical(braincl.average_duplicates(dataset).drop_vars("duplicates"), dataset)


def test_one_picture_with_two_embeddings_is_refused():
    dataset = make_responses()
    ids = dataset["image_id"].values.copy()
    ids[1] = ids[0]
    with pytest.raises(ResponseError, match="different embeddings"):
        braincl.average_duplicates(dataset.assign_coords(image_id=("image", ids)))


def test_join_follows_image_id_and_lists_what_is_missing():
    dataset = make_responses()
    features = dataset[["embedding"]].isel(image=slice(None, None, -1))
    features = features.isel(image=slice(0, IMAGES - 3)).assign_attrs(backbone="other")
    bare = dataset.drop_vars("embedding")
    joined, missing = braincl.join_embeddings(bare, features)
    assert missing == list(dataset["image_id"].values[:3])
    assert joined.attrs["backbone"] == "other"
    xr.testing.assert_equal(joined, dataset.isel(image=slice(3, None)))


def test_join_replaces_an_embedding_of_another_width():
    dataset = make_responses()
    wide = np.ones((IMAGES, FEATURES + 5), dtype="f4")
    features = xr.Dataset({"embedding": (("image", "feature"), wide)}, coords={"image_id": dataset["image_id"]})
    joined, missing = braincl.join_embeddings(dataset, features)
    assert missing == []
    assert joined.sizes["feature"] == FEATURES + 5
    assert "backbone" not in joined.attrs


def test_join_of_strangers_is_refused():
    features = make_responses(seed=3)[["embedding"]]
    with pytest.raises(ResponseError, match="0 of 40 pictures"):
        braincl.join_embeddings(make_responses(), features)


def test_a_query_needs_only_an_embedding():
    embedding = make_responses()["embedding"].drop_vars("image_id")
    assert open_embeddings(embedding.to_dataset())["embedding"].shape == (IMAGES, FEATURES)


def test_errors_are_value_errors():
    assert issubclass(ResponseError, InputError)
    assert issubclass(ResponseError, ValueError)


def test_shared_sessions_open(shared_data):
    files = sorted((shared_data / "v4_macaque").glob("*.nc"))
    assert files
    for path in files:
        opened = braincl.open_responses(path)
        assert opened["embedding"].shape[1] == 384
    averaged = braincl.average_duplicates(braincl.open_responses(shared_data / "v4_macaque" / "v4_WE_190925.nc"))
    assert averaged.sizes["image"] == 900  # 300 pictures are shown twice
