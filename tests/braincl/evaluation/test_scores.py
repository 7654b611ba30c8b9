"""Reports against scores computed by hand, and the files that they are written to."""

import json

import numpy as np
import pytest
import xarray as xr
from standin import StandInEncoder, make_prior
from synthetic import make_responses

from braincl.errors import ResponseError
from braincl.estimators.population_mean import PopulationMean
from braincl.estimators.prior_ensemble import PriorEnsemble
from braincl.estimators.prior_kernel import PriorKernelRidge
from braincl.estimators.prior_ridge import PriorRidge
from braincl.estimators.ridge import RidgeCV
from braincl.evaluation.report import format_table, output_paths, write_evaluation
from braincl.evaluation.scores import METHODS, evaluate
from braincl.evaluation.splits import context_draws
from braincl.models.model_folder import short_ids
from braincl.models.noise_levels import SIGNAL_SHARES
from braincl.plot.curves import plot_scores
from setcore.evaluation.metrics import pearson_r

OPTIONS = {"contexts": (10, 4), "draws": 3, "test_images": 15, "resamples": 50}
FIELDS = {"method", "n", "pearson_r", "explained_variance", "normalized_explained_variance", "interval_low",
          "interval_high", "coverage_90", "nll", "seconds"}  # fmt: skip


def with_prior():
    encoder = StandInEncoder()
    encoder.prior = PriorRidge(make_prior())
    return encoder


def row(report, method, n):
    (found,) = [r for r in report["results"] if r["method"] == method and r["n"] == n]
    return found


def without_seconds(report):
    return report | {"results": [{k: v for k, v in r.items() if k != "seconds"} for r in report["results"]]}


def test_report_has_a_row_for_every_method_and_size():
    report = evaluate(with_prior(), make_responses(), **OPTIONS).report
    assert [(r["method"], r["n"]) for r in report["results"]] == [(m, n) for n in (10, 4) for m in METHODS]
    for found in report["results"]:
        assert set(found) == FIELDS
        assert found["normalized_explained_variance"] is None
        assert all(isinstance(found[name], float) for name in FIELDS - {"method", "n", "normalized_explained_variance"})
        assert found["interval_low"] <= found["pearson_r"] <= found["interval_high"]
    pairs = [(d["baseline"], d["n"]) for d in report["differences"]]
    assert pairs == [(baseline, n) for n in (10, 4) for baseline in METHODS[1:-1]]
    json.dumps(report, allow_nan=False)


def test_scores_are_those_of_the_estimators_by_hand():
    dataset = make_responses()
    report = evaluate(with_prior(), dataset, **OPTIONS).report
    X, Y = dataset["embedding"].values, dataset["response"].values
    splits = context_draws(dataset["image_id"].values, OPTIONS["contexts"], 3, 15, 0)
    scale = np.sqrt(make_prior().shares @ SIGNAL_SHARES)
    estimators = {
        "model": RidgeCV(),
        "prior_ensemble": PriorEnsemble(make_prior()),
        "prior_kernel": PriorKernelRidge(make_prior()),
        "prior_ridge": PriorRidge(make_prior()),
        "mean": PopulationMean(scale * make_prior().means[0]),
    }
    for method, estimator in estimators.items():
        for n in OPTIONS["contexts"]:
            r, ev = [], []
            for context in splits.contexts[n]:
                fitted = estimator.fit(X[context], Y[context])
                r.append(pearson_r(Y[splits.test], fitted.predict(X[splits.test])))
                ev.append(fitted.score(X[splits.test], Y[splits.test]))
            assert row(report, method, n)["pearson_r"] == pytest.approx(np.mean(r), abs=1e-5)
            assert row(report, method, n)["explained_variance"] == pytest.approx(np.mean(ev), abs=1e-5)
    difference = next(d for d in report["differences"] if d["baseline"] == "prior_ridge" and d["n"] == 4)
    assert difference["pearson_r"] == pytest.approx(
        row(report, "model", 4)["pearson_r"] - row(report, "prior_ridge", 4)["pearson_r"], abs=1e-5
    )
    assert difference["interval_low"] <= difference["pearson_r"] <= difference["interval_high"]


