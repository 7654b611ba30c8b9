"""Maps of voxels: values against written-out formulas, files against the mask they were made with."""

import nibabel
import numpy as np
import pytest
import xarray as xr
from synthetic import VOXELS, make_responses, with_grid

import braincl
from braincl.analysis.maps import picture_selectivity, voxel_maps, write_maps
from braincl.analysis.predict import predict_responses
from braincl.data.nifti import to_nifti
from setcore.errors import InputError
from setcore.evaluation.metrics import explained_variance, pearson_r

AFFINE = np.array([[0, 2, 0, -10], [-1.5, 0, 0, 4], [0, 0, 3, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def dataset():
    return with_grid(make_responses()).assign_coords(noise_ceiling=("voxel", np.linspace(0, 0.9, VOXELS, dtype="f4")))


@pytest.fixture
def predicted(dataset):
    return predict_responses(braincl.RidgeCV(), dataset.isel(image=slice(0, 25)), dataset[["embedding"]])


def test_scores_are_those_of_the_matched_pictures(dataset, predicted):
    measured = dataset.isel(image=np.arange(39, 24, -1))  # other order, fewer pictures
    maps = voxel_maps(predicted, measured)
    observed, mean = dataset["response"].values[25:], predicted["prediction"].values[25:]
    np.testing.assert_allclose(maps["pearson_r"], pearson_r(observed, mean), rtol=1e-5)
    np.testing.assert_allclose(maps["explained_variance"], explained_variance(observed, mean), rtol=1e-5)
    expected = explained_variance(observed, mean)[1:] / np.linspace(0, 0.9, VOXELS)[1:]
    np.testing.assert_allclose(maps["normalized_explained_variance"][1:], expected, rtol=1e-5)
    assert np.isnan(maps["normalized_explained_variance"][0])  # a ceiling of 0
    variance = (predicted["prediction_std"].values.astype(float) ** 2).mean(axis=0)
    np.testing.assert_allclose(maps["uncertainty"] ** 2, variance, rtol=1e-5)
    assert list(voxel_maps(predicted).data_vars) == ["uncertainty"]


def test_a_picture_that_was_measured_twice_counts_by_its_mean(dataset, predicted):
    noise = xr.DataArray(np.random.default_rng(2).standard_normal((40, VOXELS)).astype("f4"), dims=("image", "voxel"))
    first, second = dataset.copy(deep=True), dataset.copy(deep=True)
    first["response"], second["response"] = dataset["response"] + noise, dataset["response"] - noise
    twice = xr.concat(
        [first, second], "image", data_vars="minimal", coords="minimal", compat="override", join="override"
    )
    twice = twice.isel(image=np.random.default_rng(3).permutation(80))
    found, expected = voxel_maps(predicted, twice), voxel_maps(predicted, dataset)
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)


def test_what_cannot_be_matched_is_refused(dataset, predicted):
    with pytest.raises(braincl.ResponseError, match="voxel_id"):
        voxel_maps(predicted, dataset.isel(voxel=slice(None, None, -1)))
    with pytest.raises(braincl.ResponseError, match="1 pictures are both"):
        voxel_maps(predicted, dataset.isel(image=[3]))
    with pytest.raises(braincl.ResponseError, match="the first set has no 'prediction'"):
        voxel_maps(dataset, predicted)
    with pytest.raises(braincl.ResponseError, match="no image_id"):
        voxel_maps(predicted.drop_vars("image_id"), dataset)


def test_selectivity_is_d_prime_of_the_predictions(predicted):
    inside = np.arange(40) % 3 == 0
    found = picture_selectivity(predicted, inside)["selectivity"]
    a, b = predicted["prediction"].values[inside], predicted["prediction"].values[~inside]
    expected = (a.mean(0) - b.mean(0)) / np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    by_id = picture_selectivity(predicted, predicted["image_id"].values[inside])["selectivity"]
    np.testing.assert_array_equal(by_id, found)
    np.testing.assert_allclose(picture_selectivity(predicted, ~inside)["selectivity"], -found, rtol=1e-5)
    with pytest.raises(braincl.ResponseError, match="1 inside"):
        picture_selectivity(predicted, np.arange(40) == 3)


def test_maps_round_trip_with_the_header_of_the_mask(dataset, predicted, tmp_path):
    maps = voxel_maps(predicted, dataset)
    at = tuple(dataset[axis].values for axis in "ijk")
    mask = np.zeros((3, 4, 5), np.uint8)
    mask[at] = 1
    image = nibabel.Nifti1Image(mask, AFFINE)
    image.header.set_xyzt_units("mm", "msec")
    image.header["descrip"] = b"the mask"
    image.header.set_sform(AFFINE, 4)
    nibabel.save(image, tmp_path / "mask.nii.gz")
    paths = write_maps(maps, tmp_path, mask=tmp_path / "mask.nii.gz")
    assert sorted(paths) == sorted(maps.data_vars)
    for name, path in paths.items():
        written = nibabel.load(path)
        np.testing.assert_array_equal(np.asarray(written.dataobj)[at], maps[name])
        assert not np.asarray(written.dataobj)[mask == 0].any()
        np.testing.assert_allclose(written.affine, AFFINE)
        assert written.header.get_xyzt_units() == ("mm", "msec")
        assert int(written.header["sform_code"]) == 4
        assert written.header["descrip"].item() == b"the mask"
        assert written.get_data_dtype() == np.float32
    to_nifti(predicted["prediction"], predicted, tmp_path / "series.nii", mask=tmp_path / "mask.nii.gz")
    series = np.asarray(nibabel.load(tmp_path / "series.nii").dataobj)
    assert series.shape == (3, 4, 5, 40)
    np.testing.assert_array_equal(series[at].T, predicted["prediction"])
    image = nibabel.load(tmp_path / "mask.nii.gz")  # a mask may be an image, and the folder is made
    again = write_maps(maps, tmp_path / "more" / "maps", names=["pearson_r"], mask=image)["pearson_r"]
    assert nibabel.load(again).header == nibabel.load(paths["pearson_r"]).header
    assert braincl.voxel_table(image).identical(braincl.voxel_table(tmp_path / "mask.nii.gz"))
    with pytest.raises(InputError, match="cannot be made"):
        write_maps(maps, again, names=["pearson_r"])
    write_maps(maps, tmp_path, names=["pearson_r"])  # without a mask the attributes say where
    np.testing.assert_allclose(nibabel.load(paths["pearson_r"]).affine, AFFINE)


def test_nothing_is_written_where_geometry_is_wrong(predicted, tmp_path):
    other = nibabel.Nifti1Image(np.ones((3, 5, 4), np.uint8), AFFINE)
    moved = nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), AFFINE + np.eye(4, 4, 3))
    for name, image in (("other", other), ("moved", moved)):
        nibabel.save(image, tmp_path / f"{name}.nii")
        with pytest.raises(braincl.ResponseError, match="not those of the voxels"):
            to_nifti(np.ones(VOXELS), predicted, tmp_path / "x.nii", mask=tmp_path / f"{name}.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), AFFINE), tmp_path / "mask.nii")
    with pytest.raises(braincl.ResponseError, match="do not fit"):
        to_nifti(np.ones(VOXELS + 1), predicted, tmp_path / "x.nii", mask=tmp_path / "mask.nii")
    with pytest.raises(braincl.ResponseError, match="no map 'r'"):
        write_maps(voxel_maps(predicted), tmp_path, names=["r"])
    with pytest.raises(braincl.ResponseError, match="missing: i, j, k"):
        write_maps(voxel_maps(predicted).drop_vars(["i", "j", "k"]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.nii", "moved.nii", "other.nii"]
