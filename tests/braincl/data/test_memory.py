"""A lack of memory is one error that says what to set, and is found before the work where it can be."""

import numpy as np
import pytest
import torch
import xarray as xr
from standin import small_network
from synthetic import make_responses

from braincl.data import memory, responses
from braincl.data.responses import open_responses, save_responses
from braincl.data.stores.blocks import read_voxels
from braincl.errors import OutOfMemory
from braincl.estimators.in_context import InContextEncoder


def lacking(*_, **__):
    raise MemoryError("Unable to allocate 8 GiB")


def test_what_the_system_says(tmp_path, monkeypatch):
    info = tmp_path / "meminfo"
    info.write_text("MemTotal: 24 kB\nMemAvailable:   7 kB\n")
    monkeypatch.setattr("setcore.parallel.memory.MEMINFO", info)
    assert memory.free_memory() == 7 * 1024
    memory.check_memory(7168, "nothing")
    with pytest.raises(OutOfMemory, match=r"8e-06 GB of memory are needed, 7\.17e-06 are there: give less"):
        memory.check_memory(8000, "give less")
    monkeypatch.setattr("setcore.parallel.memory.MEMINFO", tmp_path / "none")
    memory.check_memory(1 << 60, "nothing")


def test_a_context_whose_n_by_n_matrix_does_not_fit_is_refused_and_a_longer_one_of_few_features_is_not(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 20_000)
    rng = np.random.default_rng(0)
    with pytest.raises(OutOfMemory, match="a context of 30 pictures of 40 features; give fewer pictures"):
        InContextEncoder(small_network()).fit(rng.standard_normal((30, 40)), rng.standard_normal((30, 2)))
    encoder = InContextEncoder(small_network()).fit(rng.standard_normal((90, 12)), rng.standard_normal((90, 2)))
    assert np.isfinite(encoder.coef_).all()


def test_memory_errors_of_torch_say_what_to_set(monkeypatch):
    network, dataset = small_network(), make_responses()
    encoder = InContextEncoder(network, voxel_batch=7)
    host = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    for error in (MemoryError(), torch.OutOfMemoryError("CUDA"), host):
        monkeypatch.setattr(network, "condition", lambda *_, error=error: throw(error))
        with pytest.raises(OutOfMemory, match="voxel_batch is 7: set it lower"):
            encoder.fit(dataset["embedding"].values, dataset["response"].values)


def throw(error):
    raise error


def test_a_file_that_does_not_fit_is_not_called_truncated(tmp_path, monkeypatch):
    save_responses(make_responses(), tmp_path / "set.nc")
    monkeypatch.setattr(responses, "SMALL", 0)
    lazy = open_responses(tmp_path / "set.nc", lazy=True)
    monkeypatch.setattr(xr.Dataset, "load", lacking)
    with pytest.raises(OutOfMemory, match=r"does not fit into memory; .*lazy=True"):
        open_responses(tmp_path / "set.nc")
    monkeypatch.setattr(xr.DataArray, "values", property(lacking))
    with pytest.raises(OutOfMemory, match="read fewer voxels at once"):
        read_voxels(lazy["response"], slice(0, 3))
