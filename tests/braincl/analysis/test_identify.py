"""The identification report: voxels by name, pictures by hash, regions, and what cannot be identified."""

import json

import numpy as np
import pytest
from standin import StandInEncoder, save_small_model
from synthetic import make_responses

import braincl
from braincl.analysis.identify import format_identification
from braincl.cli.main import main
from braincl.errors import ResponseError
from braincl.estimators import identification
from braincl.models.model_folder import short_ids
from braincl.plot.decoding import draw_identification


@pytest.fixture(scope="module")
def subject():
    return make_responses(images=70, voxels=11, noise=0.3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


def parts(subject):
    new = subject.isel(image=slice(40, None))
    return subject.isel(image=slice(0, 40)), new, new[["embedding"]]


def test_the_report_says_what_the_estimator_says_by_region(subject, model):
    context, new, bank = parts(subject)
    encoder = braincl.InContextEncoder.from_pretrained(model)
    report = braincl.identify_pictures(encoder, context, new.drop_vars("embedding"), bank)
    assert [(row["roi"], row["voxels"]) for row in report["results"]] == [("all", 11), ("IT", 5), ("V4", 6)]
    assert report["candidates"] == len(report["responses"]) == 30
    for row in report["results"]:
        voxels = np.ones(11, bool) if row["roi"] == "all" else subject["roi"].values == row["roi"]
        scores = encoder.identify(new["response"].values, bank["embedding"].values, row["method"], voxels)
        ranks = 1 + (scores > np.diagonal(scores)[:, None]).sum(axis=1)
        np.testing.assert_allclose(row["top_1"], (ranks == 1).mean())
        np.testing.assert_allclose(row["top_5"], (ranks <= 5).mean())
        np.testing.assert_allclose(row["mean_rank"], ranks.mean())
        np.testing.assert_allclose(row["two_alternative"], 1 - (ranks.mean() - 1) / 29)
        for name in ("top_1", "top_5", "two_alternative", "mean_rank"):
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
    of_all = encoder.identify(new["response"].values, bank["embedding"].values, report["results"][0]["method"])
    best = bank["image_id"].values[of_all.argmax(axis=1)].tolist()
    assert [found["best"][0] for found in report["responses"]] == best
    table = format_identification(report).splitlines()
    assert "30 responses, 30 candidates (chance: top-1 0.033" in table[0]
    assert len(table) == 5


def test_noise_is_estimated_once_for_each_region(subject, model, monkeypatch):
    asked = []
    scores = identification.left_out_scores
    monkeypatch.setattr(
        identification,
        "left_out_scores",
        lambda context: (asked.append(context.responses.shape[1]), scores(context))[1],
    )
    braincl.identify_pictures(braincl.InContextEncoder.from_pretrained(model), *parts(subject))
    assert asked == [11, 5, 6]


def test_neither_the_order_of_voxels_nor_that_of_pictures_matters(subject, model):
    context, new, bank = parts(subject)
    encoder = braincl.InContextEncoder.from_pretrained(model)
    report = braincl.identify_pictures(encoder, context, new, bank)
    turned = braincl.identify_pictures(
        encoder, context, new.isel(voxel=slice(None, None, -1)), bank.isel(image=np.roll(np.arange(30), 3))
    )
    assert turned == report


def test_what_is_not_among_the_candidates_is_said_and_not_scored(subject, model):
    context, new, bank = parts(subject)
    encoder = braincl.InContextEncoder.from_pretrained(model)
    report = braincl.identify_pictures(encoder, context, new, bank.isel(image=slice(0, 20)))
    assert report["warnings"] == ["10 of 30 pictures shown are not among the candidates: they are not scored"]
    assert [found["rank"] is None for found in report["responses"]] == [False] * 20 + [True] * 10
    assert report["scored"] == 20
    assert format_identification(report).startswith("20 of 30 responses scored, 20 candidates (chance: top-1 0.050")
    assert draw_identification(report).get_title().endswith("\n20 of 30 responses scored, 20 candidates")
    overlap = braincl.identify_pictures(encoder, context, subject.isel(image=slice(35, 50)), subject[["embedding"]])
    assert overlap["warnings"] == ["5 pictures shown are in the context, too: scores on them flatter the model"]


def test_pictures_of_the_training_and_voxels_that_do_not_vary_are_said(subject):
    context, new, bank = parts(subject)
    context, encoder = context.copy(deep=True), StandInEncoder()
    context["response"][:, 4] = 1
    encoder.training_images = short_ids(new["image_id"].values[:3])
    assert braincl.identify_pictures(encoder, context, new, bank)["warnings"] == [
        "3 of 30 pictures shown were in training, with the responses of other subjects: others are harder to tell; "
        "train with --exclude-images",
        "1 of 11 voxels do not vary in the context and were left out",
    ]


def test_a_single_response_is_identified_without_an_interval(subject, model, tmp_path, capsys):
    context, new, bank = parts(subject)
    encoder = braincl.InContextEncoder.from_pretrained(model)
    of_all = braincl.identify_pictures(encoder, context, new, bank, "gaussian")
    report = braincl.identify_pictures(encoder, context, new.isel(image=[7]), bank, "gaussian")
    assert report["responses"] == [of_all["responses"][7]]
    row = report["results"][0]
    assert row["mean_rank"] == of_all["responses"][7]["rank"]
    assert row["mean_rank_low"] is row["top_1_high"] is None
    assert format_identification(report).startswith("1 response, 30 candidates")
    for name, dataset in (("context", context), ("new", new.isel(image=[7, 7])), ("bank", bank)):
        dataset.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
    files = [
        "--context",
        tmp_path / "context.nc",
        "--responses",
        tmp_path / "new.nc",
        "--candidates",
        tmp_path / "bank.nc",
    ]
    argv = ["identify", "--model", model, *files, "--method", "gaussian", "--json", tmp_path / "out.json"]
    assert main(list(map(str, argv))) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == report | {"plot_file": "out.png"}
    assert (tmp_path / "out.png").stat().st_size > 10_000
    with pytest.raises(ResponseError, match="there is no response to identify"):
        braincl.identify_pictures(encoder, context, new.isel(image=[]), bank)


def test_groups_of_the_context_are_left_out_whole(subject, model, monkeypatch):
    context, new, bank = parts(subject)
    context = context.assign_coords(run=("image", np.repeat(np.arange(8), 5)))
    folds = []
    fit = braincl.InContextEncoder.fit
    monkeypatch.setattr(
        braincl.InContextEncoder, "fit", lambda self, X, y: (folds.append(y[:, 0].tolist()), fit(self, X, y))[1]
    )
    braincl.identify_pictures(braincl.InContextEncoder.from_pretrained(model), context, new, bank, groups="run")
    runs = context["response"].values[:, 0].reshape(8, 5)
    assert len(folds) == 1 + 8  # the fit itself, and one without each run
    for seen in folds[1:]:
        assert sorted(np.isin(run, seen).sum() for run in runs) == [0] + [5] * 7
    with pytest.raises(ResponseError, match=r"no coordinate 'session' \(image\) to group by; there are run"):
        braincl.identify_pictures(braincl.InContextEncoder.from_pretrained(model), context, new, bank, groups="session")


def test_wrong_input_names_both_sides(subject, model):
    context, new, bank = parts(subject)
    encoder = braincl.InContextEncoder.from_pretrained(model)

    def identify(context=context, new=new, bank=bank, encoder=encoder):
        braincl.identify_pictures(encoder, context, new, bank)

    with pytest.raises(ResponseError, match="the context has 11 voxels, the responses 10, and voxel_id 'v3' is in one"):
        identify(new=new.drop_isel(voxel=3))
    with pytest.raises(ResponseError, match="backbone 'random', the query's 'another'"):
        identify(bank=bank.assign_attrs(backbone="another"))
    with pytest.raises(ResponseError, match="12 features, the query's 5"):
        identify(bank=bank.isel(feature=slice(5)))
    with pytest.raises(ResponseError, match="no coordinate 'image_id'"):
        identify(bank=bank.drop_vars("image_id"))
    with pytest.raises(ResponseError, match="'voxel_id'"):
        identify(context=context.drop_vars("voxel_id"))
    with pytest.raises(ResponseError, match="'image_id'"):
        identify(new=new.drop_vars("image_id"))
    with pytest.raises(ResponseError, match="there is 1 candidate"):
        identify(bank=bank.isel(image=[3, 3]))
    with pytest.raises(ResponseError, match="none of the 30 pictures shown is among the candidates"):
        identify(bank=subject[["embedding"]].isel(image=slice(0, 40)))


def test_the_command_writes_report_and_plot(subject, model, tmp_path, capsys):
    context, new, bank = parts(subject)
    for name, dataset in (("context", context), ("new", new), ("bank", bank)):
        dataset.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
    files = [part for name, option in (("context", "--context"), ("new", "--responses"), ("bank", "--candidates"))
             for part in (option, str(tmp_path / f"{name}.nc"))]  # fmt: skip
    out = tmp_path / "out.json"
    assert main(["identify", "--model", str(model), *files, "--json", str(out)]) == 0
    report = json.loads(out.read_text())
    expected = braincl.identify_pictures(braincl.InContextEncoder.from_pretrained(model), context, new, bank)
    assert report == expected | {"plot_file": "out.png"}
    assert (tmp_path / "out.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert format_identification(report) in printed
    assert "written:" in printed
    subject.isel(image=slice(0, 3))[["embedding"]].to_netcdf(tmp_path / "bank.nc", engine="h5netcdf")
    assert main(["identify", "--model", str(model), *files, "--json", str(tmp_path / "no.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "no.json").exists()
