import dataclasses
import itertools

import pytest
import torch
from torch.nn import functional
from toy_shapes import CODEC, COMPONENTS

from setcore.errors import InputError
from vat3d.network.config import CodecConfig
from vat3d.network.quantizer import ScaleQuantizer, area_weights, centre_first, cosine_waves, linear_weights
from vat3d.training.config import TrainConfig
from vat3d.training.export import code_buckets, parent_tokens
from vat3d.training.rate import CodeUse, bit_prices, kept_tokens, scale_bits
from vat3d.training.train import new_network

both = pytest.mark.parametrize("codec", [CODEC, COMPONENTS], ids=["pooled", "components"])


def fitted(codec: CodecConfig, grid: torch.Tensor) -> ScaleQuantizer:
    quantizer = new_network(codec, 0).quantizer
    quantizer.initialise(grid, torch.Generator().manual_seed(0))
    return quantizer


def latent(batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, 8, 8, 4, generator=torch.Generator().manual_seed(seed))


def test_reduction_and_raising_equal_torch() -> None:
    rows = torch.randn(1, 1, 12, generator=torch.Generator().manual_seed(0))
    for side in (1, 2, 3, 4, 6, 12):
        torch.testing.assert_close(
            area_weights(side, 12) @ rows[0, 0], functional.interpolate(rows, side, mode="area")[0, 0]
        )
        coarse = rows[:, :, :side]
        torch.testing.assert_close(
            linear_weights(side, 12) @ coarse[0, 0],
            functional.interpolate(coarse, 12, mode="linear", align_corners=False)[0, 0],
        )
    uneven = area_weights(5, 12)  # not a divisor: exact overlaps, mean preserved
    torch.testing.assert_close(uneven.sum(1), torch.ones(5))
    torch.testing.assert_close(uneven.sum(0), torch.full((12,), 5 / 12))


def test_token_order_is_a_permutation_from_the_centre_with_planes_in_turn() -> None:
    order = centre_first(5)
    assert sorted(order.tolist()) == list(range(75))
    assert order[:3].tolist() == [12, 12 + 25, 12 + 50]


def test_nearest_code_is_exact_and_ties_go_low() -> None:
    quantizer = new_network(CODEC, 0).quantizer
    vectors = latent(seed=1).reshape(-1, 4)
    brute = (vectors[:, None].double() - quantizer.codebook.double()).norm(dim=-1).argmin(1)
    assert torch.equal(quantizer.nearest(vectors), brute)
    with torch.no_grad():
        quantizer.codebook[9] = quantizer.codebook[4]
    assert quantizer.nearest(quantizer.codebook[9][None]).item() == 4


@both
def test_dequantized_ids_equal_the_quantised_latent(codec: CodecConfig) -> None:
    quantizer = fitted(codec, latent(20))
    with torch.no_grad():
        for conv in quantizer.smooth:
            conv.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    for kept in (2, 3, 20, 100, sum(codec.scales)):
        result = quantizer(latent(1), torch.tensor([kept]))
        ids = [part[part >= 0][None] for part in result.ids]
        assert sum(part.shape[1] for part in ids) == kept
        torch.testing.assert_close(quantizer.dequantize(ids), result.latent, atol=1e-5, rtol=1e-5)


@both
def test_ids_that_are_given_stay_and_later_scales_see_what_they_left(codec: CodecConfig) -> None:
    quantizer, wanted = fitted(codec, latent(20)), latent(2, seed=3)
    free, whole = quantizer(wanted), codec.scales[0] + codec.scales[1]
    own = torch.cat(free.ids, dim=1)
    again = quantizer(wanted, given=own[:, :whole])
    torch.testing.assert_close(again.latent, free.latent)
    assert torch.equal(torch.cat(again.ids, dim=1), own)
    others = (own[:, :whole] + 1) % codec.codes
    given = torch.cat(quantizer(wanted, given=others).ids, dim=1)
    assert torch.equal(given[:, :whole], others)
    assert not torch.equal(given[:, whole:], own[:, whole:])


@both
def test_prefixes_agree_and_errors_fall_once_the_codebook_fits(codec: CodecConfig) -> None:
    grid = latent(16)
    quantizer = fitted(codec, grid)
    errors, full = [], quantizer(grid).ids
    for scales, kept in enumerate(torch.tensor(codec.scales).cumsum(0).tolist(), 1):
        result = quantizer(grid, scales=scales)
        assert len(result.ids) == scales
        assert all(torch.equal(a, b) for a, b in zip(result.ids, full, strict=False))
        dropping = quantizer(grid, torch.full((16,), kept))
        torch.testing.assert_close(dropping.latent, result.latent)
        assert all(torch.equal(a, b) for a, b in zip(dropping.ids, result.ids, strict=False))
        assert all((part == -1).all() for part in dropping.ids[scales:])
        errors.append(float((result.latent - grid).square().mean().detach()))
    assert errors[-1] < 0.6 * errors[0]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(errors))


