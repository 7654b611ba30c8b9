"""Commands that encode, decode and compare meshes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from setcore.cli import add_json_flag, number_list, print_result
from setcore.errors import InputError
from vat3d.cli.common import (
    EFFORTS,
    FILLS,
    SUFFIX,
    add_model_option,
    add_precision_option,
    load_tokenizer,
    load_tokenizer_for,
    open_stream,
    read_token_file,
)

BUDGETS = (256, 512, 1024, 2048, 4096)


def add_encode(commands: Any) -> None:
    """Add `encode`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("encode", help="meshes to token files")
    command.add_argument("inputs", nargs="+", metavar="IN", help="mesh files, or folders of them")
    command.add_argument("out", metavar="OUT", help=f"a {SUFFIX} file, or a folder for several")
    command.add_argument("--max-bytes", type=int, default=512, metavar="N", help="size of the file, header included")
    command.add_argument("--effort", choices=EFFORTS, default="normal", help="fast: one pass; best: up to a minute")
    command.add_argument(
        "--fill", choices=FILLS, help="overlapping parts as one body, or with every wall (default: the better F-score)"
    )
    command.add_argument("--min-f-score", type=float, metavar="F", help="the fewest scales whose F-score reaches F")
    command.add_argument("--time-limit", type=float, metavar="SECONDS", help="stop refining; not reproducible")
    add_model_option(command)
    add_precision_option(command)
    command.add_argument("--seed", type=int, default=0, help="same mesh, seed and machine: same bytes")
    add_json_flag(command)
    command.set_defaults(handler=_encode)


def _encode(args: argparse.Namespace) -> None:
    from setcore.files import write_bytes
    from vat3d.mesh_io.load import EXTENSIONS

    inputs: list[Path] = []
    for source in map(Path, args.inputs):
        if source.is_dir():
            inputs += sorted(path for path in source.iterdir() if path.suffix.lower() in EXTENSIONS)
        else:
            inputs.append(source)
    if not inputs:
        raise InputError(f"no mesh in {' '.join(args.inputs)}; the formats are {', '.join(EXTENSIONS)}")
    out, several = Path(args.out), len(args.inputs) > 1 or Path(args.inputs[0]).is_dir()
    targets = [out / f"{path.stem}{SUFFIX}" for path in inputs] if several or out.is_dir() else [out]
    if len(set(targets)) < len(targets):
        raise InputError("two meshes have the same name and would overwrite each other; encode them into two folders")
    if not several and not out.is_dir() and out.suffix != SUFFIX:
        raise InputError(f"{out} does not end in {SUFFIX}; name a token file or an existing folder")
    tokenizer = load_tokenizer(args.model, args.precision)
    if several:
        out.mkdir(parents=True, exist_ok=True)
    results, failures = [], []
    for path, target in zip(inputs, targets, strict=True):
        try:
            stream = tokenizer.encode(
                path, args.max_bytes, args.effort, args.seed,
                fill=args.fill, min_f_score=args.min_f_score, time_limit=args.time_limit,
            )  # fmt: skip
        except InputError as error:
            if not several:
                raise
            failures.append({"input": str(path), "error": " ".join(str(error).split())})
            continue
        write_bytes(target, stream.to_bytes())
        results.append({"input": str(path), "out": str(target), **stream.report})
    lines = [_encoded_line(result) for result in results]
    lines += [f"{failure['input']}: not encoded: {failure['error']}" for failure in failures]
    if not results:
        raise InputError(f"none of {len(failures)} meshes could be encoded; the first: {failures[0]['error']}")
    result = {"files": results, "failures": failures} if several else results[0]
    print_result(result, args.json, "\n".join(lines))


def _encoded_line(result: dict[str, Any]) -> str:
    parts = [f"{result['out']}: {result['bytes']} bytes, F@.02 {result['f_score@0.02']:.3f}"]
    if result["holed_components"]:
        parts.append(f"cracks and small holes of {result['holed_components']} parts were closed")
    if result["shell"]:
        thin = f"{result['open_components']} open parts"
        if result["loose_faces"]:
            thin += f" and {result['loose_faces']} faces that bound nothing"
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
    command.add_argument("input", metavar=f"IN{SUFFIX}")
    command.add_argument("out", metavar="OUT", help="an .obj, .ply, .stl or .glb file")
    command.add_argument("--resolution", type=int, default=128, metavar="R", help="cells along a side, up to 512")
    command.add_argument("--scales", type=int, metavar="K", help="decode only the first K scales")
    command.add_argument("--faces", type=int, metavar="N", help="decimate to about N faces")
    add_model_option(command)
    add_json_flag(command)
    command.set_defaults(handler=_decode)


def _decode(args: argparse.Namespace) -> None:
    from vat3d.mesh_io.save import save_mesh

    data = read_token_file(args.input)
    tokenizer = load_tokenizer_for(data, args.model)
    mesh = tokenizer.decode(data, args.resolution, args.scales, args.faces)
    notes = save_mesh(args.out, mesh.vertices, mesh.faces)
    result = {
        "out": args.out, "vertices": len(mesh.vertices), "faces": len(mesh.faces),
        "watertight": bool(mesh.is_watertight), "notes": notes,
    }  # fmt: skip
    text = f"{args.out}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces, watertight"
    print_result(result, args.json, "; ".join([text, *notes]))


def add_info(commands: Any) -> None:
    """Add `info`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("info", help="what a token file holds, or what a model is")
    command.add_argument("input", nargs="?", metavar=f"IN{SUFFIX}", help="without it the model is described")
    add_model_option(command)
    add_json_flag(command)
    command.set_defaults(handler=_info)


def _info(args: argparse.Namespace) -> None:
    if args.input is None:
        info = load_tokenizer(args.model).info()
        text = "\n".join(f"{name}: {value}" for name, value in info.items())
    else:
        data = read_token_file(args.input)
        stream = open_stream(data, args.model)
        frame = stream.frame
        info = {
            "model": stream.model_id, "tokens": stream.count, "scales": [part.size for part in stream.tokens],
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
    from vat3d.mesh.compare import ceiling, evaluate

    result = evaluate(args.reference, args.other)
    result["ceiling"] = ceiling(args.reference)
    lines = [f"{name:20s} {value}" for name, value in result.items() if name != "ceiling"]
    lines.append(f"{'ceiling F@.02':20s} {result['ceiling']['f_score@0.02']}")
    print_result(result, args.json, "\n".join(lines))


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
    command.add_argument("--json", metavar="OUT.json", required=True, help="results; a plot is written beside it")
    add_model_option(command)
    command.set_defaults(handler=_bench)


def _budgets(text: str) -> tuple[int, ...]:
    values = tuple(sorted(set(number_list(text))))
    if values[0] <= 0:
        raise argparse.ArgumentTypeError("budgets are numbers of bytes, from 1 on")
    return values


def _bench(args: argparse.Namespace) -> None:
    from vat3d.evaluation.bench import bench, table

    results = bench(args.folder, load_tokenizer(args.model), args.json, args.budgets, args.effort)
    print(table(results))
