"""Variance partitioning where the truth is known: unique and shared shares, sums, and autocorrelated noise."""

import json

import numpy as np
import pytest
from synthetic import make_responses

import braincl
from braincl.analysis.partition import format_partition, partition_report, partition_variance
from braincl.cli.main import main
from braincl.errors import ResponseError


def subject(spaces, Y):
    dataset = braincl.from_arrays(Y.astype("f4"), next(iter(spaces.values())).astype("f4"), subject="S1")
    dataset = dataset.assign({f"embedding_{n}": (("image", f"feature_{n}"), X.astype("f4")) for n, X in spaces.items()})
    return dataset.assign_coords(roi=("voxel", np.where(np.arange(Y.shape[1]) % 3, "PPA", "LOC")))


def unit(features, voxels, rng):
    """Signals of variance one, orthogonal between features, so that shares are exact in the sample."""
    weights = rng.standard_normal((features.shape[1], voxels))
    signal = features @ weights
    return signal / signal.std(axis=0)


@pytest.fixture(scope="module")
def analytic():
    """Unique .3 and .1, shared .2, noise .4."""
    rng = np.random.default_rng(0)
    columns = rng.standard_normal((3000, 12 + 24))
    orthonormal = np.linalg.qr(columns - columns.mean(axis=0))[0] * np.sqrt(3000)
    own_a, own_b, common = orthonormal[:, :3], orthonormal[:, 3:8], orthonormal[:, 8:12]
    signal = (
        np.sqrt(0.3) * unit(own_a, 24, rng) + np.sqrt(0.1) * unit(own_b, 24, rng) + np.sqrt(0.2) * unit(common, 24, rng)
    )
    Y = signal + np.sqrt(0.4) * orthonormal[:, 12:]
    return subject({"a": np.hstack([own_a, common]), "b": np.hstack([common, own_b])}, Y)


def test_the_analytic_case_is_found_within_a_hundredth(analytic):
    found = partition_variance(analytic, ["a", "b"], bands=8)
    means = dict(zip(found["part"].values.tolist(), found["variance"].mean("voxel").values, strict=True))
    assert means["a"] == pytest.approx(0.3, abs=0.01)
    assert means["b"] == pytest.approx(0.1, abs=0.01)
    assert means["a&b"] == pytest.approx(0.2, abs=0.01)
    total = found["explained_variance"].sel(subset="a+b").values
    np.testing.assert_allclose(found["variance"].sum("part").values, total, atol=1e-5)
    np.testing.assert_allclose(found["product_measure"].sum("space").values, total, atol=1e-5)
    first, second = found["product_measure"].mean("voxel").values
    assert 0.3 < first < 0.5  # with some of what is shared
    assert 0.1 < second < 0.3
    assert (found["variance_low"] < found["variance"]).all()
    assert (found["variance"] < found["variance_high"]).all()
    inside = (found["variance_low"].sel(part="a") < 0.3) & (found["variance_high"].sel(part="a") > 0.3)
    assert inside.mean() > 0.8


def test_three_spaces_add_up_too():
    rng = np.random.default_rng(1)
    X = {name: rng.standard_normal((90, 3 + k)) for k, name in enumerate("abc")}
    Y = sum(x @ rng.standard_normal((x.shape[1], 5)) for x in X.values()) + 3 * rng.standard_normal((90, 5))
    found = partition_variance(subject(X, Y), ["a", "b", "c"], bands=3)
    assert found["part"].values.tolist() == ["a", "b", "c", "a&b", "a&c", "b&c", "a&b&c"]
    of = {name: found["explained_variance"].sel(subset=name).values for name in found["subset"].values.tolist()}
    np.testing.assert_allclose(found["variance"].sum("part").values, of["a+b+c"], atol=1e-5)
    np.testing.assert_allclose(found["variance"].sel(part="b").values, of["a+b+c"] - of["a+c"], atol=1e-5)
    shared = of["a+c"] + of["b+c"] - of["c"] - of["a+b+c"]
    np.testing.assert_allclose(found["variance"].sel(part="a&b").values, shared, atol=1e-5)
    np.testing.assert_allclose(found["product_measure"].sum("space").values, of["a+b+c"], atol=1e-5)


