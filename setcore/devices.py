"""Where arrays are computed on, and how precisely: the one place that decides what "auto" means."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch

from setcore.errors import InputError

PRECISIONS = ("auto", "float32", "bfloat16")


def find_device(name: str | torch.device = "auto") -> torch.device:
    """The device of a name, which must be there.

    Parameters
    ----------
    name : str or torch.device
        "cpu", "cuda", "cuda:1", "mps", or "auto" for the best there is: CUDA, then MPS, then the CPU.

    Returns
    -------
    torch.device

    Raises
    ------
    InputError
        There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: torch without CUDA
        reason = str(error).splitlines()[0]
        raise InputError(f"device {str(name)!r} is not there ({reason}); use cpu or auto") from error
    return device


def to_float64(values: torch.Tensor) -> torch.Tensor:
    """Numbers in double precision, on the CPU where their device has none (MPS).

    Parameters
    ----------
    values : tensor

    Returns
    -------
    float64 tensor
    """
    return values.to("cpu" if values.device.type == "mps" else values.device, torch.float64)


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


def auto_precision(device: torch.device | None = None) -> str:
    """What "auto" means on a device.

    Parameters
    ----------
    device : torch.device, optional
        The CPU where it is not given.

    Returns
    -------
    str
        "bfloat16" where the device multiplies in it, else "float32".
    """
    kind = "cpu" if device is None else device.type
    fast = (
        torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else kind == "cpu" and has_bfloat16()
    )
    return "bfloat16" if fast else "float32"


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


def autocast(precision: str = "auto", device: torch.device | None = None) -> torch.autocast:
    """A context in which matrix products have a precision.

    Parameters
    ----------
    precision : {"auto", "float32", "bfloat16"}
    device : torch.device, optional
        The CPU where it is not given.

    Returns
    -------
    torch.autocast
    """
    chosen = auto_precision(device) if precision == "auto" else precision
    kind = "cpu" if device is None or not torch.amp.is_autocast_available(device.type) else device.type
    return torch.autocast(kind, torch.bfloat16, enabled=chosen == "bfloat16")
