import time

import numpy as np
import pytest
import torch
from make_tiny_model import DATA
from scipy.stats import laplace
from streams import uniform_tables
from toy_shapes import box_distance

from vat3d.bitstream.entropy import Tables
from vat3d.bitstream.residual import CLASSES, LARGEST, STEP_CODE, STEPS, neighbourhood, residual_bits
from vat3d.codec.effort import EFFORTS, RESIDUAL_EFFORTS, Schedule
from vat3d.codec.refine_residual import ResidualRate, classes, refine_residual
from vat3d.codec.refine_tokens import refine
from vat3d.codec.targets import Target
from vat3d.codec.token_search import TokenChoice, TokenSearch, id_costs
from vat3d.network.codec_network import CodecNetwork
from vat3d.network.losses import field_loss
from vat3d.pretrained import load_pretrained

COUNT = 150


@pytest.fixture(autouse=True, params=["float32", "bfloat16"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything here holds in both, on every processor: the network is small enough for bfloat16 to be emulated."""
    monkeypatch.setattr("setcore.devices.auto_precision", lambda device=None: request.param)
    return request.param


@pytest.fixture(scope="module")
def model() -> tuple[CodecNetwork, Tables]:
    network, token_model, _ = load_pretrained(DATA / "tiny")
    return network, token_model.tables


@pytest.fixture(scope="module")
def target() -> Target:
    generator = torch.Generator().manual_seed(0)
    box = torch.tensor([[1.0, 0.6, 0.5]])
    points = (torch.rand(3000, 3, generator=generator) * 2 - 1) * box
    distances = box_distance(points, 0.9 * box[0])
    order = distances.abs().argsort()
    return Target(box, points[order], distances[order], near=1200)


def start(network: CodecNetwork) -> torch.Tensor:
    config = network.config
    return torch.randn(1, 3, config.grid, config.grid, config.channels, generator=torch.Generator().manual_seed(0))


def loss(network: CodecNetwork, target: Target, ids: np.ndarray) -> float:
    ends = np.cumsum(network.config.scales)
    parts = [torch.from_numpy(part)[None] for part in np.split(ids, ends[ends < len(ids)])]
    logits = network.field(network.decode(parts, target.box), target.points[None], target.box)
    errors = field_loss(logits, target.distances[None], network.config.sharpness)[0]
    return float(errors[: target.near].mean() + errors[target.near :].mean())


def search(network: CodecNetwork, target: Target, tables: Tables | None = None, count: int = COUNT) -> TokenSearch:
    tables = tables or uniform_tables(sum(network.config.scales), network.config.codes)
    return TokenSearch(network, target, lambda ids: count, tables)


def run(network: CodecNetwork, target: Target, schedule: Schedule, **options: float) -> np.ndarray:
    task = search(network, target)
    return refine(task, task.choose_price(start(network)), schedule, **options).tokens


@pytest.mark.parametrize("schedule", [Schedule(50, 0, 256), Schedule(0, 50, 256), Schedule(20, 60, 256)])
def test_refinement_lowers_what_the_file_decodes_to(
    model: tuple[CodecNetwork, Tables], target: Target, schedule: Schedule
) -> None:
    network, _ = model
    before, after = run(network, target, Schedule(0, 0)), run(network, target, schedule)
    assert after.shape == (COUNT,)
    assert loss(network, target, after) < 0.7 * loss(network, target, before)


@pytest.mark.parametrize("schedule", [Schedule(50, 0, 256), Schedule(0, 50, 256), Schedule(20, 60, 256)])
def test_what_is_to_stay_stays_and_the_rest_lowers_the_loss(
    model: tuple[CodecNetwork, Tables], target: Target, schedule: Schedule
) -> None:
    network, _ = model
    n_frozen = sum(network.config.scales[:2])
    before, after = run(network, target, Schedule(0, 0)), run(network, target, schedule, n_frozen=n_frozen)
    np.testing.assert_array_equal(after[:n_frozen], before[:n_frozen])
    assert (after[n_frozen:] != before[n_frozen:]).any()
    assert loss(network, target, after) < 0.8 * loss(network, target, before)


def test_same_seed_same_ids(model: tuple[CodecNetwork, Tables], target: Target) -> None:
    schedule = Schedule(3, 6, 256)
    assert np.array_equal(run(model[0], target, schedule), run(model[0], target, schedule))


def test_no_time_no_steps(model: tuple[CodecNetwork, Tables], target: Target) -> None:
    ids = run(model[0], target, Schedule(0, 50), deadline=time.perf_counter() - 1)
    assert np.array_equal(ids, run(model[0], target, Schedule(0, 0)))


def test_at_price_zero_the_first_choice_is_what_the_quantiser_says(
    model: tuple[CodecNetwork, Tables], target: Target
) -> None:
    network, tables = model
    looking = TokenSearch(network, target, lambda ids: COUNT, tables, prices=())
    choice = looking.choose_price(start(network))
    ids = torch.cat(network.quantizer(start(network)).ids, dim=1)[0].numpy()
    assert np.array_equal(choice.ids, ids)
    assert choice.loss == pytest.approx(search(network, target, tables).evaluate(ids, 0.0).loss)


def test_a_price_on_bits_saves_bits_and_is_taken_where_it_decodes_better(
    model: tuple[CodecNetwork, Tables], target: Target
) -> None:
    network, tables = model

    def within(ids: np.ndarray) -> int:
        return int(np.searchsorted(np.cumsum(tables.bits(ids)), 400, side="right"))

    looking = TokenSearch(network, target, within, tables)
    chosen, latent = looking.choose_price(start(network)), start(network)
    free = looking.evaluate(torch.cat(network.quantizer(latent).ids, dim=1)[0].numpy(), 0.0)
    assert chosen.loss <= free.loss
    bits = list(id_costs(tables, free.ids).split(list(network.config.scales)))
    paid = torch.cat(network.quantizer(latent, None, torch.tensor([1.0]), bits).ids, dim=1)[0].numpy()
    assert tables.bits(paid).sum() < tables.bits(free.ids).sum()


@pytest.mark.parametrize("limit", [1, 7, 30, 10_000])
def test_a_limit_leaves_out_whole_scales_that_cannot_fit_and_changes_nothing_else(
    model: tuple[CodecNetwork, Tables], target: Target, limit: int
) -> None:
    network, tables = model
    ends = np.cumsum(network.config.scales)

    def within(ids: np.ndarray) -> int:
        return min(limit, len(ids))

    every = TokenSearch(network, target, within, tables).choose_price(start(network))
    few = TokenSearch(network, target, within, tables, limit=limit).choose_price(start(network))
    assert len(few.ids) == next((end for end in ends if end >= limit), ends[-1])
    assert np.array_equal(few.ids, every.ids[: len(few.ids)])
    assert (few.kept, few.price, few.loss) == (every.kept, every.price, every.loss)


def test_costs_are_those_of_the_tables(model: tuple[CodecNetwork, Tables]) -> None:
    _, tables = model
    ids = np.random.default_rng(0).integers(0, tables.codes, tables.tokens)
    picked = id_costs(tables, ids)[torch.arange(len(ids)), torch.from_numpy(ids)]
    np.testing.assert_allclose(picked.numpy(), tables.bits(ids), rtol=1e-5)


def test_efforts_are_ordered() -> None:
    assert set(EFFORTS) == set(RESIDUAL_EFFORTS)
    for efforts in (EFFORTS, RESIDUAL_EFFORTS):
        steps = [each.free_steps + each.steps + each.residual_steps for each in efforts.values()]
        assert steps == sorted(steps)


def residual_of(
    model: tuple[CodecNetwork, Tables], target: Target, room: float, steps: int = 60, **options: float
) -> tuple[TokenSearch, TokenChoice, np.ndarray | None]:
    looking = search(*model[:1], target, count=40)
    base = looking.choose_price(start(model[0]))

    def fits(values: np.ndarray) -> bool:
        return residual_bits(values) <= room

    schedule = Schedule(0, 0, 512, residual_steps=steps)
    return looking, base, refine_residual(looking, base, start(model[0]), schedule, room, fits, **options)


@pytest.mark.parametrize(("room", "least"), [(300, 300 - 40), (1200, 1200 - 40), (4000, 2000)])
def test_a_residual_lowers_the_loss_within_its_room(
    model: tuple[CodecNetwork, Tables], target: Target, room: int, least: int
) -> None:
    looking, base, found = residual_of(model, target, room)
    config = model[0].config
    assert found is not None
    assert found.shape == (3, config.grid, config.grid, config.channels)
    assert 0 < np.abs(found).max() <= LARGEST
    # A first number takes 13 bits: room for three more is never left. So small a network has no 4,000 bits to say.
    assert least < residual_bits(found) <= room
    latent = looking.latent(looking.codebook[torch.from_numpy(base.tokens)])
    added = STEPS[STEP_CODE] * torch.from_numpy(found).float()
    with torch.no_grad():
        after = float(looking.field_error(latent + added, *looking.held))
    assert after < (0.95 if room < 500 else 0.75) * base.loss


def test_same_seed_same_residual_and_no_time_none(model: tuple[CodecNetwork, Tables], target: Target) -> None:
    first, again = (residual_of(model, target, 800, 12)[2] for _ in range(2))
    assert first is not None
    assert again is not None
    assert np.array_equal(first, again)
    assert residual_of(model, target, 800, 12, deadline=time.perf_counter() - 1)[2] is None


def test_bits_of_numbers_are_those_of_a_laplace_distribution_in_each_class() -> None:
    shape = (3, 4, 5, 2)
    rounded = np.random.default_rng(0).integers(-2, 3, shape)
    numbers = torch.from_numpy(rounded + np.random.default_rng(1).uniform(-0.4, 0.4, shape)).float()
    rate, kinds = ResidualRate(torch.from_numpy(rounded), numbers), neighbourhood(np.abs(rounded))
    for kind in np.unique(kinds):
        inside = kinds == kind
        scale = np.clip((np.abs(numbers.numpy())[inside].sum() + 3) / (inside.sum() + 10), 0.08, 4)
        np.testing.assert_allclose(rate.scale.numpy()[inside], scale, rtol=1e-5)
    share = laplace(scale=rate.scale.numpy())
    width = share.cdf(numbers.numpy() + 0.5) - share.cdf(numbers.numpy() - 0.5)
    np.testing.assert_allclose(float(rate.bits(numbers)), -np.log2(width).sum(), rtol=1e-4)
    slope = torch.autograd.grad(rate.bits(numbers.requires_grad_()), numbers)[0]
    assert torch.isfinite(slope).all()
    assert ((slope > 0) == (numbers > 0)).all()


def test_classes_are_those_of_the_file_and_bits_of_several_residuals_are_their_own() -> None:
    rng, shape = np.random.default_rng(0), (2, 3, 5, 4, 6)
    rounded = rng.integers(-7, 8, shape) * (rng.random(shape) < 0.4)
    found = classes(torch.from_numpy(rounded).abs())
    assert set(found.unique().tolist()) == set(range(CLASSES))
    numbers = torch.from_numpy(rounded + rng.uniform(-0.4, 0.4, shape)).float()
    bits = ResidualRate(torch.from_numpy(rounded), numbers).bits(numbers)
    for row, part in enumerate(rounded):
        np.testing.assert_array_equal(found[row].numpy(), neighbourhood(np.abs(part)))
        alone = ResidualRate(torch.from_numpy(part), numbers[row]).bits(numbers[row])
        torch.testing.assert_close(bits[row], alone)
