"""What several commands share: choices that help texts name, and how a model and a token file are opened.

Nothing that takes long to import is imported where a parser is built.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from setcore.errors import InputError

if TYPE_CHECKING:
    from vat3d.bitstream.stream import TokenStream
    from vat3d.tokenizer import MeshTokenizer

SUFFIX = ".vat"
EFFORTS = ("fast", "normal", "best")
FILLS = ("nonzero", "even-odd")
PRECISIONS = ("auto", "float32", "bfloat16")
MOST_BYTES = 1 << 20
"""Of a token file that is read; they have kilobytes."""


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


def load_tokenizer(model: str | None, precision: str = "auto") -> MeshTokenizer:
    """The tokenizer that an option names.

    Parameters
    ----------
    model : str, optional
    precision : str

    Returns
    -------
    MeshTokenizer
    """
    from vat3d.tokenizer import MeshTokenizer

    return MeshTokenizer.from_pretrained(model, precision)


def load_tokenizer_for(data: bytes, model: str | None) -> MeshTokenizer:
    """The tokenizer that an option names, or the embedded one that wrote a file.

    Parameters
    ----------
    data : bytes
    model : str, optional

    Returns
    -------
    MeshTokenizer
    """
    from vat3d.tokenizer import tokenizer_for

    return tokenizer_for(data) if model is None else load_tokenizer(model)


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


def read_token_file(path: str) -> bytes:
    """The bytes of a token file.

    Parameters
    ----------
    path : str

    Returns
    -------
    bytes

    Raises
    ------
    InputError
        The file cannot be read, or is too large for a token file.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MOST_BYTES:
        raise InputError(f"{path} is too large for a token file")
    return data
