"""Commands that make response sets: `data` reads data sets, `embed`, `join` and `simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from setcore.cli import (
    add_device_option,
    add_json_flag,
    add_parallel_options,
    add_progress_flag,
    number_list,
    parallel,
    print_result,
    report_failures,
    writes_file,
    writes_folder,
)
from setcore.errors import InputError
from setcore.files import check_output

NAME_HELP = "of a data set; `braincl data list` lists them"
ZSCORES = ("session", "context", "none")
CEILINGS = ("ncsnr", "repeats", "split_half", "none")


def _add_data(commands: Any) -> None:
    command = commands.add_parser("data", help="data sets: list, info, check, read, convert")
    actions = command.add_subparsers(required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="the data sets that can be read")
    add_json_flag(listing)
    listing.set_defaults(handler=_list)

    info = actions.add_parser("info", help="what a data set is, its licence, its files and where to get them")
    info.add_argument("name", metavar="NAME", help=NAME_HELP)
    add_json_flag(info)
    info.set_defaults(handler=_info)

    check = actions.add_parser("check", help="what is there of a data set, what is missing and where to get it")
    check.add_argument("name", metavar="NAME", help=NAME_HELP)
    check.add_argument("folder", metavar="FOLDER", help="where the data set lies")
    check.add_argument("--subject", help="only files of this subject count (default: those of any)")
    add_json_flag(check)
    check.set_defaults(handler=_check)

    read = actions.add_parser("read", help="write a subject as a response set")
    read.add_argument("name", metavar="NAME", help=NAME_HELP)
    read.add_argument("folder", metavar="FOLDER", help="where the data set lies")
    read.add_argument(
        "--subject", required=True, help="such as subj01 for nsd, CSI1 for bold5000, sub-01 for laion-fmri"
    )
    writes_file(read.add_argument("--out", required=True, metavar="FILE.nc", help="the response set to write"), ".nc")
    read.add_argument(
        "--sessions", type=number_list, metavar="N,N,...", help="sessions to read (default: all that are there)"
    )
    read.add_argument(
        "--mask", metavar="MASK", help="a NIfTI or MGH mask, or for nsd and laion-fmri the name of a ROI volume"
    )
    read.add_argument("--betas", metavar="PATTERN", help="of bids and generic: names of betas, such as '*desc-betas_*'")
    read.add_argument("--images", metavar="FILE.csv", help="of generic: the table of pictures, where there are several")
    read.add_argument("--derivatives", metavar="FOLDER", help="of bids: the pipeline that wrote the betas")
    read.add_argument("--task", help="of bids: where there are several")
    read.add_argument("--pictures", metavar="FOLDER", help="picture files, whose hashes become image_id")
    read.add_argument("--release", type=int, help="of bold5000: 1 or 2")
    read.add_argument("--embedding", metavar="MODEL", help="of laion-fmri: CLIP, DINOv2, PEcore or SigLIP2")
    read.add_argument("--split", metavar="NAME", help="of laion-fmri: such as tau or ood, or one of its JSON files")
    read.add_argument("--pool", help="of laion-fmri: whose pictures the split divides, such as shared")
    read.add_argument(
        "--zscore",
        choices=ZSCORES,
        help="standardise each voxel in each session by all its trials, or by those of context pictures only "
        "(default: the reader's own)",
    )
    read.add_argument(
        "--noise-ceiling", choices=CEILINGS, help="what the noise ceiling is taken from (default: the reader's own)"
    )
    read.add_argument("--trials", action="store_true", help="keep single trials, too")
    add_json_flag(read)
    read.set_defaults(handler=_read)

    convert = actions.add_parser("convert", help="turn a response set from NetCDF into Zarr, or back")
    convert.add_argument("set", metavar="IN", help="a response set: a NetCDF file or a Zarr store")
    out = convert.add_argument("out", metavar="OUT", help="ends in .nc or .zarr")
    writes_file(out, ".nc", ".zarr", or_folder=True)
    add_json_flag(convert)
    convert.set_defaults(handler=_convert_set)


def _convert_set(args: argparse.Namespace) -> None:
    from braincl.data.stores.convert import convert_responses

    images, voxels = convert_responses(args.set, args.out)
    result = {"out": args.out, "images": images, "voxels": voxels}
    print_result(result, args.json, f"{args.out}: {images} images, {voxels} voxels")


def _list(args: argparse.Namespace) -> None:
    from braincl.datasets import DATASETS

    titles = {name: dataset.title for name, dataset in DATASETS.items()}
    print_result(titles, args.json, "\n".join(f"{name:11} {title}" for name, title in titles.items()))


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
    from braincl.data.responses import save_responses
    from braincl.datasets import find_dataset, read_dataset

    find_dataset(args.name)
    names = ("sessions", "mask", "betas", "images", "derivatives", "task", "pictures", "release",
             "embedding", "split", "pool")  # fmt: skip
    given = {name: getattr(args, name) for name in names} | {"trials": args.trials or None}
    options = {name: value for name, value in given.items() if value is not None}
    for name in ("zscore", "noise_ceiling"):
        if (value := getattr(args, name)) is not None:
            options[name] = None if value == "none" else value
    dataset = read_dataset(args.name, Path(args.folder), args.subject, **options)
    save_responses(dataset, args.out)
    sizes = {"images": dataset.sizes["image"], "voxels": dataset.sizes["voxel"]}
    facts = {name: dataset.attrs[name] for name in ("zscore", "noise_ceiling", "sessions", "dropped_voxels")}
    facts["notes"] = dataset.attrs.get("notes", "")
    text = f"{args.out}: {sizes['images']} images, {sizes['voxels']} voxels ({facts['dropped_voxels']} without data)"
    text += f"\nnote: {facts['notes']}" if facts["notes"] else ""
    print_result({"out": args.out, **sizes, **facts}, args.json, text)


def _add_embed(commands: Any) -> None:
    command = commands.add_parser("embed", help="embed pictures with an image encoder")
    command.add_argument("images", nargs="+", metavar="IMAGES", help="picture files, or folders of them")
    command.add_argument("--backbone", required=True, metavar="NAME", help="such as clip-vit-b-32 or dinov2-vit-b-14")
    command.add_argument(
        "--weights", metavar="FILE", help="tensors (.safetensors, .pt, .bin) or hf-hub:ORG/NAME (default: from the hub)"
    )
    out = command.add_argument(
        "--out", required=True, metavar="FEATURES.nc", help="a run that was killed continues from FEATURES.nc.partial"
    )
    writes_file(out, ".nc")
    command.add_argument("--batch-size", type=int, default=32, help="pictures at once; lower it when memory runs out")
    add_device_option(command)
    add_parallel_options(command)
    command.add_argument("--no-normalize", action="store_true", help="keep embeddings as they are, not of unit norm")
    add_json_flag(command)
    add_progress_flag(command)
    command.set_defaults(handler=_embed)


def _embed(args: argparse.Namespace) -> int:
    from braincl.embedding.embed import embed_images

    broken: dict[str, str] = {}

    made = embed_images(
        args.images, args.backbone, args.weights, batch_size=args.batch_size, device=args.device,
        normalize=not args.no_normalize, out=args.out, progress=True, broken=broken,
        parallel=parallel(args),
    )  # fmt: skip
    images, features = made["embedding"].shape
    result = {"out": args.out, "images": images, "features": features, "broken": sorted(broken), **made.attrs}
    print_result(result, args.json, f"{args.out}: {images} images, {features} features of {args.backbone}")
    return report_failures(broken)


def _add_join(commands: Any) -> None:
    command = commands.add_parser("join", help="bring image embeddings into a response set by image_id")
    command.add_argument("responses", metavar="RESPONSES.nc", help="a response set")
    command.add_argument(
        "features",
        nargs="+",
        metavar="FEATURES.nc",
        help="written by `braincl embed`; several: shares of one job array",
    )
    out = command.add_argument("--out", required=True, metavar="SUBJECT.nc", help="the response set with embeddings")
    writes_file(out, ".nc")
    add_json_flag(command)
    command.set_defaults(handler=_join)


def _join(args: argparse.Namespace) -> None:
    from braincl.data.responses import join_embeddings, open_embeddings, open_responses, save_responses
    from braincl.embedding.embed import merge_embeddings

    responses = open_responses(args.responses, require_embedding=False)
    features = merge_embeddings([open_embeddings(path, empty=True) for path in args.features])
    joined, missing = join_embeddings(responses, features)
    save_responses(joined, args.out)
    result = {"out": args.out, "images": joined.sizes["image"], "missing": missing}
    text = f"{args.out}: {joined.sizes['image']} of {responses.sizes['image']} images have an embedding"
    if missing:
        text += f"; left out, since their embedding is missing: {' '.join(missing)}"
    print_result(result, args.json, text)


def _add_simulate(commands: Any) -> None:
    command = commands.add_parser("simulate", help="make simulated subjects of one population, with known weights")
    command.add_argument("embeddings", metavar="EMBEDDINGS.nc", help="of real pictures, made by `braincl embed`")
    out = command.add_argument("--out", required=True, metavar="FOLDER", help="for subject_0.nc, subject_1.nc, ...")
    writes_folder(out)
    command.add_argument(
        "--prior", choices=("gaussian", "mixture"), default="gaussian", help="what voxel weights are drawn from"
    )
    command.add_argument("--components", type=int, default=8, help="groups of a mixture, beside the bulk")
    command.add_argument("--decay", type=float, default=1.0, help="weights' eigenvalues fall as rank^-DECAY")
    command.add_argument("--subjects", type=int, default=1, help="how many")
    command.add_argument("--voxels", type=int, default=1000, help="of each subject")
    command.add_argument(
        "--signal-shares", type=_range, default=(0.02, 0.7), metavar="LOW,HIGH", help="range of the share of signal"
    )
    command.add_argument("--repeats", type=int, default=1, help="trials of each picture; more than 1 are stored, too")
    command.add_argument("--noise-rank", type=int, default=0, help="patterns of noise that voxels share")
    command.add_argument("--seed", type=int, default=0, help="of the population, and of the subjects after it")
    add_json_flag(command)
    command.set_defaults(handler=_simulate)


def _simulate(args: argparse.Namespace) -> None:
    from braincl.data.responses import open_embeddings, save_responses
    from braincl.simulation.subjects import simulate_population, with_truth
    from setcore.files import locked_folder

    embeddings = open_embeddings(args.embeddings)
    made = simulate_population(
        embeddings, args.subjects, args.voxels, components=args.components if args.prior == "mixture" else 0,
        decay=args.decay, seed=args.seed, signal_shares=args.signal_shares, repeats=args.repeats,
        noise_rank=args.noise_rank,
    )  # fmt: skip
    written = []
    with locked_folder(args.out) as folder:
        for number, subject in enumerate(made):
            path = folder / f"subject_{number}.nc"
            check_output(path, args.embeddings)
            save_responses(with_truth(subject), path)
            written.append(str(path))
    result = {"out": written, "images": embeddings.sizes["image"], "voxels": args.voxels, "prior": args.prior}
    print_result(result, args.json, f"{' '.join(written)}: {args.voxels} voxels each, {args.prior} population")


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers such as 0.02,0.7") from None
    return low, high


COMMANDS = (_add_data, _add_embed, _add_join, _add_simulate)
