"""Scores that experts are weighed by, and the experts whose signal is known."""

import math

import numpy as np
import torch
from standin import make_prior

from braincl.estimators.prior_ridge import NOISE_LEVELS, PriorRidge, _noise_grid
from braincl.models.config import SharedContextConfig
from braincl.models.expert_scores import judge
from braincl.models.experts import Context, evidence, leave_one_out, make_grid, signal_shares, solve
from braincl.models.prior import SIGNAL_SHARES
from braincl.models.shared_context import SharedContextNetwork


def dense(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_trust_in_evidence_alone_is_bayes_over_experts_and_mixture_components():
    likely, predictive, log_weights = 3 * dense(7, 5), dense(7, 5, seed=1), torch.tensor([0.3, 0.7]).log().double()
    found = judge(likely, predictive, [2, 4], log_weights)
    joint = likely.clone()
    joint[:, [2, 4]] += log_weights
    torch.testing.assert_close((found.scores[..., 0] + found.inside).softmax(1), joint.softmax(1))


def test_a_mixture_is_judged_as_one_expert():
    likely, predictive, log_weights = 3 * dense(7, 5), dense(7, 5, seed=1), torch.tensor([0.3, 0.7]).log().double()
    scores, inside = judge(likely, predictive, [2, 4], log_weights)
    torch.testing.assert_close(scores[:, 2], scores[:, 4])
    torch.testing.assert_close(inside[:, [2, 4]].exp().sum(1), torch.ones(7, dtype=torch.float64))
    assert not inside[:, [0, 1, 3]].any()
    torch.testing.assert_close(scores[:, [0, 1, 3], 1], (predictive - predictive[:, :1])[:, [0, 1, 3]])
    torch.testing.assert_close(scores[..., 2], scores[..., 1].mean(0).expand(7, 5))
    assert not scores[:, 0].any()


def test_an_expert_of_known_signal_is_population_prior_ridge_at_its_most_likely_noise():
    prior, X, W = make_prior(), dense(19, 12), dense(12, 6, seed=1)
    Y = X @ W / 3 + dense(19, 6, seed=2)
    Y = (Y - Y.mean(dim=0)) / Y.std(dim=0, unbiased=False)
    context, signal = Context(X), float(prior.shares @ SIGNAL_SHARES)
    basis = context.add_basis(torch.as_tensor(prior.covariances[0]))
    expert = context.gaussian("population", torch.as_tensor(prior.means[0]), basis, signal=signal)
    grid = make_grid(expert, len(X))
    noise = torch.logspace(math.log10(2), math.log10(0.02), 16, dtype=torch.float64)
    torch.testing.assert_close(grid.scale**2 * grid.ratio[:, None], noise[:, None])
    finer = _noise_grid(signal)
    torch.testing.assert_close(finer.scale[0, 0], grid.scale[0, 0])
    found = evidence(expert, len(X), context.project(Y), finer)
    best = torch.nn.functional.one_hot(found.log_likelihood[:, :, 0].argmax(1), NOISE_LEVELS)[..., None].double()
    solution = solve(expert, found, best)
    coef = solution.mean_coefficient[:, None] * expert.mean_weights + solution.dual @ context.cross(expert).T
    ridge = PriorRidge(prior).fit(X.numpy(), Y.numpy())
    np.testing.assert_allclose(coef.numpy(), ridge.coef_, rtol=1e-6, atol=1e-8)


def test_signal_shares_are_those_of_the_grid():
    context = Context(dense(19, 12))
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


def test_untrained_the_best_predictions_of_all_voxels_decide():
    """Voxels whose tuning is far from the prior: the generic experts predict better, and take the weight."""
    network = SharedContextNetwork(SharedContextConfig(
        features=12, scales=(1.0,), relaxations=(), judged=True, width=8, heads=2, hidden=8, layers=1
    )).eval()  # fmt: skip
    network.set_prior(make_prior())
    X = dense(150, 12)
    against = -4 * torch.as_tensor(make_prior().means[0])
    Y = X @ (against[:, None] + 0.3 * dense(12, 40, seed=1)) + dense(150, 40, seed=2)
    Y = ((Y - Y.mean(dim=0)) / Y.std(dim=0, unbiased=False)).float()
    reading = network.read(X.float(), Y)
    found = network.weights(reading, reading.evidence(Y, slice(0, 40)), slice(0, 40))
    weights = torch.stack([of_expert.sum(dim=(1, 2)) for of_expert in found], dim=1)
    errors = []
    for expert, found in zip(reading.experts, reading.evidence(Y, slice(0, 40)), strict=True):
        posterior = found.log_likelihood.flatten(1).softmax(1).view_as(found.log_likelihood)
        vectors = reading.context.systems[expert.system].vectors
        errors.append(float(leave_one_out(expert, found, posterior, vectors, Y)[0].log().mean()))
    assert int(weights.mean(dim=0).argmax()) == int(np.argmin(errors)) > 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(40))


def test_a_priors_spectra_are_those_of_its_covariances():
    prior = make_prior()
    values, vectors = prior.spectra[0]
    np.testing.assert_allclose(vectors * values @ vectors.T, prior.covariances[0], atol=1e-12)
    assert (values > 0).all()
