"""Commands that fit encoders to a subject: `predict` and `evaluate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setcore.cli import add_device_option, add_json_flag, add_progress_flag, number_list, print_result, writes_file
from setcore.errors import InputError

if TYPE_CHECKING:
    from braincl.estimators.in_context import InContextEncoder


def _add_predict(commands: Any) -> None:
    command = commands.add_parser("predict", help="predict a subject's responses to new images from a context")
    add_model(command)
    command.add_argument("--context", required=True, metavar="CONTEXT.nc", help="response set with embeddings")
    command.add_argument("--images", required=True, metavar="QUERY.nc", help="embeddings of the images to predict")
    out = command.add_argument(
        "--out", required=True, metavar="PRED.nc", help="predictions, weights and intercepts; PRED.zarr: a Zarr store"
    )
    writes_file(out, ".nc", ".zarr", or_folder=True)
    nifti = command.add_argument("--nifti", metavar="PRED.nii.gz", help="write the predictions as a 4-D image, too")
    writes_file(nifti, ".nii", ".nii.gz")
    page = command.add_argument(
        "--page", metavar="PAGE.html", help="write a page to look at, too: r against noise ceiling (where QUERY.nc has "
        "measured responses), tuning, and the pictures that a voxel prefers"
    )  # fmt: skip
    writes_file(page, ".html")
    command.add_argument("--pictures", nargs="+", metavar="PICTURE", help="files or folders of QUERY.nc's pictures, "
                         "for --page")  # fmt: skip
    add_json_flag(command)
    command.set_defaults(handler=_predict)


def _predict(args: argparse.Namespace) -> None:
    import xarray as xr

    from braincl.analysis.predict import shared_pictures, write_predictions
    from braincl.data.nifti import check_nifti_name, grid_of, to_nifti
    from braincl.data.responses import open_embeddings, open_responses

    context = open_responses(args.context, lazy=True)
    query = open_embeddings(args.images)
    if args.nifti:
        check_nifti_name(args.nifti)
        grid_of(context)
    if args.pictures and not args.page:
        raise InputError("--pictures are shown on a page; name it with --page PAGE.html")
    pictures = _pictures_of_page(args) if args.page else {}
    encoder = load_model(args)
    images, voxels = write_predictions(args.out, encoder, context, query)
    if shared := shared_pictures(context, query):
        warn(f"{shared} query images are in the context, too: scores on them would flatter the model")
    if args.nifti:
        with xr.open_dataset(args.out, cache=False) as predicted:
            to_nifti(predicted["prediction"].values, predicted, args.nifti)
    if args.page:
        _write_page(args, query, pictures)
    result = {
        "out": args.out,
        "nifti": args.nifti,
        "page": args.page,
        "images": images,
        "voxels": voxels,
        "shared_pictures": shared,
    }
    print_result(result, args.json, f"{args.out}: {images} images, {voxels} voxels")


def _pictures_of_page(args: argparse.Namespace) -> dict[str, Path]:
    """The pictures of a page by their id; refused here, before work, where it cannot be drawn."""
    from braincl.data.pictures import pictures_by_id
    from setcore.package import need_plotly

    need_plotly()
    return pictures_by_id(args.pictures) if args.pictures else {}


def _write_page(args: argparse.Namespace, query: Any, files: dict[str, Path]) -> None:
    import xarray as xr

    from braincl.data.responses import open_responses
    from braincl.plot.interactive import view_voxels

    names = query.coords.get("image_file", query.coords.get("image_id", query["image"])).values.astype(str)
    ids = query["image_id"].values if "image_id" in query.coords else names
    shown = [files.get(str(image_id), str(name)) for image_id, name in zip(ids, names, strict=True)]
    measured = open_responses(args.images) if "response" in query else None
    with xr.open_dataset(args.out, cache=False) as predicted:
        view_voxels(predicted, measured, shown).save(args.page)


def _add_evaluate(commands: Any) -> None:
    command = commands.add_parser("evaluate", help="score a model on a subject beside its baselines")
    command.add_argument("subject", metavar="SUBJECT.nc", help="response set with embeddings")
    add_model(command)
    command.add_argument(
        "--contexts",
        type=number_list,
        default=(20, 50, 100, 200, 400),
        metavar="N,N,...",
        help="context sizes, in pictures",
    )
    command.add_argument("--draws", type=int, default=5, help="contexts per size, disjoint where the pictures allow")
    command.add_argument(
        "--test-images",
        type=int,
        help="pictures to score on, of the test split where there is one (default: a quarter of all, 300 at most)",
    )
    command.add_argument(
        "--test-ids", metavar="FILE", help="the pictures to score on: one image_id a line, or a CSV file with a column "
        "image_id; contexts come from the others"
    )  # fmt: skip
    command.add_argument(
        "--ceiling", choices=("auto", "stored", "repeats", "ncsnr", "split_half"), default="auto",
        help="noise ceiling: the stored one, or of the trials by analysis of variance, signal-to-noise ratio or split "
        "halves; auto takes the stored one where there is one, else the analysis of variance",
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, help="of the split and of the bootstrap")
    out = command.add_argument(
        "--json",
        required=True,
        metavar="OUT.json",
        help="the report; per-voxel scores (.nc) and a plot (.png) beside it",
    )
    writes_file(out, ".json", beside=(".nc", ".png"))
    add_progress_flag(command)
    command.set_defaults(handler=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    from braincl.data.splits import read_image_ids
    from braincl.evaluation.report import format_table, output_paths, write_evaluation
    from braincl.evaluation.scores import evaluate
    from braincl.plot.curves import plot_scores

    evaluation = evaluate(
        load_model(args), args.subject, args.contexts, args.draws, args.test_images, args.seed, progress=True,
        test_ids=read_image_ids(args.test_ids) if args.test_ids else None, ceiling=args.ceiling,
    )  # fmt: skip
    for warning in evaluation.report["warnings"]:
        warn(warning)
    write_evaluation(evaluation, args.json, plot_scores)
    print(format_table(evaluation.report))
    print("written: " + " ".join(map(str, output_paths(args.json))))


def add_model(command: argparse.ArgumentParser) -> None:
    """Add `--model`, `--any-backbone` and `--device`; `load_model` loads what they name.

    Parameters
    ----------
    command : ArgumentParser
    """
    command.add_argument(
        "--model", metavar="MODEL_DIR", help="model folder or name of embedded weights (default: the embedded ones)"
    )
    command.add_argument(
        "--any-backbone", action="store_true", help="take embeddings that state another image encoder than the model's"
    )
    add_device_option(command)


def load_model(args: argparse.Namespace) -> InContextEncoder:
    """The encoder that the options of `add_model` name.

    Parameters
    ----------
    args : Namespace

    Returns
    -------
    InContextEncoder
    """
    from braincl.estimators.in_context import InContextEncoder

    return InContextEncoder.from_pretrained(args.model, device=args.device, any_backbone=args.any_backbone)


def warn(message: str) -> None:
    """Say something on standard error.

    Parameters
    ----------
    message : str
    """
    print(f"braincl: warning: {message}", file=sys.stderr)


COMMANDS = (_add_predict, _add_evaluate)
