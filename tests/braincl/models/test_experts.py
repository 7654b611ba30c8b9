"""Closed-form experts on a context against the same quantities written out with dense matrices."""

import pytest
import torch

from braincl.models.experts import Context

FEATURES = 17


def dense(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def case():
    X, root = dense(11, FEATURES, seed=0), dense(FEATURES, FEATURES, seed=2) / FEATURES**0.5
    covariance, mean = root @ root.T, 0.3 * dense(FEATURES, seed=3)
    context = Context(X)
    expert = context.gaussian("population", mean, context.add_basis(covariance), 0.2, 0.7)
    shrunk = 0.8 * covariance + 0.2 * covariance.diagonal().mean() * torch.eye(FEATURES, dtype=torch.float64)
    return context, expert, mean, shrunk


def test_prior_variance_and_basis_maps(case):
    context, expert, _, covariance = case
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


def test_experts_that_differ_in_their_mean_or_power_share_a_system(case):
    context, expert, mean, _ = case
    assert context.gaussian("population", mean, 1, 0.2, 0.1).system == expert.system
    assert context.gaussian("population", mean, 1, 0.3, 0.1).system != expert.system
    assert context.generic(0.0).system == context.generic(1.0).system != expert.system