def test_gradients_go_straight_through_and_to_the_codes() -> None:
    quantizer = new_network(CODEC, 0).quantizer
    grid = latent().requires_grad_()
    weights = latent(seed=3)
    (quantizer(grid).latent * weights).sum().backward()
    torch.testing.assert_close(grid.grad, weights)
    assert quantizer.codebook.grad is not None
    assert quantizer.codebook.grad.abs().sum() > 0
    assert quantizer.log_gain.grad is not None


@both
def test_every_parameter_has_a_gradient_though_few_tokens_are_kept(codec: CodecConfig) -> None:
    """As training in several processes needs it: which parameters a batch reaches must not depend on its draws."""
    quantizer = fitted(codec, latent(20))
    quantizer.requires_grad_()
    result = quantizer(latent(2), torch.tensor([2, 5]))
    (result.latent.sum() + result.loss.sum()).backward()
    assert {name for name, parameter in quantizer.named_parameters() if parameter.grad is None} == set()


@both
def test_the_loss_of_a_sample_does_not_depend_on_the_others(codec: CodecConfig) -> None:
    quantizer, grid, kept = fitted(codec, latent(20)), latent(3, seed=1), torch.tensor([2, 50, 9])
    whole = quantizer(grid, kept).loss
    assert whole.shape == (2, 3)
    for row in range(3):
        alone = quantizer(grid[row : row + 1], kept[row : row + 1]).loss
        torch.testing.assert_close(alone[:, 0], whole[:, row])


def test_dead_codes_move_onto_the_data() -> None:
    quantizer = new_network(CODEC, 0).quantizer
    data, ids = torch.full((2, 5, 4), 7.0), torch.zeros(2, 5, dtype=torch.long)
    data[1] = 8.0
    ids[1] = -1  # dropped
    dead = torch.arange(CODEC.codes) == 3
    before = quantizer.codebook.detach().clone()
    quantizer.revive([ids, ids[1:]], [data, data[1:]], dead, torch.Generator().manual_seed(0))
    assert torch.equal(quantizer.codebook[3], data[0, 0])
    assert torch.equal(quantizer.codebook[~dead], before[~dead])


def test_code_use_counts_perplexity() -> None:
    use = CodeUse(1, 4, decay=0.0)
    found = use.count([torch.tensor([[0, 1, -1], [0, 1, -1]])])
    assert found.tolist() == [[2, 2, 0, 0]]
    use.update(found)
    assert abs(use.perplexity()[0] - 2) < 1e-5
    assert use.dead().tolist() == [False, False, True, True]
    assert use.in_use() == [2]
    use.update(use.count([torch.tensor([[-1]])]))  # nothing was chosen
    assert use.in_use() == [2]


def test_kept_tokens_cover_prefixes() -> None:
    kept = kept_tokens(CODEC.scales, 4000, torch.Generator().manual_seed(0))
    total = sum(CODEC.scales)
    assert int(kept.min()) == 3
    assert int(kept.max()) == total
    for end in torch.tensor(CODEC.scales).cumsum(0).tolist():
        assert (kept == end).any()
    assert len(kept.unique()) > total / 2


