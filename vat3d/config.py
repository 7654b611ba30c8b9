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
        The logit of a point is minus its signed distance, in the evaluation frame, over this length.
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


@dataclass(frozen=True)
class TrainConfig:
    """How a tokenizer is trained.

    Parameters
    ----------
    batch : int
        Shapes a step.
    surface, volume, near : int
        Surface points, volume samples and near-surface samples drawn of each shape a step.
    learning_rate : float
        Held after `warmup` steps until `cooldown` of the budget is used, then brought down by a cosine.
    warmup : int
    cooldown : float
    quantise_from : float
        Share of the budget after which the quantiser joins.
    basis_shapes : int
        Deformed training shapes whose latents the quantiser starts from.
    near_weight_first, near_weight_last : float
        Weight of near-surface samples (volume samples weigh 1) at the start and from the middle of the budget on.
    kl_weight, codebook, commitment : float
        Weights of the divergence from the standard normal and of the quantiser's two errors, these relative to the
        latent's power.
    price_low, price_high : float
        Three quarters of the samples choose codes by distance plus a price for each bit, so that a model learns to
        spend bits where they count; the price is log-uniform between these, in units of half the squared distance
        between a vector and its code at the last scale kept. 0 for `price_high`: bits are free.
    revive_every : int
        Steps between searches for dead codes.
    average : float
        Decay of the moving average of the weights, which is what is saved as the model.
    report_every, save_every : int
        Steps between lines of progress with validation, and between checkpoints.
    table_shapes : int
        Training shapes, deformed anew, from whose tokens the entropy tables are made; at most 32 a mesh.
    bfloat16 : bool
        Matrix products in bfloat16; several times faster on CPUs that have it.
    """

    batch: int = 8
    surface: int = 4096
    volume: int = 1024
    near: int = 1024
    learning_rate: float = 4e-4
    warmup: int = 200
    cooldown: float = 0.8
    quantise_from: float = 0.1
    basis_shapes: int = 4096
    near_weight_first: float = 0.15
    near_weight_last: float = 1.0
    kl_weight: float = 5e-3
    codebook: float = 1.0
    commitment: float = 0.25
    price_low: float = 0.05
    price_high: float = 0.6
    revive_every: int = 50
    average: float = 0.998
    report_every: int = 500
    save_every: int = 500
    table_shapes: int = 1024
    bfloat16: bool = True


PRESETS: dict[str, tuple[CodecConfig, TrainConfig]] = {
    "small": (
        CodecConfig(width=96, hidden=128, encoder_layers=1, decoder_layers=2, stem=48, features=24, head=64),
        TrainConfig(surface=2048, volume=768, near=768),
    ),
    "default": (
        CodecConfig(points=24, detail=16, components=(16, 48, 128, 320, 640, 1024), band=16, sides=(16, 16, 16)),
        TrainConfig(),
    ),
    "paper": (
        CodecConfig(width=768, heads=12, hidden=2048, encoder_layers=12, decoder_layers=12, plane=128, grid=32,
                    channels=16, stem=256, features=64, head=256, codes=4096,
                    sides=(1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 24, 32)),
        TrainConfig(batch=64, surface=8192, volume=2048, near=2048, learning_rate=1e-4, warmup=2000),
    ),
}  # fmt: skip
"""`small` for minutes, `default` for hours on two cores, `paper` for GPUs."""
