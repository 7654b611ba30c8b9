"""What a tokenizer looks like and how it is trained: two frozen dataclasses and their presets."""

from __future__ import annotations

from dataclasses import dataclass

from setcore.errors import InputError


@dataclass(frozen=True)
class CodecConfig:
    """Architecture, stored with the weights.

    Parameters
    ----------
    width, heads, hidden : int
        Token width, attention heads and inner feed-forward width of both transformers.
    encoder_layers, decoder_layers : int
    plane, grid : int
        Cells along the side of a feature plane and of the latent grid; `plane` is 4 times `grid`.
    channels : int
        Channels of the latent grid.
    stem, features, head : int
        Channels of the convolutions at the latent grid's size and at full size; width of the point network.
    components : tuple of int
        Principal components that each of the first quantiser scales covers, `channels` of them a token.
    band : int
        The components are made of the frequencies of a plane whose two numbers add up to less than this.
    sides : tuple of int
        Cells along a plane's side for each quantiser scale after those; a scale has 3 side^2 tokens.
    codes : int
        Size of the codebook that all scales share.
    points : int
        Channels of the learned features of surface points that the encoder averages in each cell; 0 for none.
    detail : int
        Channels of a second set of feature planes, of twice the side, for parts thinner than a cell; 0 for none.
    sharpness : float
        The logit of a point is minus its signed distance, in the network's frame, over this length.
    """

    width: int = 128
    heads: int = 2
    hidden: int = 256
    encoder_layers: int = 2
    decoder_layers: int = 3
    plane: int = 64
    grid: int = 16
    channels: int = 8
    stem: int = 64
    features: int = 32
    head: int = 96
    components: tuple[int, ...] = ()
    band: int = 0
    sides: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16, 16, 16)
    codes: int = 512
    points: int = 0
    detail: int = 0
    sharpness: float = 0.02

    def __post_init__(self) -> None:
        if self.plane != 4 * self.grid or self.grid % 2:
            raise InputError("plane must be 4 times grid, and grid even")
        if not self.sides or max(self.sides) > self.grid or min(self.sides) < 1:
            raise InputError(f"sides must lie in 1..{self.grid}")
        if any(count < 1 or count % self.channels for count in self.components):
            raise InputError(f"components must be multiples of {self.channels}, the channels")
        if self.components and not 1 <= self.band <= self.grid:
            raise InputError(f"band must lie in 1..{self.grid}")
        if max(self.components, default=0) > 3 * self.channels * self.band * (self.band + 1) // 2:
            raise InputError(f"a band of {self.band} holds fewer than {max(self.components)} components; raise it")
        if not 2 <= self.codes <= 4096:
            raise InputError("codes must lie in 2..4096")

    @property
    def base_tokens(self) -> int:
        """Tokens that a file with a residual has at least: those of the scales of components but the last.

        The residual says better what would be the last components, and what would be the areas after these.
        """
        return sum(self.scales[: max(len(self.components) - 1, 0)])

    @property
    def scales(self) -> tuple[int, ...]:
        """Tokens in each scale."""
        pooled = tuple(3 * side * side for side in self.sides)
        return tuple(count // self.channels for count in self.components) + pooled
