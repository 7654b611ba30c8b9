"""The numbers of `notebooks/03_prepare_nsd.ipynb`, computed again by hand from the raw arrays of the miniature."""

import csv
import json
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pytest
from scipy.io import loadmat

NOTEBOOK = Path(__file__).resolve().parents[3] / "notebooks" / "03_prepare_nsd.ipynb"
SUBJECT = 7


@pytest.fixture(scope="module")
def names():
    """Everything that the notebook's cells define, run from top to bottom."""
    matplotlib.use("Agg")
    found = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), found)
    plt.close("all")
    return found


def by_hand(root):
    """nsdId of the pictures in order, responses (picture, voxel), which are shared, ncsnr ceiling, mask."""
    ppdata = f"ppdata/subj{SUBJECT:02d}/func1pt8mm"
    betas = root / "nsddata_betas" / ppdata / "betas_fithrf_GLMdenoise_RR"
    mask = nibabel.load(root / "nsddata" / ppdata / "roi/nsdgeneral.nii.gz").get_fdata() == 1
    design = loadmat(root / "nsddata/experiments/nsd/nsd_expdesign.mat")
    nsd_ids = design["subjectim"][SUBJECT - 1, design["masterordering"][0].astype(int) - 1].astype(int) - 1
    with open(root / "nsddata/experiments/nsd/nsd_stim_info_merged.csv", newline="") as file:
        shared_ids = [int(row["nsdId"]) for row in csv.DictReader(file) if row["shared1000"] == "True"]
    shared = np.isin(nsd_ids, shared_ids)
    trials, start = [], 0
    for path in sorted(betas.glob("betas_session*.nii.gz")):
        values = nibabel.load(path).get_fdata()[mask].T / 300
        context = ~shared[start : start + len(values)]
        trials.append((values - values[context].mean(axis=0)) / values[context].std(axis=0))
        start += len(values)
    trials = np.concatenate(trials)
    counts = np.unique(nsd_ids, return_counts=True)[1]
    order = list(dict.fromkeys(nsd_ids.tolist()))
    responses = np.stack([trials[nsd_ids == nsd_id].mean(axis=0) for nsd_id in order])
    squared = nibabel.load(betas / "ncsnr.nii.gz").get_fdata()[mask] ** 2
    return np.array(order), responses, np.isin(order, shared_ids), squared / (squared + (1 / counts).mean()), mask


@pytest.mark.slow
def test_numbers_equal_those_by_hand(names):
    ids, responses, shared, ceiling, mask = by_hand(names["folder"])
    new, maps = names["new"], names["maps"]
    np.testing.assert_array_equal(new["nsd_id"], ids)
    np.testing.assert_allclose(new["response"], responses, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(names["ceiling"], ceiling, rtol=1e-5)

    # the prediction is linear in the embedding, and the encoder saw the first hundred pictures that are not shared
    np.testing.assert_array_equal(names["context"]["nsd_id"], ids[~shared][:100])
    measured = responses[shared]
    weights, intercept = (names["predicted"][name].values for name in ("weights", "intercept"))
    predicted = names["test"]["embedding"].values @ weights.T + intercept
    r = np.array([np.corrcoef(measured[:, v], predicted[:, v])[0, 1] for v in range(measured.shape[1])])
    explained = 1 - (measured - predicted).var(axis=0) / measured.var(axis=0)
    np.testing.assert_allclose(maps["pearson_r"], r, atol=1e-3)
    np.testing.assert_allclose(maps["explained_variance"], explained, atol=1e-3)
    known = ceiling > 0.05
    np.testing.assert_allclose(
        maps["normalized_explained_variance"].values[known], (explained / ceiling)[known], atol=1e-2
    )
    volume = nibabel.load(names["written"]["pearson_r"])
    np.testing.assert_allclose(volume.get_fdata()[mask], r, atol=1e-3)
    assert volume.shape == mask.shape
    assert r.mean() > 0.6  # the miniature's signal is there, and found

    rows = {(row["method"], row["n"]): row for row in names["found"].report["results"]}
    assert names["found"].report["warnings"] == []
    assert rows["model", 10]["pearson_r"] > rows["ridge", 10]["pearson_r"]


@pytest.mark.slow
def test_what_comes_out_is_a_response_set(names):
    import braincl

    saved = braincl.open_responses(names["work"] / "subj07.nc")
    assert saved.attrs["subject"] == "nsd-subj07"
    assert names["encoder"].training_subjects == ["nsd-subj01", "nsd-subj02", "nsd-subj05"]