def test_the_split_of_the_response_set_is_honoured():
    dataset = make_responses()
    split = np.array(["test", " Test", "context", "CONTEXT "])[np.arange(40) % 4]
    encoder = StandInEncoder()
    given = dataset.assign_coords(split=("image", split))
    options = {name: value for name, value in OPTIONS.items() if name != "test_images"}
    report = evaluate(encoder, given, **options).report
    assert report["test_images"] == 20
    assert report["test_images_from"] == "the split of the response set"
    X = dataset["embedding"].values
    kept = {x.tobytes() for x in X[np.arange(40) % 4 < 2]}
    assert {x.tobytes() for x in encoder._queries[0]} == kept
    assert not any(x.tobytes() in kept for context in encoder._contexts for x in context)
    assert evaluate(encoder, given, **options | {"test_images": 7}).report["test_images"] == 7
    for name, message in (("train", "row 3 has split 'train'"), ("", "row 3 has split ''")):
        wrong = np.where(np.arange(40) == 2, name, split)
        with pytest.raises(ResponseError, match=message):
            evaluate(encoder, dataset.assign_coords(split=("image", wrong)), **options)
    twice = xr.concat([given, given.isel(image=[2]).assign_coords(split=("image", ["test"]))], "image")
    with pytest.raises(ResponseError, match="is in 'test' and elsewhere"):
        evaluate(encoder, twice, **options)


def test_a_voxel_in_other_units_scores_alike_and_one_beyond_numbers_is_left_out():
    dataset = make_responses()
    scales = xr.DataArray(np.array([1, 2.0**-84, 1, 2.0**100, 1, 1, 1], "f4"), dims="voxel")
    other = dataset.assign(response=dataset["response"] * scales)
    plain, scaled = (evaluate(with_prior(), given, **OPTIONS).voxels for given in (dataset, other))
    for name in ("pearson_r", "explained_variance", "coverage_90", "nll"):
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-4, atol=1e-5)
    broken = dataset.copy(deep=True)
    broken["response"][:, 3] *= np.float32(1e37)
    with pytest.warns(UserWarning, match="voxel 3 of 7 is beyond the range"):
        found = evaluate(with_prior(), broken, **OPTIONS)
    assert found.report["voxels"] == 6
    kept = np.arange(7) != 3
    without = evaluate(with_prior(), dataset.isel(voxel=kept), **OPTIONS).voxels
    np.testing.assert_allclose(found.voxels["pearson_r"][..., kept], without["pearson_r"], rtol=1e-4, atol=1e-5)
    assert np.isnan(found.voxels["pearson_r"][..., 3]).all()


def test_a_model_equal_to_ridge_differs_by_nothing():
    report = evaluate(StandInEncoder(), make_responses(), **OPTIONS).report
    for difference in report["differences"]:
        assert difference["baseline"] == "ridge"
        assert difference["pearson_r"] == difference["interval_low"] == difference["interval_high"] == 0


def test_test_images_are_the_same_and_never_in_a_context():
    encoder = StandInEncoder()
    evaluate(encoder, make_responses(), **OPTIONS)
    queries = {X.tobytes() for X in encoder._queries}
    assert len(queries) == 1
    test = {x.tobytes() for x in encoder._queries[0]}
    assert len(test) == 15
    assert not any(x.tobytes() in test for X in encoder._contexts for x in X)


def test_without_a_prior_its_rows_are_null_with_the_reason():
    report = evaluate(StandInEncoder(), make_responses(), **OPTIONS).report
    found = row(report, "prior_ridge", 4)
    assert {found[name] for name in FIELDS - {"method", "n"}} == {None}
    assert found["reason"] == report["prior_reason"] == "a stand-in has no prior"
    assert report["mean_is"] == "context mean"
    assert row(report, "mean", 4)["pearson_r"] == 0
    assert row(report, "mean", 4)["explained_variance"] == pytest.approx(0, abs=1e-6)


