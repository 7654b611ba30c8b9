"""Drawing ids: the distribution, the likelihood, guidance, known scales, and the finer scales' mean."""

import pytest
import torch

from vat3d.generation.draw import DrawOptions, draw_nucleus, draw_shapes
from vat3d.generation.network import Condition, running_reconstruction

PLAIN = DrawOptions(1.0, 1.0, 1.0)


def asked(count: int, name: int = 1) -> Condition:
    return Condition(torch.full((count,), name), torch.zeros(count, 512), empty=not name)


def seeds(count: int, first: int = 0) -> list[tuple[int, ...]]:
    return [(first + number,) for number in range(count)]


def test_draws_follow_the_nucleus():
    shares, places = torch.tensor([0.1, 0.4, 0.15, 0.35]), (torch.arange(20_000) + 0.5) / 20_000
    drawn = draw_nucleus(shares.log().expand(20_000, 4), 1.0, places)
    torch.testing.assert_close(torch.bincount(drawn) / 20_000, shares, rtol=0, atol=1e-4)
    drawn = draw_nucleus(shares.log().expand(20_000, 4), 0.7, places)  # .4 and .35 reach it
    expected = torch.tensor([0, 0.4, 0, 0.35]) / 0.75
    torch.testing.assert_close(torch.bincount(drawn, minlength=4) / 20_000, expected, rtol=0, atol=1e-4)
    assert (draw_nucleus(shares.log().expand(20_000, 4), 1e-6, places) == 1).all()
    assert (draw_nucleus(shares.log().expand(2, 4), 1.0, torch.tensor([0.0, 1 - 1e-7])) == torch.tensor([1, 0])).all()


def test_the_likelihood_is_that_of_the_whole_sequence(transformer, tokenizer, config):
    quantizer = tokenizer.network.quantizer
    drawn = draw_shapes(transformer, quantizer, asked(3), seeds(3), DrawOptions(0.7, 0.8, 2.5))
    sizes = list(config.tokens)
    assert [part.shape for part in drawn.ids] == [(3, count) for count in tokenizer.model.scales[:3]]
    told = torch.cat([running_reconstruction(quantizer, drawn.ids, scale, 3) for scale in range(len(sizes))], dim=1)
    ids = torch.cat(drawn.ids[: len(sizes)], dim=1)
    box, codes = transformer(asked(3), drawn.box, ids, quantizer.codebook, told)
    logarithms = torch.log_softmax(codes, -1).gather(2, ids[..., None])[..., 0].sum(1)
    logarithms += torch.log_softmax(box, -1).gather(1, drawn.box[:, None])[:, 0]
    torch.testing.assert_close(drawn.likelihood, logarithms / (sum(sizes) + 1), rtol=1e-4, atol=1e-4)


def test_a_shape_depends_on_its_own_seed_alone(transformer, tokenizer):
    quantizer = tokenizer.network.quantizer
    three = draw_shapes(transformer, quantizer, asked(3), seeds(3, 7), DrawOptions())
    for number in range(3):
        one = draw_shapes(transformer, quantizer, asked(1), seeds(1, 7 + number), DrawOptions())
        assert all(torch.equal(a[number], b[0]) for a, b in zip(three.ids, one.ids, strict=True))
    assert len({tuple(torch.cat(three.ids, 1)[row].tolist()) for row in range(3)}) == 3


def test_guidance_of_one_is_none_and_of_nothing_is_none(transformer, tokenizer):
    quantizer, nothing = tokenizer.network.quantizer, asked(2, 0)
    plain = draw_shapes(transformer, quantizer, nothing, seeds(2), PLAIN)
    guided = draw_shapes(transformer, quantizer, nothing, seeds(2), DrawOptions(1.0, 1.0, 3.0))
    assert all(torch.equal(a, b) for a, b in zip(plain.ids, guided.ids, strict=True))
    free = draw_shapes(transformer, quantizer, asked(2), seeds(2), DrawOptions(1.0, 1.0, 0.0))
    assert all(torch.equal(a, b) for a, b in zip(plain.ids[:3], free.ids[:3], strict=True))


@pytest.mark.parametrize("kept", [1, 2])
def test_known_scales_stay_and_the_rest_is_what_follows_them(transformer, tokenizer, kept):
    quantizer = tokenizer.network.quantizer
    whole = draw_shapes(transformer, quantizer, asked(2), seeds(2), PLAIN)
    again = draw_shapes(transformer, quantizer, asked(2), seeds(2), PLAIN, whole.box, whole.ids[:kept])
    assert all(torch.equal(a, b) for a, b in zip(whole.ids, again.ids, strict=True))
    other = draw_shapes(transformer, quantizer, asked(2), seeds(2, 9), PLAIN, whole.box, whole.ids[:kept])
    assert all(torch.equal(a, b) for a, b in zip(whole.ids[:kept], other.ids[:kept], strict=True))
    assert (other.ids[kept] != whole.ids[kept]).any()


def test_finer_scales_are_drawn_cooler(transformer, tokenizer, config):
    """So cool that every token but those of the first scale is the likeliest one."""
    quantizer, sizes = tokenizer.network.quantizer, list(config.tokens)
    drawn = draw_shapes(transformer, quantizer, asked(3), seeds(3), DrawOptions(1.0, 1.0, 1.0, cooling=1e-6))
    told = torch.cat([running_reconstruction(quantizer, drawn.ids, scale, 3) for scale in range(len(sizes))], dim=1)
    ids = torch.cat(drawn.ids, dim=1)
    _, codes = transformer(asked(3), drawn.box, ids, quantizer.codebook, told)
    likeliest = codes.argmax(-1) == ids
    assert likeliest[:, sizes[0] :].all()
    assert not likeliest[:, : sizes[0]].all()
