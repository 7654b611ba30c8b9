"""Closed-form experts against the same quantities written out with dense matrices."""

import numpy as np
import pytest
import torch

from braincl.models.experts import Context, Grid, evidence, leave_one_out, solve
from braincl.models.prior import SIGNAL_SHARES

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


def test_prior_variance_and_basis_maps(case):
    context, expert, _, _, covariance = case
    queries = dense(6, FEATURES, seed=4)
    torch.testing.assert_close(context.prior_variance(expert, queries), (queries @ covariance * queries).sum(dim=1))
    torch.testing.assert_close(context.cross(expert), covariance @ context.A.T @ context.systems[expert.system].vectors)


@pytest.mark.parametrize("power", [-0.5, 0.0, 0.5, 1.0])
def test_generic_prior_is_a_power_of_the_covariance(power):
    X = dense(9, FEATURES, seed=5)
    context = Context(X)
    expert = context.generic(power)
    own, directions = torch.linalg.eigh(context.A.T @ context.A / 9)
    own = torch.where(own > 1e-9, own, 0)
    floor = 0.1 * own[own > 0].mean()
    covariance = directions * (own + floor) ** power @ directions.T
    covariance = covariance / torch.trace(context.A @ covariance @ context.A.T) * 9
    queries = dense(4, FEATURES, seed=6)
    torch.testing.assert_close(context.prior_variance(expert, queries), (queries @ covariance * queries).sum(dim=1))
    torch.testing.assert_close(context.cross(expert), covariance @ context.A.T @ context.systems[expert.system].vectors)
    vectors = context.systems[expert.system].vectors
    kernel = vectors * expert.eigenvalues @ vectors.T
    torch.testing.assert_close(kernel, context.A @ covariance @ context.A.T)


def test_the_grid_can_be_replaced(case):
    context, expert, Y, _, _ = case
    own = says(context, expert, Y)
    one = Grid(own.grid.scale[4:5], own.grid.ratio[4:5])
    torch.testing.assert_close(says(context, expert, Y, one).log_likelihood, own.log_likelihood[:, 4:5])


def test_experts_that_differ_in_their_mean_or_power_share_a_system(case):
    context, expert, _, mean, _ = case
    assert context.gaussian("population", mean, 1, 0.2, 0.1).system == expert.system
    assert context.gaussian("population", mean, 1, 0.3, 0.1).system != expert.system
    assert context.generic(0.0).system == context.generic(1.0).system != expert.system


def test_images_that_are_all_alike_leave_finite_evidence():
    context = Context(torch.ones(4, 3))
    expert = context.generic(0.0)
    found = says(context, expert, dense(4, 2, seed=7))
    assert torch.isfinite(found.log_likelihood).all()


def test_signal_shares_are_shares():
    assert np.all(np.diff(SIGNAL_SHARES) > 0)
    assert SIGNAL_SHARES[0] > 0
    assert SIGNAL_SHARES[-1] < 1
