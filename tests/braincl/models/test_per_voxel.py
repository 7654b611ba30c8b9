"""The published network against itself written out, and its symmetries."""

import math

import pytest
import torch
from torch.nn import functional

from braincl.errors import ModelError
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork

CONFIG = PerVoxelConfig(features=6, width=20, layers=3, heads=10, hidden=15)


def small_network(seed=5):
    """Parameters drawn one by one in the order of their names, norms around 1."""
    network = PerVoxelNetwork(CONFIG).eval()
    state = network.state_dict()
    for index, name in enumerate(sorted(state)):
        values = torch.randn(state[name].shape, generator=torch.Generator().manual_seed(seed + index)) * 0.02
        state[name].copy_(values + 1 if values.ndim == 1 and name.endswith(".weight") else values)
    return network


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
    network = small_network()
    state = network.state_dict()
    X, Y = pairs()
    with torch.no_grad():
        weights, bias = network(X, Y)
        for voxel in range(Y.shape[1]):
            w, b = written_out(state, X, Y[:, voxel])
            torch.testing.assert_close(weights[voxel], w, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(bias[voxel], b, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_order_of_context_and_batching_of_voxels_do_not_matter():
    network = small_network()
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


@torch.no_grad()
def test_what_estimators_ask_is_what_the_network_emits():
    network = small_network()
    X, Y = pairs(voxels=7)
    weights, bias = network(X, Y)
    conditioned, part = network.condition(X, Y, voxel_batch=3), slice(2, 5)
    for found, expected in zip(network.emit(conditioned, Y[:, part], part), (weights, bias), strict=True):
        torch.testing.assert_close(found, expected[part])
    residual = (Y - X @ weights.T - bias).square().mean(dim=0).sqrt()
    told, asked = network.tell(conditioned.compact(), Y[:, part], part), network.ask(conditioned, X[:4])
    mean, variance = network.predictive_moments(told, asked)
    torch.testing.assert_close(mean, (X[:4] @ weights.T + bias)[:, part])
    torch.testing.assert_close(variance.sqrt(), residual[part].expand(4, 3))
    attention = network.context_attention(X, Y[:, part]).mean(dim=1)
    shares = network.context_shares(conditioned.compact(), Y[:, part], part)
    torch.testing.assert_close(shares, attention / attention.sum(dim=1, keepdim=True))
    assert network.gaussian_prior() is None
    assert network.starting_prior(CONFIG.features).covariances.shape == (1, 6, 6)
    for refused in (lambda: network.condition(X[:, :5], Y), lambda: network.starting_prior(5)):
        with pytest.raises(ModelError, match="5 features, the model was trained on 6"):
            refused()


@pytest.mark.parametrize(("features", "width", "parameters"), [(512, 560, 97_074_852), (768, 800, 156_000_196),
                                                               (1152, 1200, 277_044_132)])  # fmt: skip
def test_published_sizes(features, width, parameters):
    with torch.device("meta"):
        network = PerVoxelNetwork(PerVoxelConfig(features, width))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert len(network.state_dict()) == 261
