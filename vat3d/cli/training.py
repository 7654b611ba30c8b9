"""Commands that prepare data sets and train models."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from setcore.cli import add_json_flag, add_training_flags, print_result

if TYPE_CHECKING:
    pass
from vat3d.cli.common import (
    DEFAULT_MINUTES,
    FILLS,
    PRESETS,
)


def add_prepare(commands: Any) -> None:
    command = commands.add_parser("prepare", help="sample meshes into a data set for training")
    command.add_argument("meshes", nargs="+", metavar="MESH", help="mesh files, or folders searched recursively")
    command.add_argument("--out", required=True, metavar="DATASET", help="goes on where an interrupted run stopped")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--seconds-per-mesh", type=float, default=60.0, metavar="S")
    command.add_argument("--closed-only", action="store_true", help="leave out meshes with open parts")
    command.add_argument("--fill", choices=FILLS, default="nonzero", help="even-odd: only meshes that hide parts")
    add_json_flag(command)
    command.set_defaults(handler=_prepare)


def _prepare(args: argparse.Namespace) -> None:
    from vat3d.data.prepare import mesh_items, prepare

    counts = prepare(
        mesh_items(args.meshes), args.out, seed=args.seed, seconds_per_mesh=args.seconds_per_mesh,
        closed_only=args.closed_only, fill=args.fill,
    )  # fmt: skip
    text = f"{args.out}: {counts['meshes']} meshes ({counts['closed']} closed), {counts['failures']} failures"
    print_result({"out": args.out, **counts}, args.json, text)


def add_train(commands: Any) -> None:
    command = commands.add_parser("train", help="train a tokenizer on data sets")
    command.add_argument("datasets", nargs="+", metavar="DATASET", help="each gives an equal share of every batch")
    command.add_argument("--out", required=True, metavar="MODEL_DIR")
    command.add_argument("--preset", choices=PRESETS, default="default", help="paper: the published size, for GPUs")
    add_training_flags(command, DEFAULT_MINUTES)
    add_json_flag(command)
    command.set_defaults(handler=_train)


def _train(args: argparse.Namespace) -> None:
    from setcore.training import Budget
    from vat3d.data.dataset import Dataset
    from vat3d.training.config import PRESETS as CONFIGS
    from vat3d.training.train import train

    minutes = DEFAULT_MINUTES if args.minutes is None and args.steps is None else args.minutes
    codec, config = CONFIGS[args.preset]
    result = train(
        [Dataset(folder) for folder in args.datasets], args.out, codec, config,
        Budget(steps=args.steps, minutes=minutes), seed=args.seed, resume=args.resume,
    )  # fmt: skip
    print_result({"out": args.out, **result}, args.json, f"{args.out}: {json.dumps(result)}")
