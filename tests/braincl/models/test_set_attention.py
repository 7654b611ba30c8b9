"""Attention over tiny sets against the attention that it stands for."""

import pytest
import torch

from braincl.models.set_attention import TinySetAttention, TinySetBlock
from setcore.attention import MultiHeadAttention
from setcore.blocks import SelfAttentionBlock


@pytest.mark.parametrize("pair", [(TinySetAttention, MultiHeadAttention), (TinySetBlock, SelfAttentionBlock)])
def test_outputs_and_gradients_are_those_of_the_fused_kernel(pair):
    sizes = (12, 3) if pair[1] is MultiHeadAttention else (12, 3, 10)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours, theirs = (kind(*sizes).double() for kind in pair)
        tokens = torch.randn(17, 5, 12, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    found = []
    for module in (ours, theirs):
        given = tokens.clone().requires_grad_()
        out = module(given, given, given) if pair[1] is MultiHeadAttention else module(given)
        out.square().sum().backward()
        found.append([out, given.grad, *(parameter.grad for parameter in module.parameters())])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)