def test_a_prior_of_another_width_is_left_out_with_the_reason():
    report = evaluate(with_prior(), make_responses(features=9), **OPTIONS).report
    assert row(report, "prior_ridge", 4)["pearson_r"] is None
    assert "width 12" in report["prior_reason"]


def test_repetition_gives_the_same_report():
    first, second = (evaluate(with_prior(), make_responses(), **OPTIONS) for _ in range(2))
    assert without_seconds(first.report) == without_seconds(second.report)
    xr.testing.assert_identical(first.voxels.drop_vars("seconds"), second.voxels.drop_vars("seconds"))
    other = evaluate(with_prior(), make_responses(), **OPTIONS, seed=1)
    assert row(other.report, "ridge", 4) != row(first.report, "ridge", 4)


def test_scores_do_not_depend_on_units():
    dataset = make_responses()
    changed = dataset.copy()
    changed["response"] = dataset["response"] * np.linspace(0.1, 50, 7).astype("f4") - 20
    a, b = (evaluate(with_prior(), d, **OPTIONS).report for d in (dataset, changed))
    for method in ("model", "ridge", "mean"):
        for name in ("pearson_r", "explained_variance", "coverage_90", "nll"):
            assert row(a, method, 10)[name] == pytest.approx(row(b, method, 10)[name], abs=1e-3)


def test_nll_and_coverage_of_a_known_noise():
    """With many images ridge is the truth: nll is that of the noise in units of the response, coverage 90 %."""
    report = evaluate(
        StandInEncoder(), make_responses(900, noise=0.5), contexts=(600,), draws=1, test_images=300
    ).report
    share = 0.25 / 1.25  # of the variance that is noise, in the mean over voxels
    assert row(report, "ridge", 600)["coverage_90"] == pytest.approx(0.9, abs=0.02)
    assert row(report, "ridge", 600)["nll"] == pytest.approx(0.5 * np.log(2 * np.pi * np.e * share), abs=0.1)


def test_normalised_by_the_noise_ceiling():
    dataset = make_responses()
    ceiling = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.04, np.nan])
    found = evaluate(StandInEncoder(), dataset.assign_coords(noise_ceiling=("voxel", ceiling)), **OPTIONS)
    ev = found.voxels["explained_variance"].sel(estimator="ridge", n=10).mean("draw").values
    expected = ev[:5].sum() / ceiling[:5].sum()
    assert row(found.report, "ridge", 10)["normalized_explained_variance"] == pytest.approx(expected, rel=1e-5)
    assert found.report["noise_ceiling_r"] == pytest.approx(np.mean(np.sqrt(ceiling[:6])))
    assert f"noise ceiling: r {found.report['noise_ceiling_r']:.3f}" in format_table(found.report)


