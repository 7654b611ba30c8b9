"""The BIDS reader on a miniature; expected values are computed by hand from the raw arrays."""

import shutil

import h5py
import nibabel
import numpy as np
import pytest
import xarray as xr
from PIL import Image

import braincl
from braincl.datasets import read_bids
from braincl.embedding.embed import read_picture

SHAPE = (4, 6, 5)
AFFINE = np.diag([2, 2, 3, 1.0])
RUNS = {("ses-01", 1): 4, ("ses-01", 2): 3, ("ses-01", 10): 2, ("ses-02", 1): 5}  # trials; run-10 comes after run-2
SHOWN = [0, 1, 2, 3, 1, 0, 4, 5, 2, 0, 3, 5, 6, 1]  # picture of each trial
GLMSINGLE = "TYPED_FITHRF_GLMDENOISE_RR.hdf5"


@pytest.fixture
def study(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "stimuli" / "set").mkdir(parents=True)
    for picture in range(7):
        pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"stimuli/set/{picture}.png")
    mask = rng.random(SHAPE) < 0.4
    betas = rng.normal(1, 2, (*SHAPE, len(SHOWN))).astype("f4")
    pipeline = tmp_path / "derivatives" / "glm" / "sub-03"
    start = 0
    for (session, run), count in RUNS.items():
        raw, out = tmp_path / "sub-03" / session / "func", pipeline / session / "func"
        raw.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)
        name = f"sub-03_{session}_task-see_run-{run:02d}"
        nibabel.save(
            nibabel.Nifti1Image(betas[..., start : start + count], AFFINE), out / f"{name}_desc-betas_bold.nii.gz"
        )
        rows = [f"{9.5 * n}\t1.5\tset/{SHOWN[start + n]}.png" for n in range(count)]
        rows = [*rows[1:], rows[0], "200.0\t3\tn/a"]  # not in the order of time, and a blank
        (raw / f"{name}_events.tsv").write_text("onset\tduration\tstim_file\n" + "\n".join(rows) + "\n")
        start += count
    (pipeline / "anat").mkdir()
    nibabel.save(nibabel.Nifti1Image(mask.astype("u1"), AFFINE), pipeline / "anat" / "sub-03_desc-brain_mask.nii.gz")
    return tmp_path, betas[mask].T, mask, betas


def average(trials):
    order = list(dict.fromkeys(SHOWN))
    return np.stack([trials[np.array(SHOWN) == picture].mean(axis=0) for picture in order])


def test_runs_equal_those_by_hand(study):
    folder, trials, mask, _ = study
    found = read_bids(folder, "03")
    np.testing.assert_allclose(found["response"], average(trials), rtol=1e-5, atol=1e-6)
    order = [f"set/{picture}.png" for picture in dict.fromkeys(SHOWN)]
    np.testing.assert_array_equal(found["image_file"], order)
    np.testing.assert_array_equal(found["image_id"], [read_picture(folder / "stimuli" / name)[0] for name in order])
    np.testing.assert_array_equal(np.stack([found[axis].values for axis in "ijk"], 1), np.argwhere(mask))
    assert found.attrs["subject"] == "sub-03"
    assert found.attrs["sessions"] == "ses-01 ses-02"
    standardised = np.concatenate(
        [(part - part.mean(axis=0)) / part.std(axis=0) for part in np.split(trials.astype("f8"), [9])]
    )
    found = read_bids(folder, "sub-03", zscore="session", trials=True, noise_ceiling="repeats")
    np.testing.assert_allclose(found["response"], average(standardised), rtol=1e-4, atol=1e-5)
    assert found["response_trials"].shape[1] == 3


def test_glmsingle_and_session_files_give_the_same(study):
    folder, _, _, betas = study
    expected = read_bids(folder, "03")
    glm, single = folder / "derivatives" / "glm" / "sub-03", folder / "derivatives" / "glmsingle" / "sub-03"
    for session, part in (("ses-01", slice(0, 9)), ("ses-02", slice(9, None))):
        (single / session).mkdir(parents=True)
        with h5py.File(single / session / GLMSINGLE, "w") as file:
            file["betasmd"] = betas[..., part]
        shutil.rmtree(glm / session)
        path = glm / f"sub-03_{session}_task-see_betas.nii.gz"
        nibabel.save(nibabel.Nifti1Image(betas[..., part], AFFINE), path)
    with pytest.raises(braincl.ResponseError, match="found: glm, glmsingle; name its folder"):
        read_bids(folder, "03")
    mask = glm / "anat" / "sub-03_desc-brain_mask.nii.gz"
    xr.testing.assert_identical(read_bids(folder, "03", derivatives=glm.parent), expected)
    xr.testing.assert_identical(read_bids(folder, "03", derivatives=single.parent, mask=mask), expected)
    with h5py.File(single / "ses-01" / GLMSINGLE, "r+") as file:
        values = file["betasmd"][()]
        del file["betasmd"]
        file["betasmd"] = values.transpose(3, 2, 1, 0)
    with pytest.raises(braincl.ResponseError, match="its axes are swapped"):
        read_bids(folder, "03", derivatives=single.parent, mask=mask)
    (single / "ses-01" / GLMSINGLE).write_bytes(b"noise")
    with pytest.raises(braincl.ResponseError, match="not a readable HDF5 file of betas"):
        read_bids(folder, "03", derivatives=single.parent, mask=mask)


