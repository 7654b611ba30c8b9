"""Blocks against references written out with torch functions, and the symmetries of sets."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from setcore.attention import MultiHeadAttention, SwiGLU
from setcore.blocks import (
    CrossAttentionBlock,
    InContextBlocks,
    InducedSetBlock,
    PoolingBlock,
    ResidualMLP,
    SelfAttentionBlock,
)
from setcore.seeding import torch_generator

BATCH, SET, QUERIES, WIDTH, HEADS, HIDDEN = 2, 7, 5, 12, 3, 20
both_scalings = pytest.mark.parametrize("log_length", [False, True])


def tokens(name: str, length: int) -> Tensor:
    return torch.randn(BATCH, length, WIDTH, generator=torch_generator(0, name))


def filled(module: nn.Module) -> nn.Module:
    """Every parameter random, biases and norms too, so that no term can be forgotten."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch_generator(1, index)))
    return module


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)


def attend(query: Tensor, inputs: Tensor, module: nn.Module) -> Tensor:
    """Multi-head attention by torch's functional form."""
    out, _ = functional.multi_head_attention_forward(
        query.transpose(0, 1), inputs.transpose(0, 1), inputs.transpose(0, 1), WIDTH, HEADS,
        module.in_proj_weight, module.in_proj_bias, None, None, False, 0.0,
        module.out_proj.weight, module.out_proj.bias, need_weights=False,
    )  # fmt: skip
    return out.transpose(0, 1)


def feed_forward(x: Tensor, layer: SwiGLU) -> Tensor:
    a, gate = functional.linear(x, layer.linear1.weight, layer.linear1.bias).chunk(2, -1)
    return functional.linear(functional.silu(a) * gate, layer.linear2.weight, layer.linear2.bias)


def self_reference(x: Tensor, block: SelfAttentionBlock) -> Tensor:
    h = layer_norm(x, block.layer_norm_1)
    x = x + attend(h * math.log(x.shape[1]) if block.log_length else h, h, block.attn)
    return x + feed_forward(layer_norm(x, block.layer_norm_2), block.ffn)


def cross_reference(z: Tensor, x: Tensor, block: CrossAttentionBlock) -> Tensor:
    query = layer_norm(z, block.layer_norm_1)
    query = query * math.log(x.shape[1]) if block.log_length else query
    z = z + attend(query, layer_norm(x, block.layer_norm_inputs), block.attn)
    return z + feed_forward(layer_norm(z, block.layer_norm_2), block.ffn)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@both_scalings
def test_self_attention_block_equals_reference(log_length):
    block = filled(SelfAttentionBlock(WIDTH, HEADS, HIDDEN, log_length=log_length))
    x = tokens("x", SET)
    close(block(x), self_reference(x, block))


@both_scalings
def test_cross_attention_block_equals_reference(log_length):
    block = filled(CrossAttentionBlock(WIDTH, HEADS, HIDDEN, log_length=log_length))
    z, x = tokens("z", QUERIES), tokens("x", SET)
    close(block(z, x), cross_reference(z, x, block))


@both_scalings
def test_induced_set_block_equals_reference(log_length):
    block = filled(InducedSetBlock(WIDTH, HEADS, HIDDEN, 4, log_length=log_length))
    x = tokens("x", SET)
    summaries = cross_reference(block.inducing.repeat(BATCH, 1, 1), x, block.gather)
    close(block(x), cross_reference(x, summaries, block.spread))


@both_scalings
def test_pooling_block_equals_reference(log_length):
    block = filled(PoolingBlock(WIDTH, HEADS, HIDDEN, 4, log_length=log_length))
    x = tokens("x", SET)
    assert block(x).shape == (BATCH, 4, WIDTH)
    close(block(x), cross_reference(block.seeds.repeat(BATCH, 1, 1), x, block.attend))


@both_scalings
def test_in_context_blocks_equal_reference(log_length):
    blocks = filled(InContextBlocks(WIDTH, HEADS, HIDDEN, 2, log_length=log_length))
    z, x = tokens("z", QUERIES), tokens("x", SET)
    joint = torch.cat([z, x], dim=1)
    for layer in blocks.layers:
        joint = self_reference(joint, layer)
    close(blocks(z, x), joint[:, :QUERIES])


