"""Attention against `torch.nn.MultiheadAttention` with the same weights, SwiGLU against the formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from setcore.attention import MultiHeadAttention, SwiGLU
from setcore.seeding import torch_generator

BATCH, QUERIES, KEYS, WIDTH, HEADS = 2, 5, 7, 12, 3


def tokens(name: str, length: int, *, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(BATCH, length, WIDTH, generator=torch_generator(0, name), dtype=dtype)


@pytest.fixture
def attention() -> MultiHeadAttention:
    module = MultiHeadAttention(WIDTH, HEADS)
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):  # biases, too: zeros would hide a mix-up
            parameter.copy_(torch.randn(parameter.shape, generator=torch_generator(1, index)) * 0.4)
    return module


@pytest.fixture
def oracle(attention: MultiHeadAttention) -> nn.MultiheadAttention:
    reference = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    reference.load_state_dict(attention.state_dict())  # strict: names and shapes are torch's own
    return reference


def test_cross_attention_equals_torch(attention, oracle):
    query, key, value = tokens("query", QUERIES), tokens("key", KEYS), tokens("value", KEYS)
    expected, weights = oracle(query, key, value, average_attn_weights=False)
    torch.testing.assert_close(attention(query, key, value), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attention.attention_map(query, key), weights, rtol=1e-5, atol=1e-6)


def test_self_attention_by_the_packed_projection_equals_torch(attention, oracle):
    x = tokens("x", KEYS)
    torch.testing.assert_close(attention(x, x, x), oracle(x, x, x)[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(attention(x, x, x), attention(x.clone(), x, x), rtol=1e-5, atol=1e-6)


def test_gradients_equal_torch(attention, oracle):
    inputs = [tokens("query", QUERIES), tokens("key", KEYS), tokens("value", KEYS)]
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    attention(*ours).square().sum().backward()
    oracle(*theirs)[0].square().sum().backward()
    for a, b in zip([*ours, *attention.parameters()], [*theirs, *oracle.parameters()], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)


def test_gradient_check_in_double_precision(attention):
    attention.double()
    inputs = [tokens(name, n, dtype=torch.float64)[:1].requires_grad_() for name, n in (("q", 2), ("k", 3), ("v", 3))]
    assert torch.autograd.gradcheck(attention, inputs)


def test_keys_are_a_set(attention):
    query, key, value = tokens("query", QUERIES), tokens("key", KEYS), tokens("value", KEYS)
    order = torch.randperm(KEYS, generator=torch_generator(2))
    torch.testing.assert_close(attention(query, key[:, order], value[:, order]), attention(query, key, value))


def test_width_must_split_into_heads():
    with pytest.raises(ValueError, match="10 is not divisible by 3"):
        MultiHeadAttention(10, 3)


def test_shapes_are_checked_while_tests_run(attention):
    """The import hook of conftest works: key and value of different lengths never reach torch."""
    with pytest.raises(TypeError, match=r"value[\s\S]*b k d"):
        attention(tokens("query", QUERIES), tokens("key", KEYS), tokens("value", KEYS + 1))


def test_swiglu_equals_the_formula():
    layer = SwiGLU(WIDTH, 9)
    x = tokens("x", KEYS)
    w, b = layer.linear1.weight, layer.linear1.bias
    a, gate = x @ w[:9].T + b[:9], x @ w[9:].T + b[9:]
    expected = (a * torch.sigmoid(a) * gate) @ layer.linear2.weight.T + layer.linear2.bias
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[0, 0]), expected[0, 0])
    assert not torch.allclose(layer(x), functional.silu(x @ w[9:].T + b[9:]) @ layer.linear2.weight.T)
