"""What quantisers leave of a latent at equal bits, on the latents of one trained encoder.

    python benchmarks/vat3d/quantiser.py DATASET... [--model MODEL_DIR] [--steps 200] [--json OUT.json]

All are multi-scale residual quantisers with 512 codes, fitted from scratch on the latents of training shapes by squared
error: `components`, one codebook shared by scales of principal components and scales over areas of the planes
(`vat3d.network.quantizer`, default preset); `areas`, the same with areas only (the first preset's token schedule);
`scalar`, on that schedule three numbers of eight levels (arXiv 2309.15505) behind a linear map for each scale. Printed:
bits (entropy of each scale's ids on validation shapes) and the share of the latents' variance left, after each scale.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from setcore.files import write_json
from setcore.seeding import numpy_generator, torch_generator
from vat3d import MeshTokenizer
from vat3d.data.dataset import Dataset
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.config import CodecConfig
from vat3d.network.quantizer import ScaleQuantizer
from vat3d.training.augment import make_batch
from vat3d.training.config import PRESETS, TrainConfig
from vat3d.training.rate import CodeUse

sys.path.append(str(Path(__file__).resolve().parents[1]))
from bench_common import OUTPUT, skip

LEVELS, NUMBERS, BATCH = 8, 3, 16
AREAS = (1, 2, 3, 4, 6, 8, 12, 16, 16, 16)


class ScalarQuantizer(ScaleQuantizer):
    """The same walk over scales; each token is a few bounded numbers, rounded."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.down = nn.ModuleList(nn.Linear(config.channels, NUMBERS) for _ in config.scales)
        self.up = nn.ModuleList(nn.Linear(NUMBERS, config.channels) for _ in config.scales)

    def walk(self, latent: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Ids of each scale, and the latent's sum up to it, with straight-through gradients."""
        total, ids, sums = self.start(len(latent)), [], []
        for scale in range(len(self.scales)):
            wanted = self.reduce(latent - total.detach(), scale)
            bounded = torch.tanh(self.down[scale](wanted)) * (LEVELS - 1) / 2
            digits = torch.round(bounded - 0.5) + 0.5  # an even number of levels lies on halves
            digits = digits.clamp(-(LEVELS - 1) / 2, (LEVELS - 1) / 2)
            straight = bounded + (digits - bounded).detach()
            total = total + self.expand(self.up[scale](straight / (LEVELS / 2)), scale)
            places = (digits + (LEVELS - 1) / 2).long() * LEVELS ** torch.arange(NUMBERS)
            ids.append(places.sum(-1))
            sums.append(total)
        return ids, sums


@torch.no_grad()
def latents(network: CodecNetwork, datasets: Sequence[Dataset], split: str, count: int) -> Tensor:
    """Latents of about `count` shapes of a split."""
    found, config = [], TrainConfig()
    for number, dataset in enumerate(datasets):
        chosen = numpy_generator(0, split, number).permutation(np.asarray(dataset.split(split)))
        for start in range(0, min(len(chosen), count // len(datasets)), BATCH):
            rows = np.sort(chosen[start : start + BATCH])
            generators = [torch_generator(0, split, number, int(row)) for row in rows]
            batch = make_batch(dataset.batch(rows), config, generators)
            found.append(network.encode(batch.points, batch.normals, batch.box)[0])
    return torch.cat(found)


def partial_sums(quantizer: ScaleQuantizer, ids: Sequence[Tensor]) -> list[Tensor]:
    """The latent after each scale of the codebook's ids, with gradients to the codes."""
    total = quantizer.start(len(ids[0]))
    sums = []
    for scale, chosen in enumerate(ids):
        total = total + quantizer.expand(quantizer.codebook[chosen], scale)
        sums.append(total)
    return sums


def fit(quantizer: ScaleQuantizer, train: Tensor, steps: int) -> None:
    """Least squared error of all partial sums."""
    quantizer.initialise(train, torch_generator(0, "start"))
    use = CodeUse(len(quantizer.scales), len(quantizer.codebook))
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=3e-3)
    for step in tqdm(range(steps), desc=type(quantizer).__name__):
        generator = torch_generator(0, "step", step)
        latent = train[torch.randint(len(train), (BATCH,), generator=generator)]
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        if isinstance(quantizer, ScalarQuantizer):
            _, sums = quantizer.walk(latent)
        else:
            with torch.no_grad():
                result = quantizer(latent)
            sums = partial_sums(quantizer, result.ids)
            use.update(use.count(result.ids))
        loss = torch.stack([(part - latent).square().mean() for part in sums]).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if not isinstance(quantizer, ScalarQuantizer) and step % 25 == 24:
            dead = use.dead()
            quantizer.revive(result.ids, result.inputs, dead, generator)
            use.revived(dead)


@torch.no_grad()
def measure(quantizer: ScaleQuantizer, latent: Tensor) -> list[tuple[float, float]]:
    """Bits for a shape, and share of variance left, after each scale."""
    if isinstance(quantizer, ScalarQuantizer):
        ids, sums = quantizer.walk(latent)
    else:
        ids = quantizer(latent).ids
        sums = partial_sums(quantizer, ids)
    bits, rows = 0.0, []
    for chosen, total in zip(ids, sums, strict=True):
        share = torch.bincount(chosen.flatten()).double() / chosen.numel()
        bits += float(torch.special.entr(share).sum()) / np.log(2) * chosen.shape[1]
        rows.append((round(bits), round(float((total - latent).square().mean() / latent.var()), 4)))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", nargs="*", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path, default=OUTPUT / "vat3d_quantiser.json")
    args = parser.parse_args()
    if not args.datasets:
        skip("needs data sets, which vat3d corpus makes")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    network = MeshTokenizer.from_pretrained(args.model, device="cpu").network
    datasets = [Dataset(folder) for folder in args.datasets]
    train, held = latents(network, datasets, "train", 4096), latents(network, datasets, "validation", 192)
    result = {}
    components = PRESETS["default"][0]
    areas = dataclasses.replace(components, components=(), band=0, sides=AREAS)
    kinds = {"components": (ScaleQuantizer, components), "areas": (ScaleQuantizer, areas)}
    for name, (kind, config) in (kinds | {"scalar": (ScalarQuantizer, areas)}).items():
        torch.manual_seed(0)
        quantizer = kind(config)
        fit(quantizer, train, args.steps)
        result[name] = measure(quantizer, held)
        print(f"{name:10}", *(f"{bits} bits: {left:.3f}" for bits, left in result[name]), sep="  ")
    curves = {name: np.array(rows).T for name, rows in result.items()}
    for budget in (1_000, 2_000, 4_000, 8_000, 16_000):
        left = {name: float(np.exp(np.interp(budget, curve[0], np.log(curve[1])))) for name, curve in curves.items()}
        print(f"{budget:6} bits:", *(f"{name} {value:.3f}" for name, value in left.items()))
    write_json(args.json, result)


if __name__ == "__main__":
    main()
