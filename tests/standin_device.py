"""A stand-in for an accelerator: tensors that say device "meta" but hold numbers, so that code runs to its end.

Within `standin_device` every operation that CUDA would refuse (tensors of two devices, numpy of a device's tensor, a
generator of the wrong device) is noted with the function of the project that asked for it, and so is each copy between
the host and the device, reading a single number among them. 0-dimensional host tensors may meet any device, as on CUDA.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("meta")
ROOT = Path(__file__).resolve().parents[1]
ITEM = ("aten._local_scalar_dense.default", "aten.equal.default", "aten.is_nonzero.default")
WAITS = ("aten.nonzero.default", "aten.masked_select.default", "aten.bincount.default", "aten._unique2.default")
INDEXED = ("aten.index.Tensor", "aten.index_put", "aten._index_put_impl", "aten._unsafe_index")


class Notes:
    """What was noted: pairs of a kind and a place, for each phase of the work.

    Kinds: "refused", "in" (a copy to the device), "out" (to the host), "waits" (the host needs a size from the device).
    """

    def __init__(self) -> None:
        self.phase = "start"
        self.found: dict[str, set[tuple[str, str]]] = {}

    def add(self, kind: str) -> None:
        self.found.setdefault(self.phase, set()).add((kind, place()))

    def of(self, kind: str) -> set[str]:
        return {where for found in self.found.values() for noted, where in found if noted == kind}


def place() -> str:
    """The innermost function of the project that is being run, those that only move groups of tensors aside."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        inside = (
            path.is_relative_to(ROOT)
            and not path.is_relative_to(ROOT / "tests")
            and not path.is_relative_to(sys.prefix)
        )
        if inside and "TensorGroup" not in frame.f_code.co_qualname:
            module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
            return f"{module}.{re.sub(r'[.]<[a-z]+>', '', frame.f_code.co_qualname)}"
        frame = frame.f_back
    return "?"


class DeviceTensor(torch.Tensor):
    """A tensor on the stand-in."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> DeviceTensor:
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=DEVICE,
        )  # fmt: skip
        made.held = held
        return made

    def __init__(self, held: torch.Tensor) -> None: ...

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            Standin.notes.add("refused")
            return unwrapped(args[0].detach()).numpy()
        if func is torch.Tensor.tolist:
            Standin.notes.add("out")
            return unwrapped(args[0].detach()).tolist()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


class StandinGenerator(torch.Generator):
    """A generator that remembers which device it was made for."""

    def __new__(cls, device: Any = "cpu") -> StandinGenerator:
        made: StandinGenerator = super().__new__(cls)
        made.on_device = torch.device(device).type == DEVICE.type
        return made

    def __init__(self, device: Any = "cpu") -> None: ...

    on_device: bool


class Standin(TorchDispatchMode):
    """Sees every operation, also those that make tensors."""

    notes = Notes()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})


def unwrapped(value: Any) -> Any:
    return value.held if isinstance(value, DeviceTensor) else value


def dispatch(func: Any, args: Any, kwargs: Any) -> Any:
    """Run an operation on what its tensors hold, and note what CUDA would say to it."""
    name, notes = str(func), Standin.notes
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_device = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    on_host = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor) and tensor.dim()]
    wanted = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
    to_device = wanted == DEVICE.type or (bool(on_device) and wanted is None)
    if name == "aten._to_copy.default":
        if to_device and on_host:
            notes.add("in")
        elif on_device and not to_device:
            notes.add("out")
    elif name == "aten.copy_.default":
        if len({isinstance(tensor, DeviceTensor) for tensor in args[:2]}) == 2 and args[1].dim():
            notes.add("in" if isinstance(args[0], DeviceTensor) else "out")
    elif on_device and on_host:
        indices = [index for index in args[1] if index is not None] if name.startswith(INDEXED) else []
        host_index = isinstance(args[0], DeviceTensor) and all(
            tensor is args[0] or any(tensor is index for index in indices) or isinstance(tensor, DeviceTensor)
            for tensor in tensors
        )
        notes.add("in" if indices and host_index else "refused")
    if on_device and name in ITEM:
        notes.add("out")
    masks = [index for index in args[1] if index is not None and index.dtype == torch.bool] if (
        on_device and name.startswith(INDEXED)
    ) else []  # fmt: skip
    if on_device and (name in WAITS or masks):
        notes.add("waits")
    generator = kwargs.get("generator")
    if isinstance(generator, StandinGenerator) and generator.on_device != to_device:
        notes.add("refused")
    if wanted == DEVICE.type:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    result = func(*tree_map(unwrapped, args), **tree_map(unwrapped, kwargs))
    method = name.split(".")[1]
    if method.endswith("_") and not method.startswith("_") and isinstance(args[0], torch.Tensor):
        return args[0]
    if not to_device:
        return result
    return tree_map(lambda value: DeviceTensor(value) if type(value) is torch.Tensor else value, result)


@contextmanager
def standin_device() -> Iterator[Notes]:
    """Let device "meta" be one that computes; yields what is noted."""
    notes = Standin.notes = Notes()
    with (
        mock.patch("torch.Generator", StandinGenerator),
        mock.patch("torch.inference_mode", torch.no_grad),  # it forbids tensors of a class of one's own
        mock.patch("setcore.checkpoint.check_dense"),  # it would take the stand-in for what holds no numbers
        Standin(),
    ):
        yield notes
