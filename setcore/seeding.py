"""Random numbers that depend on nothing but a seed and a position."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *position: int | str) -> int:
    """A 63-bit seed from a seed and a position such as ``("step", 17)``; the same on every machine.

    Parameters
    ----------
    seed : int
    *position : int or str

    Returns
    -------
    int
    """
    text = "/".join(str(part) for part in (seed, *position))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, *position: int | str, device: torch.device | None = None) -> torch.Generator:
    """A generator for a position: a resumed run needs no stored random state, only the step it stands at.

    Parameters
    ----------
    seed : int
    *position : int or str
        Such as ``"step", 17``.
    device : torch.device, optional
        Whose tensors it fills; the numbers differ from device to device. The CPU where it is not given.

    Returns
    -------
    torch.Generator
    """
    return torch.Generator(device or "cpu").manual_seed(derive_seed(seed, *position))


def numpy_generator(seed: int, *position: int | str) -> np.random.Generator:
    """A generator of numpy for a position, as `torch_generator`.

    Parameters
    ----------
    seed : int
    *position : int or str
        Such as ``"step", 17``.

    Returns
    -------
    numpy.random.Generator
    """
    return np.random.default_rng(derive_seed(seed, *position))
