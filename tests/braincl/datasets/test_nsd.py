"""The NSD reader on a miniature in its layout; expected values are computed by hand from the raw arrays."""

import csv
import gzip
import shutil

import h5py
import nibabel
import numpy as np
import pytest
import xarray as xr
from PIL import Image
from scipy.io import loadmat, savemat

import braincl
from braincl.datasets import export_nsd_pictures, read_nsd
from braincl.datasets.miniature import write_nsd_miniature
from braincl.embedding.embed import read_picture
from setcore.errors import InputError
from setcore.evaluation.noise_ceilings import noise_ceiling_from_repeats, split_half_reliability

SUBJECT = "subj02"
SESSIONS, TRIALS = 3, 23
EXPERIMENT = "nsddata/experiments/nsd"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nsd")
    return write_nsd_miniature(
        folder, (SUBJECT,), sessions=SESSIONS, trials=TRIALS, shared=7, picture=20, formats=(".nii.gz", ".hdf5")
    )


@pytest.fixture
def nsd(original, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(original, tmp_path / "nsd")


def betas_folder(root):
    return root / "nsddata_betas" / "ppdata" / SUBJECT / "func1pt8mm" / "betas_fithrf_GLMdenoise_RR"


def roi_volume(root, name):
    return root / "nsddata" / "ppdata" / SUBJECT / "func1pt8mm" / "roi" / f"{name}.nii.gz"


def by_hand(root):
    """Trials (session, trial, voxel), nsdId of each trial, mask, table of pictures by nsdId: with nothing of ours."""
    mask = nibabel.load(roi_volume(root, "nsdgeneral")).get_fdata() == 1
    paths = [betas_folder(root) / f"betas_session{n:02d}.nii.gz" for n in range(1, SESSIONS + 1)]
    trials = np.stack([nibabel.load(path).get_fdata()[mask].T / 300 for path in paths])
    design = loadmat(root / EXPERIMENT / "nsd_expdesign.mat")
    order = design["masterordering"][0].astype(int)
    nsd_ids = design["subjectim"][int(SUBJECT[-1]) - 1][order - 1].astype(int) - 1
    with open(root / EXPERIMENT / "nsd_stim_info_merged.csv", newline="") as file:
        table = {int(row["nsdId"]): row for row in csv.DictReader(file)}
    return trials, nsd_ids.reshape(SESSIONS, TRIALS), mask, table


def average(trials, nsd_ids):
    flat = trials.reshape(-1, trials.shape[-1])
    ids = list(dict.fromkeys(nsd_ids.ravel().tolist()))
    return ids, np.stack([flat[nsd_ids.ravel() == nsd_id].mean(axis=0) for nsd_id in ids])


def test_raw_responses_equal_those_by_hand(nsd):
    trials, nsd_ids, mask, table = by_hand(nsd)
    ids, expected = average(trials, nsd_ids)
    found = read_nsd(nsd, SUBJECT, zscore=None)
    np.testing.assert_array_equal(found["nsd_id"], ids)
    np.testing.assert_allclose(found["response"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.stack([found[axis].values for axis in "ijk"], 1), np.argwhere(mask))
    np.testing.assert_allclose(
        found.attrs["affine"].reshape(4, 4), nibabel.load(roi_volume(nsd, "nsdgeneral")).affine, atol=1e-6
    )
    assert tuple(found.attrs["grid_shape"]) == mask.shape
    assert len(set(mask.shape) | {TRIALS}) == 4
    assert found["image_id"].values[0] == f"nsd-{ids[0]:05d}"
    np.testing.assert_array_equal(found["coco_id"], [int(table[i]["cocoId"]) for i in ids])
    np.testing.assert_array_equal(found["coco_split"], [table[i]["cocoSplit"] for i in ids])
    boxes = [[float(part) for part in table[i]["cropBox"].strip("()").split(",")] for i in ids]
    np.testing.assert_array_equal(found["crop_box"], boxes)
    shared = [table[i]["shared1000"] == "True" for i in ids]
    assert 0 < sum(shared) < len(ids)
    np.testing.assert_array_equal(found["split"] == "test", shared)
    np.testing.assert_array_equal(found["repeats"], [(nsd_ids == i).sum() for i in ids])
    assert found.attrs["zscore"] == "none"
    assert found.attrs["subject"] == f"nsd-{SUBJECT}"


def test_the_order_of_pictures_is_that_of_the_picture_table(nsd):
    trials, _, _, table = by_hand(nsd)
    flat = trials.reshape(-1, trials.shape[-1])
    found = read_nsd(nsd, SUBJECT, zscore=None)
    for nsd_id, row in table.items():
        shown = [int(row[f"subject{SUBJECT[-1]}_rep{repeat}"]) for repeat in range(3)]
        if rows := [trial - 1 for trial in shown if trial]:  # from 1 in the table
            ours = found["response"].isel(image=int(np.flatnonzero(found["nsd_id"] == nsd_id)[0]))
            np.testing.assert_allclose(ours, flat[rows].mean(axis=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["session", "context"])
def test_z_scores_equal_those_by_hand(nsd, mode):
    trials, nsd_ids, _, table = by_hand(nsd)
    for values, ids in zip(trials, nsd_ids, strict=True):
        used = np.array([mode == "session" or table[i]["shared1000"] == "False" for i in ids])
        values[:] = (values - values[used].mean(axis=0)) / values[used].std(axis=0)
    found = read_nsd(nsd, SUBJECT, zscore=mode)
    np.testing.assert_allclose(found["response"], average(trials, nsd_ids)[1], rtol=1e-4, atol=1e-4)
    assert found.attrs["zscore"] == mode


def test_context_z_scores_do_not_see_test_trials(nsd):
    before = read_nsd(nsd, SUBJECT, zscore="context")
    _, nsd_ids, _, table = by_hand(nsd)
    for n in range(SESSIONS):
        with h5py.File(betas_folder(nsd) / f"betas_session{n + 1:02d}.hdf5", "r+") as file:
            for trial, nsd_id in enumerate(nsd_ids[n]):
                if table[nsd_id]["shared1000"] == "True":
                    file["betas"][trial] = 3 * file["betas"][trial]
    after = read_nsd(nsd, SUBJECT, zscore="context")
    context = before["split"].values == "context"
    np.testing.assert_array_equal(after["response"][context], before["response"][context])
    assert (after["response"][~context] != before["response"][~context]).any()


def test_both_formats_give_the_same(nsd):
    from_hdf5 = read_nsd(nsd, SUBJECT)
    for file in betas_folder(nsd).glob("*.hdf5"):
        file.unlink()
    xr.testing.assert_identical(read_nsd(nsd, SUBJECT), from_hdf5)


@pytest.mark.parametrize("chunks", [None, (1, 11, 13, 8), (7, 2, 13, 8), (TRIALS, 3, 5, 8)])
def test_hdf5_may_be_chunked_in_any_way(nsd, chunks):
    expected = read_nsd(nsd, SUBJECT)
    for path in betas_folder(nsd).glob("*.hdf5"):
        with h5py.File(path, "r+") as file:
            values = file["betas"][()]
            assert values.shape == (TRIALS, 11, 13, 7)
            del file["betas"]
            file.create_dataset("betas", data=values, chunks=chunks and tuple(map(min, chunks, values.shape)))
    xr.testing.assert_identical(read_nsd(nsd, SUBJECT), expected)


def test_trials_are_kept_in_order_and_ceilings_come_from_them(nsd):
    trials, nsd_ids, _, _ = by_hand(nsd)
    flat = trials.reshape(-1, trials.shape[-1])
    found = read_nsd(nsd, SUBJECT, zscore=None, trials=True, noise_ceiling="repeats")
    cube = found["response_trials"].values
    for row, nsd_id in enumerate(found["nsd_id"].values):
        shown = flat[nsd_ids.ravel() == nsd_id]
        np.testing.assert_allclose(cube[row, : len(shown)], shown, rtol=1e-5, atol=1e-5)
        assert np.isnan(cube[row, len(shown) :]).all()
    np.testing.assert_allclose(found["noise_ceiling"], noise_ceiling_from_repeats(cube), atol=1e-6)
    halves = read_nsd(nsd, SUBJECT, zscore=None, noise_ceiling="split_half")
    expected = np.clip(split_half_reliability(cube), 0, 1)
    np.testing.assert_allclose(halves["noise_ceiling"], expected, atol=1e-5)
    assert "response_trials" not in halves
    assert halves.attrs["noise_ceiling"] == "split_half"


def test_ceiling_from_ncsnr_by_hand(nsd):
    ratio = nibabel.load(betas_folder(nsd) / "ncsnr.nii.gz").get_fdata()
    found = read_nsd(nsd, SUBJECT)
    _, nsd_ids, mask, _ = by_hand(nsd)
    counts = np.unique(nsd_ids, return_counts=True)[1]
    expected = ratio[mask] ** 2 / (ratio[mask] ** 2 + (1 / counts).mean())
    np.testing.assert_allclose(found["noise_ceiling"], expected, rtol=1e-5)


def test_areas_are_named_by_the_label_tables(nsd):
    mask = nibabel.load(roi_volume(nsd, "nsdgeneral")).get_fdata() == 1
    prf, faces = (nibabel.load(roi_volume(nsd, n)).get_fdata()[mask] for n in ("prf-visualrois", "floc-faces"))
    found = read_nsd(nsd, SUBJECT)
    names = np.select(
        [prf == 1, prf == 2, prf == 3, faces == 1, faces == 2], ["V1v", "V1d", "V2v", "OFA", "FFA-1"], "other"
    )
    np.testing.assert_array_equal(found["roi"], names)
    np.testing.assert_array_equal(found["roi_floc_faces"] == "OFA", faces == 1)
    only = read_nsd(nsd, SUBJECT, rois=["floc-faces"])
    assert set(only["roi"].values) == {"OFA", "FFA-1", "other"}
    (nsd / "nsddata" / "freesurfer" / "fsaverage").mkdir()
    labels = nsd / "nsddata" / "freesurfer" / SUBJECT / "label"
    labels.rename(nsd / "nsddata" / "freesurfer" / "fsaverage" / "label")
    np.testing.assert_array_equal(read_nsd(nsd, SUBJECT)["roi"], names)


def test_sessions_can_be_chosen(nsd):
    trials, nsd_ids, _, _ = by_hand(nsd)
    found = read_nsd(nsd, SUBJECT, sessions=[3, 1], zscore=None)
    ids, expected = average(trials[[0, 2]], nsd_ids[[0, 2]])
    np.testing.assert_array_equal(found["nsd_id"], ids)
    np.testing.assert_allclose(found["response"], expected, rtol=1e-5, atol=1e-5)
    assert found.attrs["sessions"] == "01 03"


def test_exported_pictures_give_their_hashes(nsd, tmp_path):
    plain = read_nsd(nsd, SUBJECT)
    files = export_nsd_pictures(nsd, tmp_path / "pictures", sorted(plain["nsd_id"].values.tolist()))
    with h5py.File(nsd / "nsddata_stimuli/stimuli/nsd/nsd_stimuli.hdf5") as file:
        first = int(files[0].stem[4:])
        np.testing.assert_array_equal(np.asarray(Image.open(files[0])), file["imgBrick"][first])
    hashed = read_nsd(nsd, SUBJECT, pictures=tmp_path / "pictures")
    for row, name in enumerate(hashed["image_file"].values):
        assert hashed["image_id"].values[row] == read_picture(tmp_path / "pictures" / name)[0]
        assert name == f"nsd-{plain['nsd_id'].values[row]:05d}.png"
    np.testing.assert_array_equal(hashed["response"], plain["response"])
    files[3].unlink()
    with pytest.raises(braincl.ResponseError, match=rf"{files[3].name} is missing.*export_nsd_pictures"):
        read_nsd(nsd, SUBJECT, pictures=tmp_path / "pictures")


def test_pictures_that_cannot_be_written_are_not_blamed_on_the_source(nsd, tmp_path):
    (tmp_path / "pictures" / "nsd-00000.png").mkdir(parents=True)
    with pytest.raises(InputError, match=r"nsd-00000.png is a folder; name a file"):
        export_nsd_pictures(nsd, tmp_path / "pictures", [0])


def test_a_set_survives_its_file(nsd, tmp_path):
    found = read_nsd(nsd, SUBJECT, trials=True)
    braincl.save_responses(found, tmp_path / "s.nc")
    back = braincl.open_responses(tmp_path / "s.nc", require_embedding=False)
    xr.testing.assert_equal(back, found)
    assert back.attrs["zscore"] == "session"


def test_voxels_without_data_in_a_session_are_left_out(nsd):
    before = read_nsd(nsd, SUBJECT)
    gone = {axis: int(before[axis][5]) for axis in "ijk"}
    with h5py.File(betas_folder(nsd) / "betas_session02.hdf5", "r+") as file:
        file["betas"][:, gone["k"], gone["j"], gone["i"]] = 0
    after = read_nsd(nsd, SUBJECT)
    assert after.attrs["dropped_voxels"] == 1
    xr.testing.assert_equal(after, before.isel(voxel=np.arange(before.sizes["voxel"]) != 5))


def test_missing_sessions_are_named(nsd):
    for suffix in (".hdf5", ".nii.gz"):
        (betas_folder(nsd) / f"betas_session02{suffix}").unlink()
    with pytest.raises(braincl.ResponseError, match=r"session 02 is missing \(there are 01, 03\)"):
        read_nsd(nsd, SUBJECT)
    with pytest.raises(braincl.ResponseError, match="session 02, 04 is missing"):
        read_nsd(nsd, SUBJECT, sessions=[1, 2, 4])
    assert read_nsd(nsd, SUBJECT, sessions=[1, 3]).sizes["image"] > 0
    with pytest.raises(braincl.ResponseError, match="list of sessions is empty"):
        read_nsd(nsd, SUBJECT, sessions=[])
    shutil.rmtree(betas_folder(nsd))
    with pytest.raises(braincl.ResponseError, match=r"no betas_sessionNN.*braincl data check nsd"):
        read_nsd(nsd, SUBJECT)


def test_a_mask_of_another_shape_or_affine(nsd, tmp_path):
    image = nibabel.load(roi_volume(nsd, "nsdgeneral"))
    values = np.asarray(image.dataobj)
    nibabel.save(nibabel.Nifti1Image(values[:, :, :-1], image.affine), tmp_path / "small.nii.gz")
    nibabel.save(nibabel.Nifti1Image(values, np.diag([2, 2, 2, 1.0])), tmp_path / "moved.nii.gz")
    for rois in (None, []):  # the volumes of labels disagree first; without them the betas
        with pytest.raises(braincl.ResponseError, match=r"does not fit the grid|the mask's grid"):
            read_nsd(nsd, SUBJECT, mask=tmp_path / "small.nii.gz", rois=rois, noise_ceiling=None)
    for file in betas_folder(nsd).glob("*.hdf5"):  # these have no affine
        file.unlink()
    with pytest.raises(braincl.ResponseError, match="affine differs"):
        read_nsd(nsd, SUBJECT, mask=tmp_path / "moved.nii.gz", rois=[], noise_ceiling=None)
    with pytest.raises(braincl.ResponseError, match="nowhere is missing"):
        read_nsd(nsd, SUBJECT, mask="nowhere")


def test_label_tables_that_disagree_with_the_volume(nsd):
    table = nsd / "nsddata" / "freesurfer" / SUBJECT / "label" / "prf-visualrois.mgz.ctab"
    table.write_text("0 Unknown\n1 V1v\n2 V1d\n")
    with pytest.raises(
        braincl.ResponseError, match=r"label 3, which .*prf-visualrois\.mgz\.ctab does not name.*0 to 2"
    ):
        read_nsd(nsd, SUBJECT)
    table.write_text("V1v 1\n")
    with pytest.raises(braincl.ResponseError, match="not a number and a name"):
        read_nsd(nsd, SUBJECT)
    table.unlink()
    with pytest.raises(braincl.ResponseError, match="is missing: names of the labels"):
        read_nsd(nsd, SUBJECT)


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (0, 3, 2, 1)])
def test_swapped_axes_in_hdf5(nsd, order):
    path = betas_folder(nsd) / "betas_session01.hdf5"
    with h5py.File(path, "r+") as file:
        values = file["betas"][()]
        del file["betas"]
        file["betas"] = values.transpose(order)
    message = "axes are swapped, write it transposed" if order == (3, 2, 1, 0) else r"\(trial, k, j, i\) on the mask's"
    with pytest.raises(braincl.ResponseError, match=message):
        read_nsd(nsd, SUBJECT)


def test_damaged_betas(nsd):
    folder = betas_folder(nsd)
    path = folder / "betas_session03.hdf5"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(braincl.ResponseError, match=r"betas_session03\.hdf5 is not a readable HDF5"):
        read_nsd(nsd, SUBJECT)
    for file in folder.glob("*.hdf5"):
        file.unlink()
    path = folder / "betas_session02.nii.gz"
    image = nibabel.load(path)
    values = np.asarray(image.dataobj)
    nibabel.save(nibabel.Nifti1Image((values / 300).astype("f4"), image.affine), path)
    with pytest.raises(braincl.ResponseError, match="betas are float32; NSD stores int16"):
        read_nsd(nsd, SUBJECT)
    nibabel.save(nibabel.Nifti1Image(values[..., :-1], image.affine), path)
    with pytest.raises(braincl.ResponseError, match=rf"holds {TRIALS - 1} trials, the design has {TRIALS}"):
        read_nsd(nsd, SUBJECT)
    whole = nibabel.Nifti1Image(values, image.affine).to_bytes()
    path.write_bytes(gzip.compress(whole[: len(whole) // 2]))  # the header claims more than the file has
    with pytest.raises(braincl.ResponseError, match=r"betas_session02.*may be truncated"):
        read_nsd(nsd, SUBJECT)


def test_design_and_picture_table_must_agree(nsd):
    design = nsd / EXPERIMENT / "nsd_expdesign.mat"
    arrays = {name: value for name, value in loadmat(design).items() if name[:2] != "__"}
    whole = design.read_bytes()
    changed = arrays["masterordering"].copy()
    changed[0, :2] = changed[0, 1::-1]
    assert changed[0, 0] != changed[0, 1]
    savemat(design, arrays | {"masterordering": changed})
    with pytest.raises(braincl.ResponseError, match="disagree: trial 1 of subj02"):
        read_nsd(nsd, SUBJECT)
    savemat(design, arrays | {"sharedix": arrays["sharedix"] + 1})
    with pytest.raises(braincl.ResponseError, match="disagree on the shared pictures"):
        read_nsd(nsd, SUBJECT)
    savemat(design, {name: value for name, value in arrays.items() if name != "subjectim"})
    with pytest.raises(braincl.ResponseError, match="variable subjectim is missing"):
        read_nsd(nsd, SUBJECT)
    design.write_bytes(whole[:300])
    with pytest.raises(braincl.ResponseError, match="not a readable MATLAB file"):
        read_nsd(nsd, SUBJECT)
    design.unlink()
    with h5py.File(design, "w", userblock_size=512) as file:  # as MATLAB 7.3 writes it
        for name, value in arrays.items():
            file[name] = value.T
    with open(design, "r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    assert read_nsd(nsd, SUBJECT).sizes["image"] > 0
    table = nsd / EXPERIMENT / "nsd_stim_info_merged.csv"
    text = table.read_text()
    table.write_text(text.replace("cropBox", "crop"))
    with pytest.raises(braincl.ResponseError, match="column cropBox is missing"):
        read_nsd(nsd, SUBJECT)
    table.write_text(text[: len(text) // 2])
    with pytest.raises(braincl.ResponseError, match=r"not as long as the head|does not list nsdId"):
        read_nsd(nsd, SUBJECT)


def test_wrong_options(nsd):
    with pytest.raises(braincl.ResponseError, match="'S1' is not one of NSD; choose one of subj01"):
        read_nsd(nsd, "S1")
    with pytest.raises(braincl.ResponseError, match="zscore is 'run'; choose one of 'session', 'context', None"):
        read_nsd(nsd, SUBJECT, zscore="run")
    with pytest.raises(braincl.ResponseError, match="is not a folder"):
        read_nsd(nsd / "nowhere", SUBJECT)
    (betas_folder(nsd) / "ncsnr.nii.gz").unlink()
    with pytest.raises(braincl.ResponseError, match=r"ncsnr\.nii\.gz is missing.*'repeats' or None"):
        read_nsd(nsd, SUBJECT)