def test_without_pictures_ids_are_names(study):
    folder, trials, _, _ = study
    shutil.rmtree(folder / "stimuli")
    found = read_bids(folder, "03")
    assert found["image_id"].values[0] == "set/0.png"
    np.testing.assert_allclose(found["response"], average(trials), rtol=1e-5, atol=1e-6)
    with pytest.raises(braincl.ResponseError, match=r"0\.png is missing: the events name it"):
        read_bids(folder, "03", pictures=folder)


def test_what_is_missing_or_does_not_fit_is_named(study):
    folder = study[0]
    events = folder / "sub-03/ses-01/func/sub-03_ses-01_task-see_run-02_events.tsv"
    text = events.read_text()
    events.write_text(text.replace("9.5", "soon"))
    with pytest.raises(braincl.ResponseError, match="an onset is not a number"):
        read_bids(folder, "03")
    events.write_text("\n".join(text.splitlines()[:-2]) + "\n")
    with pytest.raises(braincl.ResponseError, match=r"holds 3 trials, the events of ses-01 run-2 list 2"):
        read_bids(folder, "03")
    events.write_text(text.replace("stim_file", "picture"))
    with pytest.raises(braincl.ResponseError, match="column stim_file is missing"):
        read_bids(folder, "03")
    events.write_text(text)
    shutil.copy(events, events.with_name(events.name.replace("task-see", "task-rest")))
    with pytest.raises(braincl.ResponseError, match="more than one task"):
        read_bids(folder, "03")
    assert read_bids(folder, "03", task="see").sizes["image"] == 7
    events.unlink()
    with pytest.raises(braincl.ResponseError, match="no events with stim_file of sub-03 ses-01 run-2"):
        read_bids(folder, "03", task="see")
    with pytest.raises(braincl.ResponseError, match=r"betas of sub-04 in one pipeline.* found: none"):
        read_bids(folder, "04")
    mask = next(folder.glob("**/*_mask.nii.gz"))
    mask.unlink()
    with pytest.raises(braincl.ResponseError, match=r"one mask of sub-03 in .* is expected, found 0"):
        read_bids(folder, "03", task="see")


@pytest.mark.parametrize(
    "other",
    [
        "desc-betasSE_bold",
        "desc-betas_stat-stderr_statmap",
        "desc-betas_SEM",
        "desc-betasvariance_bold",
        "betas-sd_bold",
    ],
)
def test_standard_errors_are_no_trials(study, other):
    folder = study[0]
    expected = read_bids(folder, "03")
    for file in folder.rglob("*betas_bold.nii.gz"):
        shutil.copy(file, file.with_name(file.name.replace("desc-betas_bold", other)))
    xr.testing.assert_identical(read_bids(folder, "03"), expected)


def test_betas_of_another_space_or_kind_are_not_mixed_in(study):
    folder, trials, _, betas = study
    for file in sorted(folder.rglob("*betas_bold.nii.gz")):
        nibabel.save(
            nibabel.Nifti1Image(betas[..., :1], AFFINE), file.with_name(file.name.replace("desc", "space-MNI_desc"))
        )
        file.rename(file.with_name(file.name.replace("desc", "space-T1w_desc")))
    with pytest.raises(braincl.ResponseError, match=r"different kinds of betas: .*MNI.*T1w.*--betas"):
        read_bids(folder, "03")
    np.testing.assert_allclose(
        read_bids(folder, "03", betas="*T1w*betas*")["response"], average(trials), rtol=1e-5, atol=1e-6
    )
    mask = next(folder.rglob("*_mask.nii.gz"))
    mask.rename(mask.with_name("sub-03_space-T1w_desc-brain_mask.nii.gz"))
    np.testing.assert_allclose(read_bids(folder, "03")["response"], average(trials), rtol=1e-5, atol=1e-6)
    run = next(folder.rglob("*ses-01*run-02_space-T1w_desc-betas_bold.nii.gz"))
    shutil.copy(run, run.with_name(run.name.replace("run-02", "run-2")))  # the same run once more
    with pytest.raises(braincl.ResponseError, match=r"run-02.* and .*run-2.* both hold ses-01 run-2"):
        read_bids(folder, "03")


