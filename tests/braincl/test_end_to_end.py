"""The whole way in and out on the command line, `end_to_end.sh`, with a tiny image encoder at random weights."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import timm
import torch
import xarray as xr
from PIL import Image
from synthetic import make_responses, with_grid

import braincl
from braincl.data.pictures import list_pictures, read_picture
from braincl.evaluation.scores import METHODS
from setcore.checkpoint import save_tensors

SCRIPT = Path(__file__).with_name("end_to_end.sh")
ROOT = SCRIPT.parents[2]
IMAGES, FEATURES = 50, 64
# The command `braincl`, with an encoder of 0.4 million parameters beside those that users know.
COMMAND = """
import sys
from braincl.embedding.backbones import BACKBONES, Backbone
from braincl.cli.main import main
BACKBONES["tiny-vit"] = Backbone("tiny-vit", "timm", "test_vit.r160_in1k")
sys.exit(main())
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_tensors(path, timm.create_model("test_vit.r160_in1k", pretrained=False).state_dict())
    return path


def run(work, *arguments, **variables):
    command = work / "command.py"
    command.write_text(COMMAND)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BRAINCL": f"{sys.executable} {command}", **variables}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        ["bash", str(SCRIPT), str(work), *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_pictures_to_scores_and_nifti(weights, tmp_path):
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(IMAGES):
        Image.fromarray(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)).save(pictures / f"{number:02}.png")
    ids = [read_picture(file)[0] for file in list_pictures([pictures])]
    for seed, name in enumerate(("new", "a", "b")):
        made = make_responses(IMAGES, 9, seed=seed).drop_vars("embedding").drop_attrs()
        made = made.assign_coords(image_id=("image", ids)).assign_attrs(subject=name)
        braincl.save_responses(with_grid(made) if name == "new" else made, tmp_path / f"{name}.nc")
    out = run(
        tmp_path,
        pictures,
        weights,
        "tiny-vit",
        tmp_path / "new.nc",
        tmp_path / "a.nc",
        tmp_path / "b.nc",
        NIFTI="1",
    )
    assert "50 of 50 images have an embedding" in out

    subject = braincl.open_responses(tmp_path / "subject.nc")
    assert subject.sizes == {"image": IMAGES, "voxel": 9, "feature": FEATURES}
    assert subject.attrs["backbone"] == json.loads((tmp_path / "model" / "config.json").read_text())["backbone"]
    encoder = braincl.InContextEncoder.from_pretrained(tmp_path / "model")
    assert encoder.training_subjects == ["a", "b"]
    expected = encoder.fit(subject["embedding"].values, subject["response"].values).predict(subject["embedding"].values)
    predicted = xr.load_dataset(tmp_path / "prediction.nc", engine="h5netcdf")
    np.testing.assert_allclose(predicted["prediction"], expected, rtol=1e-4, atol=1e-4)
    volume = np.asarray(nibabel.load(tmp_path / "prediction.nii.gz").dataobj)
    np.testing.assert_allclose(volume[tuple(subject[axis].values for axis in "ijk")].T, predicted["prediction"])
    report = json.loads((tmp_path / "scores.json").read_text())
    assert [(row["method"], row["n"]) for row in report["results"]] == [
        (method, n) for n in (10, 20) for method in METHODS
    ]
    assert all(np.isfinite(row["pearson_r"]) for row in report["results"])


def test_v4_pictures_and_responses(shared_data, weights, tmp_path):
    """A session's pictures as they were shown and its real responses; the embedding given with them is put aside."""
    archive = shared_data / "v4_macaque" / "images_201025.zip"
    with zipfile.ZipFile(archive) as stored:
        names = sorted(name for name in stored.namelist() if name.endswith(".jpg"))[:80]
        stored.extractall(tmp_path / "pictures", names)
    real = braincl.open_responses(shared_data / "v4_macaque" / "v4_PE_201025.nc").drop_vars("embedding")
    for name, part in (("new", slice(0, None, 2)), ("other", slice(1, None, 2))):
        half = real.isel(voxel=part).assign_attrs(subject=name)  # two halves of one session's units: files, not science
        half.attrs.pop("backbone", None)
        braincl.save_responses(half, tmp_path / f"{name}.nc")
    out = run(
        tmp_path, tmp_path / "pictures", weights, "tiny-vit", tmp_path / "new.nc",
        tmp_path / "other.nc",
    )  # fmt: skip
    assert "of 1200 images have an embedding" in out
    subject = braincl.open_responses(tmp_path / "subject.nc")
    ids = {read_picture(file)[0] for file in list_pictures([tmp_path / "pictures"])}
    assert set(subject["image_id"].values) == ids & set(real["image_id"].values)
    assert subject.sizes["image"] == 80
    by_id = dict(zip(real["image_id"].values, real["response"].values[:, ::2], strict=True))
    np.testing.assert_array_equal(subject["response"], [by_id[image_id] for image_id in subject["image_id"].values])
    report = json.loads((tmp_path / "scores.json").read_text())
    assert report["images"] == 80
    assert not (tmp_path / "prediction.nii.gz").exists()
