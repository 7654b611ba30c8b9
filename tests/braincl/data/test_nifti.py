"""Between volumes and the voxel axis, there and back."""

import gzip

import nibabel
import numpy as np
import pytest
import xarray as xr
from synthetic import VOXELS, make_responses, with_grid

import braincl
from braincl.data.nifti import VOLUMES, count_volumes, read_map, read_voxels
from braincl.errors import ResponseError

AFFINE = np.array([[0, 2, 0, -10], [-1.5, 0, 0, 4], [0, 0, 3, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def mask(tmp_path):
    rng = np.random.default_rng(0)
    values = (rng.random((3, 4, 5)) < 0.4).astype(np.int16)
    image = nibabel.Nifti1Image(values, AFFINE)
    image.header.set_sform(AFFINE, 4)
    nibabel.save(image, tmp_path / "mask.nii.gz")
    return values, tmp_path / "mask.nii.gz"


def test_voxels_come_in_c_order(mask):
    values, path = mask
    table = braincl.voxel_table(path)
    flat = np.ravel_multi_index([table[axis].values for axis in "ijk"], values.shape)
    np.testing.assert_array_equal(flat, np.flatnonzero(values.ravel(order="C")))
    np.testing.assert_allclose(table.attrs["affine"].reshape(4, 4), AFFINE)
    assert tuple(table.attrs["grid_shape"]) == (3, 4, 5)
    assert table.attrs["space"] == "mni"
    assert len(set(table["voxel_id"].values)) == len(flat)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes_round_trip(mask, tmp_path, suffix):
    values, path = mask
    table = braincl.voxel_table(path)
    series = np.random.default_rng(1).standard_normal((6, table.sizes["voxel"])).astype("f4")
    braincl.to_nifti(series, table, tmp_path / f"out{suffix}")
    image = nibabel.load(tmp_path / f"out{suffix}")
    assert image.shape == (3, 4, 5, 6)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert int(image.header["sform_code"]) == 4
    np.testing.assert_array_equal(read_voxels(tmp_path / f"out{suffix}", table), series)
    assert (np.asarray(image.dataobj)[values == 0] == 0).all()


def test_a_map_round_trips(mask, tmp_path):
    table = braincl.voxel_table(mask[1])
    values = np.arange(table.sizes["voxel"], dtype="f4")
    braincl.to_nifti(values, table, tmp_path / "map.nii.gz")
    assert nibabel.load(tmp_path / "map.nii.gz").shape == (3, 4, 5)
    np.testing.assert_array_equal(read_voxels(tmp_path / "map.nii.gz", table), values)


def test_geometry_survives_netcdf(tmp_path):
    dataset = with_grid(make_responses())
    braincl.save_responses(dataset, tmp_path / "s.nc")
    opened = braincl.open_responses(tmp_path / "s.nc")
    braincl.to_nifti(opened["response"], opened, tmp_path / "s.nii.gz")
    np.testing.assert_array_equal(read_voxels(tmp_path / "s.nii.gz", dataset), dataset["response"])


def test_the_same_values_give_the_same_bytes(mask, tmp_path):
    table = braincl.voxel_table(mask[1])
    for name in ("a.nii.gz", "b.nii.gz"):
        braincl.to_nifti(np.ones(table.sizes["voxel"]), table, tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


@pytest.mark.parametrize("missing", ["i", "affine", "grid_shape"])
def test_missing_geometry_is_named(tmp_path, missing):
    dataset = with_grid(make_responses())
    if missing == "i":
        dataset = dataset.drop_vars(["i", "j", "k"])
    else:
        del dataset.attrs[missing]
    with pytest.raises(ResponseError, match=f"missing: {missing}"):
        braincl.to_nifti(np.ones(VOXELS), dataset, tmp_path / "x.nii.gz")
    assert not list(tmp_path.iterdir())


def test_wrong_names_and_shapes_are_refused(tmp_path):
    dataset = with_grid(make_responses())
    with pytest.raises(ResponseError, match=r"\.nii"):
        braincl.to_nifti(np.ones(VOXELS), dataset, tmp_path / "x.img")
    with pytest.raises(ResponseError, match="do not fit"):
        braincl.to_nifti(np.ones(VOXELS + 1), dataset, tmp_path / "x.nii")
    assert not list(tmp_path.iterdir())


def test_damaged_and_unfit_images_are_refused(mask, tmp_path):
    path = mask[1]
    table = braincl.voxel_table(path)
    (tmp_path / "cut.nii.gz").write_bytes(path.read_bytes()[:-20])
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), "i2"), AFFINE), tmp_path / "empty.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 6), "f4"), AFFINE), tmp_path / "other_shape.nii")
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5), "f4"), 2 * AFFINE), tmp_path / "other_affine.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5, 2), "i2"), AFFINE), tmp_path / "series.nii")
    for name, message in [("cut.nii.gz", "truncated"), ("empty.nii", "0 voxels"), ("series.nii", "3 axes"),
                          ("absent.nii", "not a readable")]:  # fmt: skip
        with pytest.raises(ResponseError, match=message):
            braincl.voxel_table(tmp_path / name)
    with pytest.raises(ResponseError, match="does not fit the grid"):
        read_voxels(tmp_path / "other_shape.nii", table)
    with pytest.raises(ResponseError, match="affine differs"):
        read_voxels(tmp_path / "other_affine.nii", table)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_series_is_read_in_parts_and_damage_behind_the_header_is_found(mask, tmp_path, suffix):
    values, path = mask
    table = braincl.voxel_table(path)
    series = np.random.default_rng(2).integers(-900, 900, (3, 4, 5, 2 * VOLUMES + 3)).astype("i2")
    nibabel.save(nibabel.Nifti1Image(series, AFFINE), tmp_path / f"series{suffix}")
    np.testing.assert_array_equal(read_voxels(tmp_path / f"series{suffix}", table), series[values > 0].T)

    whole = (tmp_path / f"series{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(whole[: len(whole) * 3 // 4])
    claims = nibabel.Nifti1Image(series, AFFINE)
    header = bytearray(claims.to_bytes())
    header[48:50] = np.int16(30000).tobytes()  # dim[4]: more volumes than there are
    (tmp_path / f"claims{suffix}").write_bytes(gzip.compress(header) if suffix == ".nii.gz" else header)
    for name in ("cut", "claims"):
        with pytest.raises(ResponseError, match="truncated"):
            read_voxels(tmp_path / f"{name}{suffix}", table)


def test_labels_of_minus_one_are_outside_and_a_threshold_can_be_given(tmp_path):
    labels = np.random.default_rng(3).integers(-1, 3, (3, 4, 5)).astype("f4")
    labels[0, 1, :2] = np.nan
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE), tmp_path / "roi.nii.gz")
    for options, inside in (({}, labels > 0), ({"above": 1}, labels > 1)):
        table = braincl.voxel_table(tmp_path / "roi.nii.gz", **options)
        np.testing.assert_array_equal(np.stack([table[axis].values for axis in "ijk"], 1), np.argwhere(inside))


