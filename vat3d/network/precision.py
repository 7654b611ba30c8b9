"""The precision of matrix products in training and refinement: the one place that decides what "auto" means."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from setcore.errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16")


@functools.cache
def has_bfloat16() -> bool:
    """Whether this machine's CPU multiplies in bfloat16.

    One that emulates it takes up to a hundred times as long as in float32 (measured with AVX2 alone).

    Returns
    -------
    bool
    """
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # newer releases of torch
    return bool(capabilities.get("avx512_bf16", True) or capabilities.get("amx_bf16"))


def auto_precision() -> str:
    """What "auto" means on this machine.

    Returns
    -------
    str
        "bfloat16" or "float32".
    """
    return "bfloat16" if has_bfloat16() else "float32"


def check_precision(precision: str) -> str:
    """Refuse a precision that is none.

    Parameters
    ----------
    precision : str

    Returns
    -------
    str
        The same.

    Raises
    ------
    InputError
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}; choose one of {', '.join(PRECISIONS)}")
    return precision


def autocast(precision: str = "auto") -> torch.autocast:
    """A context in which matrix products have a precision.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}

    Returns
    -------
    torch.autocast
    """
    chosen = auto_precision() if precision == "auto" else precision
    return torch.autocast("cpu", torch.bfloat16, enabled=chosen == "bfloat16")
