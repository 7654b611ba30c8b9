"""The command that makes new shapes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from setcore.cli import add_device_option, add_json_flag, print_result, writes_file
from setcore.errors import InputError
from vat3d.cli.common import MESHES, SUFFIX, add_model_option

if TYPE_CHECKING:
    from vat3d.bitstream.stream import TokenStream
    from vat3d.generation.generator import MeshGenerator

COLUMNS = 4
"""Of a contact sheet."""


def add_generate(commands: Any) -> None:
    """Add `generate`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("generate", help="new shapes, by name, by words, or from pictures")
    out = command.add_argument(
        "out", metavar="OUT", help=f"an .obj, .ply, .stl or .glb file, or a {SUFFIX} token file; with --count a folder"
    )
    writes_file(out, *MESHES, SUFFIX, or_folder=True)
    condition = command.add_mutually_exclusive_group()
    condition.add_argument("--category", metavar="NAME", help="what it shall be; an unknown name lists those like it")
    condition.add_argument("--text", metavar="WORDS", help="the same in other words, such as 'a wooden rowing boat'")
    command.add_argument(
        "--image", metavar="FILE", nargs="+", default=[], help="pictures of one object on a plain background"
    )
    command.add_argument("--count", type=int, metavar="N", help="so many, as OUT/000.ply, OUT/001.ply, ...")
    command.add_argument("--complete", metavar=f"FILE{SUFFIX}", help="draw the finer scales of this coarse shape")
    command.add_argument("--scales", type=int, default=2, metavar="K", help="of which so many scales stay; default 2")
    command.add_argument("--seed", type=int, default=0, help="same seed and machine: same shapes")
    command.add_argument("--guidance", type=float, default=2.0, metavar="G", help="higher: more what was asked for")
    command.add_argument("--temperature", type=float, default=1.0, metavar="T", help="lower: more usual shapes")
    command.add_argument("--best-of", type=int, default=1, metavar="N", help="keep the likeliest of N draws")
    command.add_argument("--clip", metavar="FILE", help="weights of CLIP ViT-B/32 for open_clip, for any --text")
    picture = command.add_argument("--picture", metavar="PNG", help="a contact sheet of the shapes")
    writes_file(picture, ".png")
    command.add_argument("--resolution", type=int, default=128, metavar="R", help="cells along a side, up to 512")
    command.add_argument("--generator", metavar="FOLDER", help="a generator's folder (default: the embedded one)")
    add_model_option(command)
    add_device_option(command)
    add_json_flag(command)
    command.set_defaults(handler=_generate)


def _generate(args: argparse.Namespace) -> None:
    from vat3d.generation.draw import DrawOptions
    from vat3d.generation.generator import MeshGenerator

    options = DrawOptions(args.temperature, guidance=args.guidance)
    options.check()
    paths = _outputs(args.out, args.count)
    generator = MeshGenerator.from_pretrained(args.generator, args.model, args.device)
    asked: dict[str, Any] = {
        "category": args.category, "text": args.text, "image": args.image, "seed": args.seed, "options": options,
        "best_of": args.best_of, "clip": args.clip, "coarse": args.complete, "scales": args.scales,
    }  # fmt: skip
    streams = generator.sample(len(paths), **asked)
    report = streams[0].report
    for hint in report["hints"]:
        print(f"vat3d: {hint}", file=sys.stderr)
    shapes = _write(generator, streams, paths, args)
    result = {"out": args.out, "asked": report["asked"], "category": args.category, "seed": args.seed, **shapes[0]}
    sizes = ", ".join(f"{shape['bytes']}" for shape in shapes)
    text = f"{args.out}: {report['asked']}; {sizes} bytes of tokens"
    if args.count is not None:
        result = {"out": args.out, "asked": report["asked"], "seed": args.seed, "shapes": shapes}
    print_result(result, args.json, text)


def _outputs(out: str, count: int | None) -> list[Path]:
    """The files to write."""
    single = Path(out).suffix.lower() in (*MESHES, SUFFIX)
    if count is not None and count < 1:
        raise InputError(f"--count is {count}; ask for 1 or more")
    if count is None:
        if not single:
            raise InputError(f"{out}: name a file of {', '.join((*MESHES, SUFFIX))}, or say with --count how many")
        return [Path(out)]
    if single:
        raise InputError(f"{out}: with --count shapes go into a folder; name one")
    from setcore.files import check_folder

    check_folder(out)
    return [Path(out) / f"{number:03d}.ply" for number in range(count)]


def _write(
    generator: MeshGenerator, streams: list[TokenStream], paths: list[Path], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Write shapes and, where it is asked for, their contact sheet; returns what is told of each."""
    from setcore.files import write_bytes
    from setcore.progress import progress_bar
    from vat3d.mesh.render import save_gallery
    from vat3d.mesh_io.save import save_mesh

    shapes: list[dict[str, Any]] = []
    meshes: list[Any] = []
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    for stream, path in zip(progress_bar(streams, desc="decode"), paths, strict=True):
        data = stream.to_bytes()
        shape: dict[str, Any] = {"bytes": len(data), "likelihood": round(stream.report["likelihood"], 3)}
        tokens = path.suffix.lower() == SUFFIX
        if tokens:
            write_bytes(path, data)
        if not tokens or args.picture is not None:
            mesh = generator.tokenizer.decode(stream, args.resolution)
            meshes.append((mesh.vertices, mesh.faces))
        if not tokens:
            save_mesh(path, mesh.vertices, mesh.faces)
            shape |= {
                "vertices": len(mesh.vertices), "faces": len(mesh.faces), "watertight": bool(mesh.is_watertight)
            }  # fmt: skip
        shapes.append(shape)
    if args.picture is not None:
        meshes += [None] * (-len(meshes) % min(len(meshes), COLUMNS))
        rows = [meshes[first : first + COLUMNS] for first in range(0, len(meshes), COLUMNS)]
        save_gallery(args.picture, rows, size=240, together=False)
    return shapes
