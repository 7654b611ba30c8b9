"""The command that makes new shapes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from setcore.cli import add_device_option, add_json_flag, print_result, writes_file
from setcore.errors import InputError
from vat3d.cli.common import MESHES, SUFFIX, add_model_option


def add_generate(commands: Any) -> None:
    """Add `generate`.

    Parameters
    ----------
    commands : object
        The command's subparsers.
    """
    command = commands.add_parser("generate", help="a new shape")
    out = command.add_argument("out", metavar="OUT", help=f"an .obj, .ply, .stl or .glb file, or a {SUFFIX} token file")
    writes_file(out, *MESHES, SUFFIX)
    condition = command.add_mutually_exclusive_group()
    condition.add_argument("--category", metavar="NAME", help="what it shall be; an unknown name lists the known ones")
    condition.add_argument("--image", metavar="FILE", help="needs a generator that was trained with pictures")
    condition.add_argument("--text", metavar="TEXT", help="needs a generator that was trained with texts")
    command.add_argument("--seed", type=int, default=0, help="same seed and machine: same shape")
    command.add_argument("--temperature", type=float, default=1.0, help="lower: more usual shapes")
    command.add_argument("--resolution", type=int, default=128, metavar="R", help="cells along a side, up to 512")
    command.add_argument("--generator", metavar="FOLDER", help="a generator's folder (default: the embedded one)")
    add_model_option(command)
    add_device_option(command)
    add_json_flag(command)
    command.set_defaults(handler=_generate)


def _generate(args: argparse.Namespace) -> None:
    from setcore.files import write_bytes
    from vat3d.generation.generator import MeshGenerator
    from vat3d.mesh_io.save import save_mesh

    generator = MeshGenerator.from_pretrained(args.generator, args.model, args.device)
    if args.image is not None or args.text is not None:
        names = ", ".join(generator.categories)
        raise InputError(f"this generator was trained without pictures and texts; use --category with one of {names}")
    stream = generator.sample(1, args.category, args.seed, temperature=args.temperature)[0]
    data = stream.to_bytes()
    result: dict[str, Any] = {"out": args.out, "category": args.category, "seed": args.seed, "bytes": len(data)}
    text = f"{args.out}: {len(data)} bytes of tokens"
    if Path(args.out).suffix.lower() == SUFFIX:
        write_bytes(args.out, data)
    else:
        mesh = generator.tokenizer.decode(stream, args.resolution)
        save_mesh(args.out, mesh.vertices, mesh.faces)
        result |= {"vertices": len(mesh.vertices), "faces": len(mesh.faces), "watertight": bool(mesh.is_watertight)}
        text = f"{text}, {len(mesh.faces)} faces, watertight"
    print_result(result, args.json, text)
