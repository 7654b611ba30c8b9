"""Set-transformer blocks: pre-norm residual blocks that know no order.

Axes: b batch, n element of the set, m latent or seed, d width.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from setcore.attention import MultiHeadAttention, SwiGLU


class SelfAttentionBlock(nn.Module):
    """``z += MHA(s h, h, h), h = LN(z); z += SwiGLU(LN(z))``.

    With `log_length` the query is scaled by ``s = ln(L)``, L the number of tokens: softmax over a longer set stays as
    sharp as over a short one (Chiang & Cholak 2022, section 5.3). Without it ``s = 1``.

    Parameters
    ----------
    width, heads, hidden : int
        Token width, attention heads, inner width of the feed-forward layer.
    log_length : bool
    """

    def __init__(self, width: int, heads: int, hidden: int, *, log_length: bool = False) -> None:
        super().__init__()
        self.log_length = log_length
        self.layer_norm_1 = nn.LayerNorm(width)
        self.attn = MultiHeadAttention(width, heads)
        self.layer_norm_2 = nn.LayerNorm(width)
        self.ffn = SwiGLU(width, hidden)

    def _attention_input(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.layer_norm_1(tokens)
        return (normed * math.log(tokens.shape[-2]) if self.log_length else normed), normed

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Equivariant to the order of the tokens."""
        query, normed = self._attention_input(tokens)
        tokens = tokens + self.attn(query, normed, normed)
        return tokens + self.ffn(self.layer_norm_2(tokens))

    def attention_map(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n n"]:
        """Attention weights that `forward` would use on the same tokens."""
        return self.attn.attention_map(*self._attention_input(tokens))


class CrossAttentionBlock(nn.Module):
    """Queries attend to a set: the multi-head attention block MAB(Z, X) (Lee et al. 2019, eq. 6), pre-norm.

    Parameters are those of `SelfAttentionBlock`; with `log_length` L is the size of the set attended to.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, log_length: bool = False) -> None:
        super().__init__()
        self.log_length = log_length
        self.layer_norm_1 = nn.LayerNorm(width)
        self.layer_norm_inputs = nn.LayerNorm(width)
        self.attn = MultiHeadAttention(width, heads)
        self.layer_norm_2 = nn.LayerNorm(width)
        self.ffn = SwiGLU(width, hidden)

    def _attention_input(self, queries: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        query = self.layer_norm_1(queries)
        return (query * math.log(inputs.shape[-2]) if self.log_length else query), self.layer_norm_inputs(inputs)

    def forward(self, queries: Float[Tensor, "b m d"], inputs: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Invariant to the order of `inputs`, equivariant to that of `queries`."""
        query, normed = self._attention_input(queries, inputs)
        queries = queries + self.attn(query, normed, normed)
        return queries + self.ffn(self.layer_norm_2(queries))

    def attention_map(
        self, queries: Float[Tensor, "b m d"], inputs: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b h m n"]:
        """Attention weights that `forward` would use on the same tokens."""
        return self.attn.attention_map(*self._attention_input(queries, inputs))


class InducedSetBlock(nn.Module):
    """Self-attention through m inducing points, cost n m instead of n^2 (ISAB; Lee et al. 2019, eq. 9-10)."""

    def __init__(self, width: int, heads: int, hidden: int, inducing: int, *, log_length: bool = False) -> None:
        super().__init__()
        self.inducing = nn.Parameter(torch.randn(1, inducing, width) / math.sqrt(width))
        self.gather = CrossAttentionBlock(width, heads, hidden, log_length=log_length)
        self.spread = CrossAttentionBlock(width, heads, hidden)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Equivariant to the order of the tokens."""
        summaries = self.gather(self.inducing.expand(tokens.shape[0], -1, -1), tokens)
        return self.spread(tokens, summaries)


class PoolingBlock(nn.Module):
    """m learned seeds attend to the set and return m summaries (PMA; Lee et al. 2019, eq. 11)."""

    def __init__(self, width: int, heads: int, hidden: int, seeds: int, *, log_length: bool = False) -> None:
        super().__init__()
        self.seeds = nn.Parameter(torch.randn(1, seeds, width) / math.sqrt(width))
        self.attend = CrossAttentionBlock(width, heads, hidden, log_length=log_length)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Invariant to the order of the tokens."""
        return self.attend(self.seeds.expand(tokens.shape[0], -1, -1), tokens)


class InContextBlocks(nn.Module):
    """Latents and inputs concatenated, one stack of self-attention over both, only the latents kept.

    The in-context joint block: latents read the inputs and the inputs read the latents in every layer, so that the
    inputs are shaped by what has been understood of them already.
    """

    def __init__(self, width: int, heads: int, hidden: int, layers: int, *, log_length: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SelfAttentionBlock(width, heads, hidden, log_length=log_length) for _ in range(layers)
        )

    def forward(self, latents: Float[Tensor, "b m d"], inputs: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Invariant to the order of `inputs`, equivariant to that of `latents`."""
        tokens = torch.cat([latents, inputs], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens[:, : latents.shape[1]]


class ResidualMLP(nn.Module):
    """Two-layer perceptron with norms in front and a linear bypass, the embedding form of BraInCoRL.

    Main path LayerNorm, LeakyReLU(0.1), dropout, Linear(inputs, hidden), LayerNorm, LeakyReLU(0.1), dropout,
    Linear(hidden, outputs); bypass Linear(inputs, outputs).
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(inputs), nn.LeakyReLU(0.1), nn.Dropout(dropout), nn.Linear(inputs, hidden),
            nn.LayerNorm(hidden), nn.LeakyReLU(0.1), nn.Dropout(dropout), nn.Linear(hidden, outputs),
        )  # fmt: skip
        self.bypass = nn.Linear(inputs, outputs)

    def forward(self, tokens: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Apply to the last axis."""
        return self.block(tokens) + self.bypass(tokens)