def test_a_mask_may_have_a_fourth_axis_or_come_from_freesurfer(mask, tmp_path):
    values, path = mask
    expected = braincl.voxel_table(path)
    nibabel.save(nibabel.Nifti1Image(values[..., None], AFFINE), tmp_path / "four.nii.gz")
    nibabel.save(nibabel.MGHImage(values.astype("i4"), AFFINE), tmp_path / "mask.mgz")
    for name in ("four.nii.gz", "mask.mgz"):
        found = braincl.voxel_table(tmp_path / name)
        xr.testing.assert_equal(found, expected)
        np.testing.assert_allclose(found.attrs["affine"].reshape(4, 4), AFFINE, atol=1e-6)
        np.testing.assert_array_equal(found.attrs["grid_shape"], [3, 4, 5])
        braincl.to_nifti(np.ones(found.sizes["voxel"]), found, tmp_path / "map.nii.gz", mask=tmp_path / name)
        np.testing.assert_array_equal(nibabel.load(tmp_path / "map.nii.gz").get_fdata(), values)
    assert found.attrs["space"] == "scanner"


@pytest.mark.parametrize("axes", [(3, 4, 5, 1, 7), (3, 4, 5, 7, 1), (3, 4, 5, 1, 1, 7)])
def test_series_with_further_axes_of_length_one(mask, tmp_path, axes):
    values, path = mask
    series = np.random.default_rng(4).standard_normal((3, 4, 5, 7)).astype("f4")
    nibabel.save(nibabel.Nifti1Image(series.reshape(axes), AFFINE), tmp_path / "series.nii.gz")
    assert count_volumes(tmp_path / "series.nii.gz") == 7
    found = read_voxels(tmp_path / "series.nii.gz", braincl.voxel_table(path))
    np.testing.assert_array_equal(found, series[values > 0].T)
    with pytest.raises(ResponseError, match="holds 7 volumes; one value for each voxel"):
        read_map(tmp_path / "series.nii.gz", braincl.voxel_table(path))
    nibabel.save(nibabel.Nifti1Image(values[..., None], AFFINE), tmp_path / "map.nii.gz")
    found = read_map(tmp_path / "map.nii.gz", braincl.voxel_table(path))
    np.testing.assert_array_equal(found, values[values > 0])
    nibabel.save(nibabel.Nifti1Image(np.zeros((3, 4, 5, 2, 7), "f4"), AFFINE), tmp_path / "two.nii.gz")
    with pytest.raises(ResponseError, match="betas have 4 axes"):
        count_volumes(tmp_path / "two.nii.gz")


