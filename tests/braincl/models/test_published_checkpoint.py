"""Published checkpoints as model folders: what is read, and what is refused without being run."""

import json
import math

import numpy as np
import pytest
import torch

from braincl.cli.main import main
from braincl.estimators.in_context import InContextEncoder
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.models.published_checkpoint import convert_published
from setcore.checkpoint import load_config, load_state, load_tensors
from setcore.errors import CheckpointError, InputError

CONFIG = PerVoxelConfig(features=6, width=20, layers=3, heads=10, hidden=15)


def fill(shapes, seed):
    """The recipe of the fixture: names in sorted order, one generator each."""
    tensors = {}
    for index, name in enumerate(sorted(shapes)):
        values = torch.randn(shapes[name], generator=torch.Generator().manual_seed(seed + index)) * 0.02
        tensors[name] = values + 1 if len(shapes[name]) == 1 and name.endswith(".weight") else values
    return tensors


def small_state(seed=5):
    return fill({name: list(tensor.shape) for name, tensor in PerVoxelNetwork(CONFIG).state_dict().items()}, seed)


def load_network(folder):
    config, _ = load_config(folder, PerVoxelConfig)
    network = PerVoxelNetwork(config)
    load_state(network, load_tensors(folder / "model.safetensors"), str(folder))
    return network.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_conversion_reads_sizes_from_shapes(tmp_path, dtype):
    state = {name: tensor.to(dtype) for name, tensor in small_state().items()}
    torch.save(state, tmp_path / "p.pth")
    assert convert_published(tmp_path / "p.pth", tmp_path / "model") == CONFIG
    network = load_network(tmp_path / "model")
    for name, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, state[name].float(), rtol=0, atol=0)
    extra = load_config(tmp_path / "model", PerVoxelConfig)[1]
    assert extra["architecture"] == "per_voxel"
    assert extra["standardize"] is False
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "p.pth"]


class Evil:
    def __reduce__(self):
        return print, ("code of a checkpoint was run",)


def test_conversion_refuses_what_is_no_published_network(tmp_path, capsys):
    good = small_state()
    cut = tmp_path / "whole.pth"
    torch.save(good, cut)
    cases = {
        "code.pth": ({"cls_token": Evil()}, "raw tensors"),
        "nested.pth": ({"state_dict": good}, "not a floating point tensor"),
        "list.pth": ([1, 2], "dictionary of tensors"),
        "missing.pth": ({n: t for n, t in good.items() if n != "transformer.1.attn.in_proj_bias"}, "missing"),
        "foreign.pth": ({"weight": torch.ones(3)}, "not a published"),
        "extra.pth": (good | {"subject_embedding": torch.ones(2)}, "not part of this architecture"),
        "nan.pth": (good | {"cls_token": good["cls_token"] * math.nan}, "NaN"),
        "misshapen.pth": (good | {"cls_token": torch.ones(1, 4, 21)}, "shape"),
        "heads.pth": (good | {"early_layers.0.bypass.weight": torch.ones(21, 7)}, "divisible"),
    }  # fmt: skip
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(CheckpointError, match=message):
            convert_published(tmp_path / name, tmp_path / "model")
    (tmp_path / "cut.pth").write_bytes(cut.read_bytes()[:-500])
    (tmp_path / "text.pth").write_text("not a checkpoint")
    for name in ("cut.pth", "text.pth", "absent.pth"):
        with pytest.raises(CheckpointError):
            convert_published(tmp_path / name, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob(".*"))
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_training_in_parallel_puts_before_names_is_taken_off(tmp_path, prefix):
    torch.save(small_state(), tmp_path / "plain.pth")
    torch.save({prefix + name: tensor for name, tensor in small_state().items()}, tmp_path / "wrapped.pth")
    for name in ("plain", "wrapped"):
        convert_published(tmp_path / f"{name}.pth", tmp_path / name)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "wrapped" / file).read_bytes() == (tmp_path / "plain" / file).read_bytes()


def test_conversion_does_not_overwrite(tmp_path):
    torch.save(small_state(), tmp_path / "p.pth")
    (tmp_path / "model").mkdir()
    convert_published(tmp_path / "p.pth", tmp_path / "model")
    with pytest.raises(InputError, match="not an empty folder"):
        convert_published(tmp_path / "p.pth", tmp_path / "model")
    with pytest.raises(InputError, match="does not exist"):
        convert_published(tmp_path / "p.pth", tmp_path / "absent" / "model")


def test_published_fixture_is_reproduced(shared_data, tmp_path):
    folder = shared_data.parent / "fixtures" / "braincorl_published"
    if not folder.is_dir():
        pytest.skip(f"the published network's reference outputs are not at {folder}")
    recipe = json.loads((folder / "clip.json").read_text())
    expected = np.load(folder / "clip.npz")
    torch.save(fill(recipe["tensors"], recipe["seed"]), tmp_path / "clip.pth")
    assert main(["convert", str(tmp_path / "clip.pth"), "--out", str(tmp_path / "model")]) == 0
    encoder = InContextEncoder.from_pretrained(tmp_path / "model")
    assert encoder.standardize is False
    for n in recipe["context_sizes"]:
        encoder.fit(expected[f"context_{n}"], expected[f"response_{n}"].T)
        emitted = np.column_stack([encoder.coef_, encoder.intercept_])
        np.testing.assert_allclose(emitted, expected[f"weights_{n}"], rtol=0, atol=1e-4)
        predicted = encoder.predict(expected[f"query_{n}"])
        np.testing.assert_allclose(predicted.T, expected[f"prediction_{n}"], rtol=0, atol=1e-4)
