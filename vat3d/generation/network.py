"""The transformer that draws new shapes, token after token.

Next-scale prediction (Tian et al., arXiv 2404.02905) over the codec's ids, as in arXiv 2412.02202, but within a scale
each token depends on those before it, as in a language model: all tokens of a scale drawn at once would each be likely
and together no shape. The sequence is a condition (a name or words, and pictures), a start, the proportions of the box,
and the tokens of the first scales, coarse to fine. A position holds the id before it and is told the running
reconstruction of the coarser scales at its place; it says which id comes next. Axes: b batch, k token, n position, p
patch of a picture, c latent channel, v code, d width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from setcore.attention import MultiHeadAttention, SwiGLU
from vat3d.generation.boxes import BOXES
from vat3d.network.quantizer import ScaleQuantizer

TEXT_WIDTH = 512
"""Of CLIP ViT-B/32's text vectors."""
READ = 128
"""Hidden units between a code and its vector in `CodeHead`."""


@dataclass(frozen=True)
class GeneratorConfig:
    """Architecture, stored with the weights.

    Parameters
    ----------
    codec : str
        Id of the tokenizer whose ids are generated.
    tokens : tuple of int
        Tokens of each of that tokenizer's first scales; these are drawn.
    codes, channels : int
        Size of its codebook and length of a code.
    width, heads, hidden, layers : int
    names : tuple of str
        What shapes may be asked for by.
    picture : int
        Features of a patch of a picture; 0: trained without pictures.
    patches : int
        Of a picture.
    """

    codec: str
    tokens: tuple[int, ...]
    codes: int = 512
    channels: int = 8
    width: int = 192
    heads: int = 4
    hidden: int = 512
    layers: int = 6
    names: tuple[str, ...] = ()
    picture: int = 0
    patches: int = 16


@dataclass
class Kept:
    """Keys and values of the positions seen so far, one pair a layer, so that each position is computed once.

    Parameters
    ----------
    pairs : list of (tensor, tensor) of shape (b, h, n, d / h)
    condition : int
        How many of the positions are the condition's.
    """

    pairs: list[tuple[Tensor, Tensor]]
    condition: int

    @property
    def length(self) -> int:
        """Positions seen so far."""
        return self.pairs[0][0].shape[2]


def seen_positions(first: int, count: int, condition: int, device: torch.device) -> Bool[Tensor, "q n"]:
    """What each of `count` positions from `first` on sees: the whole condition, and what is not after it.

    Parameters
    ----------
    first, count, condition : int
    device : torch.device

    Returns
    -------
    bool tensor of shape (count, first + count)
    """
    key = torch.arange(first + count, device=device)
    query = key[first:, None]
    return (key < condition) | (key <= query)


class CausalAttention(MultiHeadAttention):
    """Attention to what comes before, with the attention map formed explicitly.

    At this length that takes a third of the fused kernel's time on a CPU.

    Parameters
    ----------
    width, heads : int
    """

    def extend(
        self, tokens: Float[Tensor, "b q d"], seen: Bool[Tensor, "q n"], before: tuple[Tensor, Tensor] | None
    ) -> tuple[Float[Tensor, "b q d"], tuple[Tensor, Tensor]]:
        """Attend from positions to themselves and to those before.

        Parameters
        ----------
        tokens : tensor of shape (b, q, d)
        seen : bool tensor of shape (q, n)
        before : pair of tensors of shape (b, h, n - q, d / h), optional
            Keys and values of the positions before.

        Returns
        -------
        tensor of shape (b, q, d)
        pair of tensors of shape (b, h, n, d / h)
            Keys and values of all positions.
        """
        query, key, value = (self._split(part) for part in self._project(tokens, tokens, tokens))
        if before is not None:
            key, value = torch.cat([before[0], key], dim=2), torch.cat([before[1], value], dim=2)
        scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-1, -2)
        shares = torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1)
        return self._merge(shares @ value), (key, value)


