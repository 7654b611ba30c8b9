"""The block for tiny sets against the block that it stands for."""

import torch

from braincl.models.set_attention import TinySetBlock
from setcore.blocks import SelfAttentionBlock


def test_outputs_and_gradients_are_those_of_the_fused_kernel():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ours, theirs = TinySetBlock(12, 3, 10).double(), SelfAttentionBlock(12, 3, 10).double()
        for parameter in theirs.parameters():
            torch.nn.init.normal_(parameter, 0.1, 0.5)
        tokens = torch.randn(17, 5, 12, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    found = []
    for block, axes in ((ours, (2, 1, 0)), (theirs, (0, 1, 2))):
        given = tokens.clone().requires_grad_()
        out = block(given.permute(axes)).permute(axes)
        out.square().sum().backward()
        found.append([out, given.grad, *(parameter.grad for parameter in block.parameters())])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right)
