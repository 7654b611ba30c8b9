"""Likelihoods, posterior means and leave-one-out errors of experts, against dense matrices."""

import math

import numpy as np
import pytest
import torch
from standin import make_prior

from braincl.estimators.prior_ridge import NOISE_LEVELS, PriorRidge
from braincl.models.evidence import evidence, evidence_of_all, leave_one_out, make_grid, signal_shares, solve
from braincl.models.experts import Context
from braincl.models.noise_levels import SIGNAL_SHARES, NoiseGrid, known_signal_grid, most_likely_level

FEATURES = 17


def dense(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[11, 25], ids=["fewer images than features", "more images than features"])
def case(request):
    n = request.param
    X, Y, root = dense(n, FEATURES, seed=0), dense(n, 5, seed=1), dense(FEATURES, FEATURES, seed=2) / FEATURES**0.5
    Y = (Y - Y.mean(dim=0)) / Y.std(dim=0, unbiased=False)
    covariance, mean = root @ root.T, 0.3 * dense(FEATURES, seed=3)
    context = Context(X)
    expert = context.gaussian("population", mean, context.add_basis(covariance), 0.2, 0.7)
    shrunk = 0.8 * covariance + 0.2 * covariance.diagonal().mean() * torch.eye(FEATURES, dtype=torch.float64)
    return context, expert, Y, 0.7 * mean, shrunk


def says(context, expert, Y, grid=None):
    return evidence(expert, len(Y), context.project(Y), grid)


def at(found, share, scale):
    weights = torch.zeros_like(found.log_likelihood)
    weights[:, share, scale] = 1
    return weights


def written_out(context, Y, mean, covariance, scale, ratio):
    """Covariance of the responses, and an orthonormal basis of what is left when the offset is projected out."""
    n = len(Y)
    kernel = scale**2 * (context.A @ covariance @ context.A.T + ratio * torch.eye(n, dtype=torch.float64))
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    basis = torch.linalg.eigh(centring)[1][:, 1:]
    return kernel, basis, basis.T @ (Y - scale * (context.A @ mean)[:, None])


def test_evidence_is_the_gaussian_density_without_the_offset(case):
    context, expert, Y, mean, covariance = case
    found = says(context, expert, Y)
    for h, q in ((3, 0), (9, 4)):
        kernel, basis, residual = written_out(context, Y, mean, covariance, found.grid.scale[h, q], found.grid.ratio[h])
        inner = basis.T @ kernel @ basis
        density = -0.5 * (residual * torch.linalg.solve(inner, residual)).sum(dim=0) - 0.5 * torch.logdet(inner)
        torch.testing.assert_close(found.log_likelihood[:, h, q], density)


def test_solution_is_the_posterior_mean_of_the_weights(case):
    context, expert, Y, mean, covariance = case
    found = says(context, expert, Y)
    h, q = 7, 3
    solution = solve(expert, found, at(found, h, q))
    emitted = solution.mean_coefficient[:, None] * expert.mean_weights
    emitted = emitted + solution.dual @ context.cross(expert).T
    scale = found.grid.scale[h, q]
    kernel, basis, residual = written_out(context, Y, mean, covariance, scale, found.grid.ratio[h])
    gain = scale**2 * covariance @ context.A.T @ basis @ torch.linalg.solve(basis.T @ kernel @ basis, residual)
    torch.testing.assert_close(emitted.T, scale * mean[:, None] + gain)


def test_leave_one_out_leaves_one_out(case):
    context, expert, Y, mean, covariance = case
    found = says(context, expert, Y)
    h, q = 6, 2
    scale = found.grid.scale[h, q]
    kernel, _, _ = written_out(context, Y, mean, covariance, scale, found.grid.ratio[h])
    rest = Y - scale * (context.A @ mean)[:, None]
    errors = []
    for i in range(len(Y)):
        others = [j for j in range(len(Y)) if j != i]
        inverse, ones = torch.linalg.inv(kernel[others][:, others]), torch.ones(len(others), 1, dtype=torch.float64)
        offset = (ones.T @ inverse @ rest[others]) / (ones.T @ inverse @ ones)
        errors.append(rest[i] - offset[0] - kernel[i, others] @ inverse @ (rest[others] - offset))
    left_out, total = leave_one_out(expert, found, at(found, h, q), context.systems[expert.system].vectors, Y)
    torch.testing.assert_close(left_out, torch.stack(errors).square().mean(dim=0))
    torch.testing.assert_close(total, at(found, h, q).sum(dim=2))


