"""Model folders: exact round trips, and every damage named before anything is loaded."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import nn

from setcore.checkpoint import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    build_network,
    check_state,
    config_from_dict,
    load_config,
    load_state,
    load_tensors,
    save_model,
    save_tensors,
)
from setcore.errors import CheckpointError, InputError


@dataclass(frozen=True)
class Inner:
    heads: int = 2


@dataclass(frozen=True)
class Config:
    width: int
    rate: float = 0.1
    grid: tuple[int, ...] = (1, 2)
    name: str | None = None
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError(f"width {self.width} must be positive")


def network(width: int = 5) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def test_model_folder_round_trip_is_exact(tmp_path):
    config, model, other = Config(5, 0.25, (7, 8, 9), "x", Inner(3)), network(), network()
    save_model(tmp_path, config, model, note="kept")
    assert load_config(tmp_path, Config) == (config, {"note": "kept"})
    load_state(other, load_tensors(tmp_path / WEIGHTS_FILE), "test")
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name
        assert other.state_dict()[name].dtype == tensor.dtype, name
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE]


def test_half_precision_is_stored_as_fp16_and_loaded_as_fp32(tmp_path):
    model, other = network(), network()
    save_model(tmp_path, Config(5), model, half=True)
    stored = load_tensors(tmp_path / WEIGHTS_FILE)
    assert {str(tensor.dtype) for tensor in stored.values()} == {"torch.float16", "torch.int64"}
    load_state(other, stored, "test")
    assert torch.equal(other[0].weight, model[0].weight.half().float())
    assert other[0].weight.dtype == torch.float32


def test_shared_and_transposed_tensors_are_written_as_they_look(tmp_path):
    base = torch.arange(12.0).view(3, 4)
    save_tensors(tmp_path / "t.safetensors", {"a": base, "b": base, "c": base.T}, {"k": "v"})
    stored = load_tensors(tmp_path / "t.safetensors")
    assert torch.equal(stored["a"], base)
    assert torch.equal(stored["b"], base)
    assert torch.equal(stored["c"], base.T)


class Bomb:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.fixture
def good(tmp_path) -> bytes:
    save_tensors(tmp_path / "good.safetensors", {"w": torch.arange(100.0)})
    return (tmp_path / "good.safetensors").read_bytes()


def test_a_pickle_posing_as_safetensors_is_refused_unopened(tmp_path):
    path, trace = tmp_path / WEIGHTS_FILE, tmp_path / "trace"
    for write in (
        lambda: path.write_bytes(pickle.dumps(Bomb(trace))),
        lambda: torch.save({"w": Bomb(trace)}, path),
    ):
        write()
        with pytest.raises(CheckpointError, match="not a readable safetensors file"):
            load_tensors(path)
        assert not trace.exists()


def test_every_truncation_is_refused(tmp_path, good):
    path = tmp_path / WEIGHTS_FILE
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError, match="not a readable"):
            load_tensors(path)


def test_damaged_headers_are_refused(tmp_path, good):
    path = tmp_path / WEIGHTS_FILE
    (length,) = struct.unpack("<Q", good[:8])
    header = json.loads(good[8 : 8 + length])
    header["w"]["data_offsets"] = [0, 2**60]
    forged = json.dumps(header).encode()
    for damaged in (
        struct.pack("<Q", 2**62) + good[8:],
        struct.pack("<Q", len(forged)) + forged + good[8 + length :],
        good + b"trailing",
        good[:8] + b"\x00" * length + good[8 + length :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="not a readable"):
            load_tensors(path)


def test_absent_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"does not exist; a model folder holds config\.json"):
        load_tensors(tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="not a model folder"):
        load_config(tmp_path, Config)


def test_states_of_another_architecture_are_named_and_change_nothing():
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = dict(before)
    missing = {name: tensor for name, tensor in state.items() if name != "2.bias"}
    for foreign, message in (
        (missing, r"here: tensor '2.bias' is missing \(1 in all\)"),
        ({**state, "extra": torch.zeros(1)}, "here: tensor 'extra' is not part"),
        (network(6).state_dict(), r"'0.weight' has shape \(6, 3\), expected \(5, 3\)"),
    ):
        for function in (check_state, load_state):
            with pytest.raises(CheckpointError, match=message):
                function(model, foreign, "here")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 5, "depth": 3}, "unknown field 'depth'"),
        ({}, "width"),
        ({"width": 0}, "width 0 must be positive"),
        ({"width": "5"}, "field 'width' is '5', expected int"),
        ({"width": True}, "field 'width' is True"),
        ({"width": 5.5}, "field 'width' is 5.5"),
        ({"width": 5, "rate": None}, "field 'rate' is None, expected float"),
        ({"width": 5, "name": 3}, "field 'name' is 3, expected str or NoneType"),
        ({"width": 5, "inner": {"heads": "2"}}, "field 'inner': field 'heads' is '2'"),
        ({"width": 5, "inner": 3}, "expected an object with the fields of Inner"),
        ([5], "expected an object with the fields of Config"),
    ],
)
def test_foreign_configs_are_named(tmp_path, values, message):
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"config": values}))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_config(tmp_path, Config)
    assert str(tmp_path / CONFIG_FILE) in str(caught.value)


def test_config_from_plain_values():
    values = {"width": 5, "rate": 1, "grid": [3, 4], "name": None, "inner": {"heads": 7}}
    assert config_from_dict(Config, values, "test") == Config(5, 1, (3, 4), None, Inner(7))


def test_damaged_config_files_are_typed_errors(tmp_path):
    for text, message in (("{", "not valid JSON"), ("[]", "'config' is missing"), ('{"a": 1}', "'config' is missing")):
        (tmp_path / CONFIG_FILE).write_text(text)
        with pytest.raises(InputError, match=message):
            load_config(tmp_path, Config)


@pytest.mark.parametrize("value", [-1, 10**9, 10**30])
def test_numbers_that_no_network_has_are_refused(value):
    for values in ({"width": value}, {"width": 3, "grid": [1, value]}, {"width": 3, "inner": {"heads": value}}):
        with pytest.raises(CheckpointError, match=f"here: .*{value}"):
            config_from_dict(Config, values, "here")


def claims(width: int = 5, layers: int = 1) -> nn.Module:
    return nn.Sequential(network(width), *(nn.Linear(2, 2) for _ in range(layers - 1)))


def test_a_network_that_claims_more_than_is_there_is_given_up_before_it_takes_memory():
    state = claims().state_dict()
    torch.testing.assert_close(build_network(claims, state, "here").state_dict(), state)
    touched = []

    def wide() -> nn.Module:
        layer = nn.Linear(3, 60_000, device="meta")
        touched.append(layer)
        return layer

    with pytest.raises(CheckpointError, match="here: the config claims a larger network"):
        build_network(wide, state, "here")
    assert touched == []
    with pytest.raises(CheckpointError, match="claims a larger network than the 9 tensors"):
        build_network(lambda: claims(layers=50_000_000), state, "here")
    with pytest.raises(CheckpointError, match=r"expected \(4, 3\)"):
        build_network(lambda: claims(4), state, "here")
    with pytest.raises(CheckpointError, match="fits no network"):
        build_network(lambda: nn.Linear(1 << 60, 1 << 60), state, "here")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(value):
    state = network().state_dict()
    state["0.weight"][2, 1] = value
    with pytest.raises(CheckpointError, match=r"'0\.weight' holds NaN or infinity"):
        load_state(network(), state, "here")


def test_sparse_and_meta_tensors_are_refused(tmp_path):
    for tensor, kind in ((torch.eye(3).to_sparse(), "sparse"), (torch.zeros(3, device="meta"), "meta")):
        with pytest.raises(CheckpointError, match=rf"x\.safetensors: tensor 'w' is .*{kind}"):
            save_tensors(tmp_path / "x.safetensors", {"w": tensor})
        with pytest.raises(CheckpointError, match=kind):
            check_state(nn.ParameterDict({"w": torch.zeros(tensor.shape)}), {"w": tensor}, "here")
    assert list(tmp_path.iterdir()) == []
