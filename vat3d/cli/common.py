"""What several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from setcore.errors import InputError

if TYPE_CHECKING:
    from vat3d.tokenizer import MeshTokenizer


SUFFIX = ".vat"
EFFORTS = ("fast", "normal", "best")
FILLS = ("nonzero", "even-odd")
PRESETS = ("small", "default", "paper")
DEFAULT_MINUTES = 60.0


def add_model_option(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", metavar="MODEL", help="a model folder or embedded name (default: the embedded one)")


def load_tokenizer(model: str | None) -> MeshTokenizer:
    from vat3d.tokenizer import MeshTokenizer

    return MeshTokenizer.from_pretrained(model)


def load_tokenizer_for(data: bytes, model: str | None) -> MeshTokenizer:
    from vat3d.tokenizer import tokenizer_for

    return tokenizer_for(data) if model is None else load_tokenizer(model)


def open_stream(data: bytes, model: str | None) -> Any:
    from vat3d.bitstream.stream import TokenStream

    return TokenStream.from_bytes(data, None if model is None else load_tokenizer(model).model)


def read_token_file(path: str) -> bytes:
    limit = 1 << 20  # a token file has kilobytes
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit:
        raise InputError(f"{path} is too large for a token file")
    return data
