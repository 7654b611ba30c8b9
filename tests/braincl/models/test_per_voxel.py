import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from braincl.cli.main import main
from braincl.estimators.in_context import InContextEncoder
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork, convert_published
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


def pairs(n=9, voxels=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, CONFIG.features, generator=generator), torch.randn(n, voxels, generator=generator)


def written_out(state, X, y):
    """The published network for one voxel, as the design page states it, without any of our blocks."""

    def mlp(prefix, z):
        h = functional.layer_norm(z, z.shape[-1:], state[f"{prefix}.block.0.weight"], state[f"{prefix}.block.0.bias"])
        h = functional.linear(
            functional.leaky_relu(h, 0.1), state[f"{prefix}.block.3.weight"], state[f"{prefix}.block.3.bias"]
        )
        h = functional.layer_norm(h, h.shape[-1:], state[f"{prefix}.block.4.weight"], state[f"{prefix}.block.4.bias"])
        h = functional.linear(
            functional.leaky_relu(h, 0.1), state[f"{prefix}.block.7.weight"], state[f"{prefix}.block.7.bias"]
        )
        return h + functional.linear(z, state[f"{prefix}.bypass.weight"], state[f"{prefix}.bypass.bias"])

    z = torch.cat([state["cls_token"][0], mlp("early_layers.0", torch.cat([X, y[:, None]], dim=1))])
    width = z.shape[1]
    for i in range(CONFIG.layers):
        layer = {name.removeprefix(f"transformer.{i}."): t for name, t in state.items()}
        h = functional.layer_norm(z, (width,), layer["layer_norm_1.weight"], layer["layer_norm_1.bias"])
        attention = torch.nn.MultiheadAttention(width, CONFIG.heads, batch_first=True)
        attention.load_state_dict(
            {name.removeprefix("attn."): t for name, t in layer.items() if name.startswith("attn.")}
        )
        z = z + attention(math.log(len(z)) * h[None], h[None], h[None])[0][0]
        h = functional.layer_norm(z, (width,), layer["layer_norm_2.weight"], layer["layer_norm_2.bias"])
        a, gate = functional.linear(h, layer["ffn.linear1.weight"], layer["ffn.linear1.bias"]).chunk(2, dim=-1)
        z = z + functional.linear(functional.silu(a) * gate, layer["ffn.linear2.weight"], layer["ffn.linear2.bias"])
    emitted = mlp("weight_pred.0", z[0])
    return emitted[:-1], emitted[-1]


def test_equals_the_network_written_out():
    network, state = PerVoxelNetwork(CONFIG).eval(), small_state()
    network.load_state_dict(state)
    X, Y = pairs()
    with torch.no_grad():
        weights, bias = network(X, Y)
        for voxel in range(Y.shape[1]):
            w, b = written_out(state, X, Y[:, voxel])
            torch.testing.assert_close(weights[voxel], w, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(bias[voxel], b, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_order_of_context_and_batching_of_voxels_do_not_matter():
    network = PerVoxelNetwork(CONFIG).eval()
    network.load_state_dict(small_state())
    X, Y = pairs()
    weights, bias = network(X, Y)
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(1))
    shuffled, shuffled_bias = network(X[order], Y[order])
    torch.testing.assert_close(shuffled, weights, rtol=0, atol=1e-5)
    torch.testing.assert_close(shuffled_bias, bias, rtol=0, atol=1e-5)
    alone, alone_bias = network(X, Y[:, 2:3])
    torch.testing.assert_close(alone[0], weights[2], rtol=0, atol=1e-6)
    torch.testing.assert_close(alone_bias[0], bias[2], rtol=0, atol=1e-6)


@torch.no_grad()
def test_attention_is_over_the_context():
    network = PerVoxelNetwork(CONFIG).eval()
    X, Y = pairs()
    attention = network.context_attention(X, Y)
    assert attention.shape == (4, CONFIG.heads, 9)
    assert (attention > 0).all()
    assert (attention.sum(dim=-1) < 1).all()  # the learned tokens have the rest
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network.context_attention(X[order], Y[order]), attention[:, :, order])


@pytest.mark.parametrize(("features", "width", "parameters"), [(512, 560, 97_074_852), (768, 800, 156_000_196),
                                                               (1152, 1200, 277_044_132)])  # fmt: skip
def test_published_sizes(features, width, parameters):
    with torch.device("meta"):
        network = PerVoxelNetwork(PerVoxelConfig(features, width))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == 261


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