class CausalBlock(nn.Module):
    """Attention to what comes before, then a gated feed-forward layer, each behind a norm and added to what came in.

    Parameters
    ----------
    width, heads, hidden : int
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layer_norm_1, self.layer_norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.ffn = CausalAttention(width, heads), SwiGLU(width, hidden)

    def forward(
        self, states: Float[Tensor, "b q d"], seen: Bool[Tensor, "q n"], before: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Float[Tensor, "b q d"], tuple[Tensor, Tensor]]:
        """Apply the block.

        Parameters
        ----------
        states : tensor of shape (b, q, d)
        seen, before
            As in `CausalAttention.extend`.

        Returns
        -------
        As `CausalAttention.extend`.
        """
        mixed, pair = self.attn.extend(self.layer_norm_1(states), seen, before)
        states = states + mixed
        return states + self.ffn(self.layer_norm_2(states)), pair


class CodeHead(nn.Module):
    """Positions to logits of the codes: a free vector for each code, and one that is read off the code itself.

    By the latter codes that lie near each other are likely together, which a few thousand shapes could not teach.

    Parameters
    ----------
    width, codes, channels : int
    """

    def __init__(self, width: int, codes: int, channels: int) -> None:
        super().__init__()
        self.free = nn.Linear(width, codes)
        self.read = nn.Sequential(nn.Linear(channels, READ), nn.SiLU(), nn.Linear(READ, width))

    def forward(self, states: Float[Tensor, "*b d"], codebook: Float[Tensor, "v c"]) -> Float[Tensor, "*b v"]:
        """Logits.

        Parameters
        ----------
        states : tensor of shape (..., d)
        codebook : tensor of shape (v, c)

        Returns
        -------
        tensor of shape (..., v)
        """
        vectors = self.read(codebook / codebook.std())
        logits: Tensor = self.free(states) + states @ vectors.T / math.sqrt(states.shape[-1])
        return logits


@dataclass(frozen=True)
class Condition:
    """What shapes are asked for.

    Parameters
    ----------
    name : int tensor of shape (b,)
        From 1 on, in the order of the config's names; 0 for none.
    words : tensor of shape (b, 512)
        A text vector of unit length; 0 for none.
    pictures : tensor of shape (b, p, c), optional
        Features of the patches of pictures, one picture after another.
    empty : bool
        Whether nothing is asked for, so that there is nothing to guide to.
    """

    name: Int[Tensor, " b"]
    words: Float[Tensor, "b 512"]
    pictures: Float[Tensor, "b p c"] | None = None
    empty: bool = False

    def expand(self, count: int) -> Condition:
        """One condition for several shapes.

        Parameters
        ----------
        count : int

        Returns
        -------
        Condition
        """
        pictures = None if self.pictures is None else self.pictures.expand(count, -1, -1)
        return Condition(self.name.expand(count), self.words.expand(count, -1), pictures, self.empty)


class TokenTransformer(nn.Module):
    """Condition, box and ids to the logits of the box and of each id.

    Parameters
    ----------
    config : GeneratorConfig
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        width, count = config.width, sum(config.tokens)
        self.name = nn.Embedding(len(config.names) + 1, width)  # 0: none
        self.words = nn.Linear(TEXT_WIDTH, width, bias=False)
        self.patch = (
            nn.Sequential(nn.LayerNorm(config.picture), nn.Linear(config.picture, width)) if config.picture else None
        )
        self.patch_place = nn.Parameter(torch.randn(config.patches, width) * 0.5) if config.picture else None
        self.recognise = (
            nn.Sequential(nn.LayerNorm(config.picture), nn.Linear(config.picture, len(config.names)))
            if config.picture and config.names
            else None
        )
        self.start = nn.Parameter(torch.randn(width) * 0.5)
        self.box = nn.Embedding(BOXES, width)
        self.held = nn.Embedding(config.codes, width)
        self.held_vector = nn.Linear(config.channels, width, bias=False)
        self.told = nn.Linear(config.channels, width, bias=False)
        self.place = nn.Parameter(torch.randn(count, width) * 0.5)
        self.layers = nn.ModuleList(CausalBlock(width, config.heads, config.hidden) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.to_box = nn.Linear(width, BOXES)
        self.to_code = CodeHead(width, config.codes, config.channels)
        for embedding in (self.name, self.box, self.held):
            nn.init.normal_(embedding.weight, std=0.5)
        nn.init.normal_(self.words.weight, std=1.0)  # text vectors have unit length

    def condition(self, asked: Condition) -> Float[Tensor, "b n d"]:
        """The positions of a condition.

        Parameters
        ----------
        asked : Condition

        Returns
        -------
        tensor of shape (b, n, d)
        """
        parts = [(self.name(asked.name) + self.words(asked.words))[:, None]]
        if asked.pictures is not None and self.patch is not None and self.patch_place is not None:
            places = self.patch_place.repeat(asked.pictures.shape[1] // len(self.patch_place), 1)
            parts.append(self.patch(asked.pictures) + places)
        return torch.cat([*parts, self.start.expand(len(asked.name), 1, -1)], dim=1)

    def recognised(self, pictures: Float[Tensor, "1 p c"]) -> int:
        """Which name pictures of one shape are taken for.

        Parameters
        ----------
        pictures : tensor of shape (1, p, c)

        Returns
        -------
        int
            As in `Condition`; 0 for a network without names.
        """
        return 0 if self.recognise is None else 1 + int(self.recognise(pictures.mean(1)).argmax())

    def positions(
        self, first: int, box: Int[Tensor, " b"], ids: Int[Tensor, "b k"], codebook: Float[Tensor, "v c"],
        told: Float[Tensor, "b n c"],
    ) -> Float[Tensor, "b n d"]:  # fmt: skip
        """The positions that say which ids come next, from token `first` on.

        Parameters
        ----------
        first : int
            The first token that is asked for.
        box : int tensor of shape (b,)
        ids : int tensor of shape (b, k)
            Those before each position: from token ``first - 1`` on; from token 0 on where `first` is 0.
        codebook : tensor of shape (v, c)
        told : tensor of shape (b, n, c)
            Running reconstruction at the place of each token that is asked for.

        Returns
        -------
        tensor of shape (b, n, d)
        """
        held = self.held(ids) + self.held_vector(codebook[ids])
        if not first:
            held = torch.cat([self.box(box)[:, None], held], dim=1)
        states: Tensor = held + self.told(told) + self.place[first : first + held.shape[1]]
        return states

    def walk(self, states: Float[Tensor, "b q d"], kept: Kept) -> Float[Tensor, "b q d"]:
        """Run further positions through all layers; `kept` grows by them.

        Parameters
        ----------
        states : tensor of shape (b, q, d)
        kept : Kept
            Of the positions before; of no pairs at the beginning.

        Returns
        -------
        tensor of shape (b, q, d)
        """
        first = kept.length if kept.pairs else 0
        seen = seen_positions(first, states.shape[1], kept.condition, states.device)
        pairs = []
        for number, layer in enumerate(self.layers):
            states, pair = layer(states, seen, kept.pairs[number] if kept.pairs else None)
            pairs.append(pair)
        kept.pairs = pairs
        normed: Tensor = self.norm(states)
        return normed

    def forward(
        self, asked: Condition, box: Int[Tensor, " b"], ids: Int[Tensor, "b k"], codebook: Float[Tensor, "v c"],
        told: Float[Tensor, "b k c"],
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b k v"]]:  # fmt: skip
        """Logits of the box and of every id, of whole sequences.

        Parameters
        ----------
        asked : Condition
        box : int tensor of shape (b,)
        ids : int tensor of shape (b, k)
        codebook : tensor of shape (v, c)
        told : tensor of shape (b, k, c)
            Of `running_reconstruction`.

        Returns
        -------
        box : tensor of shape (b, n)
            Sees the condition alone.
        codes : tensor of shape (b, k, v)
            Each sees the condition, the box and the ids before.
        """
        condition = self.condition(asked)
        states = torch.cat([condition, self.positions(0, box, ids[:, :-1], codebook, told)], dim=1)
        count = condition.shape[1]
        found = self.walk(states, Kept([], count - 1))
        return self.to_box(found[:, count - 1]), self.to_code(found[:, count:], codebook)


def running_reconstruction(
    quantizer: ScaleQuantizer, ids: Sequence[Int[Tensor, "b _"]], scale: int, batch: int
) -> Float[Tensor, "b k c"]:
    """What the tokens of a scale are told of the coarser ids: their sum, reduced to the tokens' places.

    Parameters
    ----------
    quantizer : ScaleQuantizer
    ids : sequence of int tensors of shape (b, k)
        At least those of the coarser scales.
    scale : int
    batch : int

    Returns
    -------
    tensor of shape (b, k, c)
        Zero for the first scale, before which there is nothing.
    """
    if not scale:
        return quantizer.codebook.new_zeros(batch, quantizer.scales[0], quantizer.channels)
    known = quantizer.assemble([quantizer.codebook[chosen] for chosen in ids[:scale]]) - quantizer.start(batch)
    return quantizer.reduce(known, scale)
