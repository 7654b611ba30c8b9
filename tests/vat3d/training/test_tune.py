"""Tuning to refined tokens: a pool that ages, refines and resumes, and a quantiser that stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from toy_shapes import COMPONENTS, TRAIN, Killed, Toy

from setcore.checkpoint import load_tensors
from setcore.errors import InputError
from setcore.training import STATE_FILE, Budget
from vat3d.bitstream.residual import residual_bits
from vat3d.bitstream.token_model import TABLES_FILE
from vat3d.codec.refine_residual import ResidualRate
from vat3d.errors import CodecError
from vat3d.network.codec_network import CodecNetwork
from vat3d.pretrained import load_pretrained
from vat3d.training.batches import TrainingShapes
from vat3d.training.export import encoded_latents
from vat3d.training.refined_pool import Pool, TuningConfig
from vat3d.training.train import train
from vat3d.training.tune import tune
from vat3d.training.visits import residual_in_training, visit_loss

CONFIG = TuningConfig(
    training=dataclasses.replace(TRAIN, save_every=7), groups=3, visits=5, stored=300, fewest=4, encoder_every=4
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    config = dataclasses.replace(TRAIN, quantise_from=0.7, learning_rate=3e-3, report_every=1000, save_every=1000)
    train([Toy()], out, COMPONENTS, config, Budget(steps=150), progress=False)
    return out


def run(model: Path, out: Path, *, resume: bool = False, data: Toy | None = None) -> dict:
    return tune(model, [data or Toy()], out, CONFIG, Budget(steps=17), resume=resume, progress=False)


def test_killed_and_resumed_equals_uninterrupted(model: Path, tmp_path: Path) -> None:
    """Killed between two fillings of the pool, after the checkpoint of step 7."""
    run(model, tmp_path / "whole")
    shapes = CONFIG.training.batch * (CONFIG.groups + 2 + 2)  # before step 7: three fillings and two more, two batches
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "cut", data=Killed(1 + shapes + 3))
    assert (tmp_path / "cut" / STATE_FILE).exists()
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    run(model, tmp_path / "cut", resume=True)
    for name in (STATE_FILE, "model.safetensors", TABLES_FILE):
        one, other = load_tensors(tmp_path / "whole" / name), load_tensors(tmp_path / "cut" / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_the_decoder_moves_and_tokens_keep_their_meaning(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path)
    before, after = load_pretrained(model)[0].state_dict(), load_pretrained(tmp_path)[0].state_dict()
    for name, values in before.items():
        moved = not torch.equal(values, after[name])
        if name.startswith("quantizer."):
            assert not moved, name
        elif values.numel() > 1:  # a single number may be rounded to the float16 that it was
            assert moved, name
    with pytest.raises(InputError, match="--resume"):
        run(model, tmp_path)
    with pytest.raises(CodecError, match="neither"):
        run(tmp_path / "nothing", tmp_path / "out")


def test_every_group_is_refilled_after_its_visits() -> None:
    pool = pool_of(CONFIG)
    ages = [[pool.age(step) for step in range(group, 60, CONFIG.groups)] for group in range(CONFIG.groups)]
    for group, met in enumerate(ages):
        start = group * CONFIG.visits // CONFIG.groups
        assert met == [divmod(start + k, CONFIG.visits) for k in range(len(met))]
    filling, again, fresh = pool.filling(0), pool.filling(3), pool.filling(5 * CONFIG.groups)
    assert torch.equal(again.shapes.points, filling.shapes.points)
    assert not torch.equal(fresh.shapes.points, filling.shapes.points)
    assert filling.shapes.queries.shape == (3, 600, 3)
    assert not pool.sparse(0)
    assert ((filling.kept >= CONFIG.fewest) & (filling.kept <= sum(COMPONENTS.scales))).all()
    assert [pool.inputs(step, 0).filling is not None for step in range(15)] == [
        step < 3 or pool.age(step)[1] == 0 for step in range(15)
    ]
    assert [pool.inputs(step, 4).filling is not None for step in (4, 5, 6, 7)] == [
        True,
        True,
        True,
        pool.age(7)[1] == 0,
    ]


def test_shapes_for_tables_come_once_before_any_comes_again(model: Path) -> None:
    """Each half of them is coded with the tables of the other half, which must not know its shapes."""

    drawn: list[int] = []

    class Noted(Toy):
        def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
            drawn.extend(map(int, indices))
            return super().batch(indices)

    encoded_latents(load_pretrained(model)[0], [Noted(count=28)], count=32)
    assert sorted(drawn[:20]) == list(range(20))
    assert drawn[20:] == drawn[:12]


def pool_of(config: TuningConfig) -> Pool:
    source = TrainingShapes([Toy()], COMPONENTS, config.training, 0)
    return Pool(config, source, range(config.training.batch))


def visits(network: CodecNetwork, config: TuningConfig, start: int) -> tuple[Pool, list[float]]:
    """One filling of a pool of one group, from step `start` on, and its losses."""
    pool, network, losses = pool_of(config), network.requires_grad_(False), []
    for step in range(start, start + config.visits):
        inputs = pool.inputs(step, start)
        if inputs.filling is not None:
            pool.fill(network, step, inputs.filling)
        visit = pool.visit(step, inputs)
        visit.values.requires_grad_()
        loss, shown = visit_loss(network, visit, config.training, pool.settled(step))
        pool.move(step, torch.autograd.grad(loss, visit.values)[0])
        losses.append(float(shown))
    return pool, losses


def test_visits_refine_the_vectors_of_kept_tokens_alone(model: Path) -> None:
    """With a frozen network the loss on the shapes' samples falls; dropped tokens stay zero."""
    config = dataclasses.replace(CONFIG, groups=1, visits=40, free=1.0, vector_rate=0.2)
    pool, losses = visits(load_pretrained(model)[0], config, 0)
    assert not pool.sparse(0)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    vectors, kept = pool.vectors.values[0], pool.filling(0).kept
    dropped = torch.arange(vectors.shape[1]) >= kept[:, None]
    assert (vectors[dropped] == 0).all()
    assert (vectors[~dropped] != 0).any(1).all()
    assert (pool.residual.values == 0).all()


