"""Sets that are read and written in blocks of voxels: the same as in memory, and damaged stores are refused."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr
from standin import make_prior, save_small_model, small_network
from synthetic import make_responses

import braincl.analysis.predict
import braincl.data.responses
from braincl.analysis.predict import predict_responses
from braincl.cli.main import main
from braincl.data.responses import average_duplicates, open_responses, save_responses
from braincl.data.stores.blocks import VoxelBlocks
from braincl.data.stores.convert import convert_responses
from braincl.errors import ResponseError
from braincl.estimators.in_blocks import fit_blocks
from braincl.estimators.in_context import InContextEncoder
from braincl.estimators.prior_ridge import PriorRidge
from braincl.estimators.ridge import RidgeCV
from braincl.evaluation.scores import evaluate

VOXELS = 11


@pytest.fixture(autouse=True)
def _no_set_is_small(monkeypatch):
    monkeypatch.setattr(braincl.data.responses, "SMALL", 0)


@pytest.fixture
def dataset():
    made = make_responses(images=40, voxels=VOXELS)
    made["response"][:, 3] = 1.5  # a constant voxel
    trials = np.stack([made["response"].values + 0.1, made["response"].values - 0.1], axis=1)
    trials[2, 1] = np.nan
    made["response_trials"] = (("image", "repeat", "voxel"), trials)
    return made


@pytest.fixture
def store(dataset, tmp_path):
    save_responses(dataset, tmp_path / "set.nc")
    convert_responses(tmp_path / "set.nc", tmp_path / "set.zarr")
    return tmp_path / "set.zarr"


@pytest.fixture
def narrow(monkeypatch):
    """Blocks of 4 voxels."""
    monkeypatch.setattr(VoxelBlocks.__init__, "__defaults__", (4 * 40 * 4,))


def test_there_and_back(dataset, store, tmp_path):
    assert main(["data", "convert", str(store), str(tmp_path / "back.nc")]) == 0
    for path in (store, tmp_path / "back.nc"):
        xr.testing.assert_identical(open_responses(path), open_responses(tmp_path / "set.nc"))


def test_blocks_cover_all_voxels_and_average_pictures(dataset, tmp_path):
    dataset = dataset.drop_vars("response_trials")
    again = xr.concat([dataset, dataset.isel(image=[5, 1]) * 1], "image").assign_attrs(dataset.attrs)
    again["embedding"].values[-2:] = dataset["embedding"].values[[5, 1]]
    again["response"].values[-2:] += 1
    save_responses(again, tmp_path / "again.nc")
    blocks = VoxelBlocks(open_responses(tmp_path / "again.nc", lazy=True), block_bytes=4 * 42 * 3)
    assert [part.stop - part.start for part in blocks.slices()] == [3, 3, 3, 2]
    whole = average_duplicates(again)
    np.testing.assert_array_equal(np.concatenate([Y for _, Y in blocks], axis=1), whole["response"].values)
    np.testing.assert_array_equal(blocks.head["duplicates"], whole["duplicates"])


@pytest.mark.parametrize("encoder", [InContextEncoder(small_network()), PriorRidge(make_prior()), RidgeCV()], ids=str)
def test_fits_in_blocks_are_those_of_all_voxels(encoder, dataset, store):
    X, Y = dataset["embedding"].values, dataset["response"].values
    expected = encoder.fit(X, Y).coef_.copy()
    lazy = open_responses(store, lazy=True)
    found = [fitted.coef_.copy() for _, fitted in fit_blocks(encoder, VoxelBlocks(lazy, block_bytes=4 * 40 * 3))]
    assert len(found) == 4
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-5 * np.abs(expected).max())


def test_predictions_of_a_store_are_those_in_memory(dataset, store, tmp_path, narrow, monkeypatch):
    query = make_responses(images=9, seed=3)[["embedding"]]
    query.to_netcdf(tmp_path / "query.nc")
    model = save_small_model(tmp_path / "model")
    monkeypatch.setattr(VoxelBlocks.__init__, "__defaults__", (1 << 20,))
    expected = predict_responses(InContextEncoder.from_pretrained(model), dataset, query)
    monkeypatch.setattr(VoxelBlocks.__init__, "__defaults__", (4 * 40 * 4,))
    monkeypatch.setattr(braincl.analysis.predict, "WHOLE", 0)
    for name in ("out.zarr", "out.nc"):
        out = tmp_path / name
        told = ["--model", str(model), "--context", str(store), "--images", str(tmp_path / "query.nc")]
        assert main(["predict", *told, "--out", str(out)]) == 0
        options = {"engine": "zarr", "consolidated": False} if out.suffix == ".zarr" else {}
        with xr.open_dataset(out, **options) as found:
            assert set(found.variables) == set(expected.variables)
            for variable in expected.data_vars:
                np.testing.assert_allclose(found[variable], expected[variable], rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(found["voxel_id"], expected["voxel_id"])
            assert found.attrs == expected.attrs


def test_evaluation_of_a_store_is_that_in_memory(dataset, store, monkeypatch):
    encoder = InContextEncoder(small_network())
    whole = evaluate(encoder, dataset, (5, 10), 2, 12)
    monkeypatch.setattr(VoxelBlocks.__init__, "__defaults__", (4 * 40 * 4,))
    parts = evaluate(encoder, store, (5, 10), 2, 12)
    for left, right in zip(parts.report["results"], whole.report["results"], strict=True):
        assert left.keys() == right.keys()
        for name in set(left) - {"seconds"}:
            same = pytest.approx(right[name], rel=1e-4, abs=1e-5) if isinstance(right[name], float) else right[name]
            assert left[name] == same


def cut_short(store):
    next(iter(sorted((store / "response").glob("0*")))).unlink()


def half_a_chunk(store):
    chunk = next(iter(sorted((store / "response").glob("0*"))))
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])


def damaged_metadata(store):
    (store / "response" / ".zarray").write_text("{")


def pickles(store):
    path = store / "image_id" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"filters": [{"id": "pickle"}]}))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (cut_short, "1 of 1 chunks of 'response' are missing: the store was cut short"),
        (half_a_chunk, "cut short|truncated"),
        (damaged_metadata, "damaged"),
        (pickles, "codec 'pickle'"),
        (lambda store: shutil.rmtree(store / "response"), "'response' .* is missing"),
        (lambda store: [path.unlink() for path in store.rglob(".z*")], "without Zarr metadata"),
    ],
    ids=["a chunk", "half a chunk", "metadata", "pickles", "an array", "all metadata"],
)
def test_a_damaged_store_is_one_clear_error(harm, message, store, capsys):
    harm(store)
    for lazy in (False, True):
        with pytest.raises(ResponseError, match=message):
            VoxelBlocks(open_responses(store, lazy=lazy)).read()
    assert main(["data", "convert", str(store), str(store.with_name("out.nc"))]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not store.with_name("out.nc").exists()


def test_a_disk_that_is_too_small_is_said_before(dataset, store, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ResponseError, match="are free on that disk"):
        convert_responses(store, tmp_path / "out.nc")
    assert not list(tmp_path.glob("*out*"))
