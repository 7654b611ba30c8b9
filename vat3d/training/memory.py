"""What a step of training takes of a device's memory, known before it begins.

Weights, gradients, two moments of Adam and the moving average take five numbers a parameter, and every shape what its
forward pass keeps for the backward pass. The latter is counted in a forward pass on tensors that have shapes alone, so
that it follows the network as it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from setcore.devices import auto_precision
from setcore.signals import signals_wait
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.config import CodecConfig
from vat3d.training.augment import Batch
from vat3d.training.batches import TrainingBatch
from vat3d.training.config import TrainConfig
from vat3d.training.train import losses

NUMBERS = 5
"""Of each parameter that are held: weight, gradient, two moments, moving average."""


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes that training takes.

    Parameters
    ----------
    fixed : int
        However many shapes there are.
    per_shape : int
        Of each shape that is on the device at once.
    """

    fixed: int
    per_shape: int

    def at(self, shapes: int) -> int:
        """Bytes with so many shapes on the device at once.

        Parameters
        ----------
        shapes : int

        Returns
        -------
        int
        """
        return self.fixed + shapes * self.per_shape

    def describe(self, batch: int, microbatch: int | None, memory: int) -> str:
        """The need as a line, with what to do where it is too large.

        Parameters
        ----------
        batch : int
            Of one process.
        microbatch : int, optional
        memory : int
            Bytes of the device.

        Returns
        -------
        str
        """
        shapes = microbatch or batch
        line = f"{self.at(shapes) / 1e9:.3g} GB at {'microbatch' if microbatch else 'batch'} {shapes}"
        if self.at(shapes) <= memory:
            return line
        fitting = [size for size in range(1, shapes) if batch % size == 0 and self.at(size) <= memory]
        if not fitting:
            return (
                f"{line}, more than the {memory / 1e9:.3g} GB here: even one shape at once takes {self.at(1) / 1e9:.3g}"
            )
        return f"{line}, more than the {memory / 1e9:.3g} GB here: use --microbatch {fitting[-1]}"


def memory_need(codec: CodecConfig, config: TrainConfig, device: torch.device | None = None) -> MemoryNeed:
    """What training takes, in about a second.

    Parameters
    ----------
    codec : CodecConfig
    config : TrainConfig
        Its precision counts.
    device : torch.device, optional
        Decides what the precision "auto" is; the CPU where it is not given.

    Returns
    -------
    MemoryNeed
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    precision = auto_precision(device) if config.precision == "auto" else config.precision
    kept: dict[int, Tensor] = {}
    with signals_wait(), FakeTensorMode():
        network = CodecNetwork(codec)
        own = {tensor.untyped_storage()._cdata for tensor in network.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            bits = [torch.zeros(1, codec.codes) for _ in codec.scales]
            loss = losses(network, _one_shape(codec, config), replace(config, precision=precision), 1.0, bits)
        sizes = {key: tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own}
        del loss
    parameters = sum(tensor.numel() for tensor in network.parameters())
    return MemoryNeed(NUMBERS * 4 * parameters, sum(sizes.values()))


def _one_shape(codec: CodecConfig, config: TrainConfig) -> TrainingBatch:
    queries = config.volume + config.near
    surface, grid = torch.zeros(1, config.surface, 3), (1, 3, codec.grid, codec.grid, codec.channels)
    shapes = Batch(
        surface, surface, torch.zeros(1, 3), torch.zeros(1, queries, 3), torch.zeros(1, queries), config.volume
    )
    return TrainingBatch(shapes, torch.zeros(grid), torch.ones(1, dtype=torch.long), torch.zeros(1))


def device_memory(device: torch.device) -> int:
    """Bytes of memory of a device.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    int
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
