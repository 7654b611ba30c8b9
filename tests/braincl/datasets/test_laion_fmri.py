"""The reader of LAION-fMRI on a miniature in its layout; expected values are computed by hand from the raw arrays."""

import csv
import json
import shutil

import h5py
import nibabel
import numpy as np
import pytest
import xarray as xr
from PIL import Image

import braincl
from braincl.cli.main import main
from braincl.datasets import read_laion_fmri
from braincl.datasets.laion_fmri_miniature import WIDTHS, write_laion_fmri_miniature
from braincl.embedding.embed import read_picture
from setcore.evaluation.noise_ceilings import noise_ceiling_from_repeats

SUBJECT, SESSIONS = "sub-03", 11
PICTURES = 21


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_laion_fmri_miniature(tmp_path_factory.mktemp("laion"), (SUBJECT,), sessions=SESSIONS)


@pytest.fixture
def laion(original, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(original, tmp_path / "laion")


def func(root, session):
    return root / "derivatives" / "glmsingle-tedana" / SUBJECT / f"ses-{session:02d}" / "func"


def betas_file(root, session):
    name = f"{SUBJECT}_ses-{session:02d}_task-images_space-T1w_stat-effect_desc-SingletrialBetas_statmap.nii.gz"
    return func(root, session) / name


def trials_file(root, session):
    return func(root, session) / f"{SUBJECT}_ses-{session:02d}_task-images_desc-SingletrialBetas_trials.tsv"


def subject_map(root, name):
    return (
        root / "derivatives" / "glmsingle-tedana" / SUBJECT / f"{SUBJECT}_task-images_space-T1w_{name}_statmap.nii.gz"
    )


def roi(root, category, label):
    folder = root / "derivatives" / "rois" / SUBJECT / category
    return nibabel.load(folder / f"{SUBJECT}_space-T1w_res-1pt8_label-{label}_mask.nii.gz").get_fdata() > 0


def by_hand(root, numbers=range(1, SESSIONS + 1)):
    """Betas (trial, voxel) and label of each trial, session by session, and the voxels: with nothing of ours."""
    mask = roi(root, "laion", "laiongeneral")
    volumes = [nibabel.load(betas_file(root, n)).get_fdata() for n in numbers]
    mask &= np.all([np.isfinite(volume).all(axis=-1) for volume in volumes], axis=0)
    labels = []
    for n in numbers:
        with open(trials_file(root, n), newline="") as file:
            labels.append([row["label"] for row in csv.DictReader(file, delimiter="\t")])
    return [volume[mask].T for volume in volumes], labels, mask


def average(betas, labels):
    flat, names = np.concatenate(betas), np.concatenate(labels)
    order = list(dict.fromkeys(names.tolist()))
    return order, np.stack([flat[names == name].mean(axis=0) for name in order])


def split_file(root, pool, name):
    return root / "laion_fmri" / "splits" / "data" / pool / f"{name}.json"


def test_raw_responses_equal_those_by_hand(laion):
    betas, labels, mask = by_hand(laion)
    assert len({len(of) for of in labels}) == 2  # sessions of different length
    names, expected = average(betas, labels)
    found = read_laion_fmri(laion, SUBJECT, zscore=None)
    np.testing.assert_array_equal(found["image_id"], names)
    np.testing.assert_array_equal(found["image_file"], names)
    np.testing.assert_allclose(found["response"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(np.stack([found[axis].values for axis in "ijk"], 1), np.argwhere(mask))
    assert len(set(mask.shape) | {len(labels[0])}) == 4
    assert tuple(found.attrs["grid_shape"]) == mask.shape
    affine = nibabel.load(betas_file(laion, 1)).affine
    np.testing.assert_allclose(found.attrs["affine"].reshape(4, 4), affine, atol=1e-6)
    np.testing.assert_array_equal(found["repeats"], [12 if "12rep" in name else 4 for name in names])
    assert found.attrs["sessions"] == "01 02 03 04 05 06 07 08 09 10 11"
    assert found.attrs["dropped_voxels"] == 1  # without data in session 2
    assert (found.attrs["subject"], found.attrs["dataset"]) == (f"laion-fmri-{SUBJECT}", "laion-fmri")
    assert "split" not in found.coords
    assert "embedding" not in found


def test_session_2_comes_before_session_10_whatever_the_zeros(laion):
    """The first picture of a set is that of the first session read."""
    expected = read_laion_fmri(laion, SUBJECT, sessions=[10, 2], zscore=None)
    betas, labels, _ = by_hand(laion, (2, 10))
    names, values = average(betas, labels)
    np.testing.assert_array_equal(expected["image_id"], names)
    np.testing.assert_allclose(expected["response"], values, rtol=1e-5, atol=1e-5)
    for file in sorted(func(laion, 2).iterdir()):
        file.rename(file.with_name(file.name.replace("ses-02", "ses-2")))
    func(laion, 2).parent.rename(func(laion, 2).parents[1] / "ses-2")
    xr.testing.assert_identical(read_laion_fmri(laion, SUBJECT, sessions=[10, 2], zscore=None), expected)


def test_volumes_are_numbered_by_beta_index(laion):
    expected = read_laion_fmri(laion, SUBJECT)
    head, *rows = trials_file(laion, 3).read_text().splitlines()
    trials_file(laion, 3).write_text("\n".join([head, *rows[::-1]]) + "\n")
    xr.testing.assert_identical(read_laion_fmri(laion, SUBJECT), expected)


def test_z_scores_and_trials_equal_those_by_hand(laion):
    betas, labels, _ = by_hand(laion)
    standard = [(values - values.mean(axis=0)) / values.std(axis=0) for values in betas]
    names, expected = average(standard, labels)
    found = read_laion_fmri(laion, SUBJECT, trials=True, noise_ceiling="repeats")
    np.testing.assert_allclose(found["response"], expected, rtol=1e-4, atol=1e-4)
    cube = found["response_trials"].values
    assert cube.shape[:2] == (PICTURES, 12)
    flat, shown = np.concatenate(standard), np.concatenate(labels)
    for row, name in enumerate(names):
        own = flat[shown == name]
        np.testing.assert_allclose(cube[row, : len(own)], own, rtol=1e-4, atol=1e-4)
        assert np.isnan(cube[row, len(own) :]).all()
    np.testing.assert_allclose(found["noise_ceiling"], noise_ceiling_from_repeats(cube), atol=1e-6)


def test_ceilings_are_those_of_the_trials_that_are_averaged(laion):
    """The map is of four trials: share c of the variance is signal, so that one trial has noise 4 (1 - c) / c."""
    _, labels, mask = by_hand(laion)
    share = nibabel.load(subject_map(laion, "desc-Noiseceiling4rep")).get_fdata()[mask] / 100
    counts = np.unique(np.concatenate(labels), return_counts=True)[1]
    noise = 4 * (1 - share) / share
    found = read_laion_fmri(laion, SUBJECT)
    np.testing.assert_allclose(found["noise_ceiling"], 1 / (1 + noise * (1 / counts).mean()), rtol=1e-4)
    image = nibabel.load(subject_map(laion, "desc-Noiseceiling4rep"))
    shares = nibabel.Nifti1Image((image.get_fdata() / 100).astype("f4"), image.affine)
    nibabel.save(shares, subject_map(laion, "desc-Noiseceiling4rep"))
    with pytest.raises(braincl.ResponseError, match=r"runs from .*; percent of variance, 0 to 100.*--noise-ceiling"):
        read_laion_fmri(laion, SUBJECT)
    subject_map(laion, "desc-Noiseceiling4rep").unlink()
    with pytest.raises(braincl.ResponseError, match=r"Noiseceiling4rep.* is missing.*'repeats' or None"):
        read_laion_fmri(laion, SUBJECT)
    assert "noise_ceiling" not in read_laion_fmri(laion, SUBJECT, noise_ceiling=None).coords


def test_areas_by_hand(laion):
    _, _, mask = by_hand(laion)
    inside = {
        (category, label): roi(laion, category, label)[mask]
        for category, label in (
            ("retinotopy", "V1v"), ("retinotopy", "V1d"), ("retinotopy", "hV4"), ("face", "OFA"), ("face", "FFA-1"),
        )
    }  # fmt: skip
    retinotopy = [inside["retinotopy", label] for label in ("V1v", "V1d", "hV4")]
    face = [inside["face", label] for label in ("OFA", "FFA-1")]
    assert (inside["retinotopy", "hV4"] & inside["face", "OFA"]).any()
    found = read_laion_fmri(laion, SUBJECT)
    np.testing.assert_array_equal(found["roi_retinotopy"], np.select(retinotopy, ["V1v", "V1d", "hV4"], ""))
    np.testing.assert_array_equal(found["roi_face"], np.select(face, ["OFA", "FFA1"], ""))
    parts = [roi(laion, "laion", label)[mask] for label in ("laion-EVC", "laion-ventral")]
    laion_names = np.select(parts, ["laionEVC", "laionventral"], "laiongeneral")
    np.testing.assert_array_equal(found["roi_laion"], laion_names)
    expected = np.select(retinotopy + face, ["V1v", "V1d", "hV4", "OFA", "FFA1"], laion_names)
    np.testing.assert_array_equal(found["roi"], expected)
    faces = read_laion_fmri(laion, SUBJECT, rois=["face"])
    assert set(faces["roi"].values) == {"OFA", "FFA1", "other"}
    assert "roi" not in read_laion_fmri(laion, SUBJECT, rois=[]).coords
    with pytest.raises(braincl.ResponseError, match="category of rois is 'faces'; choose one of 'face', 'laion'"):
        read_laion_fmri(laion, SUBJECT, rois=["faces"])


def test_masks_by_label_by_map_and_by_path(laion, tmp_path):
    v1 = read_laion_fmri(laion, SUBJECT, mask="V1v", sessions=[1])  # all voxels have data in it
    inside = roi(laion, "retinotopy", "V1v")
    np.testing.assert_array_equal(np.stack([v1[axis] for axis in "ijk"], 1), np.argwhere(inside))
    for name in ("FFA-1", "FFA1"):
        assert read_laion_fmri(laion, SUBJECT, mask=name).sizes["voxel"] == roi(laion, "face", "FFA-1").sum()
    whole = read_laion_fmri(laion, SUBJECT, mask="R2mean")
    brain = nibabel.load(subject_map(laion, "stat-rsquare_desc-R2mean")).get_fdata() > 0
    assert whole.sizes["voxel"] + whole.attrs["dropped_voxels"] == brain.sum()
    path = tmp_path / "one.nii.gz"
    image = nibabel.load(subject_map(laion, "stat-rsquare_desc-R2mean"))
    nibabel.save(nibabel.Nifti1Image(brain[..., :-1].astype("u1"), image.affine), path)
    with pytest.raises(braincl.ResponseError, match="does not fit the grid"):
        read_laion_fmri(laion, SUBJECT, mask=path)
    with pytest.raises(braincl.ResponseError, match=r"nowhere is missing: .*R2mean, or a label \(.*V1v"):
        read_laion_fmri(laion, SUBJECT, mask="nowhere")


@pytest.mark.parametrize("model", list(WIDTHS))
def test_embeddings_are_those_of_each_picture(laion, model):
    found = read_laion_fmri(laion, SUBJECT, embedding=model)
    with h5py.File(laion / "stimuli" / f"task-images_desc-{model}_embeddings.h5") as file:
        rows = {name.decode(): row for row, name in enumerate(file["image_ids"][()])}
        expected = np.stack([file["embedding"][rows[name]] for name in found["image_id"].values])
    np.testing.assert_array_equal(found["embedding"], expected.astype("f4"))
    assert found.sizes["feature"] == WIDTHS[model]
    assert found.attrs["backbone"] == f"laion-fmri-{model}"
    assert found.attrs["normalization"] == ("none" if model == "DINOv2" else "unit norm")
    assert braincl.open_responses(found).sizes["image"] == PICTURES


def test_embeddings_of_other_pictures_are_refused(laion):
    path = laion / "stimuli" / "task-images_desc-CLIP_embeddings.h5"
    name = read_laion_fmri(laion, SUBJECT)["image_id"].values[2]
    with h5py.File(path, "r+") as file:
        row = [label.decode() for label in file["image_ids"][()]].index(name)
        file["valid"][row] = False
    with pytest.raises(braincl.ResponseError, match=rf"no valid embedding of 1 of 21 pictures, such as {name}"):
        read_laion_fmri(laion, SUBJECT, embedding="CLIP")
    with h5py.File(path, "r+") as file:
        kept = file["embedding"][:-1]
        del file["embedding"]
        file["embedding"] = kept
    with pytest.raises(braincl.ResponseError, match=r"embedding has shape \(20, 10\), valid \(21,\), for 21 image_ids"):
        read_laion_fmri(laion, SUBJECT, embedding="CLIP")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(braincl.ResponseError, match="does not hold embeddings of LAION-fMRI"):
        read_laion_fmri(laion, SUBJECT, embedding="CLIP")
    path.unlink()
    with pytest.raises(braincl.ResponseError, match=r"is missing: embeddings of CLIP.*download-embeddings"):
        read_laion_fmri(laion, SUBJECT, embedding="CLIP")
    with pytest.raises(braincl.ResponseError, match="embedding is 'clip'; choose one of 'CLIP', 'DINOv2'"):
        read_laion_fmri(laion, SUBJECT, embedding="clip")


def test_a_split_keeps_its_pictures_only(tmp_path):
    """z-scores and repeats then are of those pictures' trials."""
    laion = write_laion_fmri_miniature(tmp_path, (SUBJECT,), sessions=3)
    path = split_file(laion, "shared", "tau")
    of = json.loads(path.read_text())["variants"][0]
    assert (len(of["train_ids"]), len(of["test_ids"])) == (4, 1)
    betas, labels, _ = by_hand(laion, (1, 2, 3))
    listed = of["train_ids"] + of["test_ids"]
    kept = [[label in listed for label in names] for names in labels]
    betas = [values[at] for values, at in zip(betas, kept, strict=True)]
    labels = [np.array(names)[at] for names, at in zip(labels, kept, strict=True)]
    for mode in ("session", "context"):
        standard = []
        for values, names in zip(betas, labels, strict=True):
            used = values if mode == "session" else values[np.isin(names, of["train_ids"])]
            standard.append((values - used.mean(axis=0)) / used.std(axis=0))
        names, expected = average(standard, labels)
        found = read_laion_fmri(laion, SUBJECT, split=path, zscore=mode)
        np.testing.assert_array_equal(found["image_id"], names)
        np.testing.assert_allclose(found["response"], expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found["split"] == "test", np.isin(names, of["test_ids"]))
    assert "16 pictures are in neither list" in found.attrs["notes"]


def test_splits_are_found_in_the_package_by_name(laion, monkeypatch):
    with pytest.raises(braincl.ResponseError, match=rf"pip install.*the file {SUBJECT}/ood\.json"):
        read_laion_fmri(laion, SUBJECT, split="ood")
    (laion / "laion_fmri" / "__init__.py").write_text("raise ImportError('nobody needs to import it')\n")
    monkeypatch.syspath_prepend(laion)
    found = read_laion_fmri(laion, SUBJECT, split="ood")
    np.testing.assert_array_equal(found["split"] == "test", ["OOD" in name for name in found["image_id"].values])
    assert found.sizes["image"] == PICTURES
    shared = read_laion_fmri(laion, SUBJECT, split="ood", pool="shared")
    assert shared.sizes["image"] == 5 + 3
    assert shared.attrs["split_source"] == "shared/ood"
    pooled = read_laion_fmri(laion, SUBJECT, split="tau", pool="pooled")
    test = json.loads(split_file(laion, "pooled", "tau").read_text())["variants"][0]["test_ids"]
    np.testing.assert_array_equal(pooled["split"] == "test", np.isin(pooled["image_id"], test))
    assert pooled.sizes["image"] == PICTURES - 3
    with pytest.raises(braincl.ResponseError, match="split of pooled is 'ood'; choose one of 'tau', 'cluster_k5_0'"):
        read_laion_fmri(laion, SUBJECT, split="ood", pool="pooled")
    with pytest.raises(braincl.ResponseError, match=rf"split of {SUBJECT} is 'oo'; choose one of 'tau'"):
        read_laion_fmri(laion, SUBJECT, split="oo")
    with pytest.raises(braincl.ResponseError, match="pool is 'sub-02'; choose one of 'shared', 'sub-01'"):
        read_laion_fmri(laion, SUBJECT, split="ood", pool="sub-02")
    path = split_file(laion, SUBJECT, "tau")
    whole = json.loads(path.read_text())
    first = whole["variants"][0]
    path.write_text(json.dumps({"variants": [first | {"test_ids": first["train_ids"][:1]}]}))
    with pytest.raises(braincl.ResponseError, match="is in train_ids and in test_ids"):
        read_laion_fmri(laion, SUBJECT, split="tau")
    path.write_text(json.dumps({"variants": [first | {"train_ids": ["a.jpg"], "test_ids": ["b.jpg"]}]}))
    with pytest.raises(braincl.ResponseError, match=f"tau lists none of the pictures that {SUBJECT} saw"):
        read_laion_fmri(laion, SUBJECT, split="tau")
    for text in ("[1]", '{"variants": []}', '{"variants": [{"variant_id": 0}]}', "{"):
        path.write_text(text)
        with pytest.raises(braincl.ResponseError, match="is not a split of LAION-fMRI"):
            read_laion_fmri(laion, SUBJECT, split=path)
    with pytest.raises(braincl.ResponseError, match=r"absent\.json is missing"):
        read_laion_fmri(laion, SUBJECT, split="absent.json")


def test_picture_files_give_their_hashes(laion, tmp_path):
    plain = read_laion_fmri(laion, SUBJECT, embedding="DINOv2")
    for number, name in enumerate(plain["image_id"].values):
        Image.new("RGB", (4, 5), (number, 9, 11 * number)).save(tmp_path / name)
    hashed = read_laion_fmri(laion, SUBJECT, embedding="DINOv2", pictures=tmp_path)
    names = hashed["image_file"].values
    np.testing.assert_array_equal(hashed["image_id"], [read_picture(tmp_path / name)[0] for name in names])
    np.testing.assert_array_equal(hashed["embedding"], plain["embedding"])
    (tmp_path / names[4]).unlink()
    with pytest.raises(braincl.ResponseError, match="is missing: a picture that trials name"):
        read_laion_fmri(laion, SUBJECT, pictures=tmp_path)


def test_a_missing_trial_is_refused(laion):
    head, *rows = trials_file(laion, 4).read_text().splitlines()
    path = trials_file(laion, 4)
    path.write_text("\n".join([head, *rows[:-1]]) + "\n")
    message = rf"holds {len(rows)} trials, .*ses-04.*lists {len(rows) - 1}; they are of different versions"
    with pytest.raises(braincl.ResponseError, match=message):
        read_laion_fmri(laion, SUBJECT)
    path.write_text("\n".join([head, *rows[:-1], rows[0]]) + "\n")
    with pytest.raises(braincl.ResponseError, match=rf"beta_index must be the numbers 0 to {len(rows) - 1}, each once"):
        read_laion_fmri(laion, SUBJECT)
    path.write_text("\n".join([head, *rows[:-1], "ses-04\trun-01\tlast\tx.jpg"]) + "\n")
    with pytest.raises(braincl.ResponseError, match="beta_index is not a whole number"):
        read_laion_fmri(laion, SUBJECT)
    path.write_text("\n".join([head, *rows[:-1], f"ses-04\trun-01\t{len(rows) - 1}\tn/a"]) + "\n")
    with pytest.raises(braincl.ResponseError, match=rf"volume {len(rows) - 1} has no label"):
        read_laion_fmri(laion, SUBJECT)
    path.write_text("\n".join([head.replace("label", "image"), *rows]) + "\n")
    with pytest.raises(braincl.ResponseError, match="column label is missing"):
        read_laion_fmri(laion, SUBJECT)
    path.unlink()
    with pytest.raises(braincl.ResponseError, match=r"trials\.tsv is missing: which pictures the volumes"):
        read_laion_fmri(laion, SUBJECT)


def test_missing_sessions_subjects_and_damaged_betas(laion):
    with pytest.raises(braincl.ResponseError, match="subject is 'sub-02'; choose one of 'sub-01', 'sub-03'"):
        read_laion_fmri(laion, "sub-02")
    with pytest.raises(braincl.ResponseError, match=r"no betas of sub-07 .*braincl data check laion-fmri"):
        read_laion_fmri(laion, "sub-07")
    with pytest.raises(braincl.ResponseError, match="list of sessions is empty"):
        read_laion_fmri(laion, SUBJECT, sessions=[])
    betas_file(laion, 5).unlink()
    with pytest.raises(braincl.ResponseError, match=r"session 05 is missing \(there are 01, 02, 03, 04, 06"):
        read_laion_fmri(laion, SUBJECT)
    path = betas_file(laion, 1)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(braincl.ResponseError, match=r"ses-01.*may be truncated"):
        read_laion_fmri(laion, SUBJECT, sessions=[1])
    with pytest.raises(braincl.ResponseError, match="is not a folder"):
        read_laion_fmri(laion / "nowhere", SUBJECT)


def test_the_command_reads_and_checks(laion, tmp_path, capsys):
    out = tmp_path / "s.nc"
    argv = ["data", "read", "laion-fmri", str(laion), "--subject", SUBJECT, "--out", str(out), "--json"]
    path = split_file(laion, "shared", "ood")
    assert main([*argv, "--embedding", "PEcore", "--split", str(path), "--mask", "laionventral"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 8
    expected = read_laion_fmri(laion, SUBJECT, embedding="PEcore", split=path, mask="laionventral")
    xr.testing.assert_equal(braincl.open_responses(out), expected)
    assert main(["data", "check", "laion-fmri", str(laion), "--subject", SUBJECT]) == 0
    assert f"betas: {SESSIONS} files" in capsys.readouterr().out
    assert main(["data", "check", "laion-fmri", str(laion), "--subject", "sub-07"]) == 2
    output = capsys.readouterr()
    assert "s3://laion-fmri/derivatives/glmsingle-tedana/sub-07/" in output.out
    assert output.err == f"braincl: {laion} lacks of laion-fmri: betas, trials, ROI masks\n"
    assert main(["data", "read", "laion-fmri", str(laion), "--subject", "sub-02", "--out", str(out)]) == 2
    assert "choose one of 'sub-01'" in capsys.readouterr().err
