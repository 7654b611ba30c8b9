"""Pages of voxels and of surfaces: what they hold, and that a browser draws them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from browser import drawn
from PIL import Image

import braincl
from braincl import plot
from braincl.analysis.predict import predict_responses
from braincl.cli.main import main
from braincl.demo import SUBJECT, demo_pictures
from braincl.plot.brain import FSAVERAGE5_VERTICES
from setcore.errors import InputError


@pytest.fixture(scope="module")
def sets() -> tuple[xr.Dataset, xr.Dataset]:
    """Predictions and measured responses of 40 pictures."""
    subject = braincl.open_responses(SUBJECT).isel(voxel=slice(None, None, 20))
    context, test = subject.isel(image=slice(0, 60)), subject.isel(image=slice(60, 100))
    return predict_responses(braincl.InContextEncoder.from_pretrained("demo"), context, test), test


def facts_of(page: str) -> dict:
    return json.loads(re.search(r"const facts = (\{.*\});", page)[1])


def test_a_voxel_has_the_pictures_of_its_highest_and_lowest_predictions(sets):
    predicted, test = sets
    pictures = [f"picture {n}" for n in range(39)] + [demo_pictures(test["image_id"].values[-1:])[0]]
    page = plot.view_voxels(predicted, test, pictures, count=3)
    facts = facts_of(page.html)
    values = predicted["prediction"].values
    assert facts["highest"] == np.argsort(-values, axis=0)[:3].T.tolist()
    assert facts["lowest"] == np.argsort(values, axis=0)[:3].T.tolist()
    assert facts["texts"] == [*(f"picture {n}" for n in range(39)), ""]  # a name, or pixels: no empty place
    assert facts["sheet"].startswith("data:image/jpeg;base64,")
    r = np.array([np.corrcoef(values[:, v], test["response"].values[:, v])[0, 1] for v in range(values.shape[1])])
    assert facts["first"] == int(np.argmax(r))
    ceiling = float(test["noise_ceiling"][facts["first"]])
    roi, name = (str(test[key].values[facts["first"]]) for key in ("roi", "voxel_id"))
    assert facts["names"][facts["first"]] == f"voxel {name}, {roi}, r {r.max():.2f}, noise ceiling {ceiling:.2f}"
    assert "noise ceiling" in page.html
    assert page._repr_html_().startswith("<iframe srcdoc=")
    assert len(repr(page)) < 100


def test_without_responses_there_is_tuning_alone(sets):
    predicted, _ = sets
    page = plot.view_voxels(predicted.drop_vars("noise_ceiling"))
    assert "component 1" in page.html
    assert "noise ceiling" not in page.html
    assert facts_of(page.html)["texts"] == predicted["image_id"].values.tolist()


def test_what_cannot_be_drawn(sets, monkeypatch):
    predicted, _ = sets
    with pytest.raises(braincl.ResponseError, match="no 'weights'"):
        plot.view_voxels(predicted.drop_vars("weights"))
    with pytest.raises(braincl.ResponseError, match="10 or more"):
        plot.view_voxels(predicted.isel(image=slice(0, 8)))
    with pytest.raises(braincl.ResponseError, match="one for each"):
        plot.view_voxels(predicted, pictures=["a"])
    with pytest.raises(braincl.ResponseError, match="10242 vertices"):
        plot.view_surface(np.ones(3))
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(InputError, match="extra `interactive`"):
        plot.view_voxels(predicted)


@pytest.mark.slow
def test_a_browser_draws_the_page_of_the_command(sets, tmp_path: Path):
    _, test = sets
    subject = braincl.open_responses(SUBJECT).isel(voxel=slice(None, None, 20))
    braincl.save_responses(subject.isel(image=slice(0, 60)), tmp_path / "context.nc")
    braincl.save_responses(test, tmp_path / "query.nc")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 6), "red").save(tmp_path / "pictures" / "another.png")
    page = tmp_path / "page.html"
    assert main(["predict", "--model", "demo", "--context", str(tmp_path / "context.nc"), "--images",
                 str(tmp_path / "query.nc"), "--out", str(tmp_path / "out.nc"), "--page", str(page), "--pictures",
                 str(tmp_path / "pictures")]) == 0  # fmt: skip
    pixels = drawn(page, tmp_path)
    blue = (pixels[60:400].astype(int) @ [-1, 0, 1] > 60).any(axis=0)  # points of the first area, in both panels
    assert blue[80:400].any()
    assert blue[550:900].any()
    assert (pixels[440:] < 128).any(axis=2).sum() > 200  # names of pictures


@pytest.mark.slow
def test_a_browser_draws_the_surface(tmp_path: Path):
    pytest.importorskip("nilearn")
    values = np.full(FSAVERAGE5_VERTICES, np.nan)
    values[:4000] = np.linspace(-0.5, 1, 4000)
    plot.view_surface(values, label="Pearson r").save(tmp_path / "surface.html")
    pixels = drawn(tmp_path / "surface.html", tmp_path).astype(int)
    assert (pixels @ [1, -1, 0] > 60).mean() > 0.005  # red
    assert (pixels.max(axis=2) < 200).mean() > 0.05
