"""The command `braincl`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from braincl.cli_data import add_data
from braincl.cli_train import add_info, add_train
from setcore.cli import Parser, add_json_flag, print_result, run
from setcore.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run(build_parser(), argv)


def build_parser() -> Parser:
    """All commands and their options."""
    parser = Parser(prog="braincl", description="Linear encoders for the voxels of a new subject, learned in context.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (
        _add_embed,
        _add_join,
        add_train,
        add_info,
        _add_predict,
        _add_evaluate,
        _add_convert,
        _add_query,
        _add_select,
        _add_simulate,
        add_data,
    ):
        add(commands)
    return parser


def _add_embed(commands: Any) -> None:
    command = commands.add_parser("embed", help="embed pictures with an image encoder")
    command.add_argument("images", nargs="+", metavar="IMAGES", help="picture files, or folders of them")
    command.add_argument("--backbone", required=True, metavar="NAME", help="such as clip-vit-b-32 or dinov2-vit-b-14")
    command.add_argument(
        "--weights", metavar="FILE", help="tensors (.safetensors, .pt, .bin) or hf-hub:ORG/NAME (default: from the hub)"
    )
    command.add_argument(
        "--out", required=True, metavar="FEATURES.nc", help="a run that was killed goes on from FEATURES.nc.partial"
    )
    command.add_argument("--batch-size", type=int, default=32, help="lower it when memory runs out")
    command.add_argument("--device", help="cpu or cuda (default: the GPU where there is one)")
    command.add_argument("--no-normalize", action="store_true", help="keep embeddings as they are, not of unit norm")
    add_json_flag(command)
    command.set_defaults(handler=_embed)


def _embed(args: argparse.Namespace) -> None:
    from braincl.embed import embed_images

    check_output(args.out, *args.images, *filter(None, [args.weights]))
    made = embed_images(
        args.images, args.backbone, args.weights, batch_size=args.batch_size, device=args.device,
        normalize=not args.no_normalize, out=args.out, progress=sys.stderr.isatty(),
    )  # fmt: skip
    images, features = made["embedding"].shape
    result = {"out": args.out, "images": images, "features": features, **made.attrs}
    print_result(result, args.json, f"{args.out}: {images} images, {features} features of {args.backbone}")


def _add_join(commands: Any) -> None:
    command = commands.add_parser("join", help="bring image embeddings into a response set by image_id")
    command.add_argument("responses", metavar="RESPONSES.nc")
    command.add_argument("features", metavar="FEATURES.nc", help="written by `braincl embed`")
    command.add_argument("--out", required=True, metavar="SUBJECT.nc")
    add_json_flag(command)
    command.set_defaults(handler=_join)


def _join(args: argparse.Namespace) -> None:
    from braincl.responses import join_embeddings, open_embeddings, open_responses, save_responses

    check_output(args.out, args.responses, args.features)
    responses = open_responses(args.responses, require_embedding=False)
    joined, missing = join_embeddings(responses, open_embeddings(args.features))
    save_responses(joined, args.out)
    result = {"out": args.out, "images": joined.sizes["image"], "missing": missing}
    text = f"{args.out}: {joined.sizes['image']} of {responses.sizes['image']} images have an embedding"
    if missing:
        text += f"; left out, since their embedding is missing: {' '.join(missing)}"
    print_result(result, args.json, text)


def _add_predict(commands: Any) -> None:
    command = commands.add_parser("predict", help="predict a subject's responses to new images from a context")
    _add_model(command)
    command.add_argument("--context", required=True, metavar="CONTEXT.nc", help="response set with embeddings")
    command.add_argument("--images", required=True, metavar="QUERY.nc", help="embeddings of the images to predict")
    command.add_argument("--out", required=True, metavar="PRED.nc")
    command.add_argument("--nifti", metavar="PRED.nii.gz", help="write the predictions as a 4-D image, too")
    add_json_flag(command)
    command.set_defaults(handler=_predict)


def _predict(args: argparse.Namespace) -> None:
    from braincl.encoder import InContextEncoder
    from braincl.nifti import check_nifti_name, grid_of, to_nifti
    from braincl.predict import predict_responses, shared_pictures
    from braincl.responses import open_embeddings, open_responses, save_netcdf

    check_output(args.out, args.context, args.images)
    context = open_responses(args.context)
    query = open_embeddings(args.images)
    if args.nifti:
        check_output(args.nifti)
        check_nifti_name(args.nifti)
        grid_of(context)
    predicted = predict_responses(InContextEncoder.from_pretrained(args.model), context, query)
    if shared := shared_pictures(context, query):
        _warn(f"{shared} query images are in the context, too: scores on them would flatter the model")
    if args.nifti:
        to_nifti(predicted["prediction"].values, predicted, args.nifti)
    save_netcdf(predicted, args.out)
    images, voxels = predicted["prediction"].shape
    result = {"out": args.out, "nifti": args.nifti, "images": images, "voxels": voxels, "shared_pictures": shared}
    print_result(result, args.json, f"{args.out}: {images} images, {voxels} voxels")


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser("evaluate", help="score a model on a subject beside its baselines")
    command.add_argument("subject", metavar="SUBJECT.nc")
    _add_model(command)
    command.add_argument(
        "--contexts", type=_sizes, default=(20, 50, 100, 200, 400), metavar="N,N,...", help="context sizes, in pictures"
    )
    command.add_argument("--draws", type=int, default=5, help="contexts per size, disjoint where the pictures allow")
    command.add_argument("--test-images", type=int, help="default: a quarter of the pictures, 300 at most")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--json",
        required=True,
        metavar="OUT.json",
        help="the report; per-voxel scores (.nc) and a plot (.png) beside it",
    )
    command.set_defaults(handler=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    from braincl.evaluation import evaluate, output_paths, write_evaluation

    if Path(args.json).suffix != ".json":
        raise InputError(f"{args.json}: name the report .json; the files beside it take .nc and .png")
    for path in output_paths(args.json):
        check_output(path, args.subject)
    evaluation = evaluate(
        args.model, args.subject, args.contexts, args.draws, args.test_images, args.seed, progress=sys.stderr.isatty()
    )
    for warning in evaluation.report["warnings"]:
        _warn(warning)
    write_evaluation(evaluation, args.json)
    print(format_table(evaluation.report))
    print("written: " + " ".join(map(str, output_paths(args.json))))


def _add_convert(commands: Any) -> None:
    command = commands.add_parser("convert", help="turn a published BraInCoRL checkpoint into a model folder")
    command.add_argument("published", metavar="PUBLISHED.pth", help="a state dict of raw tensors")
    command.add_argument("--out", required=True, metavar="MODEL_DIR", help="a new folder")
    add_json_flag(command)
    command.set_defaults(handler=_convert)


def _convert(args: argparse.Namespace) -> None:
    from dataclasses import asdict

    from braincl.published import convert_published

    config = asdict(convert_published(args.published, args.out))
    sizes = ", ".join(f"{name} {value}" for name, value in config.items())
    print_result({"out": args.out, "config": config}, args.json, f"{args.out}: per_voxel network, {sizes}")


def _add_select(commands: Any) -> None:
    command = commands.add_parser("select", help="pick the pictures to show next, those that would teach most")
    command.add_argument("candidates", metavar="CANDIDATES.nc", help="embeddings, written by `braincl embed`")
    _add_model(command)
    command.add_argument("--context", metavar="CONTEXT.nc", help="responses so far (default: nothing shown yet)")
    command.add_argument(
        "--targets", metavar="TARGETS.nc", help="embeddings of the pictures to be predicted (default: the candidates)"
    )
    command.add_argument("--count", type=int, required=True, help="pictures to pick")
    command.add_argument("--out", required=True, metavar="LIST.csv")
    add_json_flag(command)
    command.set_defaults(handler=_select)


def _select(args: argparse.Namespace) -> None:
    from braincl.encoder import InContextEncoder
    from braincl.responses import open_embeddings, open_responses
    from braincl.select import select_images, write_selection

    check_output(args.out, args.candidates, *filter(None, [args.context, args.targets]))
    candidates = open_embeddings(args.candidates)
    chosen = select_images(
        InContextEncoder.from_pretrained(args.model), candidates, args.count,
        context=open_responses(args.context) if args.context else None,
        targets=open_embeddings(args.targets) if args.targets else None,
    )  # fmt: skip
    write_selection(chosen, candidates, args.out)
    result = {"out": args.out, "row": chosen.rows.tolist(), "unexplained": chosen.unexplained.tolist()}
    if "image_id" in candidates.coords:
        result["image_id"] = candidates["image_id"].values[chosen.rows].tolist()
    text = (
        f"{args.out}: {len(chosen.rows)} pictures; of the signal's variance {chosen.unexplained[-1]:.1%} is left open"
    )
    print_result(result, args.json, text)


def _add_simulate(commands: Any) -> None:
    command = commands.add_parser("simulate", help="make simulated subjects of one population, with known weights")
    command.add_argument("embeddings", metavar="EMBEDDINGS.nc", help="of real pictures, written by `braincl embed`")
    command.add_argument("--out", required=True, metavar="FOLDER", help="for subject_0.nc, subject_1.nc, ...")
    command.add_argument(
        "--prior", choices=("gaussian", "mixture"), default="gaussian", help="what voxel weights are drawn from"
    )
    command.add_argument("--components", type=int, default=8, help="groups of a mixture, beside the bulk")
    command.add_argument("--decay", type=float, default=1.0, help="weights' eigenvalues fall as rank^-DECAY")
    command.add_argument("--subjects", type=int, default=1)
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
    from braincl.responses import open_embeddings, save_responses
    from braincl.simulate import simulate_population, with_truth
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


def _add_query(commands: Any) -> None:
    command = commands.add_parser("query", help="map how selective voxels are for what a text says")
    command.add_argument("prompts", nargs="+", metavar="PROMPT", help='such as "a photo of a face"')
    _add_model(command)
    command.add_argument("--context", required=True, metavar="CONTEXT.nc", help="response set with CLIP embeddings")
    command.add_argument(
        "--weights", metavar="CLIP", help="weights of the whole CLIP model that the pictures were embedded with: a "
        "file or hf-hub:ORG/NAME (default: from the hub)"
    )  # fmt: skip
    command.add_argument("--backbone", metavar="NAME", help="the CLIP model, where CONTEXT.nc does not state it")
    command.add_argument("--out", required=True, metavar="MAP.nii.gz", help="4-D where there are several prompts")
    command.add_argument("--similarity", choices=("cosine", "dot"), default="cosine")
    command.add_argument("--contrast", action="store_true", help="one map: the first of two prompts minus the second")
    command.add_argument(
        "--template", action="append", metavar="TEXT", help="such as 'a photo of {}'; give several to average over"
    )
    add_json_flag(command)
    command.set_defaults(handler=_query)


def _query(args: argparse.Namespace) -> None:
    from braincl.encoder import InContextEncoder
    from braincl.nifti import check_nifti_name, grid_of, to_nifti
    from braincl.query import TEMPLATES, query_text, roi_summary
    from braincl.responses import open_responses

    check_output(args.out, args.context, *filter(None, [args.weights]))
    check_nifti_name(args.out)
    context = open_responses(args.context)
    grid_of(context)
    found = query_text(
        InContextEncoder.from_pretrained(args.model), context, args.prompts, args.weights, backbone=args.backbone,
        templates=args.template or TEMPLATES, similarity=args.similarity, contrast=args.contrast,
    )  # fmt: skip
    values = found["selectivity"].values
    to_nifti(values[0] if len(values) == 1 else values, found, args.out)
    rows = roi_summary(found)
    prompts = found["prompt"].values.tolist()
    result = {"out": args.out, "prompts": prompts, "similarity": args.similarity,
              "templates": list(args.template or TEMPLATES), "voxels": values.shape[1], "rois": rows}  # fmt: skip
    lines = [f"{args.out}: {values.shape[1]} voxels, {args.similarity}, maps: {'; '.join(prompts)}"]
    lines += [
        f"{row['roi']:16}{row['voxels']:>7} voxels  {row['mean']:+.4f} ({row['interval_low']:+.4f} .. "
        f"{row['interval_high']:+.4f})  {row['prompt']}"
        for row in rows
    ]
    print_result(result, args.json, "\n".join(lines))


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", metavar="MODEL_DIR", help="model folder or name of embedded weights (default: the embedded ones)"
    )


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers such as 20,50,100") from None


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers such as 0.02,0.7") from None
    return low, high


def check_output(path: str | Path, *inputs: str) -> None:
    """Refuse an output that cannot be written, or that would replace an input, before any work is done for it."""
    path = Path(path)
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f"{path}: name a file in a folder that exists and can be written")
    for given in inputs:
        if path.exists() and Path(given).exists() and path.samefile(given):
            raise InputError(f"{path} would replace the input of that name; choose another name for the output")


def _warn(message: str) -> None:
    print(f"braincl: warning: {message}", file=sys.stderr)


def format_table(report: dict[str, Any]) -> str:
    """The report of `evaluate` as a table to print."""
    columns = ("pearson_r", "explained_variance", "normalized_explained_variance", "coverage_90", "nll", "seconds")
    heads = ("r", "EV", "EV/ceiling", "cover 90", "nll", "seconds")
    lines = [f"{'method':12}{'n':>6}" + "".join(f"{head:>12}" for head in heads) + "   r, 95 %"]
    for row in report["results"]:
        cells = "".join(f"{'-' if row[name] is None else format(row[name], '.3f'):>12}" for name in columns)
        if row["interval_low"] is not None:
            cells += f"   {row['interval_low']:.3f}..{row['interval_high']:.3f}"
        lines.append(f"{row['method']:12}{row['n']:>6}{cells}")
    for row in report["differences"]:
        lines.append(
            f"model - {row['baseline']}, n = {row['n']}: r {row['pearson_r']:+.3f} "
            f"({row['interval_low']:+.3f}..{row['interval_high']:+.3f})"
        )
    if report["prior_reason"]:
        lines.append(f"prior_ridge is left out: {report['prior_reason']}")
    return "\n".join(lines)