def test_the_ceiling_comes_from_trials_where_there_are_some():
    dataset = make_responses()
    noise = np.random.default_rng(0).standard_normal((40, 3, 7)).astype("f4")
    dataset["response_trials"] = dataset["response"].expand_dims(repeat=3, axis=1) + noise
    found = evaluate(StandInEncoder(), dataset, **OPTIONS)
    assert row(found.report, "ridge", 10)["normalized_explained_variance"] is not None
    assert (found.voxels["noise_ceiling"] > 0.5).all()
    assert found.report["noise_ceiling_from"].startswith("trial variance")
    for which, source in (("ncsnr", "Allen et al. 2022"), ("split_half", "Guttman 1945")):
        other = evaluate(StandInEncoder(), dataset, **OPTIONS, ceiling=which)
        assert source in other.report["noise_ceiling_from"]
        np.testing.assert_allclose(other.voxels["noise_ceiling"], found.voxels["noise_ceiling"], atol=0.06)
    with pytest.raises(ResponseError, match="no coordinate 'noise_ceiling'"):
        evaluate(StandInEncoder(), dataset, **OPTIONS, ceiling="stored")
    with pytest.raises(ResponseError, match="ceiling by ncsnr is of single trials, 'response_trials'"):
        evaluate(StandInEncoder(), make_responses(), **OPTIONS, ceiling="ncsnr")
    once = dataset.assign(response_trials=dataset["response_trials"].where(dataset["repeat"] == 0))
    report = evaluate(StandInEncoder(), once, **OPTIONS, ceiling="split_half").report
    assert report["noise_ceiling_r"] is None
    assert "there is no noise ceiling: of no voxel can one be told by split halves" in report["warnings"][-1]
    with pytest.raises(ResponseError, match="must be one of auto, stored"):
        evaluate(StandInEncoder(), dataset, **OPTIONS, ceiling="best")
    stored = dataset.assign_coords(noise_ceiling=("voxel", np.full(7, 0.5))).assign_attrs(noise_ceiling="ncsnr")
    named = evaluate(StandInEncoder(), stored, **OPTIONS).report["noise_ceiling_from"]
    assert named == "the set's noise_ceiling: ncsnr (Allen et al. 2022)"
    assert evaluate(StandInEncoder(), make_responses(), **OPTIONS).report["noise_ceiling_from"] is None


def test_voxels_constant_in_the_test_are_excluded_and_counted():
    dataset = make_responses()
    test = context_draws(dataset["image_id"].values, OPTIONS["contexts"], 3, 15, 0).test
    response = dataset["response"].values.copy()
    response[test, 3] = 2.5
    changed = dataset.assign(response=(("image", "voxel"), response))
    found = evaluate(with_prior(), changed, **OPTIONS)
    assert found.report["excluded_constant_voxels"] == 1
    assert found.report["voxels"] == 6
    assert any("constant" in warning for warning in found.report["warnings"])
    kept = np.arange(7) != 3
    r = found.voxels["pearson_r"]
    assert np.isnan(r[..., 3]).all()
    assert np.isfinite(r[..., kept]).all()
    alone = evaluate(with_prior(), dataset.isel(voxel=kept), **OPTIONS).voxels["pearson_r"]
    np.testing.assert_allclose(r.sel(estimator="ridge")[..., kept], alone.sel(estimator="ridge"), rtol=1e-5)
    all_constant = dataset.assign(response=(("image", "voxel"), np.ones((40, 7), "f4")))
    with pytest.raises(ResponseError, match="all 7 voxels are constant"):
        evaluate(with_prior(), all_constant, **OPTIONS)


def test_voxels_constant_in_a_context_score_nothing_and_have_no_nll():
    dataset = make_responses()
    splits = context_draws(dataset["image_id"].values, OPTIONS["contexts"], 3, 15, 0)
    response = dataset["response"].values.copy()
    response[splits.contexts[4][0], 2] = 1.0
    found = evaluate(with_prior(), dataset.assign(response=(("image", "voxel"), response)), **OPTIONS)
    voxel = found.voxels.sel(n=4, draw=0, estimator="ridge").isel(voxel=2)
    assert voxel["pearson_r"] == 0
    assert np.isnan(voxel["nll"])
    assert np.isnan(voxel["coverage_90"])
    json.dumps(found.report, allow_nan=False)


@pytest.mark.parametrize("known", [True, False])
def test_a_subject_that_was_in_training_is_named(known):
    dataset = make_responses().assign_attrs(subject="S7" if known else "S1")
    report = evaluate(StandInEncoder(), dataset, **OPTIONS).report
    assert report["subject_in_training"] is known
    assert report["training_subjects"] == ["S7", "S8"]
    assert any("'S7' was in training" in warning for warning in report["warnings"]) is known


