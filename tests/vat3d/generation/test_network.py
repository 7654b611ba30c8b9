"""What a position of the transformer may see, and that walking gives what the whole sequence does."""

import numpy as np
import pytest
import torch
from toy_shapes import COMPONENTS

from vat3d.generation.network import Condition, Kept, running_reconstruction
from vat3d.training.train import new_network


def inputs(config, batch: int = 2, pictures: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(1)
    count = sum(config.tokens)
    asked = Condition(
        torch.tensor([0, 2])[:batch], torch.randn(batch, 512, generator=generator) / 512**0.5,
        torch.randn(batch, pictures * config.patches, config.picture, generator=generator) if pictures else None,
    )  # fmt: skip
    ids = torch.randint(config.codes, (batch, count), generator=generator)
    told = torch.randn(batch, count, config.channels, generator=generator)
    codebook = torch.randn(config.codes, config.channels, generator=generator)
    return asked, torch.tensor([5, 700])[:batch], ids, codebook, told


@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_a_position_sees_the_condition_and_what_is_before_it(transformer, config, pictures):
    asked, box, ids, codebook, told = inputs(config, pictures=pictures)
    to_box, codes = transformer(asked, box, ids, codebook, told)
    count = sum(config.tokens)
    assert (to_box.shape, codes.shape) == ((2, 768), (2, count, 32))
    for place in (0, 1, count // 2, count - 2):
        changed = ids.clone()
        changed[:, place] = (changed[:, place] + 1) % config.codes
        found = transformer(asked, box, changed, codebook, told)
        moved = (found[1] - codes).abs().amax((0, 2))
        assert torch.equal(found[0], to_box)
        assert (moved[: place + 1] == 0).all()
        assert (moved[place + 1 :] > 0).all()
    found = transformer(asked, box + 1, ids, codebook, told)
    assert torch.equal(found[0], to_box)
    assert ((found[1] - codes).abs().amax(2) > 0).all()
    for other in (
        Condition(asked.name + 1, asked.words, asked.pictures), Condition(asked.name, -asked.words, asked.pictures),
        *([Condition(asked.name, asked.words, asked.pictures + 1)] if pictures > 3 else []),
    ):  # fmt: skip
        found = transformer(other, box, ids, codebook, told)
        assert (found[0] != to_box).any()
        assert ((found[1] - codes).abs().amax(2) > 0).all()


def test_the_order_of_pictures_does_not_count(transformer, config):
    asked, *others = inputs(config, pictures=2)
    turned = asked.pictures.unflatten(1, (2, -1)).flip(1).flatten(1, 2)
    for one, other in zip(
        transformer(asked, *others), transformer(Condition(asked.name, asked.words, turned), *others), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pieces", [[1] * 30, [2, 5, 1, 22]])
def test_positions_in_pieces_are_those_of_the_whole_sequence(transformer, config, pieces):
    asked, box, ids, codebook, told = inputs(config, pictures=1)
    expected = transformer(asked, box, ids, codebook, told)
    start = transformer.condition(asked)
    kept = Kept([], start.shape[1] - 1)
    first = transformer.walk(start, kept)[:, -1]
    torch.testing.assert_close(transformer.to_box(first), expected[0])
    place, found = 0, []
    while place < told.shape[1]:
        count = min(pieces[len(found) % len(pieces)], told.shape[1] - place)
        held = ids[:, max(place - 1, 0) : place + count - 1]
        states = transformer.positions(place, box, held, codebook, told[:, place : place + count])
        found.append(transformer.walk(states, kept))
        place += count
    walked = torch.cat(found, dim=1)
    torch.testing.assert_close(transformer.to_code(walked, codebook), expected[1], rtol=1e-4, atol=1e-4)
    assert kept.length == start.shape[1] + told.shape[1]


def test_what_is_told_is_the_running_reconstruction_in_units_of_each_scale():
    """Where components come first, it is the coarser scales' codes times the ratio of the gains."""
    quantizer = new_network(COMPONENTS, 0).quantizer
    torch.manual_seed(0)
    axes = torch.linalg.qr(torch.randn(quantizer.basis.shape[1], len(quantizer.basis)))[0].T
    quantizer.basis_step.copy_(axes.abs().amax(1) / 127)
    quantizer.basis.copy_(torch.round(axes / quantizer.basis_step[:, None]))
    quantizer._set_axes()
    with torch.no_grad():
        for spread in quantizer.log_spread:
            spread.uniform_(-1, 1)
    ids = [torch.randint(32, (2, count)) for count in COMPONENTS.scales[:2]]
    with torch.no_grad():
        found = [running_reconstruction(quantizer, ids, scale, 2) for scale in range(3)]
    assert [part.shape for part in found] == [(2, count, 4) for count in COMPONENTS.scales[:3]]
    assert (found[0] == 0).all()
    known = torch.zeros(2, COMPONENTS.components[-1])
    for scale, chosen in enumerate(ids):
        count = COMPONENTS.components[scale]
        known[:, :count] += quantizer.codebook[chosen].flatten(1) * quantizer.log_spread[scale].exp()
        expected = known[:, : COMPONENTS.components[scale + 1]] / quantizer.log_spread[scale + 1].exp()
        torch.testing.assert_close(found[scale + 1].flatten(1), expected, rtol=0.05, atol=0.05)
    assert np.isfinite(found[2].numpy()).all()
