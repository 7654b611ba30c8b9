"""Commands about models: `train` makes one, `info` describes one, `convert` takes over a published one."""

from __future__ import annotations

import argparse
from typing import Any

from setcore.cli import (
    add_device_option,
    add_json_flag,
    add_progress_flag,
    add_training_flags,
    print_result,
    writes_folder,
)

PRESETS = ("small", "paper", "per_voxel", "agnostic")


def _add_train(commands: Any) -> None:
    command = commands.add_parser(
        "train",
        help="meta-learn a model on several subjects",
        epilog="On several GPUs: torchrun --nproc-per-node 8 -m braincl train ... --batch 8, with the same options; on "
        "several machines see torchrun --help. A run may be resumed by another number of processes.",
    )
    command.add_argument("subjects", nargs="+", metavar="SUBJECT.nc", help="response sets with embeddings")
    writes_folder(command.add_argument("--out", required=True, metavar="MODEL_DIR", help="the model folder to make"))
    command.add_argument(
        "--preset",
        choices=PRESETS,
        default="small",
        help="small: minutes on 2 cores; agnostic: a model without a population prior, for any embedding; paper: the "
        "published network, 97 M parameters at 512 features, for a GPU; per_voxel: a small one of its kind",
    )
    add_training_flags(command, default_minutes=15)
    command.add_argument(
        "--stages", type=_shares, metavar="A,B,C", help="shares of the budget for the stages synthetic voxels, context "
        "extension, real subjects, such as 0.15,0.25,0.6 (default: the preset's)"
    )  # fmt: skip
    command.add_argument(
        "--exclude-images", metavar="FILE", help="pictures that nothing is learned from: one image_id a line, or a CSV "
        "file with a column image_id"
    )  # fmt: skip
    command.add_argument("--batch", type=int, metavar="N", help="draws a step; processes share them (default: 1)")
    add_device_option(command)
    add_json_flag(command)
    add_progress_flag(command)
    command.set_defaults(handler=_train)


def _train(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from braincl.data.splits import read_image_ids
    from braincl.training.config import PRESETS as CONFIGS
    from braincl.training.train import meta_train
    from setcore.parallel.ranks import speaks
    from setcore.training import Budget

    given = args.minutes is not None or args.steps is not None
    budget = Budget(steps=args.steps, minutes=args.minutes) if given else None
    config = replace(CONFIGS[args.preset], device=args.device)
    if args.stages:
        config = replace(config, schedule=config.schedule.with_shares(args.stages))
    if args.batch is not None:
        config = replace(config, batch=args.batch)
    excluded = read_image_ids(args.exclude_images) if args.exclude_images else ()
    meta_train(
        args.subjects, config, out=args.out, budget=budget, seed=args.seed, resume=args.resume, exclude_images=excluded
    )
    if speaks():
        print_result({"out": args.out, "subjects": args.subjects}, args.json, f"{args.out}: trained model")


def _add_info(commands: Any) -> None:
    command = commands.add_parser("info", help="what a model is, what it was trained on and by which schedule")
    command.add_argument("model", nargs="?", metavar="MODEL_DIR", help="folder, or name of embedded weights")
    command.add_argument("--model", dest="named", metavar="MODEL_DIR", help="the same (default: the embedded weights)")
    add_json_flag(command)
    command.set_defaults(handler=_info)


def _info(args: argparse.Namespace) -> None:
    from braincl.training.config import Schedule
    from braincl.training.describe import describe_model
    from setcore.checkpoint import config_from_dict

    found = describe_model(args.model or args.named)
    schedule = found["schedule"]
    shown = {name: value for name, value in found.items() if name != "schedule"} | {
        "features": found["features"] or "any"
    }
    lines = [f"{name}: {', '.join(v) if isinstance(v, list) else v}" for name, v in shown.items() if v is not None]
    stages = str(config_from_dict(Schedule, schedule, found["model"])).split("; ") if schedule else []
    lines += [f"stage {stage}" for stage in stages] or ["stages of training: not stated"]
    print_result(found, args.json, "\n".join(lines))


def _add_convert(commands: Any) -> None:
    command = commands.add_parser("convert", help="turn a published BraInCoRL checkpoint into a model folder")
    command.add_argument("published", metavar="PUBLISHED.pth", help="a state dict of raw tensors")
    writes_folder(command.add_argument("--out", required=True, metavar="MODEL_DIR", help="a new folder"))
    add_json_flag(command)
    command.set_defaults(handler=_convert)


def _convert(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from braincl.models.published_checkpoint import convert_published

    config = asdict(convert_published(args.published, args.out))
    sizes = ", ".join(f"{name} {value}" for name, value in config.items())
    print_result({"out": args.out, "config": config}, args.json, f"{args.out}: per_voxel network, {sizes}")


def _shares(text: str) -> tuple[float, float, float]:
    try:
        synthetic, extension, real = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not three numbers such as 0.15,0.25,0.6") from None
    return synthetic, extension, real


COMMANDS = (_add_train, _add_info, _add_convert)
