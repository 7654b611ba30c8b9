"""Tuning to refined tokens: a pool that ages, refines and resumes, and a quantiser that stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_shapes import COMPONENTS, TRAIN, Killed, Toy

from setcore.checkpoint import load_tensors
from setcore.errors import InputError
from setcore.seeding import derive_seed
from setcore.training import STATE_FILE, Budget
from vat3d.errors import CodecError
from vat3d.losses import field_loss
from vat3d.release import encoded_latents, load_release, priced_ids
from vat3d.stream import TOKENS_FILE
from vat3d.train import new_network, train
from vat3d.tuning import Pool, TuningConfig, refined_latents, refined_loss, tune

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
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "cut", data=Killed(9))
    assert (tmp_path / "cut" / STATE_FILE).exists()
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    run(model, tmp_path / "cut", resume=True)
    for name in (STATE_FILE, "model.safetensors", TOKENS_FILE):
        one, other = load_tensors(tmp_path / "whole" / name), load_tensors(tmp_path / "cut" / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def test_the_decoder_moves_and_tokens_keep_their_meaning(model: Path, tmp_path: Path) -> None:
    run(model, tmp_path)
    before, after = load_release(model)[0].state_dict(), load_release(tmp_path)[0].state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("quantizer."), name
    with pytest.raises(InputError, match="--resume"):
        run(model, tmp_path)
    with pytest.raises(CodecError, match="neither"):
        run(tmp_path / "nothing", tmp_path / "out")


def test_every_group_is_refilled_after_its_visits() -> None:
    pool = Pool(new_network(COMPONENTS, 0), CONFIG, [Toy()], 0)
    ages = [[pool.age(step) for step in range(group, 60, CONFIG.groups)] for group in range(CONFIG.groups)]
    for group, met in enumerate(ages):
        start = group * CONFIG.visits // CONFIG.groups
        assert met == [divmod(start + k, CONFIG.visits) for k in range(len(met))]
    batch, kept = pool.shapes(0)
    again, _ = pool.shapes(3)
    fresh, _ = pool.shapes(5 * CONFIG.groups)
    assert again.points is batch.points
    assert not torch.equal(fresh.points, batch.points)
    assert batch.queries.shape == (3, 600, 3)
    assert ((kept >= CONFIG.fewest) & (kept <= sum(COMPONENTS.scales))).all()


def test_latents_for_tables_are_refined_and_keep_their_prefix(model: Path) -> None:
    network = load_release(model)[0]
    config = dataclasses.replace(CONFIG, visits=20, table_batches=2, vector_rate=0.2)
    pool = Pool(network, dataclasses.replace(config, groups=1), [Toy()], derive_seed(0, "tables"))
    found = refined_latents(network, [Toy()], config, progress=False)
    assert len(found) == 2
    for filling, (latent, kept) in enumerate(found):
        step = filling * config.visits
        batch, expected = pool.shapes(step)
        assert torch.equal(kept, expected)
        pool.fill(network, step)
        encoded = network.quantizer.from_vectors(pool.vectors[0])
        before, after = (
            field_loss(
                network.field(network.planes(part, batch.box), batch.queries, batch.box),
                batch.distances,
                network.config.sharpness,
            )
            for part in (encoded, latent)
        )
        assert after.mean() < 0.9 * before.mean()
    ids = priced_ids(network, found)
    assert np.array_equal((ids >= 0).sum(1), torch.cat([kept for _, kept in found]).numpy())
    assert ids.max() < network.config.codes


def test_shapes_for_tables_come_once_before_any_comes_again(model: Path) -> None:
    """Each half of them is coded with the tables of the other half, which must not know its shapes."""

    drawn: list[int] = []

    class Noted(Toy):
        def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
            drawn.extend(map(int, indices))
            return super().batch(indices)

    encoded_latents(load_release(model)[0], [Noted(count=28)], count=32)
    assert sorted(drawn[:20]) == list(range(20))
    assert drawn[20:] == drawn[:12]


def test_visits_refine_the_vectors_of_kept_tokens_alone(model: Path) -> None:
    """With a frozen network the loss on the shapes' samples falls; dropped tokens stay zero."""
    network = load_release(model)[0]
    config = dataclasses.replace(CONFIG, groups=1, visits=40, free=1.0, vector_rate=0.2)
    pool = Pool(network, config, [Toy()], 0)
    pool.fill(network, 0)
    _, kept = pool.shapes(0)
    values = []
    for step in range(40):
        loss, vectors = refined_loss(network, pool, step)
        loss.backward()
        pool.move(vectors, step)
        values.append(float(loss.detach()))
    assert sum(values[-5:]) < 0.9 * sum(values[:5])
    dropped = torch.arange(pool.vectors.shape[2]) >= kept[:, None]
    assert (pool.vectors[0][dropped] == 0).all()
    assert (pool.vectors[0][~dropped] != 0).any(1).all()
