"""Grids of noise levels, and how weights over them follow from likelihoods."""

import math

import numpy as np
import pytest
import torch

from braincl.models.noise_levels import (
    SCALES,
    SIGNAL_SHARES,
    known_signal_grid,
    most_likely_level,
    posterior,
    signal_shares,
    unknown_signal_grid,
)


def likelihoods(*shape):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_shares_of_signal_are_even_in_log_odds():
    odds = np.log(SIGNAL_SHARES / (1 - SIGNAL_SHARES))
    np.testing.assert_allclose(np.diff(odds), 8.5 / 15)
    assert odds[0] == pytest.approx(-4.5)


def test_signal_and_noise_of_the_grid_add_up_to_the_relative_scale():
    variance = torch.tensor(1.7, dtype=torch.float64)
    grid = unknown_signal_grid(variance, 30)
    assert grid.scale.shape == (16, SCALES)
    relative = (grid.scale**2 * (variance + grid.ratio[:, None])).sqrt()  # of signal plus noise
    torch.testing.assert_close(relative, relative[:1].expand(16, -1))
    torch.testing.assert_close(relative[0, SCALES // 2], torch.ones_like(variance))
    assert float(relative[0].max()) == pytest.approx(math.exp(2.5 / math.sqrt(58)))
    np.testing.assert_allclose(signal_shares(grid, variance).numpy(), SIGNAL_SHARES)


def test_a_known_signal_stands_beside_noise_from_much_to_little():
    grid = known_signal_grid(0.4, 30)
    torch.testing.assert_close(grid.scale, torch.full((30, 1), 0.4, dtype=torch.float64).sqrt())
    noise = grid.scale[:, 0] ** 2 * grid.ratio
    np.testing.assert_allclose(noise.numpy(), np.geomspace(2, 0.02, 30))


def test_posterior_weights_are_bayes():
    found = likelihoods(5, 2, 7, 3)
    weights, log_evidence = posterior(found)
    torch.testing.assert_close(weights, found.exp() / found.exp().sum(dim=(2, 3), keepdim=True))
    torch.testing.assert_close(log_evidence, found.exp().sum(dim=(2, 3)).log())
    mass = torch.rand(5, 2, dtype=torch.float64)
    torch.testing.assert_close(posterior(found, mass).weights.sum(dim=(2, 3)), mass)


def test_the_most_likely_level_takes_all():
    found = likelihoods(5, 2, 7, 1)
    weights = most_likely_level(found)
    assert weights.dtype == found.dtype
    torch.testing.assert_close(weights.sum(dim=2), torch.ones(5, 2, 1, dtype=torch.float64))
    torch.testing.assert_close((weights * found).sum(dim=2), found.max(dim=2).values)