def test_visits_refine_residuals_and_a_dearer_bit_makes_them_smaller(model: Path) -> None:
    network, sizes = load_pretrained(model)[0], []
    for price in (1e-7, 1e-4):
        config = dataclasses.replace(CONFIG, groups=1, visits=40, cheap=price, dear=price)
        pool, losses = visits(network, config, 40)
        assert pool.sparse(40)
        assert (pool.filling(40).kept == COMPONENTS.base_tokens).all()
        assert (pool.vectors.values[0, :, COMPONENTS.base_tokens :] == 0).all()
        sizes.append(sum(residual_bits(part.round().long().numpy()) for part in pool.residual.values[0]))
        if price < 1e-6:
            assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert sizes[1] < 0.5 * sizes[0]


def test_one_filling_of_several_has_tokens_alone() -> None:
    pool = pool_of(CONFIG)
    whole = CONFIG.visits * CONFIG.groups
    for group in range(CONFIG.groups):
        found = [pool.sparse(filling * whole + group) for filling in range(2 * CONFIG.residuals)]
        assert sum(found) == 2 * (CONFIG.residuals - 1)


@pytest.mark.parametrize("settled", [False, True])
def test_a_residual_is_told_within_half_a_step_and_priced_by_its_class(settled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = (3 * torch.randn(2, 3, 4, 5, 6, generator=generator)).clamp(-7, 7).requires_grad_()
    noise = None if settled else torch.rand(numbers.shape, generator=generator)
    told, bits = residual_in_training(numbers, noise)
    assert (told - numbers).abs().max() <= 0.5
    assert torch.equal(told, told.round()) == settled
    (gradient,) = torch.autograd.grad(told.sum(), numbers, retain_graph=True)
    assert (gradient == 1).all()
    if settled:
        for part, found in zip(numbers.detach(), bits, strict=True):
            torch.testing.assert_close(found.detach(), ResidualRate(part.round().long(), part).bits(part))
