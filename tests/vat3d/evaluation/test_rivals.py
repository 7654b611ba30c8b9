"""The tables that compare the codec with its rivals: what counts, and what does not."""

import numpy as np
import pytest
import rivals


def entry(near, fine=0.5, older=0.25, **facts):
    scores = {rivals.NEAR: near, rivals.FINE: fine, rivals.NORMALS: 0.75}
    return scores | {rivals.OLDER + rivals.NEAR: older, rivals.OLDER + rivals.FINE: 0.125} | facts


def mesh(closed, **methods):
    found = {method: {"scores": {"256": score}, "seconds": 2.0} for method, score in methods.items()}
    return {"faces": 4, "closed": closed, "components": 1, "methods": found}


@pytest.fixture
def result():
    meshes = {
        "a": mesh(True, fast=entry(0.9, reported=0.91), draco=entry(0.8), best=entry(1.0, reported=1.0)),
        "b": mesh(False, fast=entry(0.7, reported=0.67), draco=None),
    }
    return {"commit": "", "settings": {"budgets": [256], "model_id": ""}, "meshes": meshes}


def test_a_mesh_that_fits_nothing_counts_zero(result):
    meshes, methods = rivals.measured(result)
    assert methods == ["fast", "draco"]  # "best" has not measured all meshes
    assert rivals.scores(meshes, "draco", 256, rivals.NEAR).tolist() == [0.8, 0.0]


def test_tables_say_means_differences_and_what_was_reported(result):
    text = rivals.tables(result)
    assert "| `fast` | 0.800 (0.500) |" in text
    assert "| decimation + Draco | 0.400 (0.250) |" in text
    assert "| F@.02 (F@.01), older measure, closed 1 of these | 256 |" in text
    assert "+0.400 (+0.100 to +0.700), 2 |" in text  # .9 - .8 and .7 - 0
    assert "of 2 files: -0.0100 in the mean, 0.030 at most" in text


def test_an_interval_holds_the_mean_of_the_differences():
    differences = np.random.default_rng(0).normal(0.5, 0.1, 400)
    mean, low, high = (float(part.strip("(to)")) for part in rivals.interval(differences).replace(" to ", " ").split())
    assert low < mean < high
    assert mean == pytest.approx(differences.mean(), abs=1e-3)
    assert (high - low) / 2 == pytest.approx(1.96 * 0.1 / 20, rel=0.2)


def test_figures_are_drawn(result, tmp_path):
    rivals.save_plot(result, tmp_path / "curves.png")
    rivals.save_scatter(result, tmp_path / "meshes.png")
    assert {path.read_bytes()[:4] for path in tmp_path.iterdir()} == {b"\x89PNG"}
