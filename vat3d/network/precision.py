"""The precision of matrix products in training and refinement."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch


@functools.cache
def has_bfloat16() -> bool:
    """Whether this machine's CPU multiplies in bfloat16.

    One that emulates it takes up to fifty times as long as in float32 (measured with AVX2 alone).
    """
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # newer releases of torch
    return bool(capabilities.get("avx512_bf16", True) or capabilities.get("amx_bf16"))


def autocast(enabled: bool = True) -> torch.autocast:
    """Matrix products in bfloat16 within this context where the CPU has them, else in float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled and has_bfloat16())