@both_scalings
def test_attention_maps_are_those_that_forward_uses(log_length):
    """Mixing the values by the returned map gives the block's own attention output."""
    z, x = tokens("z", QUERIES), tokens("x", SET)
    cross = filled(CrossAttentionBlock(WIDTH, HEADS, HIDDEN, log_length=log_length))
    within = filled(SelfAttentionBlock(WIDTH, HEADS, HIDDEN, log_length=log_length))
    for block, inputs, queries, weights in (
        (cross, layer_norm(x, cross.layer_norm_inputs), layer_norm(z, cross.layer_norm_1), cross.attention_map(z, x)),
        (within, layer_norm(x, within.layer_norm_1), layer_norm(x, within.layer_norm_1), within.attention_map(x)),
    ):
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        values = functional.linear(inputs, block.attn.in_proj_weight[2 * WIDTH :], block.attn.in_proj_bias[2 * WIDTH :])
        values = values.view(BATCH, SET, HEADS, WIDTH // HEADS).transpose(1, 2)
        mixed = block.attn.out_proj((weights @ values).transpose(1, 2).flatten(2))
        close(mixed, attend(queries * math.log(SET) if log_length else queries, inputs, block.attn))


def test_log_length_keeps_attention_sharp_on_longer_sets():
    """One token among n stands out by a fixed logit: its weight stays with the scaling and fades without it."""
    weights = {}
    for log_length in (False, True):
        block = CrossAttentionBlock(2, 1, 4, log_length=log_length)
        with torch.no_grad():
            block.attn.in_proj_weight.copy_(torch.eye(2).repeat(3, 1))
        for n in (8, 4096):
            x = torch.tensor([-1.0, 1.0]).repeat(1, n, 1)
            x[0, 0] = torch.tensor([1.0, -1.0])
            weights[log_length, n] = block.attention_map(torch.tensor([[[1.0, -1.0]]]), x)[0, 0, 0, 0].item()
    assert weights[True, 4096] > weights[True, 8] > 0.9
    assert weights[False, 4096] < 0.01 < 0.5 < weights[False, 8]


EQUIVARIANT: dict[str, Callable[[], nn.Module]] = {
    "self": lambda: SelfAttentionBlock(WIDTH, HEADS, HIDDEN, log_length=True),
    "induced": lambda: InducedSetBlock(WIDTH, HEADS, HIDDEN, 4, log_length=True),
}


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_equivariance_to_the_order_of_tokens(name):
    block, x, order = filled(EQUIVARIANT[name]()), tokens("x", SET), torch.randperm(SET, generator=torch_generator(2))
    close(block(x[:, order]), block(x)[:, order])


def test_invariance_to_the_order_of_the_set_and_equivariance_to_that_of_the_queries():
    z, x = tokens("z", QUERIES), tokens("x", SET)
    order, queries = (torch.randperm(n, generator=torch_generator(3)) for n in (SET, QUERIES))
    pooling = filled(PoolingBlock(WIDTH, HEADS, HIDDEN, 4, log_length=True))
    close(pooling(x[:, order]), pooling(x))
    for block in (
        filled(CrossAttentionBlock(WIDTH, HEADS, HIDDEN, log_length=True)),
        filled(InContextBlocks(WIDTH, HEADS, HIDDEN, 2, log_length=True)),
    ):
        close(block(z[:, queries], x[:, order]), block(z, x)[:, queries])


def test_batched_equals_unbatched():
    z, x = tokens("z", QUERIES), tokens("x", SET)
    block = filled(InContextBlocks(WIDTH, HEADS, HIDDEN, 2, log_length=True))
    close(block(z, x), torch.cat([block(z[i : i + 1], x[i : i + 1]) for i in range(BATCH)]))


def test_every_parameter_of_every_block_gets_a_gradient():
    z, x = tokens("z", QUERIES), tokens("x", SET)
    induced, pooling = InducedSetBlock(WIDTH, HEADS, HIDDEN, 4), PoolingBlock(WIDTH, HEADS, HIDDEN, 4)
    joint = InContextBlocks(WIDTH, HEADS, HIDDEN, 2)
    for module, output in ((induced, induced(x)), (pooling, pooling(x)), (joint, joint(z, x))):
        output.square().sum().backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            # A bias of the keys shifts all logits of a query alike, so that its gradient vanishes; no other may.
            assert parameter.grad.abs().sum() > 0, name


def test_residual_mlp_equals_reference():
    module = filled(ResidualMLP(9, 16, 11, dropout=0.5)).eval()
    x = torch.randn(3, 4, 9, generator=torch_generator(4))
    norm_1, linear_1, norm_2, linear_2 = (module.block[i] for i in (0, 3, 4, 7))
    h = functional.linear(functional.leaky_relu(layer_norm(x, norm_1), 0.1), linear_1.weight, linear_1.bias)
    h = functional.linear(functional.leaky_relu(layer_norm(h, norm_2), 0.1), linear_2.weight, linear_2.bias)
    close(module(x), h + functional.linear(x, module.bypass.weight, module.bypass.bias))


class Doubled(MultiHeadAttention):
    """Another kernel with the same parameters."""

    def forward(self, query, key, value):
        return 2 * super().forward(query, key, value)


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: SelfAttentionBlock(8, 2, 12, **options),
        lambda **options: CrossAttentionBlock(8, 2, 12, **options),
        lambda **options: InducedSetBlock(8, 2, 12, 3, **options),
        lambda **options: PoolingBlock(8, 2, 12, 3, **options),
        lambda **options: InContextBlocks(8, 2, 12, 2, **options),
    ],
)
def test_attention_is_what_the_caller_makes(make):
    """Names, order and initial values of the parameters do not depend on it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = make()
        torch.manual_seed(0)
        other = make(attention=Doubled)
    assert {type(part) for part in other.modules() if isinstance(part, MultiHeadAttention)} == {Doubled}
    assert list(plain.state_dict()) == list(other.state_dict())
    for ours, theirs in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)
