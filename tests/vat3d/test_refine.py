import time

import numpy as np
import pytest
import torch
from make_tiny_model import DATA
from toy_shapes import box_distance

from vat3d.entropy import Tables, uniform_tables
from vat3d.losses import field_loss
from vat3d.network import CodecNetwork
from vat3d.refine import EFFORTS, Schedule, Target, id_costs, refine
from vat3d.release import load_release

COUNT = 150


@pytest.fixture(scope="module")
def model() -> tuple[CodecNetwork, Tables]:
    network, token_model, _ = load_release(DATA / "tiny")
    return network, token_model.tables


@pytest.fixture(scope="module")
def target() -> Target:
    generator = torch.Generator().manual_seed(0)
    box = torch.tensor([[1.0, 0.6, 0.5]])
    points = (torch.rand(3000, 3, generator=generator) * 2 - 1) * box
    distances = box_distance(points, 0.9 * box[0])
    order = distances.abs().argsort()
    return Target(box, points[order], distances[order], near=1200)


def start(network: CodecNetwork) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, network.config.codes, size) for size in network.config.scales]


def loss(network: CodecNetwork, target: Target, ids: np.ndarray) -> float:
    ends = np.cumsum(network.config.scales)
    parts = [torch.from_numpy(part)[None] for part in np.split(ids, ends[ends < len(ids)])]
    logits = network.field(network.decode(parts, target.box), target.points[None], target.box)
    errors = field_loss(logits, target.distances[None], network.config.sharpness)[0]
    return float(errors[: target.near].mean() + errors[target.near :].mean())


def run(network: CodecNetwork, target: Target, steps: int, rate: float = 0.0, **options: float) -> np.ndarray:
    tables = options.pop("tables", None) or uniform_tables(sum(network.config.scales), network.config.codes)
    schedule = Schedule(steps, samples=256, rate=rate)
    return refine(network, target, start(network), lambda ids: COUNT, tables, schedule, **options)


def test_refinement_lowers_what_the_file_decodes_to(model: tuple[CodecNetwork, Tables], target: Target) -> None:
    network, _ = model
    before, after = np.concatenate(start(network))[:COUNT], run(network, target, 50)
    assert after.shape == (COUNT,)
    assert loss(network, target, after) < 0.6 * loss(network, target, before)


def test_same_seed_same_ids(model: tuple[CodecNetwork, Tables], target: Target) -> None:
    assert np.array_equal(run(model[0], target, 6), run(model[0], target, 6))


def test_no_time_no_change(model: tuple[CodecNetwork, Tables], target: Target) -> None:
    ids = run(model[0], target, 50, deadline=time.perf_counter() - 1)
    assert np.array_equal(ids, np.concatenate(start(model[0]))[:COUNT])


def test_a_price_on_bits_saves_bits(model: tuple[CodecNetwork, Tables], target: Target) -> None:
    network, tables = model
    free, paid = (run(network, target, 30, rate=rate, tables=tables) for rate in (0.0, 2.0))
    assert tables.bits(paid).sum() < tables.bits(free).sum()


def test_costs_are_those_of_the_tables(model: tuple[CodecNetwork, Tables]) -> None:
    network, tables = model
    ids = np.concatenate(start(network))
    picked = id_costs(tables, ids)[torch.arange(len(ids)), torch.from_numpy(ids)]
    np.testing.assert_allclose(picked.numpy(), tables.bits(ids), rtol=1e-5)


def test_efforts_are_ordered() -> None:
    assert EFFORTS["fast"].steps == 0 < EFFORTS["normal"].steps < EFFORTS["best"].steps
