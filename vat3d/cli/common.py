"""What several commands share: choices that help texts name, and how a model and a token file are opened.

Nothing that takes long to import is imported where a parser is built.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vat3d.bitstream.stream import TokenStream
    from vat3d.tokenizer import MeshTokenizer

SUFFIX = ".vat"
MESHES = (".obj", ".ply", ".stl", ".glb")
"""Suffixes of meshes that are written."""
EFFORTS = ("fast", "normal", "best")
FILLS = ("nonzero", "even-odd")
PRECISIONS = ("auto", "float32", "bfloat16")


def add_model_option(command: argparse.ArgumentParser) -> None:
    """Add `--model`.

    Parameters
    ----------
    command : ArgumentParser
    """
    command.add_argument("--model", metavar="MODEL", help="a model folder or embedded name (default: the embedded one)")


def add_precision_option(command: argparse.ArgumentParser) -> None:
    """Add `--precision`.

    Parameters
    ----------
    command : ArgumentParser
    """
    command.add_argument(
        "--precision", choices=PRECISIONS, default="auto",
        help="of matrix products; auto: bfloat16 on processors that multiply in it, else float32",
    )  # fmt: skip


def load_tokenizer(model: str | None, precision: str = "auto", device: str = "cpu") -> MeshTokenizer:
    """The tokenizer that an option names.

    Parameters
    ----------
    model : str, optional
    precision, device : str

    Returns
    -------
    MeshTokenizer
    """
    from vat3d.tokenizer import MeshTokenizer

    return MeshTokenizer.from_pretrained(model, precision, device)


def open_stream(data: bytes, model: str | None) -> TokenStream:
    """The stream in a file.

    Parameters
    ----------
    data : bytes
    model : str, optional

    Returns
    -------
    TokenStream
    """
    from vat3d.bitstream.stream import TokenStream

    return TokenStream.from_bytes(data, None if model is None else load_tokenizer(model).model)