def test_the_grid_can_be_replaced(case):
    context, expert, Y, _, _ = case
    own = says(context, expert, Y)
    one = NoiseGrid(own.grid.scale[4:5], own.grid.ratio[4:5])
    torch.testing.assert_close(says(context, expert, Y, one).log_likelihood, own.log_likelihood[:, 4:5])


def test_experts_are_asked_one_by_one(case):
    context, expert, Y, _, _ = case
    generic = context.generic(0.5)
    found = evidence_of_all(context, [expert, generic], Y)
    for of_expert, alone in zip(found, (says(context, expert, Y), says(context, generic, Y)), strict=True):
        torch.testing.assert_close(of_expert.log_likelihood, alone.log_likelihood, rtol=0, atol=0)


def test_images_that_are_all_alike_leave_finite_evidence():
    context = Context(torch.ones(4, 3))
    expert = context.generic(0.0)
    found = says(context, expert, dense(4, 2, seed=7))
    assert torch.isfinite(found.log_likelihood).all()


def test_an_expert_of_known_signal_is_population_prior_ridge_at_its_most_likely_noise():
    prior, X, W = make_prior(), dense(19, 12, seed=0), dense(12, 6, seed=1)
    Y = X @ W / 3 + dense(19, 6, seed=2)
    Y = (Y - Y.mean(dim=0)) / Y.std(dim=0, unbiased=False)
    context, signal = Context(X), float(prior.shares @ SIGNAL_SHARES)
    basis = context.add_basis(torch.as_tensor(prior.covariances[0]))
    expert = context.gaussian("population", torch.as_tensor(prior.means[0]), basis, signal=signal)
    grid = make_grid(expert, len(X))
    noise = torch.logspace(math.log10(2), math.log10(0.02), 16, dtype=torch.float64)
    torch.testing.assert_close(grid.scale**2 * grid.ratio[:, None], noise[:, None])
    finer = known_signal_grid(signal, NOISE_LEVELS)
    torch.testing.assert_close(finer.scale[0, 0], grid.scale[0, 0])
    found = evidence(expert, len(X), context.project(Y), finer)
    solution = solve(expert, found, most_likely_level(found.log_likelihood))
    coef = solution.mean_coefficient[:, None] * expert.mean_weights + solution.dual @ context.cross(expert).T
    ridge = PriorRidge(prior).fit(X.numpy(), Y.numpy())
    np.testing.assert_allclose(coef.numpy(), ridge.coef_, rtol=1e-6, atol=1e-8)


def test_signal_shares_are_those_of_the_grid():
    context = Context(dense(19, 12, seed=0))
    basis = context.add_basis(torch.eye(12, dtype=torch.float64))
    mean = 0.3 * dense(12, seed=1)
    free = context.gaussian("population", mean, basis)
    np.testing.assert_allclose(signal_shares(free, make_grid(free, 19), 19).numpy(), SIGNAL_SHARES)
    known = context.gaussian("population", mean, basis, signal=0.3)
    shares = signal_shares(known, make_grid(known, 19), 19)
    variance = (context.A @ (mean[:, None] * mean + torch.eye(12, dtype=torch.float64)) * context.A).sum() / 18
    signal = 0.3 * variance
    noise = torch.logspace(math.log10(2), math.log10(0.02), 16, dtype=torch.float64)
    torch.testing.assert_close(shares, signal / (signal + noise))
    assert (shares.diff() > 0).all()
