"""Broken response sets: each one a typed error that says what is wrong, status 2, one line, and no file."""

import shutil

import numpy as np
import pytest
import torch
import xarray as xr
from standin import save_small_model
from synthetic import FEATURES, IMAGES, VOXELS, make_responses, with_grid

import braincl
from braincl.cli.main import main
from braincl.errors import ResponseError
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.models.published_checkpoint import convert_published


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


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_model(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "out").mkdir()
    braincl.save_responses(make_responses(), tmp_path / "good.nc")
    return tmp_path


@pytest.fixture
def refused(folder, capsys):
    """Run a command that must fail; returns its one line of error."""

    def run(*argv):
        assert main([str(part) for part in argv]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.count("\n") == 1
        assert list((folder / "out").iterdir()) == []
        return captured.err

    return run


@pytest.fixture
def commands(model, folder):
    """The commands that read a response set, for a path of one."""
    out = folder / "out"
    return lambda path: [
        ["evaluate", "--model", model, path, "--contexts", "5", "--json", out / "o.json"],
        ["predict", "--model", model, "--context", path, "--images", folder / "good.nc", "--out", out / "p.nc"],
        ["train", folder / "good.nc", path, "--out", out / "m", "--steps", "1"],
    ]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_response_sets_are_refused_by_name(name, folder, commands, refused):
    change, message = BROKEN[name]
    broken = change(make_responses())
    with pytest.raises(ResponseError, match=message):
        braincl.open_responses(broken)
    broken.to_netcdf(folder / "broken.nc", engine="h5netcdf")
    for command in commands(folder / "broken.nc"):
        assert str(folder / "broken.nc") in refused(*command)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_truncated_files_are_refused(share, model, folder, commands, refused):
    whole, cut, out = folder / "good.nc", folder / "cut.nc", folder / "out"
    cut.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    for command in [
        *commands(cut),
        ["predict", "--model", model, "--context", whole, "--images", cut, "--out", out / "p.nc"],
        ["join", cut, whole, "--out", out / "j.nc"],
        ["join", whole, cut, "--out", out / "j.nc"],
    ]:
        assert "not a readable NetCDF-4 file" in refused(*command)


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
def test_files_of_other_formats_are_refused(content, folder, commands, refused):
    (folder / "other.nc").write_bytes(content)
    for command in commands(folder / "other.nc"):
        assert "not a readable NetCDF-4 file" in refused(*command)


def test_absent_files_and_folders_are_named(folder, commands, refused):
    for command in commands(folder / "absent.nc"):
        assert "absent.nc does not exist" in refused(*command)
    for command in commands(folder):
        assert "is not a file" in refused(*command)
    good = folder / "good.nc"
    assert "folder that exists" in refused("evaluate", good, "--json", folder / "absent" / "o.json")
    assert "name the report .json" in refused("evaluate", good, "--json", folder / "out" / "o.txt")


def test_an_output_never_replaces_an_input(folder, refused):
    good = folder / "good.nc"
    before = good.read_bytes()
    for command in [
        ["evaluate", good, "--contexts", "5", "--json", folder / "good.json"],
        ["predict", "--context", good, "--images", good, "--out", folder / "out" / ".." / "good.nc"],
        ["join", good, good, "--out", good],
    ]:
        assert "would replace the input" in refused(*command)
    assert good.read_bytes() == before


def test_a_context_beyond_the_pool_is_refused(model, folder, refused):
    report = folder / "out" / "o.json"
    error = refused("evaluate", "--model", model, folder / "good.nc", "--contexts", "5,500", "--json", report)
    assert "500 is beyond the pool: 40 pictures less 10 test images leave 30" in error


def test_widths_that_differ_are_refused(model, folder, refused):
    good, narrow, out = folder / "good.nc", folder / "narrow.nc", folder / "out"
    braincl.save_responses(make_responses(features=FEATURES - 3), narrow)
    error = refused("predict", "--model", model, "--context", good, "--images", narrow, "--out", out / "p.nc")
    assert "12 features, the query's 9" in error
    assert "[9, 12] features" in refused("train", good, narrow, "--out", out / "m", "--steps", "1")
    torch.save(PerVoxelNetwork(PerVoxelConfig(FEATURES, 20, 1, 10, 4)).state_dict(), folder / "p.pth")
    convert_published(folder / "p.pth", folder / "published")
    for command in [
        ["predict", "--model", folder / "published", "--context", narrow, "--images", narrow, "--out", out / "p.nc"],
        ["evaluate", "--model", folder / "published", narrow, "--contexts", "5", "--json", out / "o.json"],
    ]:
        error = refused(*command)
        assert "9 features" in error
        assert "12" in error


def test_a_query_without_embedding_is_refused(model, folder, refused):
    bare = folder / "bare.nc"
    make_responses().drop_vars("embedding").to_netcdf(bare, engine="h5netcdf")
    command = ["predict", "--model", model, "--context", folder / "good.nc", "--images", bare]
    assert "'embedding' (image, feature) is missing" in refused(*command, "--out", folder / "out" / "p.nc")


def test_constant_voxels_are_predicted_as_that_constant_and_flagged(model, folder):
    dataset = make_responses()
    dataset["response"][:, 4] = 1.25
    braincl.save_responses(dataset, folder / "flat.nc")
    command = ["predict", "--model", model, "--context", folder / "flat.nc", "--images", folder / "good.nc"]
    assert main([str(part) for part in [*command, "--out", folder / "p.nc"]]) == 0
    with xr.open_dataset(folder / "p.nc", engine="h5netcdf") as written:
        np.testing.assert_array_equal(written["constant"], np.arange(VOXELS) == 4)
        np.testing.assert_array_equal(written["prediction"][:, 4], 1.25)
        np.testing.assert_array_equal(written["prediction_std"][:, 4], 0)
        np.testing.assert_array_equal(written["weights"][4], 0)


PICKLE = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."  # calls os.system when it is loaded


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", lambda whole: whole[:-40]),
        ("model.safetensors", lambda whole: whole[:5]),
        ("model.safetensors", lambda whole: PICKLE),
        ("model.safetensors", None),
        ("config.json", lambda whole: whole[:-40]),
        ("config.json", lambda whole: b"[]"),
        ("config.json", lambda whole: whole.replace(b'"width": 8', b'"width": 16')),
        ("config.json", lambda whole: whole.replace(b'"width"', b'"breadth"')),
        ("config.json", None),
    ],
)
def test_damaged_models_are_refused(file, damage, model, folder, refused):
    damaged = folder / "model"
    shutil.copytree(model, damaged)
    if damage is None:
        (damaged / file).unlink()
    else:
        (damaged / file).write_bytes(damage((damaged / file).read_bytes()))
    good, out = folder / "good.nc", folder / "out"
    for command in [
        ["evaluate", "--model", damaged, good, "--contexts", "5", "--json", out / "o.json"],
        ["predict", "--model", damaged, "--context", good, "--images", good, "--out", out / "p.nc"],
    ]:
        assert str(damaged) in refused(*command)


def test_absent_models_are_named(folder, refused):
    report = folder / "out" / "o.json"
    assert "nowhere" in refused(
        "evaluate", "--model", "nowhere", folder / "good.nc", "--contexts", "5", "--json", report
    )


def test_a_checkpoint_with_code_is_refused(folder, refused):
    (folder / "evil.pth").write_bytes(PICKLE)
    assert "never run" in refused("convert", folder / "evil.pth", "--out", folder / "out" / "m")


def test_saving_a_broken_set_writes_nothing(folder):
    with pytest.raises(ResponseError):
        braincl.save_responses(make_responses().isel(voxel=[]), folder / "out" / "x.nc")
    assert list((folder / "out").iterdir()) == []
