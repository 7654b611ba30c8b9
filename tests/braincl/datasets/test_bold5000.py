"""The BOLD5000 reader on miniatures of both releases; expected values are computed by hand from the raw arrays."""

import itertools

import h5py
import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import braincl
from braincl.datasets import read_bold5000
from braincl.embedding.embed import read_picture

NAMES = [
    "COCO_train2014_000000000036.jpg",
    "n01440764_10110.JPEG",
    "homeoffice6.jpg",
    "n02102480_1.JPEG",
    "airport1.jpg",
]
FOLDERS = ["COCO", "ImageNet", "Scene", "ImageNet", "Scene"]
SHOWN = [0, 1, 2, 0, 3, 4, 2, 0, 1]  # picture of each trial
SESSIONS = [4, 3, 2]  # trials of each session
SHAPE = (5, 7, 6)
AFFINE = np.diag([2, 2, 2, 1.0])
AREAS = ["EarlyVis", "LOC", "OPA", "PPA", "RSC"]
TEST = [0, 1, 2]


@pytest.fixture
def release2(tmp_path):
    rng = np.random.default_rng(0)
    betas = rng.normal(0.5, 2, (*SHAPE, len(SHOWN))).astype("f4")
    mask = rng.random(SHAPE) < 0.4
    betas[~mask] = np.nan  # as in the release
    starts = np.cumsum([0, *SESSIONS])
    folder = tmp_path / "BOLD5000_GLMsingle"
    folder.mkdir()
    for n, (start, stop) in enumerate(itertools.pairwise(starts), 1):
        name = f"CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-{n:02d}.nii.gz"
        nibabel.save(nibabel.Nifti1Image(betas[..., start:stop], np.eye(4)), folder / name)  # no affine to speak of
    nibabel.save(nibabel.Nifti1Image(mask.astype("u1"), AFFINE), folder / "CSI4_brainmask.nii.gz")
    write_names(folder / "CSI4_imgnames.txt")
    (tmp_path / "spm" / "sub-CSI4").mkdir(parents=True)
    for number, area in enumerate(["LHPPA", "RHPPA", "LHLO", "RHRRSC"]):  # two of them named as some subjects' are
        volume = np.zeros(SHAPE, "u1")
        volume[number] = 1
        nibabel.save(nibabel.Nifti1Image(volume, AFFINE), tmp_path / f"spm/sub-CSI4/sub-CSI4_mask-{area}.nii.gz")
    return tmp_path, betas[mask].T, mask


def write_names(path):
    seen, lines = set(), []
    for picture in SHOWN:
        lines.append(("rep_" if picture in seen else "") + NAMES[picture])
        seen.add(picture)
    path.write_text("\n".join(lines) + "\n")


def average(trials, shown):
    shown = np.array(shown)
    return np.stack([trials[shown == picture].mean(axis=0) for picture in dict.fromkeys(shown.tolist())])


def test_release_2_equals_that_by_hand(release2):
    folder, trials, mask = release2
    found = read_bold5000(folder, "CSI4")
    np.testing.assert_allclose(found["response"], average(trials, SHOWN), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["image_id"], NAMES)
    np.testing.assert_array_equal(found["split"], ["test" if p in TEST else "context" for p in range(5)])
    np.testing.assert_array_equal(np.stack([found[axis].values for axis in "ijk"], 1), np.argwhere(mask))
    np.testing.assert_array_equal(found.attrs["affine"].reshape(4, 4), AFFINE)
    areas = np.array(["LHPPA", "RHPPA", "LHLOC", "RHRSC", "other"])
    np.testing.assert_array_equal(found["roi"], areas[np.argwhere(mask)[:, 0]])
    assert found["noise_ceiling"].dtype == np.float32
    standardised = trials.astype("f8")
    for rows in np.split(np.arange(len(SHOWN)), np.cumsum(SESSIONS)[:-1]):
        standardised[rows] = (trials[rows] - trials[rows].mean(axis=0)) / trials[rows].std(axis=0)
    found = read_bold5000(folder, "CSI4", zscore="session")
    np.testing.assert_allclose(found["response"], average(standardised, SHOWN), rtol=1e-4, atol=1e-5)


def test_release_2_by_sessions(release2):
    folder, trials, _ = release2
    found = read_bold5000(folder, "CSI4", sessions=[1, 2])
    np.testing.assert_allclose(found["response"], average(trials[:7], SHOWN[:7]), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["split"] == "test", [True, True, True, False, False])
    (folder / "BOLD5000_GLMsingle" / "CSI4_GLMbetas-TYPED-FITHRF-GLMDENOISE-RR_ses-01.nii.gz").unlink()
    with pytest.raises(braincl.ResponseError, match=r"session 01 of CSI4 is missing \(there are 02, 03\)"):
        read_bold5000(folder, "CSI4")


