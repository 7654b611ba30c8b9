"""Multi-head attention and the gated feed-forward layer, on `scaled_dot_product_attention`.

Axes: b batch, q query token, k key token, d width.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class MultiHeadAttention(nn.Module):
    """Multi-head attention with packed input projections (Vaswani et al. 2017, section 3.2.2).

    Parameter names and layout equal those of `torch.nn.MultiheadAttention`, so that published checkpoints load.

    Parameters
    ----------
    width : int
        Token width d, divisible by `heads`.
    heads : int

    Raises
    ------
    ValueError
        `width` is not divisible by `heads`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _split(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        return tokens.view(batch, length, self.heads, width // self.heads).transpose(1, 2)

    def _merge(self, mixed: Tensor) -> Tensor:
        """Heads (b, h, q, d / h) side by side again, through the output projection: (b, q, d)."""
        output: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return output

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        if query is key and key is value:
            return functional.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        return tuple(functional.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True))

    def forward(
        self,
        query: Float[Tensor, "b q d"],
        key: Float[Tensor, "b k d"],
        value: Float[Tensor, "b k d"],
    ) -> Float[Tensor, "b q d"]:
        """Attend from `query` to `key` and `value`.

        Parameters
        ----------
        query : tensor (b, q, d)
        key, value : tensor (b, k, d)

        Returns
        -------
        tensor (b, q, d)
        """
        q, k, v = (self._split(x) for x in self._project(query, key, value))
        return self._merge(functional.scaled_dot_product_attention(q, k, v))

    def attention_map(self, query: Float[Tensor, "b q d"], key: Float[Tensor, "b k d"]) -> Float[Tensor, "b h q k"]:
        """The attention weights themselves; they are never formed in `forward`.

        Parameters
        ----------
        query : tensor (b, q, d)
        key : tensor (b, k, d)

        Returns
        -------
        tensor (b, h, q, k)
            Of every head; rows sum to one.
        """
        q, k, _ = (self._split(x) for x in self._project(query, key, key))
        return torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)


class SwiGLU(nn.Module):
    """Gated feed-forward layer, ``linear2(silu(a) * g)`` with ``(a, g) = linear1(x)`` (Shazeer 2020, eq. 6).

    Parameters
    ----------
    width, hidden : int
        Widths of the tokens and of the layer between.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, 2 * hidden)
        self.linear2 = nn.Linear(hidden, width)

    def forward(self, tokens: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """Apply the layer to the last axis.

        Parameters
        ----------
        tokens : tensor (..., width)

        Returns
        -------
        tensor (..., width)
        """
        a, gate = self.linear1(tokens).chunk(2, dim=-1)
        output: Tensor = self.linear2(functional.silu(a) * gate)
        return output