def test_parents_hold_their_children() -> None:
    parents = parent_tokens(CODEC)
    assert len(parents) == sum(CODEC.scales)
    assert (parents[:3] == -1).all()
    start, before = 3, 0
    for k in range(1, len(CODEC.sides)):
        side, coarse = CODEC.sides[k], CODEC.sides[k - 1]
        for token in range(3 * side * side):
            cell = int(centre_first(side)[token])
            parent = int(centre_first(coarse)[parents[start + token] - before])
            assert cell // side**2 == parent // coarse**2
            for fine, wide in ((cell // side % side, parent // coarse % coarse), (cell % side, parent % coarse)):
                assert wide <= (fine + 0.5) * coarse / side < wide + 1
        before, start = start, start + 3 * side * side


def test_buckets_group_neighbours() -> None:
    far = torch.cat([torch.randn(20, 3) * 0.01 + offset for offset in (-5.0, 0.0, 5.0)])
    groups = code_buckets(far, 3)
    assert len(set(groups[:20])) == len(set(groups[20:40])) == len(set(groups[40:])) == 1
    assert len(set(groups)) == 3


def test_a_priced_code_is_least_in_half_squared_distance_plus_cost() -> None:
    quantizer = new_network(CODEC, 0).quantizer
    vectors = latent(seed=1).reshape(-1, 4)[:50]
    cost = torch.rand(50, CODEC.codes, generator=torch.Generator().manual_seed(2))
    distances = (vectors[:, None].double() - quantizer.codebook.double()).square().sum(-1) / 2
    assert torch.equal(quantizer.nearest(vectors, cost), (distances + cost).argmin(1))


def test_a_higher_price_saves_bits_and_costs_error() -> None:
    quantizer = new_network(CODEC, 0).quantizer
    grid = latent(4)
    quantizer.initialise(grid, torch.Generator().manual_seed(0))
    share = torch.rand(len(CODEC.scales), CODEC.codes, generator=torch.Generator().manual_seed(1)) ** 4
    bits = list(-(share / share.sum(1, keepdim=True)).log2()[:, None])
    spent, errors = [], []
    with torch.no_grad():
        free = quantizer(grid)
        for price in (0.0, 0.01, 0.1, 1.0, 1e6):
            result = quantizer(grid, None, torch.full((4,), price), bits)
            spent.append(sum(float(cost[0][ids].sum()) for cost, ids in zip(bits, result.ids, strict=True)))
            errors.append(float((result.latent - grid).square().mean()))
            if price == 0:
                assert all(torch.equal(a, b) for a, b in zip(result.ids, free.ids, strict=True))
        cheapest = [int(cost.argmin()) for cost in bits]
        assert all((ids == code).all() for ids, code in zip(result.ids, cheapest, strict=True))
    assert all(later < earlier for earlier, later in itertools.pairwise(spent))
    assert errors[0] < errors[-1]


def test_prices_lie_within_their_bounds_and_a_quarter_pay_nothing() -> None:
    price = bit_prices(1000, TrainConfig(price_low=0.1, price_high=0.4), torch.Generator().manual_seed(0))
    assert 0.2 < (price == 0).float().mean() < 0.3
    assert price.max() <= 0.4
    assert price[price > 0].min() >= 0.1
    assert (bit_prices(9, TrainConfig(price_high=0.0), torch.Generator()) == 0).all()


def test_bits_of_a_scale_are_those_of_its_shares() -> None:
    ids = torch.tensor([[0, 0, 0, 1], [-1, 0, 2, -1]])
    torch.testing.assert_close(scale_bits(ids, 4), (10 / torch.tensor([[5.0, 2.0, 2.0, 1.0]])).log2())


def test_cosine_waves_are_an_orthonormal_basis() -> None:
    waves = cosine_waves(12).double()
    torch.testing.assert_close(waves @ waves.T, torch.eye(12).double(), atol=1e-6, rtol=0)
    assert torch.equal((waves.diff(dim=1).sign().diff(dim=1) != 0).sum(1).argsort(), torch.arange(12))


def test_components_are_those_of_the_low_frequencies() -> None:
    """Against an oracle: the principal axes of latents whose higher frequencies were taken out, by a plain SVD."""
    grid = latent(50) * torch.linspace(2, 0.1, 8)[:, None, None]
    quantizer = fitted(COMPONENTS, grid)
    waves, number = cosine_waves(8), torch.arange(8)
    spectrum = torch.einsum("ir,js,bprsc->bpijc", waves, waves, grid - grid.mean(0))
    spectrum[:, :, number[:, None] + number >= 5] = 0
    low = torch.einsum("ir,js,bpijc->bprsc", waves, waves, spectrum).flatten(1)
    _, _, axes = torch.linalg.svd(low, full_matrices=False)
    scale = COMPONENTS.components.index(12)
    vectors = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(1))
    raised = (quantizer.expand(vectors, scale)).flatten(1)
    torch.testing.assert_close(raised @ axes[:12].T @ axes[:12], raised, atol=0.03, rtol=0)  # 8 bits a number
    torch.testing.assert_close(quantizer.reduce(quantizer.expand(vectors, scale), scale), vectors, atol=0.03, rtol=0.01)


def test_nothing_kept_is_the_mean_latent() -> None:
    grid = latent(30) + 1
    quantizer = fitted(COMPONENTS, grid)
    torch.testing.assert_close(quantizer.dequantize([])[0], grid.mean(0))


@both
def test_weights_are_the_error_in_the_latent_that_an_error_in_a_token_makes(codec: CodecConfig) -> None:
    """Exactly where tokens are principal components, and in the mean over a token's components."""
    quantizer = fitted(codec, latent(40))
    weights, start = quantizer.weights(), 0
    assert len(weights) == sum(codec.scales)
    for scale, count in enumerate(codec.scales[: len(codec.components)]):
        for token in (0, count - 1):
            error = torch.zeros(codec.channels, count, codec.channels)
            error[torch.arange(codec.channels), token, torch.arange(codec.channels)] = 1.0
            made = quantizer.expand(error, scale).square().flatten(1).sum(1).mean()
            torch.testing.assert_close(made, weights[start + token], rtol=0.03, atol=0)
        start += count


def test_component_tokens_depend_on_the_same_components_or_the_token_before() -> None:
    parents = parent_tokens(COMPONENTS)
    assert len(parents) == sum(COMPONENTS.scales)
    assert parents[:14].tolist() == [-1, 0, 1, 2, 1, 2, 3, *range(6, 13)]
    assert (parents[14 : 14 + 108] == -1).all()
    assert (parents[14 + 108 :] >= 14).all()


def test_components_that_do_not_fit_are_refused() -> None:
    for wrong in ({"components": (6,)}, {"band": 9}, {"band": 2, "components": (40,)}, {"band": 0}):
        with pytest.raises(InputError):
            dataclasses.replace(COMPONENTS, **wrong)
