"""Grids of noise levels, and how weights over them follow from likelihoods."""

import math

import numpy as np
import pytest
import torch

from braincl.models.noise_levels import (
    SIGNAL_SHARES,
    known_signal_grid,
    most_likely_level,
    posterior,
    signal_shares,
    unknown_scale,
    unknown_signal_grid,
)


def likelihoods(*shape):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_shares_of_signal_are_even_in_log_odds():
    odds = np.log(SIGNAL_SHARES / (1 - SIGNAL_SHARES))
    np.testing.assert_allclose(np.diff(odds), 8.5 / 15)
    assert odds[0] == pytest.approx(-4.5)


def test_levels_of_an_unknown_signal_are_shares_of_it():
    grid = unknown_signal_grid()
    assert grid.scale is None
    np.testing.assert_allclose(signal_shares(grid).numpy(), SIGNAL_SHARES)


def test_a_known_signal_stands_beside_noise_from_much_to_little():
    grid = known_signal_grid(0.4, 30)
    assert float(grid.scale) == pytest.approx(math.sqrt(0.4))
    np.testing.assert_allclose((grid.scale**2 * grid.ratio).numpy(), np.geomspace(2, 0.02, 30))


@pytest.mark.parametrize(("freedom", "tolerance"), [(5, 0.03), (20, 0.003), (99, 0.0003)])
def test_an_unknown_scale_is_integrated_over(freedom, tolerance):
    """Against sums over a fine grid: likelihood up to a constant, mean and mean square of the scale."""
    rng = np.random.default_rng(freedom)
    power = torch.as_tensor(freedom * rng.uniform(0.2, 3, (4, 7)))
    cross = torch.as_tensor(0.5 * rng.standard_normal((4, 7)) * np.sqrt(freedom * power.numpy()))
    log_scale = torch.linspace(-6, 6, 8001, dtype=torch.float64)[:, None, None]
    for given in (None, cross):
        density = -freedom * log_scale - power / (2 * (2 * log_scale).exp())
        density = density if given is None else density + given / log_scale.exp()
        whole, found = density.logsumexp(dim=0), unknown_scale(power, given, freedom)
        difference = found.log_likelihood - whole
        torch.testing.assert_close(
            difference, difference.mean().expand_as(difference), rtol=0, atol=1e-9 if given is None else 4 * tolerance
        )
        weights = (density - whole).exp()
        mean, square = (weights * log_scale.exp()).sum(dim=0), (weights * (2 * log_scale).exp()).sum(dim=0)
        torch.testing.assert_close(found.mean, mean, rtol=10 * tolerance, atol=0)
        torch.testing.assert_close(found.mean.square() * (1 + 0.5 / freedom), square, rtol=30 * tolerance, atol=0)


def test_posterior_weights_are_bayes():
    found = likelihoods(5, 2, 7)
    weights, log_evidence = posterior(found)
    torch.testing.assert_close(weights, found.exp() / found.exp().sum(dim=2, keepdim=True))
    torch.testing.assert_close(log_evidence, found.exp().sum(dim=2).log())
    mass = torch.rand(5, 2, dtype=torch.float64)
    torch.testing.assert_close(posterior(found, mass).weights.sum(dim=2), mass)


def test_weights_that_do_not_count_are_no_denormal_numbers():
    """Products with those take many times as long."""
    weights, _ = posterior(1000 * likelihoods(5, 2, 7).float())
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(5, 2))
    assert float(weights.min()) > 1e-20


def test_the_most_likely_level_takes_all():
    found = likelihoods(5, 2, 7)
    weights = most_likely_level(found)
    assert weights.dtype == found.dtype
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(5, 2, dtype=torch.float64))
    torch.testing.assert_close((weights * found).sum(dim=2), found.max(dim=2).values)
