"""The generic reader, and what all readers share; expected values are computed by hand from the raw arrays."""

import csv
import hashlib
import weakref

import nibabel
import numpy as np
import pytest
import xarray as xr
from PIL import Image

import braincl
from braincl.datasets import Session, assemble, read_dataset, read_nifti
from braincl.datasets.generic import read_folder

SHAPE, TRIALS, PICTURES = (4, 6, 5), 14, 8
AFFINE = np.array([[0, 2, 0, -10], [-1.5, 0, 0, 4], [0, 0, 3, 7], [0, 0, 0, 1.0]])
SHOWN = [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 0, 4]  # picture of each trial
SPLIT = ["test" if picture % 4 == 0 else "context" for picture in SHOWN]
SESSION = ["a"] * 8 + ["b"] * 6


@pytest.fixture
def lab(tmp_path):
    """A lab's folder: pictures, betas, mask, and a CSV."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for picture in range(PICTURES):
        pixels = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{picture}.png")
    betas = rng.normal(2, 3, (*SHAPE, TRIALS)).astype("f4")
    mask = rng.random(SHAPE) < 0.4
    nibabel.save(nibabel.Nifti1Image(betas, AFFINE), tmp_path / "betas.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask.astype("u1"), AFFINE), tmp_path / "mask.nii.gz")
    write_csv(tmp_path / "images.csv", image=[f"pictures/{p}.png" for p in SHOWN], session=SESSION, split=SPLIT)
    return tmp_path, betas[mask].T, mask


def write_csv(path, **columns):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([list(columns), *zip(*columns.values(), strict=True)])


def read(folder, **options):
    return read_nifti(folder / "betas.nii.gz", folder / "images.csv", folder / "mask.nii.gz", **options)


def average(trials):
    return np.stack([trials[np.array(SHOWN) == picture].mean(axis=0) for picture in range(PICTURES)])


def test_raw_responses_equal_those_by_hand(lab):
    folder, trials, mask = lab
    found = read(folder, subject="S1")
    np.testing.assert_allclose(found["response"], average(trials), rtol=1e-5)
    hashes = [hashlib.sha1((folder / f"pictures/{p}.png").read_bytes()).hexdigest()[:16] for p in range(PICTURES)]
    np.testing.assert_array_equal(found["image_id"], hashes)
    np.testing.assert_array_equal(found["image_file"], [f"pictures/{p}.png" for p in range(PICTURES)])
    np.testing.assert_array_equal(found["repeats"], [3, 2, 2, 2, 2, 1, 1, 1])
    np.testing.assert_array_equal(found["split"], ["test", *["context"] * 3] * 2)
    np.testing.assert_array_equal(np.stack([found[axis].values for axis in "ijk"], 1), np.argwhere(mask))
    np.testing.assert_allclose(found.attrs["affine"].reshape(4, 4), AFFINE)
    assert tuple(found.attrs["grid_shape"]) == SHAPE
    assert found.attrs["subject"] == "S1"
    braincl.to_nifti(found["response"], found, folder / "back.nii.gz")
    np.testing.assert_allclose(nibabel.load(folder / "back.nii.gz").get_fdata()[mask].T, average(trials), rtol=1e-5)


@pytest.mark.parametrize("mode", ["session", "context"])
def test_z_scores_equal_those_by_hand(lab, mode):
    folder, trials, _ = lab
    expected = trials.astype("f8")
    for name in "ab":
        rows = np.array(SESSION) == name
        used = rows & ((np.array(SPLIT) == "context") | (mode == "session"))
        expected[rows] = (expected[rows] - expected[used].mean(axis=0)) / expected[used].std(axis=0)
    np.testing.assert_allclose(read(folder, zscore=mode)["response"], average(expected), rtol=1e-4, atol=1e-5)


def test_sessions_do_not_depend_on_how_trials_lie_in_files(lab):
    folder = lab[0]
    image = nibabel.load(folder / "betas.nii.gz")
    whole = read(folder, zscore="session", trials=True)
    parts = [folder / "a.nii", folder / "b.nii"]
    nibabel.save(image.slicer[..., :8], parts[0])
    nibabel.save(image.slicer[..., 8:], parts[1])
    two = read_nifti(parts, folder / "images.csv", folder / "mask.nii.gz", zscore="session", trials=True)
    xr.testing.assert_allclose(two, whole)
    write_csv(folder / "plain.csv", image=[f"{p}.png" for p in SHOWN], split=SPLIT)  # each file is a session
    plain = read_nifti(
        parts, folder / "plain.csv", folder / "mask.nii.gz", zscore="session", trials=True, pictures=folder / "pictures"
    )
    np.testing.assert_allclose(plain["response"], whole["response"], rtol=1e-5, atol=1e-6)
    assert plain.attrs["sessions"] == "a.nii b.nii"
    mixed = np.random.default_rng(1).permutation(TRIALS)  # sessions interleaved in one file
    nibabel.save(nibabel.Nifti1Image(np.asarray(image.dataobj)[..., mixed], AFFINE), folder / "betas.nii.gz")
    columns = {"image": [f"pictures/{p}.png" for p in SHOWN], "session": SESSION, "split": SPLIT}
    write_csv(folder / "images.csv", **{name: [values[m] for m in mixed] for name, values in columns.items()})
    other = read(folder, zscore="session").sortby("image_id")
    np.testing.assert_allclose(other["response"], whole.sortby("image_id")["response"], rtol=1e-5, atol=1e-6)


def test_ids_may_be_given_and_areas_named(lab):
    folder, trials, mask = lab
    write_csv(folder / "ids.csv", image_id=[f"{p:016x}" for p in SHOWN], run=list(range(TRIALS)))
    area = np.zeros(SHAPE, "i2")
    area[:2] = 1
    area[3] = -1
    nibabel.save(nibabel.Nifti1Image(area[..., None], AFFINE), folder / "V1.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.ones_like(area) * (np.arange(6)[:, None] > 2), AFFINE), folder / "IT.nii.gz")
    found = read_nifti(
        folder / "betas.nii.gz", folder / "ids.csv", folder / "mask.nii.gz", scale=300,
        rois={"V1": folder / "V1.nii.gz", "IT": folder / "IT.nii.gz"},
    )  # fmt: skip
    np.testing.assert_array_equal(found["image_id"], [f"{p:016x}" for p in range(PICTURES)])
    np.testing.assert_allclose(found["response"], average(trials) / 300, rtol=1e-5, atol=1e-8)
    i, j, _ = np.argwhere(mask).T
    np.testing.assert_array_equal(found["roi"], np.where(i < 2, "V1", np.where(j > 2, "IT", "other")))
    assert "split" not in found.coords


def test_unfit_input_is_refused(lab):
    folder, _, mask = lab
    image = nibabel.load(folder / "betas.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask.astype("u1"), 2 * AFFINE), folder / "moved.nii.gz")
    nibabel.save(nibabel.Nifti1Image(mask[:, :-1].astype("u1"), AFFINE), folder / "small.nii.gz")
    nibabel.save(image.slicer[..., 0], folder / "one.nii.gz")
    for name, message in [("moved", "affine differs"), ("small", "does not fit the grid")]:
        with pytest.raises(braincl.ResponseError, match=message):
            read_nifti(folder / "betas.nii.gz", folder / "images.csv", folder / f"{name}.nii.gz")
    with pytest.raises(braincl.ResponseError, match="betas have 4 axes"):
        read_nifti(folder / "one.nii.gz", folder / "images.csv", folder / "mask.nii.gz")
    with pytest.raises(braincl.ResponseError, match=r"lists 14 trials, the betas hold 28 volumes \(14, 14\)"):
        read_nifti([folder / "betas.nii.gz"] * 2, folder / "images.csv", folder / "mask.nii.gz")
    write_csv(folder / "plain.csv", image_id=SHOWN)
    with pytest.raises(braincl.ResponseError, match="needs a split"):
        read_nifti(folder / "betas.nii.gz", folder / "plain.csv", folder / "mask.nii.gz", zscore="context")
    with pytest.raises(braincl.ResponseError, match="scale is 0"):
        read(folder, scale=0)
    with pytest.raises(braincl.ResponseError, match="no ncsnr"):
        read(folder, noise_ceiling="ncsnr")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture\n" + "x\n" * TRIALS, "neither column 'image' nor 'image_id'"),
        ("image_id,split\n" + "x,test\n" + "x,context\n" * (TRIALS - 1), "picture x is in 'test' and elsewhere"),
        ("image_id,split\n" + "x,test\n" + "y,validation\n" * (TRIALS - 1), "row 2 has split 'validation'"),
        ("image_id,split\n" + "x,test\n" + "y,\n" * (TRIALS - 1), "row 2 has split ''; write 'test' or 'context'"),
        ("image_id,image_id \n" + "x,y\n" * TRIALS, "two columns are called 'image_id'"),
        ("image_id,session\n" + "x\n" * TRIALS, "line 2: the row is not as long as the head of 2"),
        ("image\n" + "absent.png\n" * TRIALS, r"absent\.png is missing"),
        ("image\n" + "images.csv\n" * TRIALS, "cannot be read as a picture"),
        ("", "lists 0 trials"),
        (b"\xff\xfe\x00", "not a readable table"),
    ],
)
def test_broken_tables_are_refused(lab, text, message):
    folder = lab[0]
    (folder / "images.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((braincl.ResponseError, braincl.ImageError), match=message):
        read(folder)


def volumes_of_sessions(folder, names, columns, trials=2):
    """Files of `trials` volumes each, and a table whose pictures are numbered in the order of the files given."""
    rng = np.random.default_rng(5)
    betas = rng.normal(size=(*SHAPE, trials * len(names))).astype("f4")
    for name, part in zip(names, np.split(betas, len(names), axis=3), strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(part, AFFINE), folder / name)
    write_csv(folder / "trials.csv", image_id=[f"p{n:02}" for n in range(betas.shape[3])], **columns)
    mask = rng.random(SHAPE) < 0.4
    nibabel.save(nibabel.Nifti1Image(mask.astype("u1"), AFFINE), folder / "mask.nii.gz")
    return betas[mask].T


@pytest.mark.parametrize("name", ["betas_session{}.nii.gz", "betas_run-{}.nii", "ses-{}/betas.nii.gz"])
@pytest.mark.parametrize("columns", [{}, {"session": np.repeat(np.arange(1, 12), 2)}])
def test_session_10_comes_after_9(tmp_path, name, columns):
    expected = volumes_of_sessions(tmp_path, [name.format(n) for n in range(1, 12)], columns)
    found = read_folder(tmp_path)
    np.testing.assert_array_equal(found["image_id"], [f"p{n:02}" for n in range(22)])
    np.testing.assert_array_equal(found["response"], expected)
    assert len(found.attrs["sessions"].split()) == 11
    sorted_as_text = sorted(tmp_path / name.format(n) for n in range(1, 12))
    with pytest.raises(braincl.ResponseError, match=r"comes after|would get the rows of session|than one file"):
        read_nifti(sorted_as_text, tmp_path / "trials.csv", tmp_path / "mask.nii.gz")


def test_rows_of_another_session_than_the_file_are_refused(tmp_path):
    sessions = np.repeat(sorted(range(1, 13), key=str), 2)  # 1, 10, 11, 12, 2, ...
    volumes_of_sessions(tmp_path, [f"betas_session{n:02}.nii" for n in range(1, 13)], {"session": sessions})
    with pytest.raises(braincl.ResponseError, match=r"session02\.nii would get the rows of session 10"):
        read_folder(tmp_path)
    days = np.repeat(np.arange(20240101, 20240113), 2)  # other numbers than those of the files say nothing against them
    expected = volumes_of_sessions(tmp_path, [f"betas_session{n:02}.nii" for n in range(1, 13)], {"session": days})
    np.testing.assert_array_equal(read_folder(tmp_path)["response"], expected)


def test_which_file_is_meant_can_be_said(tmp_path):
    expected = volumes_of_sessions(tmp_path, ["betas_raw_run-2.nii", "betas_raw_run-10.nii"], {})
    nibabel.save(nibabel.Nifti1Image(np.zeros((*SHAPE, 1), "f4"), AFFINE), tmp_path / "betas_SE.nii")
    (tmp_path / "other.csv").write_text("image_id\n")
    with pytest.raises(braincl.ResponseError, match=r"2 files \*\.csv; there must be one, or name it \(--images\)"):
        read_folder(tmp_path)
    with pytest.raises(braincl.ResponseError, match=r"4 trials, the betas hold 5 volumes"):
        read_folder(tmp_path, images=tmp_path / "trials.csv")
    found = read_dataset("generic", tmp_path, "S", images=tmp_path / "trials.csv", betas="*raw*")
    np.testing.assert_array_equal(found["response"], expected)
    (tmp_path / "ses-01").mkdir()
    (tmp_path / "betas_raw_run-2.nii").rename(tmp_path / "ses-01/betas_raw_run-2.nii")
    with pytest.raises(braincl.ResponseError, match=r"lists 4 trials, the betas hold 2 volumes"):
        read_folder(tmp_path, images=tmp_path / "trials.csv", betas="*raw*")
    with pytest.raises(braincl.ResponseError, match=r"holds no \*cooked\*"):
        read_folder(tmp_path, images=tmp_path / "trials.csv", betas="*cooked*")


def test_case_and_blanks_of_heads_and_splits_do_not_count(lab):
    folder = lab[0]
    expected = read(folder)
    spelling = {"test": [" Test", "test ", "TEST"], "context": ["Context", "context", " CONTEXT "]}
    rows = [
        f"pictures/{p}.png, {s}, {spelling[w][n % 3]}"
        for n, (p, s, w) in enumerate(zip(SHOWN, SESSION, SPLIT, strict=True))
    ]
    (folder / "images.csv").write_text("\ufeffImage, session ,Split\r\n" + "\r\n".join(rows))
    xr.testing.assert_identical(read(folder), expected)


def test_a_session_without_a_name_is_one(lab):
    folder, trials, _ = lab
    write_csv(
        folder / "images.csv", image=[f"pictures/{p}.png" for p in SHOWN], session=[s.strip("b") for s in SESSION]
    )
    np.testing.assert_allclose(read(folder)["response"], average(trials), rtol=1e-5)


def test_trials_without_a_picture_are_left_out(lab):
    folder, trials, _ = lab
    shown = [f"p{p}" for p in SHOWN]
    for place, blank in ((2, "n/a"), (5, ""), (9, "NaN"), (13, " ")):
        shown[place] = blank
    write_csv(folder / "images.csv", image_id=shown, run=[1] * TRIALS, split=SPLIT)
    found = read(folder)
    left = [n for n in range(TRIALS) if shown[n].startswith("p")]
    names = list(dict.fromkeys(shown[n] for n in left))
    np.testing.assert_array_equal(found["image_id"], names)
    by_hand = [trials[[n for n in left if shown[n] == name]].mean(axis=0) for name in names]
    np.testing.assert_allclose(found["response"], by_hand, rtol=1e-5)
    assert "4 trials of images.csv name no picture" in found.attrs["notes"]


def voxels(count):
    return xr.Dataset(coords={"voxel_id": ("voxel", [f"v{v}" for v in range(count)])})


def test_one_session_is_in_memory_at_a_time():
    alive = []

    def session(n):
        def reading():
            assert not any(reference() is not None for reference in alive)
            values = np.random.default_rng(n).standard_normal((5, 4)).astype("f4")
            alive.append(weakref.ref(values))
            return values

        return Session(str(n), list("abcde"), reading)

    found = assemble([session(n) for n in range(3)], voxels(4), zscore="session", trials=True)
    assert len(alive) == 3
    assert found["response_trials"].shape == (5, 3, 4)


def test_voxels_without_data_are_left_out_and_counted():
    values = np.random.default_rng(0).standard_normal((2, 6, 5)).astype("f4")
    values[0, :, 1] = 0  # no data in one session
    values[1, 2, 3] = np.nan
    values[1, :, 4] = 7  # constant: no z-score, but a response
    sessions = [Session(str(n), list("abcdef"), values[n].copy) for n in range(2)]
    raw = assemble(sessions, voxels(5))
    np.testing.assert_array_equal(raw["voxel_id"], ["v0", "v2", "v4"])
    np.testing.assert_allclose(raw["response"], values[:, :, [0, 2, 4]].mean(axis=0), rtol=1e-6)
    assert raw.attrs["dropped_voxels"] == 2
    assert assemble(sessions, voxels(5), zscore="session").sizes["voxel"] == 2
    with pytest.raises(braincl.ResponseError, match="all 5 voxels are without data"):
        assemble([Session("0", list("ab"), lambda: np.zeros((2, 5), "f4"))], voxels(5))


def test_sessions_that_cannot_be_standardised_or_have_other_trials():
    values = np.ones((3, 2), "f4") * [[1], [2], [3]]
    given = [Session("7", list("abc"), lambda: values.astype("f4"))]
    with pytest.raises(braincl.ResponseError, match="session 7 has 1 trials to take mean"):
        assemble(given, voxels(2), zscore="context", test_ids={"a", "b"})
    with pytest.raises(braincl.ResponseError, match=r"session 7 has 3 trials of 2 voxels, \(3, 9\) are expected"):
        assemble(given, voxels(9))
    with pytest.raises(braincl.ResponseError, match="no picture was shown twice"):
        assemble(given, voxels(2), noise_ceiling="repeats")
    with pytest.raises(braincl.ResponseError, match="no trial to read"):
        assemble([], voxels(2))


def test_ceilings_recover_the_truth():
    rng = np.random.default_rng(0)
    pictures, repeats, share = 4000, 3, np.array([0.1, 0.3, 0.6, 0.9])  # of the variance of an average of three
    signal = rng.standard_normal((pictures, 4)) * np.sqrt(share)
    noise = np.sqrt(repeats * (1 - share))
    ids = [f"{n:016x}" for n in range(pictures)]
    sessions = [
        Session(str(s), ids, (signal + noise * rng.standard_normal((pictures, 4))).astype("f4").copy) for s in range(3)
    ]
    ncsnr = np.sqrt(share) / noise
    for method in ("ncsnr", "repeats", "split_half"):
        found = assemble(sessions, voxels(4), noise_ceiling=method, ncsnr=ncsnr)
        np.testing.assert_allclose(found["noise_ceiling"], share, atol=1e-6 if method == "ncsnr" else 0.04)
        assert found.attrs["noise_ceiling"] == method
