"""vat3d: a variational 3D tokenizer. A mesh into a few hundred bytes, and back."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vat3d.evaluate import evaluate
    from vat3d.stream import TokenStream
    from vat3d.tokenizer import MeshTokenizer

__all__ = ["MeshTokenizer", "TokenStream", "evaluate"]

_HOMES = {"MeshTokenizer": "vat3d.tokenizer", "TokenStream": "vat3d.stream", "evaluate": "vat3d.evaluate"}


def __getattr__(name: str) -> Any:
    """Public names, imported when they are first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
