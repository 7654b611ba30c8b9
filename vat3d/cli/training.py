"""Commands that make data sets and train models."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from setcore.cli import (
    add_device_option,
    add_json_flag,
    add_parallel_options,
    add_progress_flag,
    add_training_flags,
    parallel,
    print_result,
    report_failures,
    writes_folder,
)
from vat3d.cli.common import FILLS, add_model_option, add_precision_option, load_tokenizer

if TYPE_CHECKING:
    from setcore.training import Budget
    from vat3d.data.dataset import Dataset
    from vat3d.network.config import CodecConfig
    from vat3d.training.config import TrainConfig

PRESETS = ("small", "default", "paper")
DEFAULT_MINUTES = 60.0
SEVERAL = (
    "On several GPUs: torchrun --nproc-per-node 8 -m vat3d COMMAND ..., with the same options; on several machines see "
    "torchrun --help. The batch is shared by all processes, and a run may be resumed by another number of them."
)


def add_prepare(commands: Any) -> None:
    """Add `prepare`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("prepare", help="sample meshes into a data set for training")
    command.add_argument("meshes", nargs="+", metavar="MESH", help="mesh files, or folders searched recursively")
    _add_sampling_options(command)
    add_progress_flag(command)
    command.set_defaults(handler=_prepare)


def _prepare(args: argparse.Namespace) -> int:
    from vat3d.data.prepare import failures, mesh_items, prepare

    counts = prepare(
        mesh_items(args.meshes), args.out, seed=args.seed, seconds_per_mesh=args.seconds_per_mesh,
        closed_only=args.closed_only, fill=args.fill, parallel=parallel(args),
    )  # fmt: skip
    _print_counts(args, counts)
    return report_failures(failures(args.out))


def add_corpus(commands: Any) -> None:
    """Add `corpus`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser(
        "corpus", help="sample the training corpus: open meshes of registries, Quaternius's, or procedural shapes"
    )
    command.add_argument(
        "--package",
        action="append",
        metavar="NAME",
        help="take this package alone; may be given several times",
    )
    command.add_argument(
        "--quaternius", metavar="FOLDER", help="take Quaternius's packs (.npz) in this folder, not registries' meshes"
    )
    command.add_argument("--procedural", type=int, metavar="N", help="make N procedural shapes, not registries' meshes")
    command.add_argument("--open", action="store_true", help="make open shapes; with --procedural")
    command.add_argument("--family", metavar="NAME", help="make shapes of this family alone; with --procedural")
    command.add_argument("--cache", default="~/.cache/vat3d", metavar="FOLDER", help="where packages are kept")
    _add_sampling_options(command)
    add_progress_flag(command)
    command.set_defaults(handler=_corpus)


def _corpus(args: argparse.Namespace) -> None:
    from vat3d.data.corpus import prepare_corpus

    counts = prepare_corpus(
        args.out, packages=args.package or (), quaternius=args.quaternius, procedural=args.procedural,
        open_shapes=args.open, family=args.family, cache=args.cache, seed=args.seed, fill=args.fill,
        closed_only=args.closed_only, seconds_per_mesh=args.seconds_per_mesh, parallel=parallel(args),
    )  # fmt: skip
    _print_counts(args, counts)


def add_train(commands: Any) -> None:
    """Add `train`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("train", help="train a tokenizer on data sets", epilog=SEVERAL)
    command.add_argument("--preset", choices=PRESETS, default="default", help="paper: the published size, for GPUs")
    _add_training_options(command)
    _add_workers_option(command)
    add_progress_flag(command)
    command.set_defaults(handler=_train)


