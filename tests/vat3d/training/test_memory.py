"""The published size, and what training takes of memory before it begins."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from toy_shapes import Toy

from setcore.training import MovingAverage
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.config import CodecConfig
from vat3d.training.batches import TrainingBatch, TrainingShapes
from vat3d.training.config import PRESETS, TrainConfig
from vat3d.training.memory import MemoryNeed, memory_need
from vat3d.training.train import losses, new_network

PAPER, PAPER_TRAINING = PRESETS["paper"]


class Peak(TorchDispatchMode):
    """The largest number of bytes that tensors hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, tuple[StorageWeakRef, int]] = {}
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.live = {key: held for key, held in self.live.items() if not held[0].expired()}
        self.bytes = max(self.bytes, sum(size for _, size in self.live.values()))
        return result


def batch_of(codec: CodecConfig, config: TrainConfig, step: int = 0) -> TrainingBatch:
    return TrainingShapes([Toy()], codec, config, 0).batch(step, range(config.batch))


def bits_of(codec: CodecConfig) -> list[torch.Tensor]:
    return [torch.zeros(1, codec.codes) for _ in codec.scales]


@pytest.mark.parametrize("batch", [1, 3])
def test_the_need_is_what_a_small_run_takes(batch: int) -> None:
    codec = PRESETS["small"][0]
    config = dataclasses.replace(PRESETS["small"][1], batch=batch, precision="float32", surface=1024, device="cpu")
    batches = [batch_of(codec, config, step) for step in range(2)]
    with Peak() as peak:
        network = new_network(codec, 0)
        optimizer, average = torch.optim.AdamW(network.parameters()), MovingAverage(network)
        for step, drawn in enumerate(batches):
            loss = losses(network, drawn, config, 1.0, bits_of(codec))[0]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            average.update(step + 1)
            del loss
    assert memory_need(codec, config).at(batch) == pytest.approx(peak.bytes, rel=0.15)


def test_a_need_says_which_microbatch_fits() -> None:
    need = MemoryNeed(4 * 10**9, 3 * 10**9)
    assert need.describe(64, None, 200 * 10**9) == "196 GB at batch 64"
    assert need.describe(64, None, 40 * 10**9) == "196 GB at batch 64, more than the 40 GB here: use --microbatch 8"
    assert need.describe(6, 3, 9 * 10**9).endswith("13 GB at microbatch 3, more than the 9 GB here: use --microbatch 1")
    assert need.describe(6, None, 5 * 10**9).endswith("even one shape at once takes 7")


def test_the_paper_preset_has_the_published_size_and_takes_a_step() -> None:
    """On the meta device: shapes and the count of parameters, without the memory."""
    shapes = batch_of(PRESETS["small"][0], dataclasses.replace(PAPER_TRAINING, batch=2))
    with torch.device("meta"):
        network = CodecNetwork(PAPER)
        assert sum(parameter.numel() for parameter in network.parameters()) == 177_881_731
        assert sum(PAPER.scales) == 2313
        assert PAPER.base_tokens == 185  # a file may have a residual
        batch = dataclasses.replace(shapes.to(torch.device("meta")), noise=torch.empty(2, 3, 32, 32, 16))
        loss, _, ids, _ = losses(network, batch, PAPER_TRAINING, 1.0, bits_of(PAPER))
        loss.backward()
    assert loss.shape == ()
    assert [tuple(part.shape) for part in ids] == [(2, count) for count in PAPER.scales]
    missing = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert missing == set()


@pytest.mark.slow
def test_the_paper_preset_learns_at_an_eighth_of_its_width() -> None:
    narrow = dataclasses.replace(PAPER, width=96, hidden=256, stem=32, features=8, head=32, points=6, detail=4)
    config = dataclasses.replace(PAPER_TRAINING, batch=1, surface=1024, volume=512, near=512, precision="float32")
    network, batch = new_network(narrow, 0), batch_of(narrow, config)
    optimizer, seen = torch.optim.SGD(network.parameters(), lr=1e-4), []
    for bits in (None, None, bits_of(narrow)):
        loss = losses(network, batch, config, 1.0, bits)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(float(loss.detach()))
    assert seen[1] < seen[0]  # with the quantiser, gradients go straight through, and no step is sure to help
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
