"""Scores that experts are weighted by, untrained."""

import numpy as np
import torch
from standin import make_prior

from braincl.models.config import SharedContextConfig
from braincl.models.evidence import evidence_of_all, leave_one_out
from braincl.models.expert_scores import score_experts
from braincl.models.noise_levels import posterior
from braincl.models.shared_context import SharedContextNetwork


def dense(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_trust_in_evidence_alone_is_bayes_over_experts_and_mixture_components():
    likely, predictive, log_weights = 3 * dense(7, 5), dense(7, 5, seed=1), torch.tensor([0.3, 0.7]).log().double()
    found = score_experts(likely, predictive, slice(2, 4), log_weights)
    joint = likely.clone()
    joint[:, 2:4] += log_weights
    torch.testing.assert_close((found.scores[..., 0] + found.within_mixture).softmax(1), joint.softmax(1))


def test_a_mixture_is_scored_as_one_expert():
    likely, predictive, log_weights = 3 * dense(7, 5), dense(7, 5, seed=1), torch.tensor([0.3, 0.7]).log().double()
    scores, within = score_experts(likely, predictive, slice(2, 4), log_weights)
    torch.testing.assert_close(scores[:, 2], scores[:, 3])
    torch.testing.assert_close(within[:, 2:4].exp().sum(1), torch.ones(7, dtype=torch.float64))
    assert not within[:, [0, 1, 4]].any()
    torch.testing.assert_close(scores[:, [0, 1, 4], 1], (predictive - predictive[:, :1])[:, [0, 1, 4]])
    assert not scores[:, 0].any()


def test_untrained_the_best_predictions_of_all_voxels_decide():
    """Voxels whose tuning is far from the prior: the generic experts predict better, and take the weight."""
    network = SharedContextNetwork(SharedContextConfig(
        features=12, scales=(1.0,), relaxations=(), leave_one_out=True, width=8, heads=2, hidden=8, layers=1
    )).eval()  # fmt: skip
    network.set_prior(make_prior())
    X = dense(150, 12)
    against = -4 * torch.as_tensor(make_prior().means[0])
    Y = X @ (against[:, None] + 0.3 * dense(12, 40, seed=1)) + dense(150, 40, seed=2)
    Y = ((Y - Y.mean(dim=0)) / Y.std(dim=0, unbiased=False)).float()
    conditioned = network.condition(X.float(), Y)
    found = evidence_of_all(conditioned.context, conditioned.groups, Y)
    parts = network.weights(conditioned, found, slice(0, 40))
    weights, errors = torch.zeros(40, len(conditioned.experts)), np.zeros(len(conditioned.experts))
    for group, of_group, part in zip(conditioned.groups, found, parts, strict=True):
        own = posterior(of_group.log_likelihood).weights
        vectors = conditioned.context.systems[group.system].vectors
        errors[group.members] = leave_one_out(group, of_group, own, vectors, Y).mean_square.log().mean(dim=1)
        weights[:, group.members] = part.sum(dim=2).detach()
    assert int(weights.mean(dim=0).argmax()) == int(np.argmin(errors)) > 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(40))
