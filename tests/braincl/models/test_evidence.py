"""Likelihoods, posterior means and leave-one-out errors of experts, against dense matrices."""

import math

import numpy as np
import pytest
import torch
from standin import make_prior

from braincl.estimators.prior_ridge import NOISE_LEVELS, PriorRidge
from braincl.models.evidence import (
    SOFTENED,
    evidence,
    evidence_of_all,
    group_experts,
    in_groups,
    leave_one_out,
    make_grid,
    read_through,
    solve,
)
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
    (group,) = group_experts([expert], len(Y), grid=grid)
    return group, evidence(group, len(Y), context.project(Y))


def known(scale):
    """Noise levels where the signal has this scale."""
    return known_signal_grid(scale**2)


def at(found, level):
    weights = torch.zeros_like(found.log_likelihood)
    weights[:, :, level] = 1
    return weights


def written_out(context, Y, mean, covariance, scale, ratio):
    """Covariance of the responses, and an orthonormal basis of what is left when the offset is projected out."""
    n = len(Y)
    kernel = scale**2 * (context.A @ covariance @ context.A.T + ratio * torch.eye(n, dtype=torch.float64))
    centring = torch.eye(n, dtype=torch.float64) - 1 / n
    basis = torch.linalg.eigh(centring)[1][:, 1:]
    return kernel, basis, basis.T @ (Y - scale * (context.A @ mean)[:, None])


def log_density(context, Y, mean, covariance, scale, ratio):
    kernel, basis, residual = written_out(context, Y, mean, covariance, scale, ratio)
    inner = basis.T @ kernel @ basis
    return -0.5 * (residual * torch.linalg.solve(inner, residual)).sum(dim=0) - 0.5 * torch.logdet(inner)


def test_evidence_is_the_gaussian_density_without_the_offset(case):
    context, expert, Y, mean, covariance = case
    group, found = says(context, expert, Y, known(0.6))
    for h in (3, 9):
        density = log_density(context, Y, mean, covariance, 0.6, group.ratio[0, h])
        torch.testing.assert_close(found.log_likelihood[:, 0, h], density)


def test_an_unknown_scale_has_been_integrated_over(case):
    context, expert, Y, mean, covariance = case
    group, found = says(context, expert, Y)
    scales = torch.exp(torch.linspace(-4, 3, 300, dtype=torch.float64))
    whole = [
        torch.stack([log_density(context, Y, mean, covariance, s, ratio) for s in scales]).logsumexp(dim=0)
        for ratio in group.ratio[0]
    ]
    differences = found.log_likelihood[:, 0] - torch.stack(whole, dim=1)
    assert float((differences - differences.mean()).abs().max()) < 0.05  # nats


def test_solution_is_the_posterior_mean_of_the_weights(case):
    context, expert, Y, mean, covariance = case
    scale, h = 0.6, 7
    group, found = says(context, expert, Y, known(scale))
    solution = solve(group, found, at(found, h), 0)
    emitted = torch.outer(solution.mean_coefficient, expert.mean_weights) + solution.dual @ context.cross(expert).T
    kernel, basis, residual = written_out(context, Y, mean, covariance, scale, group.ratio[0, h])
    gain = scale**2 * covariance @ context.A.T @ basis @ torch.linalg.solve(basis.T @ kernel @ basis, residual)
    torch.testing.assert_close(emitted.T, scale * mean[:, None] + gain)


def test_leave_one_out_leaves_one_out(case):
    context, expert, Y, mean, covariance = case
    scale, h = 0.6, 6
    group, found = says(context, expert, Y, known(scale))
    kernel, basis, _ = written_out(context, Y, mean, covariance, scale, group.ratio[0, h])
    rest = Y - scale * (context.A @ mean)[:, None]
    errors = []
    for i in range(len(Y)):
        others = [j for j in range(len(Y)) if j != i]
        inverse, ones = torch.linalg.inv(kernel[others][:, others]), torch.ones(len(others), 1, dtype=torch.float64)
        offset = (ones.T @ inverse @ rest[others]) / (ones.T @ inverse @ ones)
        errors.append(rest[i] - offset[0] - kernel[i, others] @ inverse @ (rest[others] - offset))
    left_out = leave_one_out(group, found, at(found, h), context.systems[expert.system].vectors, Y, noise=True)
    residual = torch.stack(errors)
    torch.testing.assert_close(left_out.mean_square[0], residual.square().mean(dim=0))
    inner = basis @ torch.linalg.inv(basis.T @ kernel @ basis) @ basis.T  # 1 / its diagonal: variances left out
    level = residual.square() * inner.diagonal()[:, None]
    level = (level / level.mean(dim=0) + SOFTENED).log()
    predicted, level = Y - residual, level - level.mean(dim=0)
    expected = torch.stack([(predicted * level).sum(dim=1), predicted.square().sum(dim=1)], dim=1)
    torch.testing.assert_close(left_out.noise, expected)