def test_autocorrelated_noise_scores_nothing_under_groups():
    rng = np.random.default_rng(2)
    time, blocks = 600, 10

    def slow(columns):
        values = np.zeros((time, columns))
        for t in range(time):
            fresh = rng.standard_normal(columns)
            values[t] = fresh if t % (time // blocks) == 0 else 0.9 * values[t - 1] + np.sqrt(0.19) * fresh
        return values

    dataset = subject({"a": slow(40), "b": slow(40)}, slow(25))
    dataset = dataset.assign_coords(run=("image", np.repeat(np.arange(blocks), time // blocks)))
    kept = partition_variance(dataset, ["a", "b"], groups="run", bands=3)["explained_variance"].sel(subset="a+b")
    torn = partition_variance(dataset, ["a", "b"], bands=3)["explained_variance"].sel(subset="a+b")
    assert torn.mean() > 0.15
    assert -0.12 < kept.mean() < 0.02  # nothing, less what the noise of choosing strengths costs


def test_voxels_that_do_not_vary_have_no_value_and_duplicates_are_averaged(analytic):
    small = analytic.isel(image=slice(0, 60), voxel=slice(0, 4)).copy(deep=True)
    small["response"][:, 2] = 3
    found = partition_variance(small, ["a", "b"], bands=2)
    assert np.isnan(found["variance"].values).all(axis=0).tolist() == [False, False, True, False]
    assert partition_report(found)["warnings"] == ["1 of 4 voxels do not vary and were left out"]
    unknown = partition_report(found.assign_coords(noise_ceiling=("voxel", np.full(4, np.nan))))
    assert unknown["warnings"][1:] == ["no voxel has a noise_ceiling above 0.05: there are no shares of it"]
    import xarray as xr

    twice = xr.concat([small, small.isel(image=slice(0, 9))], "image")
    np.testing.assert_array_equal(
        partition_variance(twice, ["a", "b"], bands=2)["variance"].values, found["variance"].values
    )


def test_wrong_input_names_both_sides(analytic):
    small = analytic.isel(image=slice(0, 30))
    for spaces, message in (
        (["a"], "name 2 to 4 different feature spaces, not a"),
        (["a", "a"], "not a, a"),
        (["a", "c"], r"no variable 'embedding_c' \(image, feature_c\); spaces are a, b"),
    ):
        with pytest.raises(ResponseError, match=message):
            partition_variance(small, spaces)
    with pytest.raises(ResponseError, match="'b' does not vary over the 30 pictures"):
        partition_variance(small.assign(embedding_b=small["embedding_b"] * 0 + 1), ["a", "b"])
    with pytest.raises(ResponseError, match=r"no coordinate 'run' \(image\) to group by; there are none"):
        partition_variance(small, ["a", "b"], groups="run")
    with pytest.raises(ResponseError, match="in the one group"):
        partition_variance(small.assign_coords(run=("image", np.zeros(30))), ["a", "b"], groups="run")
    with pytest.raises(ResponseError, match=r"there are two groups 'run': .* give three or more"):
        partition_variance(small.assign_coords(run=("image", np.arange(30) % 2)), ["a", "b"], groups="run")
    with pytest.raises(ResponseError, match="30 pictures in 16 folds: each needs two or more"):
        partition_variance(small, ["a", "b"], folds=16)
    with pytest.raises(ResponseError, match="holds NaN"):
        partition_variance(small.assign(embedding_b=small["embedding_b"] * np.nan), ["a", "b"])
    with pytest.raises(ResponseError, match="spaces are none"):
        partition_variance(make_responses(), ["a", "b"])


def test_the_command_writes_report_voxels_and_plot(analytic, tmp_path, capsys):
    small = analytic.isel(image=slice(0, 80)).assign_coords(noise_ceiling=("voxel", np.full(24, 0.6, "f4")))
    braincl.save_responses(small, tmp_path / "s.nc")
    out = tmp_path / "out.json"
    assert main(["partition", str(tmp_path / "s.nc"), "--spaces", "a,b", "--folds", "3", "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    found = partition_variance(small, ["a", "b"], folds=3)
    assert report == partition_report(found) | {"voxel_file": "out.nc", "plot_file": "out.png"}
    assert format_partition(report) in capsys.readouterr().out
    row = next(row for row in report["results"] if (row["roi"], row["part"]) == ("PPA", "a&b"))
    expected = found["variance"].sel(part="a&b").values[found["roi"].values == "PPA"]
    assert row["mean"] == pytest.approx(expected.mean(), abs=1e-6)
    assert row["of_ceiling"] == pytest.approx(expected.mean() / 0.6, abs=1e-5)
    assert (tmp_path / "out.png").stat().st_size > 10_000
    assert main(["partition", str(tmp_path / "s.nc"), "--spaces", "a,z", "--json", str(tmp_path / "no.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.glob("no.*"))
