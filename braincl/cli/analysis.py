"""Commands that ask a fitted encoder: `query`, `identify`, `partition` and `select`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from braincl.cli.encoding import add_model, load_model, warn
from setcore.cli import add_json_flag, print_result, writes_file
from setcore.errors import InputError
from setcore.files import write_json


def _add_select(commands: Any) -> None:
    command = commands.add_parser("select", help="pick the pictures to show next, those that would teach most")
    command.add_argument("candidates", metavar="CANDIDATES.nc", help="embeddings, written by `braincl embed`")
    add_model(command)
    command.add_argument("--context", metavar="CONTEXT.nc", help="responses so far (default: nothing shown yet)")
    command.add_argument(
        "--targets", metavar="TARGETS.nc", help="embeddings of the pictures to be predicted (default: the candidates)"
    )
    command.add_argument("--count", type=int, required=True, help="pictures to pick")
    out = command.add_argument("--out", required=True, metavar="LIST.csv", help="the pictures in the order of choice")
    writes_file(out, ".csv")
    add_json_flag(command)
    command.set_defaults(handler=_select)


def _select(args: argparse.Namespace) -> None:
    from braincl.analysis.image_selection import select_images, write_selection
    from braincl.data.responses import open_embeddings, open_responses

    candidates = open_embeddings(args.candidates)
    chosen = select_images(
        load_model(args), candidates, args.count,
        context=open_responses(args.context, lazy=True) if args.context else None,
        targets=open_embeddings(args.targets) if args.targets else None,
    )  # fmt: skip
    write_selection(chosen, candidates, args.out)
    result = {"out": args.out, "row": chosen.rows.tolist(), "unexplained": chosen.unexplained.tolist()}
    if "image_id" in candidates.coords:
        result["image_id"] = candidates["image_id"].values[chosen.rows].tolist()
    left = chosen.unexplained[-1]
    text = f"{args.out}: {len(chosen.rows)} pictures; of the signal's variance {left:.1%} is left open"
    text += " (more than there is, since so few pictures do not tell voxels' offsets either)" if left > 1 else ""
    print_result(result, args.json, text)


def _add_query(commands: Any) -> None:
    command = commands.add_parser("query", help="map how selective voxels are for what a text says")
    command.add_argument("prompts", nargs="+", metavar="PROMPT", help='such as "a photo of a face"')
    add_model(command)
    command.add_argument("--context", required=True, metavar="CONTEXT.nc", help="response set with CLIP embeddings")
    command.add_argument(
        "--weights", metavar="CLIP", help="weights of the whole CLIP model that the pictures were embedded with: a "
        "file or hf-hub:ORG/NAME (default: from the hub)"
    )  # fmt: skip
    command.add_argument(
        "--bank", choices=("names",), help="take the prompts for names out of 1,391 whose text vectors (CLIP ViT-B/32) "
        "are embedded, so that no CLIP model is needed"
    )  # fmt: skip
    command.add_argument(
        "--map-to-names", action="store_true", help="with --bank, for an embedding that is not CLIP's: learn where "
        "names lie in it from pictures of CONTEXT.nc whose names are known (coordinate `name`, or `image_file`)"
    )  # fmt: skip
    command.add_argument("--backbone", metavar="NAME", help="the CLIP model, where CONTEXT.nc does not state it")
    out = command.add_argument(
        "--out", metavar="MAP.nii.gz", help="4-D where there are several prompts; voxels need positions for it "
        "(default: no map, means by region alone)"
    )  # fmt: skip
    writes_file(out, ".nii", ".nii.gz")
    command.add_argument(
        "--similarity",
        choices=("cosine", "dot"),
        default="cosine",
        help="cosine: direction of the weights alone; dot: predicted response, strength included",
    )
    command.add_argument("--contrast", action="store_true", help="one map: the first of two prompts minus the second")
    command.add_argument(
        "--template", action="append", metavar="TEXT", help="such as 'a photo of {}'; give several to average over"
    )
    add_json_flag(command)
    command.set_defaults(handler=_query)


def _query(args: argparse.Namespace) -> None:
    from braincl.analysis.text_query import TEMPLATES, query_text, roi_summary
    from braincl.data.nifti import check_nifti_name, grid_of, to_nifti
    from braincl.data.responses import open_responses

    if args.out:
        check_nifti_name(args.out)
    if args.bank and args.template:
        raise InputError("--template is for texts that go through CLIP; names of the bank have their vectors already")
    context = open_responses(args.context, lazy=True)
    if args.out:
        grid_of(context)
    found = query_text(
        load_model(args), context, args.prompts, args.weights,
        backbone=args.backbone, templates=args.template or TEMPLATES, similarity=args.similarity,
        contrast=args.contrast, bank=args.bank, map_to_names=args.map_to_names,
    )  # fmt: skip
    values = found["selectivity"].values
    if args.out:
        to_nifti(values[0] if len(values) == 1 else values, found, args.out)
    rows = roi_summary(found)
    prompts = found["prompt"].values.tolist()
    result = {"out": args.out, "prompts": prompts, "similarity": args.similarity,
              "templates": list(args.template or TEMPLATES), "voxels": values.shape[1], "rois": rows}  # fmt: skip
    learned = {name: found.attrs[name] for name in found.attrs if name.startswith("map_")}
    lines = [f"{args.out or 'no map'}: {values.shape[1]} voxels, {args.similarity}, {'; '.join(prompts)}"]
    if learned:
        result |= learned
        lines.append(
            f"names were mapped by {learned['map_names']} of them, each left out in turn: explained variance "
            f"{learned['map_explained_variance']:.3f}, 2AFC {learned['map_two_alternative']:.3f} (chance .5)"
        )
    lines += [
        f"{row['roi']:16}{row['voxels']:>7} voxels  {row['mean']:+.4f} ({row['interval_low']:+.4f} .. "
        f"{row['interval_high']:+.4f})  {row['prompt']}"
        for row in rows
    ]
    print_result(result, args.json, "\n".join(lines))


def _add_identify(commands: Any) -> None:
    command = commands.add_parser("identify", help="tell which of a bank of pictures evoked each response")
    add_model(command)
    command.add_argument("--context", required=True, metavar="CONTEXT.nc", help="response set with embeddings")
    command.add_argument(
        "--responses", required=True, metavar="NEW.nc", help="responses of the same voxels to pictures of the bank"
    )
    command.add_argument(
        "--candidates", required=True, metavar="BANK.nc", help="embeddings of the pictures that may have been seen"
    )
    command.add_argument(
        "--method", choices=("auto", "gaussian", "correlation"), default="auto",
        help="Gaussian likelihood with noise that voxels share, correlation over voxels, or that of them which "
        "identifies the context's own pictures better",
    )  # fmt: skip
    _add_groups(command)
    command.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    out = command.add_argument(
        "--json", required=True, metavar="OUT.json", help="scores by region, ranks and best candidates; a plot (.png) "
        "beside it"
    )  # fmt: skip
    writes_file(out, ".json", beside=(".png",))
    command.set_defaults(handler=_identify)


def _identify(args: argparse.Namespace) -> None:
    from braincl.analysis.identify import format_identification, identify_pictures
    from braincl.data.responses import open_embeddings, open_responses
    from braincl.plot.decoding import plot_identification

    report = identify_pictures(
        load_model(args), open_responses(args.context, lazy=True),
        open_responses(args.responses, require_embedding=False, lazy=True, least_pictures=1),
        open_embeddings(args.candidates),
        args.method, args.seed, args.groups,
    )  # fmt: skip
    for warning in report["warnings"]:
        warn(warning)
    _write_report(report, args.json, plot_identification, format_identification(report))


def _add_partition(commands: Any) -> None:
    command = commands.add_parser(
        "partition", help="tell what each of several feature spaces explains, and what they share"
    )
    command.add_argument("subject", metavar="SUBJECT.nc", help="response set with embedding_A, embedding_B, ...")
    command.add_argument("--spaces", required=True, metavar="A,B,...", help="two to four feature spaces by name")
    command.add_argument("--folds", type=int, default=5, help="in which pictures are left out")
    _add_groups(command)
    command.add_argument("--seed", type=int, default=0, help="of the folds and of the bootstrap")
    out = command.add_argument(
        "--json", required=True, metavar="OUT.json", help="means by region; values per voxel (.nc) and a plot (.png) "
        "beside it"
    )  # fmt: skip
    writes_file(out, ".json", beside=(".nc", ".png"))
    command.set_defaults(handler=_partition)


def _partition(args: argparse.Namespace) -> None:
    from braincl.analysis.partition import format_partition, partition_report, partition_variance
    from braincl.data.responses import open_responses, save_netcdf
    from braincl.plot.decoding import plot_partition

    spaces = [name.strip() for name in args.spaces.split(",") if name.strip()]
    given = open_responses(args.subject, require_embedding=False, lazy=True)
    found = partition_variance(given, spaces, args.groups, args.folds, args.seed)
    report = partition_report(found, args.seed)
    for warning in report["warnings"]:
        warn(warning)
    voxels = Path(args.json).with_suffix(".nc")
    save_netcdf(found, voxels)
    _write_report(report | {"voxel_file": voxels.name}, args.json, plot_partition, format_partition(report))


def _add_groups(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--groups", metavar="NAME", help="coordinate of pictures that are left out together, such as the run: folds "
        "drawn at random flatter time series"
    )  # fmt: skip


def _write_report(report: dict[str, Any], path: str, plot: Callable[[dict[str, Any], Path], None], text: str) -> None:
    """A plot, then the report beside it: where that is, both are. Then a text, for who still reads."""
    picture = Path(path).with_suffix(".png")
    plot(report, picture)
    write_json(path, report | {"plot_file": picture.name})
    print(f"{text}\nwritten: {path} {picture}")


COMMANDS = (_add_query, _add_identify, _add_partition, _add_select)
