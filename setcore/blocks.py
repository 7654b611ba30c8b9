"""Set-transformer blocks: pre-norm residual blocks that know no order.

Axes: b batch, n element of the set, m latent or seed, d width.

Every block takes the same keywords. ``attention`` makes the attention of a width and a number of heads: the class
`MultiHeadAttention`, or one with the same parameters and another kernel. With ``log_length`` the query is scaled by
``s = ln(L)``, L the size of the set attended to, so that the softmax over a longer set stays as sharp as over a short
one (Chiang & Cholak 2022, section 5.3); without it ``s = 1``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from setcore.attention import MultiHeadAttention, SwiGLU

Factory: TypeAlias = Callable[[int, int], MultiHeadAttention]


class _AttentionBlock(nn.Module):
    """Attention, then a gated feed-forward layer, each behind a norm and added to what came in."""

    def __init__(self, width: int, heads: int, hidden: int, log_length: bool, attention: Factory) -> None:
        super().__init__()
        self.log_length = log_length
        self.layer_norm_1 = nn.LayerNorm(width)
        self.attn = attention(width, heads)
        self.layer_norm_2 = nn.LayerNorm(width)
        self.ffn = SwiGLU(width, hidden)

    def _update(self, tokens: Tensor, query: Tensor, attended: Tensor) -> Tensor:
        tokens = tokens + self.attn(query, attended, attended)
        tokens = tokens + self.ffn(self.layer_norm_2(tokens))
        return tokens


class SelfAttentionBlock(_AttentionBlock):
    """``z += MHA(s h, h, h), h = LN(z); z += SwiGLU(LN(z))``.

    Parameters
    ----------
    width, heads, hidden : int
        Token width d, attention heads, inner width of the feed-forward layer.
    log_length : bool
        Scale queries by the logarithm of the number of tokens.
    attention : callable
        Makes the attention of (width, heads).
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, log_length: bool = False, attention: Factory = MultiHeadAttention
    ) -> None:
        super().__init__(width, heads, hidden, log_length, attention)

    def _attention_input(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        normed = self.layer_norm_1(tokens)
        return normed * math.log(tokens.shape[-2]) if self.log_length else normed, normed

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Equivariant to the order of the tokens.

        Parameters
        ----------
        tokens : tensor (b, n, d)

        Returns
        -------
        tensor (b, n, d)
        """
        return self._update(tokens, *self._attention_input(tokens))

    def attention_map(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b h n n"]:
        """Attention weights that `forward` would use on the same tokens.

        Parameters
        ----------
        tokens : tensor (b, n, d)

        Returns
        -------
        tensor (b, h, n, n)
            Rows sum to one.
        """
        return self.attn.attention_map(*self._attention_input(tokens))


class CrossAttentionBlock(_AttentionBlock):
    """Queries attend to a set: the multi-head attention block MAB(Z, X) (Lee et al. 2019, eq. 6), pre-norm.

    Parameters
    ----------
    width, heads, hidden, log_length, attention
        As in `SelfAttentionBlock`; L is the size of the set attended to.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, *, log_length: bool = False, attention: Factory = MultiHeadAttention
    ) -> None:
        super().__init__(width, heads, hidden, log_length, attention)
        self.layer_norm_inputs = nn.LayerNorm(width)

    def _attention_input(self, queries: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        query = self.layer_norm_1(queries)
        return query * math.log(inputs.shape[-2]) if self.log_length else query, self.layer_norm_inputs(inputs)

    def forward(self, queries: Float[Tensor, "b m d"], inputs: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Invariant to the order of `inputs`, equivariant to that of `queries`.

        Parameters
        ----------
        queries : tensor (b, m, d)
        inputs : tensor (b, n, d)

        Returns
        -------
        tensor (b, m, d)
        """
        return self._update(queries, *self._attention_input(queries, inputs))

    def attention_map(
        self, queries: Float[Tensor, "b m d"], inputs: Float[Tensor, "b n d"]
    ) -> Float[Tensor, "b h m n"]:
        """Attention weights that `forward` would use on the same tokens.

        Parameters
        ----------
        queries : tensor (b, m, d)
        inputs : tensor (b, n, d)

        Returns
        -------
        tensor (b, h, m, n)
            Rows sum to one.
        """
        return self.attn.attention_map(*self._attention_input(queries, inputs))


class InducedSetBlock(nn.Module):
    """Self-attention through m inducing points, cost n m instead of n^2 (ISAB; Lee et al. 2019, eq. 9-10).

    Parameters
    ----------
    width, heads, hidden : int
    inducing : int
        m, the number of inducing points.
    log_length, attention
        As in `SelfAttentionBlock`; L is the size of the set. Attention back to the m points is not scaled.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, inducing: int, *, log_length: bool = False,
        attention: Factory = MultiHeadAttention,
    ) -> None:  # fmt: skip
        super().__init__()
        self.inducing = nn.Parameter(torch.randn(1, inducing, width) / math.sqrt(width))
        self.gather = CrossAttentionBlock(width, heads, hidden, log_length=log_length, attention=attention)
        self.spread = CrossAttentionBlock(width, heads, hidden, attention=attention)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Equivariant to the order of the tokens.

        Parameters
        ----------
        tokens : tensor (b, n, d)

        Returns
        -------
        tensor (b, n, d)
        """
        summaries = self.gather(self.inducing.expand(tokens.shape[0], -1, -1), tokens)
        spread: Tensor = self.spread(tokens, summaries)
        return spread


class PoolingBlock(nn.Module):
    """m learned seeds attend to the set and return m summaries (PMA; Lee et al. 2019, eq. 11).

    Parameters
    ----------
    width, heads, hidden : int
    seeds : int
        m, the number of summaries.
    log_length, attention
        As in `SelfAttentionBlock`; L is the size of the set.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, seeds: int, *, log_length: bool = False,
        attention: Factory = MultiHeadAttention,
    ) -> None:  # fmt: skip
        super().__init__()
        self.seeds = nn.Parameter(torch.randn(1, seeds, width) / math.sqrt(width))
        self.attend = CrossAttentionBlock(width, heads, hidden, log_length=log_length, attention=attention)

    def forward(self, tokens: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Invariant to the order of the tokens.

        Parameters
        ----------
        tokens : tensor (b, n, d)

        Returns
        -------
        tensor (b, m, d)
        """
        summaries: Tensor = self.attend(self.seeds.expand(tokens.shape[0], -1, -1), tokens)
        return summaries


class InContextBlocks(nn.Module):
    """Latents and inputs concatenated, one stack of self-attention over both, only the latents kept.

    The in-context joint block: latents read the inputs and the inputs read the latents in every layer, so that the
    inputs are shaped by what has been understood of them already.

    Parameters
    ----------
    width, heads, hidden : int
    layers : int
    log_length, attention
        As in `SelfAttentionBlock`; L is the number of latents and inputs.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, layers: int, *, log_length: bool = False,
        attention: Factory = MultiHeadAttention,
    ) -> None:  # fmt: skip
        super().__init__()
        self.layers = nn.ModuleList(
            SelfAttentionBlock(width, heads, hidden, log_length=log_length, attention=attention) for _ in range(layers)
        )

    def forward(self, latents: Float[Tensor, "b m d"], inputs: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """Invariant to the order of `inputs`, equivariant to that of `latents`.

        Parameters
        ----------
        latents : tensor (b, m, d)
        inputs : tensor (b, n, d)

        Returns
        -------
        tensor (b, m, d)
        """
        tokens = torch.cat([latents, inputs], dim=1)
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens[:, : latents.shape[1]]


class ResidualMLP(nn.Module):
    """Two-layer perceptron with norms in front and a linear bypass, the embedding form of BraInCoRL.

    Main path LayerNorm, LeakyReLU(0.1), dropout, Linear(inputs, hidden), LayerNorm, LeakyReLU(0.1), dropout,
    Linear(hidden, outputs); bypass Linear(inputs, outputs).

    Parameters
    ----------
    inputs, hidden, outputs : int
        Widths.
    dropout : float
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.LayerNorm(inputs), nn.LeakyReLU(0.1), nn.Dropout(dropout), nn.Linear(inputs, hidden),
            nn.LayerNorm(hidden), nn.LeakyReLU(0.1), nn.Dropout(dropout), nn.Linear(hidden, outputs),
        )  # fmt: skip
        self.bypass = nn.Linear(inputs, outputs)

    def forward(self, tokens: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Apply to the last axis.

        Parameters
        ----------
        tokens : tensor (..., inputs)

        Returns
        -------
        tensor (..., outputs)
        """
        output: Tensor = self.block(tokens) + self.bypass(tokens)
        return output
