"""Broken response sets: each one a typed error that says what is wrong, status 2, one line, and no file."""

import sys
from types import ModuleType

import numpy as np
import pytest
import xarray as xr
from standin import StandInEncoder
from synthetic import FEATURES, IMAGES, VOXELS, make_responses, with_grid

import braincl
from braincl.cli import main
from braincl.errors import ResponseError


def replaced(name, values):
    def change(dataset):
        dims = dataset[name].dims
        changed = dataset.copy()
        changed[name] = (dims, values(dataset[name].values.copy()))
        return changed

    return change


def at(index, value):
    def put(values):
        values[index] = value
        return values

    return put


def constant(value):
    return lambda values: np.full(values.shape, value)


BROKEN = {
    "no embedding": (lambda d: d.drop_vars("embedding"), "'embedding'.*missing.*braincl join"),
    "no response": (lambda d: d.drop_vars("response"), r"'response' \(image, voxel\) is missing"),
    "no image_id": (lambda d: d.drop_vars("image_id"), r"'image_id' \(image\) is missing"),
    "no voxel_id": (lambda d: d.drop_vars("voxel_id"), r"'voxel_id' \(voxel\) is missing"),
    "NaN response": (replaced("response", at((3, 2), np.nan)), "'response' has 1 NaN or inf.*image=3, voxel=2"),
    "inf response": (replaced("response", at((3, 2), np.inf)), "image=3, voxel=2"),
    "inf by overflow": (replaced("response", lambda v: at((0, 1), 1e300)(v.astype("f8"))), "image=0, voxel=1"),
    "NaN embedding": (replaced("embedding", at((5, 1), np.nan)), "'embedding'.*image=5, feature=1"),
    "one image": (lambda d: d.isel(image=[0]), "1 different image_id.*at least 2"),
    "one picture twice": (lambda d: d.isel(image=[0, 0]), "1 different image_id"),
    "no images": (lambda d: d.isel(image=[]), "0 different image_id"),
    "no voxels": (lambda d: d.isel(voxel=[]), "'voxel' has length 0"),
    "integer response": (replaced("response", lambda v: v.astype("i4")), "int32.*float32"),
    "integer embedding": (replaced("embedding", lambda v: v.astype("i8")), "int64.*float32"),
    "integer image_id": (replaced("image_id", lambda v: np.arange(len(v))), "'image_id'.*strings"),
    "wrong dimension": (lambda d: d.rename(voxel="neuron"), r"rename them to \('image', 'voxel'\)"),
    "third dimension": (lambda d: d.assign(response=d["response"].expand_dims("repeat")), "rename them"),
    "repeated voxel_id": (replaced("voxel_id", at(0, "v1")), "'v1'.*more than once"),
    "ceiling in percent": (
        lambda d: d.assign_coords(noise_ceiling=("voxel", np.full(VOXELS, 60.0))),
        "share of variance",
    ),
    "ceiling of images": (lambda d: d.assign_coords(noise_ceiling=("image", np.ones(IMAGES))), "'voxel'"),
    "inf trial": (
        lambda d: d.assign(response_trials=(("image", "repeat", "voxel"), np.full((IMAGES, 2, VOXELS), np.inf, "f4"))),
        "only NaN may stand for a missing trial",
    ),
    "half a grid": (lambda d: with_grid(d).drop_vars("k"), "all of i, j, k"),
    "outside the grid": (lambda d: with_grid(d).assign_attrs(grid_shape=np.array([3, 4, 2])), "leave the grid_shape"),
    "two voxels in one place": (
        lambda d: with_grid(d).assign_coords({axis: ("voxel", np.zeros(VOXELS, int)) for axis in "ijk"}),
        "same i, j, k",
    ),
    "float indices": (lambda d: with_grid(d).assign_coords(i=("voxel", np.zeros(VOXELS))), "must be integers"),
    "short affine": (lambda d: with_grid(d).assign_attrs(affine=np.ones(12)), "16 finite numbers"),
    "singular affine": (lambda d: with_grid(d).assign_attrs(affine=np.ones(16)), "singular"),
    "bad grid_shape": (lambda d: with_grid(d).assign_attrs(grid_shape=np.array([3, 4])), "3 positive integers"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    module = ModuleType("braincl.encoder")
    module.InContextEncoder = StandInEncoder
    monkeypatch.setitem(sys.modules, "braincl.encoder", module)
    (tmp_path / "out").mkdir()
    braincl.save_responses(make_responses(), tmp_path / "good.nc")
    return tmp_path


def refused(argv, folder, capsys):
    """Run a command that must fail; its one line of error."""
    assert main([str(part) for part in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    assert list((folder / "out").iterdir()) == []
    return captured.err


@pytest.mark.parametrize("name", BROKEN)
def test_broken_response_sets_are_refused_by_name(name, folder, capsys):
    change, message = BROKEN[name]
    broken = change(make_responses())
    with pytest.raises(ResponseError, match=message):
        braincl.open_responses(broken)
    broken.to_netcdf(folder / "broken.nc", engine="h5netcdf")
    out = folder / "out"
    commands = [
        ["evaluate", folder / "broken.nc", "--contexts", "5", "--json", out / "o.json"],
        ["predict", "--context", folder / "broken.nc", "--images", folder / "good.nc", "--out", out / "p.nc"],
    ]
    for argv in commands:
        assert str(folder / "broken.nc") in refused(argv, folder, capsys)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(share, folder, capsys):
    whole = (folder / "good.nc").read_bytes()
    (folder / "cut.nc").write_bytes(whole[: int(share * len(whole))])
    for argv in [
        ["evaluate", folder / "cut.nc", "--contexts", "5", "--json", folder / "out" / "o.json"],
        ["predict", "--context", folder / "cut.nc", "--images", folder / "good.nc", "--out", folder / "out" / "p.nc"],
        ["predict", "--context", folder / "good.nc", "--images", folder / "cut.nc", "--out", folder / "out" / "p.nc"],
        ["join", folder / "cut.nc", folder / "good.nc", "--out", folder / "out" / "j.nc"],
    ]:
        assert "not a readable NetCDF-4 file" in refused(argv, folder, capsys)


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes_never_escape_as_a_library_error(seed, folder):
    """Bytes in the middle of the file are overwritten: a typed error, or a set that passed all checks."""
    rng = np.random.default_rng(seed)
    data = bytearray((folder / "good.nc").read_bytes())
    for position in rng.integers(8, len(data), 200):
        data[position] = rng.integers(256)
    (folder / "damaged.nc").write_bytes(data)
    try:
        opened = braincl.open_responses(folder / "damaged.nc")
    except ResponseError:
        return
    assert np.isfinite(opened["response"]).all()


@pytest.mark.parametrize("content", [b"", b"CDF\x01" + bytes(60), b"\x89HDF\r\n\x1a\n" + bytes(100), b"\x80\x04K\x01."])
def test_files_of_other_formats_are_refused(content, folder, capsys):
    (folder / "other.nc").write_bytes(content)
    argv = ["evaluate", folder / "other.nc", "--json", folder / "out" / "o.json"]
    assert "not a readable NetCDF-4 file" in refused(argv, folder, capsys)


def test_absent_files_and_folders_are_named(folder, capsys):
    out = folder / "out"
    assert "absent.nc" in refused(["evaluate", folder / "absent.nc", "--json", out / "o.json"], folder, capsys)
    assert "is not a file" in refused(["evaluate", folder, "--json", out / "o.json"], folder, capsys)
    absent = folder / "absent" / "o.json"
    assert "folder that exists" in refused(["evaluate", folder / "good.nc", "--json", absent], folder, capsys)
    assert "name the report .json" in refused(["evaluate", folder / "good.nc", "--json", out / "o.txt"], folder, capsys)


def test_an_output_never_replaces_an_input(folder, capsys):
    good = folder / "good.nc"
    before = good.read_bytes()
    for argv in [
        ["evaluate", good, "--contexts", "5", "--json", folder / "good.json"],
        ["predict", "--context", good, "--images", good, "--out", folder / "out" / ".." / "good.nc"],
        ["join", good, good, "--out", good],
    ]:
        assert "would replace the input" in refused(argv, folder, capsys)
    assert good.read_bytes() == before


def test_a_context_beyond_the_pool_is_refused(folder, capsys):
    argv = ["evaluate", folder / "good.nc", "--contexts", "5,500", "--json", folder / "out" / "o.json"]
    assert "500 is beyond the pool: 40 pictures less 10 test images leave 30" in refused(argv, folder, capsys)


def test_widths_that_differ_are_refused(folder, capsys):
    narrow = make_responses(features=FEATURES - 3)
    braincl.save_responses(narrow, folder / "narrow.nc")
    argv = [
        "predict",
        "--context",
        folder / "good.nc",
        "--images",
        folder / "narrow.nc",
        "--out",
        folder / "out" / "p.nc",
    ]
    assert "12 features, the query's 9" in refused(argv, folder, capsys)


def test_a_query_without_embedding_is_refused(folder, capsys):
    make_responses().drop_vars("embedding").to_netcdf(folder / "bare.nc", engine="h5netcdf")
    argv = [
        "predict",
        "--context",
        folder / "good.nc",
        "--images",
        folder / "bare.nc",
        "--out",
        folder / "out" / "p.nc",
    ]
    assert r"'embedding' (image, feature) is missing" in refused(argv, folder, capsys)


def test_constant_voxels_are_predicted_as_that_constant_and_flagged(folder, capsys):
    dataset = make_responses()
    dataset["response"][:, 4] = 1.25
    braincl.save_responses(dataset, folder / "flat.nc")
    argv = ["predict", "--context", folder / "flat.nc", "--images", folder / "good.nc", "--out", folder / "p.nc"]
    assert main([str(part) for part in argv]) == 0
    with xr.open_dataset(folder / "p.nc", engine="h5netcdf") as written:
        np.testing.assert_array_equal(written["constant"], np.arange(VOXELS) == 4)
        np.testing.assert_array_equal(written["prediction"][:, 4], 1.25)
        np.testing.assert_array_equal(written["weights"][4], 0)


def test_a_checkpoint_with_code_is_refused(folder, capsys):
    (folder / "evil.pth").write_bytes(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.")
    assert "code" in refused(["convert", folder / "evil.pth", "--out", folder / "out" / "m"], folder, capsys)


def test_saving_a_broken_set_writes_nothing(folder):
    with pytest.raises(ResponseError):
        braincl.save_responses(make_responses().isel(voxel=[]), folder / "out" / "x.nc")
    assert list((folder / "out").iterdir()) == []
