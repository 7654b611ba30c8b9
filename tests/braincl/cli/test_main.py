"""Commands write what the functions behind them return; wrong usage and damaged input are one line and status 2."""

import ast
import json
import re
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import xarray as xr
from standin import save_small_model
from synthetic import make_responses, with_grid

import braincl
from braincl.cli import training as cli_train
from braincl.cli.main import build_parser, main
from braincl.errors import ResponseError
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.training.config import PRESETS
from setcore.cli import _actions


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def folder(tmp_path):
    dataset = make_responses()
    braincl.save_responses(dataset, tmp_path / "subject.nc")
    braincl.save_responses(with_grid(dataset.isel(image=slice(0, 25))), tmp_path / "context.nc")
    query = dataset[["embedding"]].isel(image=slice(25, None))
    query.to_netcdf(tmp_path / "query.nc", engine="h5netcdf")
    return tmp_path


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["join"],
        ["train"],
        ["predict"],
        ["evaluate"],
        ["convert"],
        ["select"],
        ["identify"],
        ["partition"],
        ["simulate"],
        ["info"],
    ],
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([*command, "--help"])
    assert exit_info.value.code == 0
    assert "usage: braincl" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["dance"],
        ["evaluate"],
        ["evaluate", "x.nc", "--contexts", "a,b", "--json", "o.json"],
        ["train", "x.nc", "--out", "m", "--minutes", "1", "--steps", "2"],
        ["train", "x.nc", "--out", "m", "--stages", "1,2"],
    ],
)
def test_wrong_usage_is_one_line_and_status_2(argv, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(argv)
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_predict_writes_what_the_estimator_says(model, folder, capsys):
    files = [
        "--context",
        str(folder / "context.nc"),
        "--images",
        str(folder / "query.nc"),
        "--out",
        str(folder / "p.nc"),
    ]
    assert main(["predict", "--model", str(model), *files, "--nifti", str(folder / "p.nii.gz"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["images"] == 15
    assert printed["voxels"] == 7
    assert printed["shared_pictures"] == 0
    context, query = (
        xr.load_dataset(folder / "context.nc", engine="h5netcdf"),
        make_responses().isel(image=slice(25, None)),
    )
    fitted = braincl.InContextEncoder.from_pretrained(model).fit(
        context["embedding"].values, context["response"].values
    )
    mean, std = fitted.predict(query["embedding"].values, return_std=True)
    with xr.open_dataset(folder / "p.nc", engine="h5netcdf") as written:
        assert written["prediction"].dims == written["prediction_std"].dims == ("image", "voxel")
        assert written["weights"].dims == ("voxel", "feature")
        np.testing.assert_allclose(written["prediction"], mean, rtol=1e-5)
        np.testing.assert_allclose(written["prediction_std"], std, rtol=1e-5)
        np.testing.assert_allclose(written["weights"], fitted.coef_, rtol=1e-5)
        np.testing.assert_allclose(written["intercept"], fitted.intercept_, rtol=1e-5)
        for name in ("voxel_id", "roi", "i", "j", "k"):
            np.testing.assert_array_equal(written[name], context[name])
        np.testing.assert_array_equal(written["image_id"], query["image_id"])
        assert written.attrs["subject"] == "S0"
    volume = nibabel.load(folder / "p.nii.gz")
    assert volume.shape == (3, 4, 5, 15)
    np.testing.assert_allclose(volume.affine.ravel(), context.attrs["affine"])
    at = tuple(context[axis].values for axis in "ijk")
    np.testing.assert_allclose(np.asarray(volume.dataobj)[at].T, mean, rtol=1e-5)


def test_predict_warns_of_shared_pictures(model, folder, capsys):
    files = [
        "--context",
        str(folder / "context.nc"),
        "--images",
        str(folder / "subject.nc"),
        "--out",
        str(folder / "p.nc"),
    ]
    assert main(["predict", "--model", str(model), *files]) == 0
    captured = capsys.readouterr()
    assert "25 query images are in the context" in captured.err
    assert "40 images, 7 voxels" in captured.out


def test_predict_to_nifti_needs_a_grid(model, folder, capsys):
    files = [
        "--context",
        str(folder / "subject.nc"),
        "--images",
        str(folder / "query.nc"),
        "--out",
        str(folder / "p.nc"),
    ]
    before = sorted(folder.iterdir())
    assert main(["predict", "--model", str(model), *files, "--nifti", str(folder / "p.nii.gz")]) == 2
    assert "missing: i, j, k, affine, grid_shape" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_evaluate_prints_a_table_and_writes_three_files(model, folder, capsys):
    argv = ["evaluate", "--model", str(model), str(folder / "subject.nc"), "--contexts", "5,10", "--draws", "2"]
    assert main([*argv, "--test-images", "12", "--seed", "3", "--json", str(folder / "o.json")]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("prior_ridge") == 2  # a row for each size
    assert captured.out.count("closed forms under a population prior are left out: ") == 1
    report = json.loads((folder / "o.json").read_text())
    assert report["contexts"] == [5, 10]
    assert report["draws"] == 2
    assert report["test_images"] == 12
    assert (folder / "o.nc").is_file()
    assert (folder / "o.png").is_file()


def test_a_trained_model_is_evaluated_beside_its_own_prior(tmp_path, capsys):
    for seed in range(3):
        braincl.save_responses(make_responses(60, 9, seed=seed), tmp_path / f"{seed}.nc")
    train = ["train", str(tmp_path / "0.nc"), str(tmp_path / "1.nc"), "--out", str(tmp_path / "model"), "--steps", "1"]
    assert main(train) == 0
    assert main(train) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*train, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == str(tmp_path / "model")
    for subject, warned in (("2", False), ("0", True)):
        argv = ["evaluate", "--model", str(tmp_path / "model"), str(tmp_path / f"{subject}.nc"), "--contexts", "10"]
        assert main([*argv, "--draws", "2", "--json", str(tmp_path / "o.json")]) == 0
        report = json.loads((tmp_path / "o.json").read_text())
        assert report["training_subjects"] == ["S0", "S1"]
        assert report["prior_reason"] is None
        assert all(isinstance(row["pearson_r"], float) for row in report["results"])
        assert ("warning: subject 'S0' was in training" in capsys.readouterr().err) is warned


@pytest.mark.filterwarnings("default:voxel")
def test_a_voxel_beyond_the_range_of_numbers_is_named_in_one_line(tmp_path, capsys):
    dataset = make_responses()
    dataset["response"][:, 4] *= np.float32(1e37)
    braincl.save_responses(dataset, tmp_path / "s.nc")
    given, out = str(tmp_path / "s.nc"), str(tmp_path / "p.nc")
    assert main(["predict", "--context", given, "--images", given, "--out", out]) == 0
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("braincl: warning: voxel 4 of 7 is beyond the range of numbers")
    nan = np.isnan(xr.load_dataset(out)["prediction"].values)
    np.testing.assert_array_equal(nan, np.broadcast_to(np.arange(7) == 4, nan.shape))


def test_select_explains_more_than_all(tmp_path, capsys):
    braincl.save_responses(make_responses(), tmp_path / "s.nc")
    select = ["select", str(tmp_path / "s.nc"), "--out", str(tmp_path / "l.csv"), "--count"]
    for count, explained in ((1, True), (39, False)):
        assert main([*select, str(count)]) == 0
        printed = capsys.readouterr().out
        assert ("more than there is" in printed) is explained
        assert (float(printed.split("variance ")[1].split("%")[0]) > 100) is explained


def test_options_that_messages_name_exist():
    options = {option for action in _actions(build_parser()) for option in action.option_strings}
    spoken = {}
    for path in Path(braincl.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                spoken |= dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z-]+", node.value), path)
    of_others = {"--no-sign-request", "--recursive", "--nproc-per-node"}  # of aws and torchrun
    assert {name: path for name, path in spoken.items() if name not in options | of_others} == {}
    assert len(spoken) > 30


def test_info_prints_the_schedule_that_train_was_given(tmp_path, capsys):
    braincl.save_responses(make_responses(60, 9), tmp_path / "s.nc")
    train = ["train", str(tmp_path / "s.nc"), "--out", str(tmp_path / "model"), "--steps", "2"]
    assert main([*train, "--stages", "0.5,0.5,0"]) == 0
    capsys.readouterr()
    assert main(["info", str(tmp_path / "model"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found["schedule"][name]["share"] for name in ("synthetic", "extension", "real")] == [0.5, 0.5, 0]
    assert main(["info", str(tmp_path / "model")]) == 0
    printed = capsys.readouterr().out
    assert "stage extension: 50% of the budget, contexts of 8..1000 pictures, 100% simulated" in printed
    assert "training_subjects: S0" in printed
    assert main([*train, "--resume"]) == 2  # the preset's own shares
    assert "begun with another schedule" in capsys.readouterr().err
    assert main([*train, "--resume", "--stages", "0.5,0.4,0"]) == 2
    assert "must sum to 1" in capsys.readouterr().err
    assert main(["info", "--model", str(tmp_path / "model"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(["info"]) == 0
    assert "features: any" in capsys.readouterr().out


def test_info_of_a_model_that_states_no_schedule(model, tmp_path, capsys):
    config = PerVoxelConfig(features=6, width=20, layers=2, heads=10, hidden=8)
    torch.save(PerVoxelNetwork(config).state_dict(), tmp_path / "p.pth")
    main(["convert", str(tmp_path / "p.pth"), "--out", str(tmp_path / "published")])
    capsys.readouterr()
    for folder, architecture in ((model, "shared_context"), (tmp_path / "published", "per_voxel")):
        assert main(["info", str(folder)]) == 0
        printed = capsys.readouterr().out
        assert f"architecture: {architecture}" in printed
        assert "stages of training: not stated" in printed


def test_the_presets_of_the_command_are_those_of_the_package():
    assert set(cli_train.PRESETS) == set(PRESETS)


def test_join(folder, capsys):
    bare = make_responses().drop_vars("embedding")
    braincl.save_responses(bare, folder / "bare.nc")
    argv = ["join", str(folder / "bare.nc"), str(folder / "query.nc"), "--out", str(folder / "joined.nc")]
    assert main([*argv, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["missing"] == list(bare["image_id"].values[:25])
    xr.testing.assert_equal(braincl.open_responses(folder / "joined.nc"), make_responses().isel(image=slice(25, None)))


def test_convert(tmp_path, capsys):
    config = PerVoxelConfig(features=6, width=20, layers=2, heads=10, hidden=8)
    torch.save(PerVoxelNetwork(config).state_dict(), tmp_path / "p.pth")
    assert main(["convert", str(tmp_path / "p.pth"), "--out", str(tmp_path / "model"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["width"] == 20
    assert main(["convert", str(tmp_path / "p.pth"), "--out", str(tmp_path / "model")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_pictures_that_are_left_out_of_training_are_new_to_the_model(tmp_path, capsys):
    sets = [make_responses(60, 9, seed=0).assign_attrs(subject=name) for name in ("S1", "S2", "S3")]
    for dataset in sets:
        braincl.save_responses(dataset, tmp_path / f"{dataset.attrs['subject']}.nc")
    (tmp_path / "test.txt").write_text("\n".join(sets[0]["image_id"].values[::4]))
    names = [str(tmp_path / f"{name}.nc") for name in ("S1", "S2", "S3")]
    train = ["train", *names[:2], "--steps", "1", "--out"]
    assert main([*train, str(tmp_path / "all")]) == 0
    assert main([*train, str(tmp_path / "some"), "--exclude-images", str(tmp_path / "test.txt")]) == 0
    capsys.readouterr()
    for model, warned in (("all", True), ("some", False)):
        argv = ["evaluate", names[2], "--model", str(tmp_path / model), "--json", str(tmp_path / "o.json")]
        assert main([*argv, "--contexts", "10", "--draws", "1", "--test-ids", str(tmp_path / "test.txt")]) == 0
        assert ("warning: 15 of 15 test images were in training" in capsys.readouterr().err) is warned
    assert len(braincl.InContextEncoder.from_pretrained(tmp_path / "some").training_images) == 45
    (tmp_path / "test.txt").write_text("nowhere\n")
    assert main([*train, str(tmp_path / "new"), "--exclude-images", str(tmp_path / "test.txt")]) == 2
    assert "1 of 1 pictures to be left out are in none of the response sets" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.filterwarnings("default:.*keeps for testing")
def test_training_on_pictures_kept_for_testing_is_said(tmp_path, capsys):
    dataset = make_responses(60, 9)
    split = np.where(np.arange(60) < 12, "test", "context")
    braincl.save_responses(dataset.assign_coords(split=("image", split)), tmp_path / "s.nc")
    (tmp_path / "test.txt").write_text("\n".join(dataset["image_id"].values[:12]))
    train = ["train", str(tmp_path / "s.nc"), "--steps", "1", "--out"]
    assert main([*train, str(tmp_path / "all")]) == 0
    assert "12 pictures that a response set keeps for testing are trained on" in capsys.readouterr().err
    assert main([*train, str(tmp_path / "some"), "--exclude-images", str(tmp_path / "test.txt")]) == 0
    assert "keeps for testing" not in capsys.readouterr().err


@pytest.mark.filterwarnings("default")
def test_what_libraries_say_to_programmers_is_not_for_users(monkeypatch, tmp_path, capsys):
    def warn(*_args: object, **_options: object) -> None:
        warnings.warn("this function goes away", DeprecationWarning, stacklevel=1)
        warnings.warn("this voxel is odd", UserWarning, stacklevel=1)
        raise ResponseError("stop")

    monkeypatch.setattr("braincl.data.responses.open_responses", warn)
    given, out = str(tmp_path / "s.nc"), str(tmp_path / "p.nc")
    assert main(["predict", "--context", given, "--images", given, "--out", out]) == 2
    assert capsys.readouterr().err.splitlines() == ["braincl: warning: this voxel is odd", "braincl: stop"]
