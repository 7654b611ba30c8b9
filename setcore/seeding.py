"""Random numbers that depend on nothing but a seed and a position."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(seed: int, *position: int | str) -> int:
    """A 63-bit seed from `seed` and a position such as ``("step", 17)``; the same on every machine."""
    text = "/".join(str(part) for part in (seed, *position))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, *position: int | str) -> torch.Generator:
    """A CPU generator for `position`: a resumed run needs no stored random state, only the step it stands at."""
    return torch.Generator().manual_seed(derive_seed(seed, *position))


def numpy_generator(seed: int, *position: int | str) -> np.random.Generator:
    """The same for numpy."""
    return np.random.default_rng(derive_seed(seed, *position))
