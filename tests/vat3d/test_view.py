"""What is shown of a stream: its scales, and how far they are from a reference."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from browser import drawn
from make_tiny_model import DATA, golden_meshes

from setcore.errors import InputError
from vat3d import MeshTokenizer, TokenStream
from vat3d.cli.main import main

MODEL = str(DATA / "tiny")


@pytest.fixture(scope="module")
def tokenizer() -> MeshTokenizer:
    return MeshTokenizer.from_pretrained(MODEL)


def test_the_slider_goes_through_the_scales_beside_the_reference(tokenizer: MeshTokenizer) -> None:
    data, ellipsoid = (DATA / "ellipsoid.vat").read_bytes(), golden_meshes()["ellipsoid"]
    stream = TokenStream.from_bytes(data, tokenizer.model)
    reference, *scales = tokenizer.show(data, ellipsoid, resolution=32).data
    np.testing.assert_allclose(np.stack([reference.x, reference.y, reference.z], 1), ellipsoid.vertices, rtol=1e-6)
    assert [part.name for part in scales] == [
        f"{len(stream.truncate(count + 1).to_bytes())} bytes" for count in range(len(stream.ids))
    ]
    assert [part.visible for part in scales] == [False] * (len(scales) - 1) + [True]
    for count, part in enumerate(scales, 1):
        decoded = tokenizer.decode(stream, 32, count)
        np.testing.assert_array_equal(np.stack([part.i, part.j, part.k], 1), decoded.faces)
        centre, half = np.array([12.0, 10.0, 9.0]), 3.0
        np.testing.assert_allclose(np.stack([part.x, part.y, part.z], 1), decoded.vertices, rtol=1e-6)
        assert part.intensity.shape == (len(decoded.vertices),)
        inner = np.linalg.norm((decoded.vertices - centre) / half, axis=1)
        assert (part.intensity <= inner).all()  # the middle of an ellipsoid is farther away than its surface


def test_without_plotly_the_extra_is_named(tokenizer: MeshTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(InputError, match="extra `interactive`"):
        tokenizer.show((DATA / "ellipsoid.vat").read_bytes(), resolution=16)


def test_a_reference_of_another_shape_is_drawn_and_its_distance_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mesh five times as large around the same place: what is decoded lies some .8 of its half-side inside."""
    own = golden_meshes()["ellipsoid"]
    own.export(tmp_path / "own.ply")
    own.copy().apply_transform(trimesh.transformations.scale_matrix(5, own.bounds.mean(0))).export(
        tmp_path / "five.ply"
    )
    found = {}
    for name in ("own", "five"):
        page, reference = tmp_path / f"{name}.html", tmp_path / f"{name}.ply"
        arguments = [str(DATA / "ellipsoid.vat"), str(page), "--reference", str(reference), "--model", MODEL]
        assert main(["view", *arguments, "--resolution", "32", "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
        assert page.exists()
    assert found["own"]["mean_distance"] < 0.2
    assert found["five"]["mean_distance"] > 0.3
    assert main(["view", *arguments, "--resolution", "32"]) == 0
    assert "is it another mesh" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("beside", [False, True])
def test_a_browser_draws_the_page(tmp_path: Path, beside: bool) -> None:
    golden_meshes()["ellipsoid"].export(tmp_path / "ellipsoid.ply")
    page = tmp_path / "page.html"
    options = ["--reference", str(tmp_path / "ellipsoid.ply")] if beside else []
    assert main(["view", str(DATA / "ellipsoid.vat"), str(page), "--model", MODEL, "--resolution", "32", *options]) == 0
    middle = drawn(page, tmp_path)[100:560, 600:950]
    assert (middle < 230).any(axis=2).mean() > 0.05
