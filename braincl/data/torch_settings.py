"""What a notebook sets in torch for the whole process, and what is worked out here without heeding it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch


@contextmanager
def plain_torch() -> Iterator[None]:
    """A block, or a decorated function, in which torch is as it was when it was imported.

    The default precision is float32, the default device the CPU, and there is no autocast; what was set comes back
    afterwards.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    cpu = torch.device("cpu")
    place = nullcontext() if torch.get_default_device() == cpu else cpu  # torch is slower within a device
    try:
        with place, torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        torch.set_default_dtype(before)
