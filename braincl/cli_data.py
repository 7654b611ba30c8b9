"""The command `braincl data`: which data sets can be read, what is missing of one, and reading it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from setcore.cli import add_json_flag, print_result
from setcore.errors import InputError

ZSCORES = ("session", "context", "none")
CEILINGS = ("ncsnr", "repeats", "split_half", "none")


def add_data(commands: Any) -> None:
    """Add `data` and its subcommands."""
    command = commands.add_parser("data", help="data sets: list, info, check, read")
    actions = command.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="the data sets that can be read")
    add_json_flag(listing)
    listing.set_defaults(handler=_list)

    info = actions.add_parser("info", help="what a data set is, its licence, its files and where to get them")
    info.add_argument("name", metavar="NAME")
    add_json_flag(info)
    info.set_defaults(handler=_info)

    check = actions.add_parser("check", help="what is there of a data set, what is missing and where to get it")
    check.add_argument("name", metavar="NAME")
    check.add_argument("folder", metavar="FOLDER")
    check.add_argument("--subject", help="default: files of any subject count")
    add_json_flag(check)
    check.set_defaults(handler=_check)

    read = actions.add_parser("read", help="write a subject as a response set")
    read.add_argument("name", metavar="NAME")
    read.add_argument("folder", metavar="FOLDER")
    read.add_argument("--subject", required=True, help="such as subj01 for nsd, CSI1 for bold5000")
    read.add_argument("--out", required=True, metavar="FILE.nc")
    read.add_argument("--sessions", type=_numbers, metavar="N,N,...", help="default: all that are there")
    read.add_argument("--mask", metavar="MASK", help="a NIfTI mask, or for nsd the name of a volume in roi")
    read.add_argument("--pictures", metavar="FOLDER", help="picture files, whose hashes become image_id")
    read.add_argument("--release", type=int, help="of bold5000: 1 or 2")
    read.add_argument("--zscore", choices=ZSCORES, help="by all trials of a session, or by its context trials only")
    read.add_argument("--noise-ceiling", choices=CEILINGS)
    read.add_argument("--trials", action="store_true", help="keep single trials, too")
    add_json_flag(read)
    read.set_defaults(handler=_read)


def _list(args: argparse.Namespace) -> None:
    from braincl.datasets import DATASETS

    titles = {name: dataset.title for name, dataset in DATASETS.items()}
    print_result(titles, args.json, "\n".join(f"{name:10} {title}" for name, title in titles.items()))


def _info(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from braincl.datasets import find_dataset

    dataset = find_dataset(args.name)
    lines = [f"{dataset.name}: {dataset.title}", f"licence: {dataset.licence}", f"source: {dataset.source}"]
    if dataset.subjects:
        lines.append(f"subjects: {', '.join(dataset.subjects)}")
    lines.append(f"reader: {dataset.reader}")
    for part in dataset.parts:
        lines.append(f"{part.name}{'' if part.needed else ' (optional)'}: {part.what}")
        lines += [f"    {pattern}" for pattern in part.patterns]
        lines.append(f"    get: {part.get}")
    print_result(asdict(dataset), args.json, "\n".join(lines))


def _check(args: argparse.Namespace) -> None:
    from braincl.datasets import check_folder, find_dataset

    dataset = find_dataset(args.name)
    found = check_folder(dataset, args.folder, args.subject)
    lines, parts = [], {}
    for part, files, gaps in found:
        parts[part.name] = {"files": [str(file) for file in files], "needed": part.needed, "gaps": gaps}
        state = (
            f"{len(files)} file{'s' * (len(files) > 1)}"
            if files
            else ("MISSING" if part.needed else "not there (optional)")
        )
        lines.append(f"{part.name}: {state}")
        lines += [f"    missing in between: {gap}" for gap in gaps]
        if not files or gaps:
            told = [f"    {part.what}; looked for {' or '.join(part.patterns)}", f"    get: {part.get}"]
            lines += [line.replace("{subject}", args.subject or "{subject}") for line in told]
    missing = [part.name for part, files, gaps in found if part.needed and (gaps or not files)]
    if not any(files for _, files, _ in found):
        missing = missing or [part.name for part, _, _ in found]
    result = {"name": dataset.name, "folder": args.folder, "parts": parts, "missing": missing}
    print_result(result, args.json, "\n".join(lines))
    if missing:
        raise InputError(f"{args.folder} lacks of {dataset.name}: {', '.join(missing)}")


def _read(args: argparse.Namespace) -> None:
    from braincl.cli import check_output
    from braincl.datasets import find_dataset, read_dataset
    from braincl.responses import save_responses

    find_dataset(args.name)
    check_output(args.out)
    given = {
        "sessions": args.sessions,
        "mask": args.mask,
        "pictures": args.pictures,
        "release": args.release,
        "trials": args.trials or None,
    }
    options = {name: value for name, value in given.items() if value is not None}
    for name in ("zscore", "noise_ceiling"):
        if (value := getattr(args, name)) is not None:
            options[name] = None if value == "none" else value
    dataset = read_dataset(args.name, Path(args.folder), args.subject, **options)
    save_responses(dataset, args.out)
    sizes = {"images": dataset.sizes["image"], "voxels": dataset.sizes["voxel"]}
    facts = {name: dataset.attrs[name] for name in ("zscore", "noise_ceiling", "sessions", "dropped_voxels")}
    text = f"{args.out}: {sizes['images']} images, {sizes['voxels']} voxels ({facts['dropped_voxels']} without data)"
    print_result({"out": args.out, **sizes, **facts}, args.json, text)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers such as 1,2,3") from None