def _train(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from vat3d.training.config import PRESETS as CONFIGS
    from vat3d.training.train import train

    codec, config = CONFIGS[args.preset]
    config = replace(config, **_where_computed(args))

    def say_what_it_takes() -> None:
        print(f"vat3d: training takes {_memory_line(codec, config)}", file=sys.stderr)

    result = train(
        _datasets(args), args.out, codec, config, _budget(args), seed=args.seed, resume=args.resume,
        on_start=say_what_it_takes,
    )  # fmt: skip
    _print_figures(args, result)


def add_tune(commands: Any) -> None:
    """Add `tune`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("tune", help="tune a trained tokenizer to refined tokens", epilog=SEVERAL)
    command.add_argument("model", metavar="MODEL", help="a model folder or embedded name")
    _add_training_options(command)
    _add_workers_option(command)
    add_progress_flag(command)
    command.set_defaults(handler=_tune)


def _tune(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from vat3d.training.refined_pool import TuningConfig
    from vat3d.training.tune import tune

    config = TuningConfig()
    config = replace(config, training=replace(config.training, **_where_computed(args)))
    result = tune(args.model, _datasets(args), args.out, config, _budget(args), seed=args.seed, resume=args.resume)
    _print_figures(args, result)


def add_train_generator(commands: Any) -> None:
    """Add `train-generator`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser(
        "train-generator", help="train a generator of new shapes on data sets", epilog=SEVERAL
    )
    _add_training_options(command)
    command.add_argument("--preset", choices=("default", "large"), default="default", help="large: for GPUs")
    command.add_argument("--start", metavar="GENERATOR", help="begin with the weights of this folder or embedded name")
    command.add_argument(
        "--views", type=int, default=1, metavar="N", help="pictures of each moved shape; 0: none are shown"
    )
    command.add_argument("--cache", default="~/.cache/vat3d", metavar="FOLDER", help="where corpus left the meshes")
    add_model_option(command)
    add_progress_flag(command)
    command.set_defaults(handler=_train_generator)


def _train_generator(args: argparse.Namespace) -> None:
    from vat3d.generation.train import train

    result = train(
        _datasets(args), args.out, load_tokenizer(args.model), _budget(args), precision=args.precision,
        device=args.device, microbatch=args.microbatch, seed=args.seed, resume=args.resume, cache=args.cache,
        views=args.views, start=args.start, preset=args.preset,
    )  # fmt: skip
    _print_figures(args, result)


def _add_sampling_options(command: argparse.ArgumentParser) -> None:
    out = command.add_argument(
        "--out", required=True, metavar="DATASET", help="goes on where an interrupted run stopped"
    )
    writes_folder(out)
    command.add_argument("--seed", type=int, default=0, help="of everything that is random")
    command.add_argument("--seconds-per-mesh", type=float, default=60.0, metavar="S", help="time limit")
    command.add_argument("--closed-only", action="store_true", help="leave out meshes with open parts")
    command.add_argument(
        "--fill", choices=FILLS, default="nonzero",
        help="what overlapping parts stand for; even-odd takes only meshes whose parts hide others",
    )  # fmt: skip
    add_parallel_options(command)
    add_json_flag(command)


def _print_counts(args: argparse.Namespace, counts: dict[str, int]) -> None:
    text = f"{args.out}: {counts['meshes']} meshes ({counts['closed']} closed), {counts['failures']} failures"
    print_result({"out": args.out, **counts}, args.json, text)


def _add_training_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("datasets", nargs="+", metavar="DATASET", help="each gives an equal share of every batch")
    writes_folder(command.add_argument("--out", required=True, metavar="MODEL_DIR", help="folder of the model"))
    add_training_flags(command, DEFAULT_MINUTES)
    add_precision_option(command)
    add_device_option(command)
    command.add_argument(
        "--microbatch", type=int, metavar="N", help="shapes on the device at once, where a batch does not fit it"
    )
    add_json_flag(command)


def _add_workers_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--workers", type=int, metavar="N", help="processes that make batches (default: the cores that are left)"
    )


def _where_computed(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say of a `vat3d.training.config.TrainConfig`."""
    return {name: getattr(args, name) for name in ("precision", "device", "microbatch", "workers")}


def _datasets(args: argparse.Namespace) -> list[Dataset]:
    from vat3d.data.dataset import Dataset

    return [Dataset(folder) for folder in args.datasets]


def _budget(args: argparse.Namespace) -> Budget:
    from setcore.training import Budget

    minutes = DEFAULT_MINUTES if args.minutes is None and args.steps is None else args.minutes
    return Budget(steps=args.steps, minutes=minutes)


def _memory_line(codec: CodecConfig, config: TrainConfig) -> str:
    from setcore.devices import find_device
    from setcore.parallel.ranks import process_count
    from vat3d.training.memory import device_memory, memory_need

    device = find_device(config.device)
    batch = max(1, config.batch // process_count())
    return memory_need(codec, config, device).describe(batch, config.microbatch, device_memory(device))


def _print_figures(args: argparse.Namespace, figures: dict[str, Any]) -> None:
    from setcore.parallel.ranks import speaks

    if speaks():
        print_result({"out": args.out, **figures}, args.json, f"{args.out}: {json.dumps(figures)}")
