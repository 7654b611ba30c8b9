"""How a tokenizer is trained, and the presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from setcore.devices import check_precision
from vat3d.network.config import CodecConfig


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
    precision : {"auto", "float32", "bfloat16"}
        Of matrix products; bfloat16 is several times faster on processors that have it, and "auto" there.
    device : str
        As in `setcore.devices.find_device`.
    microbatch : int, optional
        Shapes that are on a device at once; gradients of a batch's parts add up. All, if not given.
    workers : int, optional
        Processes that make batches; by default as many as the computation leaves cores for.
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
    precision: str = "auto"
    device: str = "auto"
    microbatch: int | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        check_precision(self.precision)

    def settings(self) -> dict[str, Any]:
        """What a run that is continued must have in common with its beginning: all but where it is computed.

        Returns
        -------
        dict
        """
        return {name: value for name, value in asdict(self).items() if name not in ("device", "microbatch", "workers")}


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
                    channels=16, stem=256, features=64, head=256, points=48, detail=32, codes=4096,
                    components=(16, 64, 160, 384, 800, 1536, 2560), band=16, sides=(16, 20)),
        TrainConfig(batch=64, surface=8192, volume=2048, near=2048, learning_rate=1e-4, warmup=2000),
    ),
}  # fmt: skip
"""`small` for minutes, `default` for hours on two cores, `paper` for GPUs: 178 M parameters and 2,313 tokens, about as
many as arXiv 2412.02202 has (2,280 with 12 scales), in the parts of this codec."""
