"""Commands that encode, decode and compare meshes."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setcore.cli import (
    add_device_option,
    add_json_flag,
    add_parallel_options,
    add_progress_flag,
    number_list,
    number_within,
    parallel,
    print_result,
    report_failures,
    writes_file,
)
from setcore.errors import InputError, naming
from vat3d.cli.common import (
    EFFORTS,
    FILLS,
    MESHES,
    SUFFIX,
    add_model_option,
    add_precision_option,
    load_tokenizer,
    open_stream,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vat3d.folders import Outcome

BUDGETS = (256, 512, 1024, 2048, 4096)
ENCODE_OPTIONS = ("max_bytes", "effort", "seed", "fill", "min_f_score", "time_limit")


def add_encode(commands: Any) -> None:
    """Add `encode`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("encode", help="meshes to token files")
    command.add_argument("inputs", nargs="+", metavar="IN", help="mesh files, or folders of them")
    out = command.add_argument(
        "out", metavar="OUT", help=f"a {SUFFIX} file, or a folder for several; a folder that was killed goes on"
    )
    writes_file(out, SUFFIX, or_folder=True)
    command.add_argument("--max-bytes", type=int, default=512, metavar="N", help="size of the file, header included")
    command.add_argument("--effort", choices=EFFORTS, default="normal", help="fast: about 3 s; best: up to a minute")
    command.add_argument(
        "--fill", choices=FILLS, help="overlapping parts as one body, or with every wall (default: the better F-score)"
    )
    command.add_argument(
        "--min-f-score", type=number_within(0, 1), metavar="F", help="the fewest scales whose F-score reaches F"
    )
    command.add_argument(
        "--time-limit", type=number_within(0, math.inf), metavar="SECONDS", help="stop refining; not reproducible"
    )
    add_model_option(command)
    add_precision_option(command)
    add_device_option(command)
    command.add_argument("--seed", type=int, default=0, help="same mesh, seed and machine: same bytes")
    add_parallel_options(command)
    add_json_flag(command)
    add_progress_flag(command)
    command.set_defaults(handler=_encode)


def _encode(args: argparse.Namespace) -> int:
    from vat3d.folders import convert_files, encode_file, pair_files
    from vat3d.mesh_io.load import EXTENSIONS, load_mesh

    workers = parallel(args)
    files, several = pair_files(args.inputs, args.out, EXTENSIONS, (SUFFIX,))
    mesh = None if several else load_mesh(files[0][0])  # refused before the model is loaded
    tokenizer = load_tokenizer(args.model, args.precision, args.device)
    options = {name: getattr(args, name) for name in ENCODE_OPTIONS}
    if several:
        options["progress"] = False
        settings = {**options, "model": tokenizer.model.model_id, "precision": tokenizer.precision}
        settings["device"] = str(tokenizer.device)
        outcome = convert_files(encode_file, (tokenizer, options), settings, files, workers, "encode")
        return _print_outcome(args, outcome, _encoded_line)
    path, target = files[0]
    result = {"input": str(path), "out": str(target), **encode_file(tokenizer, options, path, target, mesh)}
    print_result(result, args.json, _encoded_line(result))
    return 0


def _print_outcome(args: argparse.Namespace, outcome: Outcome, line: Callable[[dict[str, Any]], str]) -> int:
    """Print what became of many files; the exit status."""
    if outcome.found:
        print(f"vat3d: {outcome.found} files were done by a run that was interrupted", file=sys.stderr)
    status = report_failures(outcome.failures)
    if outcome.failures and not outcome.results:
        raise InputError(f"none of {len(outcome.failures)} files could be done")
    listed = [{"input": name, "error": " ".join(error.split())} for name, error in outcome.failures.items()]
    result = {"files": outcome.results, "failures": listed}
    print_result(result, args.json, "\n".join(map(line, outcome.results)))
    return status


