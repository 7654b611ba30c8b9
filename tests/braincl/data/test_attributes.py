"""Attributes, coordinates and names that NetCDF does not know: stored, or refused before a file is made."""

import datetime
import json
import os
from pathlib import Path

import numpy as np
import pandas
import pytest
import xarray as xr
from synthetic import IMAGES, VOXELS, make_responses

import braincl
from braincl.errors import ResponseError

LATIN = os.fsdecode(b"caf\xe9")  # a name whose bytes are not UTF-8


def stored(dataset, tmp_path):
    braincl.save_responses(dataset, tmp_path / "s.nc")
    assert [path.name for path in tmp_path.iterdir()] == ["s.nc"]
    return braincl.open_responses(tmp_path / "s.nc")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1),
        (np.bool_(False), 0),
        ([True, False, True], [1, 0, 1]),
        (Path("a/b.nc"), "a/b.nc"),
        (2**70, str(2**70)),
        (b"caf\xc3\xa9", "caf\u00e9"),
        (LATIN, "caf\\udce9"),
        (["a", LATIN], ["a", "caf\\udce9"]),
        (datetime.date(2024, 1, 5), "2024-01-05"),
        (np.datetime64("2024-01-05T10:00"), "2024-01-05T10:00"),
        (7, 7),
        (np.float32(0.5), 0.5),
        ([[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    ],
)
def test_attributes_come_back(tmp_path, value, expected):
    for name in ("note", None):
        dataset = make_responses()
        if name:
            dataset.attrs["note"] = value
        else:
            dataset["response"].attrs["note"] = value
        found = (stored(dataset, tmp_path) if name else stored(dataset, tmp_path)["response"]).attrs["note"]
        np.testing.assert_array_equal(found, expected)
        assert (dataset if name else dataset["response"]).attrs["note"] is value


@pytest.mark.parametrize(
    "value",
    [{"a": 1, "b": [1, "x", None]}, ["a", 1], [[1, 2], [3]], {"path": Path("p"), "of": np.arange(3)}, [None], {}],
)
def test_mappings_and_mixed_lists_come_back_as_json(tmp_path, value):
    found = stored(make_responses().assign_attrs(note=value), tmp_path).attrs["note"]
    assert json.loads(found) == json.loads(
        json.dumps(value, default=lambda v: str(v) if isinstance(v, Path) else v.tolist())
    )


def test_none_is_left_out(tmp_path):
    assert "note" not in stored(make_responses().assign_attrs(note=None), tmp_path).attrs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.assign_attrs(note=d["response"]), "attribute 'note' is a DataArray; make it a variable"),
        (lambda d: d.assign_attrs(note=print), "attribute 'note' is a builtin_function_or_method"),
        (lambda d: d.assign_attrs(note={1, 2}), "attribute 'note' is a set"),
        (lambda d: d.assign_attrs(note="a\0b"), "attribute 'note' holds text with a character of code 0"),
        (lambda d: d.assign_attrs({1: "a"}), "attribute 1 cannot be stored"),
        (lambda d: d.assign_attrs({"": "a"}), "attribute '' cannot be stored"),
        (lambda d: d.assign_attrs(CLASS="a"), "attribute 'CLASS' cannot be stored"),
        (lambda d: d.assign_coords(note=("image", np.array([{}] * IMAGES))), "'note' holds objects, such as a dict"),
        (lambda d: d.assign_coords({"a/b": ("image", np.arange(IMAGES))}), "'a/b' cannot be stored .* no '/'"),
    ],
)
def test_what_cannot_be_stored_is_named_and_no_file_is_made(tmp_path, change, message):
    with pytest.raises(ResponseError, match=message):
        braincl.save_responses(change(make_responses()), tmp_path / "s.nc")
    assert list(tmp_path.iterdir()) == []


def test_a_multi_index_is_stored_as_its_coordinates(tmp_path):
    dataset = make_responses()
    run, trial = np.arange(IMAGES) % 3, np.arange(IMAGES)
    named = dataset.assign_coords(run=("image", run), trial=("image", trial)).set_index(image=["run", "trial"])
    found = stored(named, tmp_path)
    np.testing.assert_array_equal(found["run"], run)
    np.testing.assert_array_equal(found["trial"], trial)
    np.testing.assert_array_equal(found["response"], dataset["response"])


def test_coordinates_of_objects(tmp_path):
    of_strings = getattr(np.dtypes, "StringDType", lambda: object)  # NumPy 2 has it
    areas = np.array(["V1", "IT"])[np.arange(VOXELS) % 2]
    dataset = make_responses().assign_coords(
        roi=("voxel", pandas.Categorical(areas)),
        file=("image", np.array([Path(LATIN)] * IMAGES, dtype=object)),
        note=("image", np.array([None, "x"] * (IMAGES // 2), dtype=object)),
        count=("image", np.arange(IMAGES).astype(object)),
        text=("image", np.array(["a", "bb"] * (IMAGES // 2), dtype=of_strings())),
    )
    found = stored(dataset, tmp_path)
    np.testing.assert_array_equal(found["roi"], areas)
    np.testing.assert_array_equal(found["file"], ["caf\\udce9"] * IMAGES)
    np.testing.assert_array_equal(found["note"], ["", "x"] * (IMAGES // 2))
    np.testing.assert_array_equal(found["count"], np.arange(IMAGES))
    np.testing.assert_array_equal(found["text"], ["a", "bb"] * (IMAGES // 2))


def test_netcdf_3_opens_alike(tmp_path):
    dataset = make_responses().assign_coords(noise_ceiling=("voxel", np.linspace(0, 1, VOXELS)))
    dataset.to_netcdf(tmp_path / "old.nc", engine="scipy", format="NETCDF3_64BIT")
    found = braincl.open_responses(tmp_path / "old.nc")
    xr.testing.assert_equal(found, braincl.open_responses(dataset))
    assert found["voxel_id"].dtype.kind == found["image_id"].dtype.kind == "U"
    assert found.attrs == dataset.attrs
    (tmp_path / "cut.nc").write_bytes((tmp_path / "old.nc").read_bytes()[:300])
    with pytest.raises(ResponseError, match="not a readable NetCDF"):
        braincl.open_responses(tmp_path / "cut.nc")