@pytest.mark.parametrize(
    ("sform", "qform", "space"), [(0, 1, "scanner"), (4, 1, "mni"), (5, 5, "template"), (0, 2, "aligned")]
)
def test_codes_and_units_are_kept(tmp_path, sform, qform, space):
    image = nibabel.Nifti1Image(np.ones((3, 4, 5), "u1"), AFFINE)
    image.set_sform(AFFINE, sform)
    image.set_qform(AFFINE, qform)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "mask.nii.gz")
    table = braincl.voxel_table(tmp_path / "mask.nii.gz")
    assert table.attrs["space"] == space
    assert "notes" not in table.attrs
    braincl.to_nifti(np.ones(60), table, tmp_path / "map.nii.gz")
    header = nibabel.load(tmp_path / "map.nii.gz").header
    assert header.get_xyzt_units()[0] == "mm"
    assert int(header["sform_code"]) == int(header["qform_code"]) == (sform or qform)


def test_lengths_are_brought_to_mm_and_what_is_not_stated_is_said(mask, tmp_path):
    values, path = mask
    image = nibabel.Nifti1Image(values, np.diag([0.001, 0.001, 0.001, 1]) @ AFFINE)
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "metres.nii.gz")
    table = braincl.voxel_table(tmp_path / "metres.nii.gz")
    np.testing.assert_allclose(table.attrs["affine"].reshape(4, 4), AFFINE, rtol=1e-6)
    np.testing.assert_array_equal(read_voxels(path, table), values[values > 0])
    assert "states no unit" in braincl.voxel_table(path).attrs["notes"]

    nibabel.save(nibabel.Nifti1Image(values, None), tmp_path / "nowhere.nii.gz")
    with pytest.raises(ResponseError, match=r"nowhere\.nii\.gz: states no affine"):
        read_voxels(tmp_path / "nowhere.nii.gz", table)
    lost = braincl.voxel_table(tmp_path / "nowhere.nii.gz")
    assert lost.attrs["space"] == "unknown"
    assert "states no affine" in lost.attrs["notes"]
    braincl.to_nifti(np.ones(lost.sizes["voxel"]), lost, tmp_path / "map.nii.gz")
    made = nibabel.load(tmp_path / "map.nii.gz")
    assert int(made.header["sform_code"]) == int(made.header["qform_code"]) == 0
    np.testing.assert_allclose(made.affine, nibabel.load(tmp_path / "nowhere.nii.gz").affine)


def test_images_that_hold_no_number_for_each_voxel_are_refused(mask, tmp_path):
    colours = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, AFFINE), tmp_path / "rgb.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), "c8"), AFFINE), tmp_path / "complex.nii.gz")
    surface = nibabel.gifti.GiftiImage(darrays=[nibabel.gifti.GiftiDataArray(np.ones(4, "f4"))])
    nibabel.save(surface, tmp_path / "surface.func.gii")
    for name, message in [("rgb.nii.gz", r"colours \(RGB\)"), ("complex.nii.gz", "complex64"),
                          ("surface.func.gii", "surface, not of volumes")]:  # fmt: skip
        for call in (
            lambda path: braincl.voxel_table(path),
            lambda path: read_voxels(path, braincl.voxel_table(mask[1])),
        ):
            with pytest.raises(ResponseError, match=message):
                call(tmp_path / name)


def test_haxby_slice_goes_in_and_out(shared_data, tmp_path):
    folder = shared_data / "haxby2001_slice"
    table = braincl.voxel_table(folder / "mask.nii.gz")
    series = read_voxels(folder / "bold.nii.gz", table)
    mask = nibabel.load(folder / "mask.nii.gz").get_fdata() > 0
    bold = nibabel.load(folder / "bold.nii.gz").get_fdata()
    np.testing.assert_allclose(series, bold[mask].T)
    braincl.to_nifti(series.mean(axis=0), table, tmp_path / "mean.nii.gz")
    assert isinstance(table, xr.Dataset)
    np.testing.assert_allclose(
        nibabel.load(tmp_path / "mean.nii.gz").get_fdata()[mask], bold[mask].mean(axis=1), rtol=1e-4
    )


@pytest.mark.parametrize("code", [4, 5, 6, 7])
def test_units_that_the_standard_does_not_have_are_unknown(tmp_path, code):
    mask = nibabel.Nifti1Image(np.ones((2, 3, 4), "u1"), np.diag([2.0, 2.0, 3.0, 1.0]))
    mask.header["xyzt_units"] = code
    nibabel.save(mask, tmp_path / "mask.nii")
    voxels = braincl.voxel_table(tmp_path / "mask.nii")
    assert any("unit" in note for note in np.atleast_1d(voxels.attrs["notes"]))
    np.testing.assert_array_equal(np.array(voxels.attrs["affine"]).reshape(4, 4), mask.affine)
