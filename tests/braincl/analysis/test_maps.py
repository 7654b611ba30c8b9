import nibabel
import numpy as np
import pytest
from synthetic import VOXELS, make_responses, with_grid

import braincl
from braincl.analysis.maps import picture_selectivity, voxel_maps, write_maps
from braincl.analysis.predict import predict_responses
from braincl.data.nifti import write_nifti
from braincl.data.surfaces import read_surface, write_surface
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


def test_what_cannot_be_matched_is_refused(dataset, predicted):
    with pytest.raises(braincl.ResponseError, match="voxel_id"):
        voxel_maps(predicted, dataset.isel(voxel=slice(None, None, -1)))
    with pytest.raises(braincl.ResponseError, match="1 pictures are both"):
        voxel_maps(predicted, dataset.isel(image=[3]))
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
    write_nifti(predicted["prediction"], predicted, tmp_path / "series.nii", mask=tmp_path / "mask.nii.gz")
    series = np.asarray(nibabel.load(tmp_path / "series.nii").dataobj)
    assert series.shape == (3, 4, 5, 40)
    np.testing.assert_array_equal(series[at].T, predicted["prediction"])
    write_maps(maps, tmp_path, names=["pearson_r"])  # without a mask the attributes say where
    np.testing.assert_allclose(nibabel.load(paths["pearson_r"]).affine, AFFINE)


def test_nothing_is_written_where_geometry_is_wrong(predicted, tmp_path):
    other = nibabel.Nifti1Image(np.ones((3, 5, 4), np.uint8), AFFINE)
    moved = nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), AFFINE + np.eye(4, 4, 3))
    for name, image in (("other", other), ("moved", moved)):
        nibabel.save(image, tmp_path / f"{name}.nii")
        with pytest.raises(braincl.ResponseError, match="not those of the voxels"):
            write_nifti(np.ones(VOXELS), predicted, tmp_path / "x.nii", mask=tmp_path / f"{name}.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.uint8), AFFINE), tmp_path / "mask.nii")
    with pytest.raises(braincl.ResponseError, match="do not fit"):
        write_nifti(np.ones(VOXELS + 1), predicted, tmp_path / "x.nii", mask=tmp_path / "mask.nii")
    with pytest.raises(braincl.ResponseError, match="no map 'r'"):
        write_maps(voxel_maps(predicted), tmp_path, names=["r"])
    with pytest.raises(braincl.ResponseError, match="missing: i, j, k"):
        write_maps(voxel_maps(predicted).drop_vars(["i", "j", "k"]), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.nii", "moved.nii", "other.nii"]


@pytest.mark.parametrize("suffix", [".func.gii", ".shape.gii", ".mgh", ".mgz"])
@pytest.mark.parametrize("maps", [None, 3])
def test_surfaces_round_trip(tmp_path, suffix, maps):
    values = np.random.default_rng(0).standard_normal((maps, 11) if maps else 11).astype("f4")
    write_surface(values, tmp_path / f"lh.x{suffix}", hemisphere="left")
    np.testing.assert_array_equal(read_surface(tmp_path / f"lh.x{suffix}"), values)
    vertices = np.array([12, 3, 4, 7, 0, 16, 9, 10, 1, 13, 2])
    write_surface(values, tmp_path / f"part{suffix}", vertices=vertices, n_vertices=17)
    whole = read_surface(tmp_path / f"part{suffix}")
    np.testing.assert_array_equal(whole[..., vertices], values)
    assert np.isnan(np.delete(whole, vertices, axis=-1)).all()
    assert whole.shape[-1] == 17


def test_gifti_says_which_hemisphere_and_map(tmp_path):
    write_surface(np.ones((2, 5)), tmp_path / "rh.func.gii", hemisphere="right", names=["faces", "places"])
    image = nibabel.load(tmp_path / "rh.func.gii")
    assert image.meta["AnatomicalStructurePrimary"] == "CortexRight"
    assert [array.meta["Name"] for array in image.darrays] == ["faces", "places"]
    assert nibabel.load(tmp_path / "rh.func.gii").darrays[0].data.dtype == np.float32


@pytest.mark.parametrize(
    ("values", "name", "options", "message"),
    [
        (np.ones(5), "x.nii.gz", {}, "name the surface file"),
        (np.ones(5), "x.func.gii", {"hemisphere": "both"}, "'left' or 'right'"),
        (np.ones((2, 5, 3)), "x.mgh", {}, r"shape \(2, 5, 3\)"),
        (np.ones(5), "x.mgh", {"n_vertices": 7}, "5 values for 7 vertices"),
        (np.ones(5), "x.mgh", {"vertices": np.arange(5)}, "need n_vertices"),
        (np.ones(5), "x.mgh", {"vertices": np.arange(4), "n_vertices": 7}, "one index each"),
        (np.ones(5), "x.mgh", {"vertices": np.arange(3, 8), "n_vertices": 7}, r"lie in 0\.\.6"),
        (np.ones(2), "x.mgh", {"vertices": np.array([3, 3]), "n_vertices": 7}, "different"),
        (np.ones((2, 5)), "x.func.gii", {"names": ["one"]}, "1 names for 2 maps"),
    ],
)
def test_surfaces_that_cannot_be_written(tmp_path, values, name, options, message):
    with pytest.raises(braincl.ResponseError, match=message):
        write_surface(values, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())


def test_damaged_surfaces_are_named(tmp_path):
    write_surface(np.ones(50), tmp_path / "x.func.gii")
    write_surface(np.ones(50), tmp_path / "x.mgh")
    for name in ("x.func.gii", "x.mgh"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:120])
        with pytest.raises(braincl.ResponseError, match=f"{name} is not a readable surface"):
            read_surface(tmp_path / name)