def test_duplicates_are_averaged_before_the_split():
    dataset = make_responses()
    repeated = xr.concat(
        [dataset, dataset.isel(image=slice(0, 12))],
        "image",
        data_vars="minimal",
        join="outer",
        coords="minimal",
        compat="override",
    )
    a, b = (evaluate(StandInEncoder(), d, **OPTIONS).report for d in (dataset, repeated))
    assert a["results"][0]["pearson_r"] == pytest.approx(b["results"][0]["pearson_r"], abs=1e-6)
    assert b["images"] == 40
    assert any("12 rows show a picture again" in warning for warning in b["warnings"])


def test_one_picture_under_two_names_is_warned_about():
    dataset = make_responses()
    embedding = dataset["embedding"].values.copy()
    test = context_draws(dataset["image_id"].values, OPTIONS["contexts"], 3, 15, 0).test
    pool = np.setdiff1d(np.arange(40), test)
    embedding[test[:2]] = embedding[pool[:2]]
    report = evaluate(StandInEncoder(), dataset.assign(embedding=(("image", "feature"), embedding)), **OPTIONS).report
    assert any(warning.startswith("2 test images") for warning in report["warnings"])


@pytest.mark.parametrize("options", [{"contexts": (4, 26)}, {"contexts": (4, 4)}, {"draws": 0}, {"test_images": 39}])
def test_what_cannot_be_evaluated_is_refused_before_any_work(options):
    encoder = StandInEncoder()
    with pytest.raises(ResponseError):
        evaluate(encoder, make_responses(), **(OPTIONS | options))
    assert not hasattr(encoder, "_contexts")


def test_files_lie_beside_each_other(tmp_path):
    found = evaluate(with_prior(), make_responses(), **OPTIONS)
    write_evaluation(found, tmp_path / "out.json", plot_scores)
    assert sorted(tmp_path.iterdir()) == sorted(output_paths(tmp_path / "out.json"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "out.nc", "out.png"]
    report = json.loads((tmp_path / "out.json").read_text())
    files = {"voxel_file": "out.nc", "plot_file": "out.png"}
    assert report == json.loads(json.dumps(found.report)) | files
    with xr.open_dataset(tmp_path / "out.nc", engine="h5netcdf") as voxels:
        assert voxels["pearson_r"].dims == ("estimator", "n", "draw", "voxel")
        assert voxels["pearson_r"].shape == (len(METHODS), 2, 3, 7)
        np.testing.assert_array_equal(voxels["voxel_id"], make_responses()["voxel_id"])
        r = voxels["pearson_r"].sel(estimator="ridge", n=4).mean()
        assert float(r) == pytest.approx(row(report, "ridge", 4)["pearson_r"], abs=1e-6)
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "out.png").unlink()
    write_evaluation(found, tmp_path / "out.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.json", "out.nc"]
    assert json.loads((tmp_path / "out.json").read_text()).keys() == report.keys() - {"plot_file"}


def test_test_pictures_may_be_listed_and_contexts_come_from_the_others():
    dataset = make_responses()
    listed = dataset["image_id"].values[[3, 5, 8, 13, 21, 34]].tolist()
    encoder = with_prior()
    encoder.training_images = short_ids(listed[:2])
    options = {**OPTIONS, "test_images": None}
    report = evaluate(encoder, dataset, **options, test_ids=[*listed, listed[0]]).report
    assert (report["test_images"], report["test_images_from"]) == (6, "a list")
    assert any(warning.startswith("2 of 6 test images were in training") for warning in report["warnings"])
    shown = {row.tobytes() for row in dataset["embedding"].values[[3, 5, 8, 13, 21, 34]]}
    assert {row.tobytes() for row in encoder._queries[-1]} == shown
    assert not shown & {row.tobytes() for rows in encoder._contexts for row in rows}
    with pytest.raises(ResponseError, match="1 of 7 test pictures are not in the response set, the first is 'nowhere'"):
        evaluate(encoder, dataset, **options, test_ids=[*listed, "nowhere"])
    with pytest.raises(ResponseError, match="either the test pictures or their number"):
        evaluate(encoder, dataset, **OPTIONS, test_ids=listed)
