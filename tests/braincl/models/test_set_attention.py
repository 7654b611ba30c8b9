"""Attention over tiny sets against the attention that it stands for."""

import pytest
import torch

from braincl.models.set_attention import TinySetAttention
from setcore.attention import MultiHeadAttention
from setcore.blocks import SelfAttentionBlock


def block(**options):
    return SelfAttentionBlock(12, 3, 10, **options)


@pytest.mark.parametrize(
    ("ours", "theirs", "inputs"),
    [
        (lambda: TinySetAttention(12, 3), lambda: MultiHeadAttention(12, 3), 3),
        (lambda: block(attention=TinySetAttention), block, 1),
    ],
    ids=["attention", "block"],
)
def test_outputs_and_gradients_are_those_of_the_fused_kernel(ours, theirs, inputs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours, theirs = ours().double(), theirs().double()
        tokens = torch.randn(17, 5, 12, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    found = []
    for module in (ours, theirs):
        given = tokens.clone().requires_grad_()
        out = module(*[given] * inputs)
        out.square().sum().backward()
        found.append([out, given.grad, *(parameter.grad for parameter in module.parameters())])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)