def _encoded_line(result: dict[str, Any]) -> str:
    parts = [f"{result['out']}: {result['bytes']} bytes, F@.02 {result['f_score@0.02']:.3f}"]
    if result["holed_components"]:
        parts.append(f"cracks and small holes of {result['holed_components']} parts were closed")
    if result["shell"]:
        kinds = {
            "open_components": "open parts",
            "flat_components": "flat parts",
            "loose_faces": "faces that bound nothing",
        }
        thin = " and ".join(f"{result[key]} {name}" for key, name in kinds.items() if result[key])
        parts.append(f"{thin} became shells of half-thickness {result['shell']}")
    if result["fill"] == "even-odd":
        parts.append("walls within other parts were kept, and where two parts overlap is empty (--fill even-odd)")
    return "; ".join([*parts, *result["notes"]])


def add_decode(commands: Any) -> None:
    """Add `decode`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("decode", help="token files to meshes")
    command.add_argument("inputs", nargs="+", metavar="IN", help=f"{SUFFIX} files, or folders of them")
    out = command.add_argument("out", metavar="OUT", help="an .obj, .ply, .stl or .glb file, or a folder for several")
    writes_file(out, *MESHES, or_folder=True)
    command.add_argument(
        "--format", choices=[suffix[1:] for suffix in MESHES], default="ply", help="of meshes that go into a folder"
    )
    command.add_argument("--resolution", type=int, default=128, metavar="R", help="cells along a side, up to 512")
    command.add_argument("--scales", type=int, metavar="K", help="decode only the first K scales")
    command.add_argument("--faces", type=int, metavar="N", help="decimate to about N faces")
    add_parallel_options(command)
    add_model_option(command)
    add_device_option(command)
    add_json_flag(command)
    add_progress_flag(command)
    command.set_defaults(handler=_decode)


def _decode(args: argparse.Namespace) -> int:
    from vat3d.folders import convert_files, decode_file, pair_files

    workers = parallel(args)
    wanted = f".{args.format}"
    files, several = pair_files(args.inputs, args.out, (SUFFIX,), (wanted, *(s for s in MESHES if s != wanted)))
    options = {"resolution": args.resolution, "scales": args.scales, "faces": args.faces}
    tokenizer = None if args.model is None else load_tokenizer(args.model, device=args.device)
    if several:
        settings = {**options, "format": args.format, "model": args.model, "device": args.device}
        outcome = convert_files(decode_file, (tokenizer, args.device, options), settings, files, workers, "decode")
        return _print_outcome(args, outcome, _decoded_line)
    path, target = files[0]
    result = {"input": str(path), "out": str(target), **decode_file(tokenizer, args.device, options, path, target)}
    print_result(result, args.json, _decoded_line(result))
    return 0


def _decoded_line(result: dict[str, Any]) -> str:
    return f"{result['out']}: {result['vertices']} vertices, {result['faces']} faces, watertight"


def add_view(commands: Any) -> None:
    """Add `view`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("view", help="a token file as a page to look at: turn it, go through its scales")
    command.add_argument("input", metavar=f"IN{SUFFIX}")
    writes_file(command.add_argument("out", metavar="OUT.html", help="one page that needs no network"), ".html")
    command.add_argument("--reference", metavar="MESH", help="shown next to it; colours are distances from it")
    command.add_argument("--resolution", type=int, default=64, metavar="R", help="cells along a side, up to 512")
    add_model_option(command)
    add_device_option(command)
    add_json_flag(command)
    command.set_defaults(handler=_view)


def _view(args: argparse.Namespace) -> None:
    import numpy as np

    from vat3d.bitstream.stream import read_token_file
    from vat3d.mesh_io.load import load_mesh
    from vat3d.tokenizer import tokenizer_for
    from vat3d.view import FAR, save_page

    data = read_token_file(args.input)
    reference = None if args.reference is None else load_mesh(args.reference)[:2]
    with naming(args.input):
        tokenizer = load_tokenizer(args.model, device=args.device) if args.model else tokenizer_for(data, args.device)
        figure = tokenizer.show(data, reference, args.resolution)
    save_page(figure, args.out)
    result, text = {"out": args.out, "bytes": len(data)}, f"{args.out}: open it in a browser"
    if reference is not None:
        distances = np.asarray(figure.data[-1].intensity, np.float64)
        result |= {"mean_distance": float(distances.mean()), "largest_distance": float(distances.max())}
        text += f"; the mesh lies {distances.mean():.3g} from the reference in the mean, {distances.max():.3g} at most"
        text += ", in halves of its longest side"
        text += "; is it another mesh, or in another place?" if distances.mean() > FAR else ""
    print_result(result, args.json, text)


