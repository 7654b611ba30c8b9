"""Small trainings for tests of several processes: ``torchrun --nproc-per-node 2 -m tests.rank_jobs JOB OUT ...``.

Each is run with the optimiser of users and with plain gradient descent, in float32, and every step is logged.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

TESTS = Path(__file__).resolve().parent
sys.path.insert(0, str(TESTS))

from toy_shapes import COMPONENTS, TRAIN, Named, Toy  # noqa: E402

from setcore.training import Budget  # noqa: E402

STEPS = 20
LOGGED = dataclasses.replace(
    TRAIN, batch=4, quantise_from=0.3, report_every=1, save_every=5, revive_every=8, table_shapes=32, basis_shapes=200
)


def gradient_descent(parameters: Any, lr: float, **_: Any) -> torch.optim.Optimizer:
    """In the place of AdamW: plain, so that equal gradients are equal steps."""
    return torch.optim.SGD(parameters, lr=lr)


def train_tokenizer(out: Path, args: argparse.Namespace) -> None:
    from vat3d.training.train import train

    config = dataclasses.replace(LOGGED, microbatch=args.microbatch, workers=args.workers)
    datasets = [Dying(args.dies) if args.dies else Toy(), Toy(24)]
    train(datasets, out, COMPONENTS, config, Budget(steps=STEPS), resume=args.resume, progress=False)


def tune_tokenizer(out: Path, args: argparse.Namespace) -> None:
    from vat3d.training.refined_pool import TuningConfig
    from vat3d.training.tune import tune

    training = dataclasses.replace(LOGGED, microbatch=args.microbatch, workers=args.workers)
    config = TuningConfig(training=training, groups=3, visits=5, stored=300, fewest=4, encoder_every=4)
    data = [Dying(args.dies) if args.dies else Toy()]
    tune(args.model, data, out, config, Budget(steps=STEPS), resume=args.resume, progress=False)


def train_generator(out: Path, args: argparse.Namespace) -> None:
    from vat3d.generation import train as generation
    from vat3d.tokenizer import MeshTokenizer

    tokenizer = MeshTokenizer.from_pretrained(TESTS / "data" / "tiny", "float32", "cpu")
    small = partial(generation.GeneratorConfig, width=16, heads=2, hidden=24, layers=2)
    with mock.patch.multiple(generation, REPORT_EVERY=1, BATCH=4, GeneratorConfig=small):
        generation.train(
            [Named()], out, tokenizer, Budget(steps=STEPS), resume=args.resume, progress=False,
            precision="float32", device="cpu", microbatch=args.microbatch,
        )  # fmt: skip


def train_encoder(out: Path, args: argparse.Namespace) -> None:
    from synthetic import make_responses

    from braincl.models.config import SharedContextConfig
    from braincl.training.config import Schedule, Stage, TrainConfig
    from braincl.training.train import meta_train

    config = TrainConfig(
        network=SharedContextConfig(width=8, heads=2, hidden=8, layers=1), queries=8, voxels=12, batch=4,
        schedule=Schedule(Stage(0.4, 10, 10, 1.0), Stage(0.2, 4, 24, 1.0), Stage(0.4, 8, 20, 0.4)),
        validation_contexts=(5, 11), report_every=1,
    )  # fmt: skip
    subjects = [make_responses(seed=seed, voxels=7 + seed).assign_attrs(subject=f"S{seed}") for seed in (1, 2)]
    meta_train(subjects, config, out, budget=Budget(steps=STEPS), resume=args.resume, progress=False)


class Dying(Toy):
    """A data set whose process, if it is the second one, is killed at one draw."""

    def __init__(self, draws: int) -> None:
        super().__init__()
        self.left = draws

    def batch(self, indices: Any) -> Any:
        self.left -= 1
        if self.left < 0 and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(indices)


JOBS = {
    "train": train_tokenizer,
    "tune": tune_tokenizer,
    "train-generator": train_generator,
    "meta-train": train_encoder,
}


def main() -> int:
    """Run a job as the commands do: an error of input is one line and status 2."""
    from setcore.errors import InputError

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=JOBS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--microbatch", type=int)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--dies", type=int, default=0)
    parser.add_argument("--optimizers", default="adam,descent")
    args = parser.parse_args()
    makers = {"adam": torch.optim.AdamW, "descent": gradient_descent}
    try:
        for name in args.optimizers.split(","):
            with mock.patch("torch.optim.AdamW", makers[name]):
                JOBS[args.job](args.out / name, args)
    except InputError as error:
        print(f"rank {os.environ.get('RANK', '0')}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