def test_plain_nifti_and_arrays_of_mask_voxels_give_the_same(study):
    folder, trials, _, betas = study
    expected = read_bids(folder, "03")
    starts = {"ses-01_task-see_run-01": (0, 4), "ses-01_task-see_run-02": (4, 7), "ses-01_task-see_run-10": (7, 9),
              "ses-02_task-see_run-01": (9, 14)}  # fmt: skip
    for suffix in (".nii", ".npy", ".h5", ".hdf5"):
        for file in folder.rglob("*desc-betas_bold.*"):
            file.unlink()
        for name, (start, stop) in starts.items():
            path = folder / f"derivatives/glm/sub-03/{name[:6]}/func/sub-03_{name}_desc-betas_bold{suffix}"
            listed = trials[start:stop].T[:, None, None, :]  # (voxel, 1, 1, trial)
            if suffix == ".nii":
                nibabel.save(nibabel.Nifti1Image(betas[..., None, start:stop], AFFINE), path)  # five axes
            elif suffix == ".npy":
                np.save(path, listed if start else betas[..., start:stop])
            else:
                with h5py.File(path, "w") as file:
                    file["betas"] = listed
        xr.testing.assert_identical(read_bids(folder, "03"), expected)
    np.save(path.with_suffix(".npy"), listed[:-1])
    path.unlink()
    with pytest.raises(braincl.ResponseError, match="different kinds"):
        read_bids(folder, "03")
    with pytest.raises(braincl.ResponseError, match=rf"\(voxel, 1, 1, trial\) for its {trials.shape[1]} voxels"):
        read_bids(folder, "03", betas="*.npy")
    np.save(path.with_suffix(".npy"), np.array({"betasmd": listed}), allow_pickle=True)
    with pytest.raises(braincl.ResponseError, match="Python objects"):
        read_bids(folder, "03", betas="*.npy")


def test_links_to_folders_are_followed_and_hidden_files_are_not_read(study):
    folder = study[0]
    expected = read_bids(folder, "03")
    for file in folder.rglob("*betas_bold.nii.gz"):
        file.with_name("._" + file.name).write_bytes(b"left by another system")
    for place in (folder, folder / "derivatives/glm"):
        (disk := folder / f"disk of {place.name}").mkdir()
        for name in ("sub-03/ses-02", "sub-03"):
            (place / name).rename(disk / name.replace("/", "_"))
            (place / name).symlink_to(disk / name.replace("/", "_"))
        (place / "sub-03/loop").symlink_to(place)
    xr.testing.assert_identical(read_bids(folder, "03"), expected)


def test_a_missing_picture_leaves_the_ids_of_the_others(study):
    folder = study[0]
    before = read_bids(folder, "03")
    (folder / "stimuli/set/4.png").unlink()
    found = read_bids(folder, "03")
    lost = (before["image_file"] == "set/4.png").values
    np.testing.assert_array_equal(found["image_id"].values[~lost], before["image_id"].values[~lost])
    assert found["image_id"].values[lost] == "set/4.png"
    np.testing.assert_array_equal(found["response"], before["response"])
    assert "1 pictures are not in" in found.attrs["notes"]
    with pytest.raises(braincl.ResponseError, match=r"4\.png is missing"):
        read_bids(folder, "03", pictures=folder / "stimuli")


def test_runs_without_betas_are_said(study):
    folder, trials, _, _ = study
    next(folder.rglob("*ses-01*run-02*betas_bold.nii.gz")).unlink()
    found = read_bids(folder, "03")
    assert found.attrs["notes"].endswith("there are no betas of ses-01 run-2, whose events list pictures")
    left = [n for n in range(len(SHOWN)) if n not in (4, 5, 6)]
    by_hand = [trials[[n for n in left if SHOWN[n] == p]].mean(axis=0) for p in dict.fromkeys(SHOWN[n] for n in left)]
    np.testing.assert_allclose(found["response"], by_hand, rtol=1e-5, atol=1e-6)


def with_splits(folder, split):
    for number, file in enumerate(sorted(folder.rglob("*_events.tsv"))):
        head, *rows = file.read_text().splitlines()
        rows = [f"{row}\t{split(number, row.split('/')[-1][0])}" for row in rows]
        file.write_text("\n".join([f"{head}\tsplit", *rows]) + "\n")


def test_the_split_of_the_events_is_kept(study):
    folder = study[0]
    with_splits(folder, lambda number, picture: ["Test", "test "][number % 2] if picture in "14" else "context")
    found = read_bids(folder, "03")
    expected = ["test" if name in ("set/1.png", "set/4.png") else "context" for name in found["image_file"].values]
    np.testing.assert_array_equal(found["split"], expected)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (lambda number, picture: "test" if number == 0 else "context", "is in 'test' and elsewhere"),
        (lambda number, picture: "train", "has split 'train'; write 'test' or 'context'"),
    ],
)
def test_splits_that_contradict_themselves_are_refused(study, split, message):
    with_splits(study[0], split)
    with pytest.raises(braincl.ResponseError, match=message):
        read_bids(study[0], "03")


def test_a_split_in_some_runs_only_is_refused(study):
    folder = study[0]
    plain = sorted(folder.rglob("*_events.tsv"))[0]
    text = plain.read_text()
    with_splits(folder, lambda number, picture: "context")
    plain.write_text(text)
    with pytest.raises(braincl.ResponseError, match="some events have a column split, others have none"):
        read_bids(folder, "03")