def test_levels_can_be_replaced(case):
    context, expert, Y, _, _ = case
    group, own = says(context, expert, Y)
    some = NoiseGrid(group.ratio[0, 4:9])
    torch.testing.assert_close(says(context, expert, Y, some)[1].log_likelihood, own.log_likelihood[:, :, 4:9])


def test_experts_that_are_asked_together_say_what_each_says_alone(case):
    context, expert, Y, _, _ = case
    other = context.gaussian("population", expert.mean_weights, 1, 0.2)
    mixed = [context.generic(0.5), expert, context.generic(0.5, 0.3), context.generic(1.0), other]
    experts = in_groups(mixed)
    places = {id(member): place for place, member in enumerate(mixed)}
    assert [places[id(member)] for member in experts] == [0, 3, 1, 4, 2]
    groups = group_experts(experts, len(Y))
    assert [group.members for group in groups] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    for group, found in zip(groups, evidence_of_all(context, groups, Y), strict=True):
        weights = torch.rand(found.log_likelihood.shape, dtype=torch.float64)
        each = [solve(group, found, weights, c) for c in range(len(group.gain))]
        dual, means = read_through(group, found, weights)
        torch.testing.assert_close(dual, sum(one.dual * gain for one, gain in zip(each, group.gain, strict=True)))
        torch.testing.assert_close(means, torch.stack([one.mean_coefficient for one in each], dim=1))
        vectors = context.systems[group.system].vectors
        left_out = leave_one_out(group, found, weights, vectors, Y).mean_square
        for c, member in enumerate(experts[group.members]):
            single, alone = says(context, member, Y)
            torch.testing.assert_close(found.log_likelihood[:, c], alone.log_likelihood[:, 0])
            for part, own in zip(each[c], solve(single, alone, weights[:, c : c + 1], 0), strict=True):
                torch.testing.assert_close(part, own)
            own = leave_one_out(single, alone, weights[:, c : c + 1], vectors, Y).mean_square
            torch.testing.assert_close(left_out[c], own[0])


def test_images_that_are_all_alike_leave_finite_evidence():
    context = Context(torch.ones(4, 3))
    expert = context.generic(0.0)
    _, found = says(context, expert, dense(4, 2, seed=7))
    assert torch.isfinite(found.log_likelihood).all()


def test_an_expert_of_known_signal_is_population_prior_ridge_at_its_most_likely_noise():
    prior, X, W = make_prior(), dense(19, 12, seed=0), dense(12, 6, seed=1)
    Y = X @ W / 3 + dense(19, 6, seed=2)
    Y = (Y - Y.mean(dim=0)) / Y.std(dim=0, unbiased=False)
    context, signal = Context(X), float(prior.shares @ SIGNAL_SHARES)
    basis = context.add_basis(torch.as_tensor(prior.covariances[0]))
    expert = context.gaussian("population", torch.as_tensor(prior.means[0]), basis, signal=signal)
    grid = make_grid(expert)
    noise = torch.logspace(math.log10(2), math.log10(0.02), 16, dtype=torch.float64)
    torch.testing.assert_close(grid.scale**2 * grid.ratio, noise)
    finer = known_signal_grid(signal, NOISE_LEVELS)
    torch.testing.assert_close(finer.scale, grid.scale)
    group, found = says(context, expert, Y, finer)
    solution = solve(group, found, most_likely_level(found.log_likelihood), 0)
    coef = torch.outer(solution.mean_coefficient, expert.mean_weights) + solution.dual @ context.cross(expert).T
    ridge = PriorRidge(prior).fit(X.numpy(), Y.numpy())
    np.testing.assert_allclose(coef.numpy(), ridge.coef_, rtol=1e-6, atol=1e-8)


def test_shares_of_signal_do_not_depend_on_the_pictures_of_the_context():
    context = Context(dense(19, 12, seed=0))
    for covariance in (torch.eye(12, dtype=torch.float64), torch.diag(torch.arange(1.0, 13.0, dtype=torch.float64))):
        basis = context.add_basis(covariance)
        free = context.gaussian("population", 0.3 * dense(12, seed=1), basis)
        (group,) = group_experts([free], 19)
        np.testing.assert_allclose(group.shares.numpy()[0], SIGNAL_SHARES)
        np.testing.assert_allclose(group.ratio.numpy()[0], 1 / SIGNAL_SHARES - 1)
        known = context.gaussian("population", 0.3 * dense(12, seed=1), basis, signal=0.3)
        (group,) = group_experts([known], 19)
        noise = torch.logspace(math.log10(2), math.log10(0.02), 16, dtype=torch.float64)
        torch.testing.assert_close(group.shares[0], 0.3 / (0.3 + noise))