def test_voxels_without_data_are_dropped(release2):
    folder, _, mask = release2
    nibabel.save(nibabel.Nifti1Image(np.ones(SHAPE, "u1"), AFFINE), folder / "all.nii.gz")
    found = read_bold5000(folder, "CSI4", mask=folder / "all.nii.gz")
    assert found.attrs["dropped_voxels"] == (~mask).sum()
    np.testing.assert_array_equal(found["response"], read_bold5000(folder, "CSI4")["response"])


def test_pictures_are_hashed_where_they_are_there(release2):
    folder = release2[0]
    stimuli = folder / "Presented_Stimuli"
    for number, (name, source) in enumerate(zip(NAMES, FOLDERS, strict=True)):
        (stimuli / source).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (number, 30 * number, 7)).save(stimuli / source / name, format="JPEG")
    found = read_bold5000(folder, "CSI4", pictures=stimuli)
    hashes = [read_picture(stimuli / source / name)[0] for name, source in zip(NAMES, FOLDERS, strict=True)]
    np.testing.assert_array_equal(found["image_id"], hashes)
    np.testing.assert_array_equal(found["image_file"], NAMES)
    (stimuli / "Scene" / NAMES[2]).unlink()
    with pytest.raises(braincl.ResponseError, match=r"no picture homeoffice6\.jpg"):
        read_bold5000(folder, "CSI4", pictures=stimuli)


@pytest.fixture
def release1(tmp_path):
    rng = np.random.default_rng(1)
    areas = {
        side + area: rng.standard_normal((len(SHOWN), 2 + n)) for n, area in enumerate(AREAS) for side in ("LH", "RH")
    }
    for kind in ("mat", "h5"):
        (tmp_path / "ROIs" / "CSI2" / kind).mkdir(parents=True)
    savemat(tmp_path / "ROIs/CSI2/mat/CSI2_ROIs_TR34.mat", areas)
    with h5py.File(tmp_path / "ROIs/CSI2/h5/CSI2_ROIs_TR34.h5", "w") as file:
        for name, values in areas.items():
            file[name] = values
    (tmp_path / "ROIs/stim_lists").mkdir()
    write_names(tmp_path / "ROIs/stim_lists/CSI02_stim_lists.txt")
    return tmp_path, areas


def test_release_1_equals_that_by_hand_in_both_formats(release1):
    folder, areas = release1
    found = read_bold5000(folder, "CSI2", release=1)
    for name, values in areas.items():
        ours = found["response"].values[:, found["roi"].values == name]
        np.testing.assert_allclose(ours, average(values, SHOWN), rtol=1e-5, atol=1e-6)
    assert found["voxel_id"].values[-1] == "RHRSC-5"
    assert "i" not in found.coords
    (folder / "ROIs/CSI2/mat/CSI2_ROIs_TR34.mat").unlink()
    other = read_bold5000(folder, "CSI2", release=1)
    np.testing.assert_array_equal(other["response"], found["response"])
    with h5py.File(folder / "ROIs/CSI2/h5/CSI2_ROIs_TR34.h5", "r+") as file:
        turned = file["LHLOC"][()].T
        del file["LHLOC"]
        file["LHLOC"] = turned
    with pytest.raises(braincl.ResponseError, match=r"LHLOC has shape \(3, 9\); \(trial, voxel\) with the 9 trials"):
        read_bold5000(folder, "CSI2", release=1)
    (folder / "ROIs/CSI2/h5/CSI2_ROIs_TR34.h5").write_bytes(b"noise")
    with pytest.raises(braincl.ResponseError, match="does not hold the ten areas"):
        read_bold5000(folder, "CSI2", release=1)


def test_what_is_missing_or_does_not_fit_is_named(release2):
    folder = release2[0]
    with pytest.raises(braincl.ResponseError, match="subject is 'S1'; choose one of 'CSI1'"):
        read_bold5000(folder, "S1")
    with pytest.raises(braincl.ResponseError, match="release is 3; choose one of 1, 2"):
        read_bold5000(folder, "CSI4", release=3)
    with pytest.raises(braincl.ResponseError, match=r"no CSI04_stim_lists\.txt.*braincl data check bold5000"):
        read_bold5000(folder, "CSI4", release=1)
    names = folder / "BOLD5000_GLMsingle" / "CSI4_imgnames.txt"
    names.write_text("\n".join(names.read_text().splitlines()[:-1]))
    with pytest.raises(braincl.ResponseError, match=r"hold 9 trials, CSI4_imgnames\.txt lists 8"):
        read_bold5000(folder, "CSI4")