def add_info(commands: Any) -> None:
    """Add `info`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("info", help="what a token file holds, or what a model is")
    command.add_argument(
        "input", nargs="?", metavar="IN",
        help=f"a {SUFFIX} file, or the folder or embedded name of a model or generator (default: the embedded model)",
    )  # fmt: skip
    add_model_option(command)
    add_json_flag(command)
    command.set_defaults(handler=_info)


def _info(args: argparse.Namespace) -> None:
    path = Path(args.input) if args.input is not None else None
    if path is None or path.is_dir() or not (path.exists() or path.suffix == SUFFIX):
        from vat3d.generation.generator import describe_generator, is_generator

        if args.input is not None and args.model is not None:
            raise InputError(f"{args.input} and --model {args.model} both name a model; name one")
        model = args.input or args.model
        info = describe_generator(model) if is_generator(model) else load_tokenizer(model).info()
        text = "\n".join(f"{name}: {value}" for name, value in info.items())
    else:
        from vat3d.bitstream.stream import read_token_file

        data = read_token_file(args.input)
        with naming(path):
            stream = open_stream(data, args.model)
        frame = stream.frame
        info = {
            "model": stream.model_id, "tokens": stream.count, "scales": [part.size for part in stream.tokens],
            "levels": list(stream.levels), "thickness": stream.thickness,
            "residual": stream.residual_step is not None, **stream.sizes,
            "half_side": frame.half_side, "aspect": frame.aspect.tolist(), "centre": frame.centre.tolist(),
            "turned_degrees": frame.turned_degrees, "mirrored_axes": frame.mirrored_axes,
        }  # fmt: skip
        text = (
            f"{args.input}: {len(data)} bytes, {stream.count} tokens in {len(stream.tokens)} scales, "
            f"{'a residual, ' if info['residual'] else ''}model {stream.model_id}, half-side {frame.half_side:g}"
        )
    print_result(info, args.json, text)


def add_eval(commands: Any) -> None:
    """Add `eval`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("eval", help="how close a mesh comes to a reference")
    command.add_argument("reference", metavar="REF")
    command.add_argument("other", metavar="OTHER")
    add_json_flag(command)
    command.set_defaults(handler=_eval)


def _eval(args: argparse.Namespace) -> None:
    from vat3d.mesh.compare import evaluate

    result = evaluate(args.reference, args.other)
    print_result(result, args.json, "\n".join(f"{name:20s} {value}" for name, value in result.items()))


def add_bench(commands: Any) -> None:
    """Add `bench`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("bench", help="ours and decimation + Draco at the same bytes")
    command.add_argument("folder", metavar="FOLDER", help="a folder of meshes")
    command.add_argument("--budgets", type=_budgets, default=BUDGETS, help="bytes, comma-separated")
    command.add_argument("--effort", choices=EFFORTS, default="best", help="of our files")
    out = command.add_argument(
        "--json", metavar="OUT.json", required=True, help="results; a plot is written next to it"
    )
    writes_file(out, ".json", beside=(".png",))
    add_parallel_options(command)
    add_model_option(command)
    add_device_option(command)
    add_progress_flag(command)
    command.set_defaults(handler=_bench)


def _budgets(text: str) -> tuple[int, ...]:
    values = tuple(sorted(set(number_list(text))))
    if values[0] <= 0:
        raise argparse.ArgumentTypeError("budgets are numbers of bytes, from 1 on")
    return values


def _bench(args: argparse.Namespace) -> int:
    from vat3d.evaluation.bench import bench, table

    tokenizer = load_tokenizer(args.model, device=args.device)
    results = bench(args.folder, tokenizer, args.json, args.budgets, args.effort, parallel=parallel(args))
    print(table(results))
    return report_failures({record["file"]: record["error"] for record in results["failures"]})
