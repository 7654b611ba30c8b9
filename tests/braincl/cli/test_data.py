"""The command `braincl data`, on a miniature of a data set."""

import json
from pathlib import Path

import pytest
import xarray as xr
import yaml

import braincl
from braincl.cli.main import main
from braincl.datasets import DATASETS, READERS, check_folder, read_dataset, read_nsd
from braincl.datasets.miniature import write_nsd_miniature

ROOT = Path(__file__).resolve().parents[3]
SUBJECT = "subj01"


@pytest.fixture(scope="module")
def nsd(tmp_path_factory):
    return write_nsd_miniature(tmp_path_factory.mktemp("nsd"), (SUBJECT,), trials=20, shared=6, picture=20)


@pytest.mark.parametrize("name", list(DATASETS))
def test_manifests_say_what_the_package_says(name):
    dataset = DATASETS[name]
    manifest = yaml.safe_load((ROOT / "data_manifests" / f"{name}.yaml").read_text())
    for field in ("name", "licence", "source", "reader"):
        assert manifest[field] == getattr(dataset, field)
    assert {"what", "files", "checksums", "used_for"} <= set(manifest)
    module, _, function = dataset.reader.rpartition(".")
    assert callable(getattr(__import__(module, fromlist=[function]), function))
    assert name in READERS


def test_list_and_info(capsys):
    assert main(["data", "list", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == list(DATASETS)
    assert main(["data", "info", "nsd"]) == 0
    text = capsys.readouterr().out
    assert "Terms and Conditions" in text
    assert "betas_session*.hdf5" in text
    assert main(["data", "info", "nsd", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["subjects"][0] == "subj01"
    assert main(["data", "info", "nds"]) == 2
    assert capsys.readouterr().err == "braincl: there is no data set 'nds'; did you mean nsd?\n"


def test_check_says_what_is_missing_and_where_to_get_it(nsd, tmp_path, capsys):
    assert main(["data", "check", "nsd", str(nsd), "--subject", SUBJECT]) == 0
    assert "MISSING" not in capsys.readouterr().out
    assert main(["data", "check", "nsd", str(nsd), "--subject", "subj05"]) == 2
    output = capsys.readouterr()
    assert "betas: MISSING" in output.out
    assert "aws s3 cp --no-sign-request s3://natural-scenes-dataset/nsddata/ppdata/subj05/func1pt8mm/roi" in output.out
    assert output.err == f"braincl: {nsd} lacks of nsd: betas, mask\n"
    assert main(["data", "check", "bold5000", str(nsd), "--json"]) == 2
    assert "betas (release 2)" in json.loads(capsys.readouterr().out)["missing"]
    assert main(["data", "check", "nsd", str(tmp_path / "nowhere")]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_check_finds_gaps_between_sessions(tmp_path, capsys):
    root = write_nsd_miniature(tmp_path, (SUBJECT,), trials=20, shared=6, picture=20)
    next(root.glob("nsddata_betas/**/betas_session02.nii.gz")).unlink()
    betas = check_folder(DATASETS["nsd"], root, SUBJECT)[0]
    assert [Path(gap).name for gap in betas.gaps] == ["betas_session02"]
    assert main(["data", "check", "nsd", str(root), "--subject", SUBJECT]) == 2
    assert "betas_session02" in capsys.readouterr().out


def test_read_writes_what_the_reader_returns(nsd, tmp_path, capsys):
    argv = ["data", "read", "nsd", str(nsd), "--subject", SUBJECT, "--out", str(tmp_path / "s.nc"), "--json"]
    options = ["--sessions", "1,2", "--zscore", "context", "--noise-ceiling", "repeats", "--trials"]
    assert main([*argv, *options]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["zscore"], report["sessions"], report["dropped_voxels"]) == ("context", "01 02", 0)
    expected = read_nsd(nsd, SUBJECT, sessions=[1, 2], zscore="context", noise_ceiling="repeats", trials=True)
    xr.testing.assert_equal(braincl.open_responses(tmp_path / "s.nc", require_embedding=False), expected)
    assert main([*argv, "--zscore", "none", "--noise-ceiling", "none"]) == 0
    raw = braincl.open_responses(tmp_path / "s.nc", require_embedding=False)
    assert raw.attrs["zscore"] == "none"
    assert "noise_ceiling" not in raw.coords


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--subject", "S1"], "is not one of NSD"),
        (["--release", "2"], "no option release"),
        (["--sessions", "1,9"], "session 09 is missing"),
        (["--mask", "absent.nii.gz"], "absent.nii.gz is missing"),
    ],
)
def test_a_wrong_option_writes_nothing(nsd, tmp_path, capsys, change, message):
    argv = ["data", "read", "nsd", str(nsd), "--subject", SUBJECT, "--out", str(tmp_path / "s.nc")]
    assert main([*argv, *change]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_generic_folder_is_read_by_its_names(nsd, tmp_path):
    """The same betas, laid out as a lab would."""
    session = next(nsd.glob("nsddata_betas/**/betas_session01.nii.gz"))
    (tmp_path / "betas.nii.gz").write_bytes(session.read_bytes())
    (tmp_path / "mask.nii.gz").write_bytes(next(nsd.glob("**/roi/nsdgeneral.nii.gz")).read_bytes())
    (tmp_path / "trials.csv").write_text("image_id\n" + "".join(f"{trial % 9}\n" for trial in range(20)))
    found = read_dataset("generic", tmp_path, "lab", scale=300)
    assert found.sizes["image"] == 9
    assert found.attrs["subject"] == "lab"
    (tmp_path / "other.csv").write_text("image_id\n")
    with pytest.raises(braincl.ResponseError, match=r"holds 2 files \*\.csv; there must be one"):
        read_dataset("generic", tmp_path, "lab")
