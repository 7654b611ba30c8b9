"""A smaller set transformer that corrects experts as a larger one does: how the embedded agnostic weights were made.

    python tools/distil_network.py TEACHER --out STUDENT

What the set transformer of a `shared_context` network sees are a few numbers for each voxel and expert, so that a
small one can learn to say of them what a trained one says, and takes a fraction of the time. Contexts are drawn widely:
random embeddings of many spectra and widths, simulated voxels whose tuning follows them in many ways, with the experts
of a network without a population prior and of one with it. No recording and no picture is used.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from braincl.estimators.base import standardiser
from braincl.models.config import SharedContextConfig
from braincl.models.expert_features import VOXEL_COUNT
from braincl.models.model_folder import find_model, load_model, save_encoder
from braincl.models.shared_context import SharedContextNetwork
from braincl.simulation.shifted_subject import simulate_shifted_subject
from braincl.simulation.subjects import category_prior, gaussian_prior
from braincl.training.config import POPULATION_EXPERTS
from setcore.seeding import numpy_generator
from setcore.training import warmup_cosine

VOXELS = 16, 256
MOST_VOXELS = 300_000  # that the set transformer is told of: it sees how many there are
TOGETHER = 6  # contexts of a step


class Seen(NamedTuple):
    """A context as the set transformer sees it, and what the teacher says."""

    features: Tensor
    common: Tensor
    corrections: Tensor


class Watched(SharedContextNetwork):
    """A network that keeps what its set transformer is given."""

    seen: tuple[Tensor, Tensor]

    def corrections(self, features: Tensor, common: Tensor) -> Tensor:
        self.seen = features, common
        return super().corrections(features, common)


def embeddings(images: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random embeddings (images, E) with a random spectrum, width, sparseness and norm."""
    width = round(math.exp(rng.uniform(math.log(12), math.log(250))))
    rank = min(width, images + 50)
    spectrum = np.arange(1, rank + 1) ** (-rng.uniform(0, 1.5) / 2)
    latent = rng.standard_normal((images, rank)) * spectrum
    if rng.random() < 0.5:  # pictures come in categories
        centres = rng.standard_normal((12, rank)) * spectrum
        latent = latent + rng.uniform(0.3, 1.5) * centres[rng.integers(12, size=images)]
    X = latent @ (rng.standard_normal((rank, width)) / np.sqrt(rank))
    if rng.random() < 0.5:
        X = np.maximum(X, 0)
    if rng.random() < 0.5:
        X = X / np.linalg.norm(X, axis=1, keepdims=True).clip(1e-9)
    return X.astype(np.float32)


def see(teacher: SharedContextNetwork, seed: int) -> Seen:
    """One context, drawn by its seed; every third has a population prior."""
    rng = numpy_generator(seed, "context")
    images = round(math.exp(rng.uniform(math.log(5), math.log(500))))
    X = embeddings(images + 300, rng)
    decay = rng.uniform(0.2, 1.8)
    grouped = rng.random() < 0.5
    prior = category_prior(X, 6, decay=decay, seed=seed) if grouped else gaussian_prior(X, decay=decay, seed=seed)
    context = X[:images]
    Y = simulate_shifted_subject(prior, context, int(rng.integers(*VOXELS)), rng)
    config, gaussian = teacher.config, gaussian_prior(X, decay=decay, seed=seed if rng.random() < 0.7 else seed + 1)
    if seed % 3 == 0:
        config = replace(POPULATION_EXPERTS, **sizes(config), features=X.shape[1])
    network = Watched(config).eval()
    network.load_state_dict(dict(teacher.named_parameters()), strict=False)
    if config.features:
        network.set_prior(gaussian)
    with torch.no_grad():
        network.condition(torch.as_tensor(context), torch.as_tensor(standardiser(Y)(Y)))
        features, common = network.seen
        if rng.random() < 0.5:
            common[:, VOXEL_COUNT] = rng.uniform(math.log(Y.shape[1]), math.log(MOST_VOXELS)) / 8
        return Seen(features, common, network.corrections(features, common))


def sizes(config: SharedContextConfig) -> dict[str, int]:
    """Those of the set transformer."""
    return {name: getattr(config, name) for name in ("width", "heads", "hidden", "layers")}


def main() -> None:
    """Make the contexts, train the student, write its folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher")
    parser.add_argument("--out", required=True)
    for name, default in (("width", 16), ("heads", 2), ("hidden", 32), ("layers", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--contexts", type=int, default=2400)
    parser.add_argument("--steps", type=int, default=12000)
    args = parser.parse_args()
    network, card = load_model(find_model(args.teacher))
    assert isinstance(network, SharedContextNetwork)
    contexts = [see(network, seed) for seed in range(args.contexts)]
    held = contexts[-100:]
    chosen = {name: getattr(args, name) for name in sizes(network.config)}
    torch.manual_seed(0)
    student = SharedContextNetwork(replace(network.config, **chosen))
    same = {"trust", "share_logits", "temper", "std_scale"}
    student.load_state_dict({n: p for n, p in network.named_parameters() if n in same}, strict=False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3, weight_decay=0.0)
    rng = numpy_generator(0, "steps")
    for step in range(args.steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * warmup_cosine(step / args.steps)
        losses = [error(student, contexts[i]) for i in rng.integers(len(contexts) - len(held), size=TOGETHER)]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if step % 500 == 499:
            with torch.no_grad():
                left = torch.stack([error(student, context) for context in held]).mean()
                power = torch.stack([context.corrections.square().mean() for context in held]).mean()
            print(
                f"step {step + 1}: {float(loss.detach()):.5f}, held out {float(left):.5f} of {float(power):.4f}",
                flush=True,
            )
    card.training["distilled"] = {"contexts": args.contexts, "steps": args.steps, "from": sizes(network.config)}
    Path(args.out).mkdir(exist_ok=True)
    save_encoder(args.out, student, card, half=True)


def error(student: SharedContextNetwork, context: Seen) -> Tensor:
    """Mean squared difference between the two networks' corrections."""
    return (student.corrections(context.features, context.common) - context.corrections).square().mean()


if __name__ == "__main__":
    main()
