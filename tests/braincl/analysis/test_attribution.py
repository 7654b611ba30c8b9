"""Shares of context pictures, against contributions and attention maps that are written out."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from standin import make_prior, small_network
from synthetic import FEATURES, IMAGES, VOXELS, make_responses

from braincl.analysis.attribution import context_shares
from braincl.estimators.in_context import InContextEncoder
from braincl.models.config import SharedContextConfig
from braincl.models.per_voxel import LEARNED_TOKENS, PerVoxelConfig, PerVoxelNetwork
from braincl.models.shared_context import SharedContextNetwork

dataset = make_responses()
X, Y = dataset["embedding"].values, dataset["response"].values


def with_prior():
    network = SharedContextNetwork(SharedContextConfig(features=FEATURES, width=8, heads=2, hidden=8, layers=1)).eval()
    network.set_prior(make_prior(FEATURES))
    return network


@pytest.mark.parametrize("network", [small_network(), with_prior()], ids=["agnostic", "prior"])
def test_contributions_of_the_pictures_add_up_to_the_weights(network):
    encoder = InContextEncoder(network, voxel_batch=3).fit(X, Y)
    shares = context_shares(encoder)
    assert shares.shape == (VOXELS, IMAGES)
    np.testing.assert_allclose(shares.sum(axis=1), 1, rtol=1e-5)
    part = slice(3, 6)
    with torch.inference_mode():
        conditioned = network.condition(encoder._X, encoder._Y)
        duals, _ = network.read_through(conditioned, encoder._Y[:, part], part)
        bases = torch.stack(conditioned.context.bases)
        contributions = torch.einsum("vbn,bne->vne", duals, bases)
        rest = network.emit(conditioned, encoder._Y[:, part], part)[0] - contributions.sum(dim=1)
    norms = contributions.norm(dim=2).numpy()
    np.testing.assert_allclose(shares[part], norms / norms.sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-6)
    mean = (
        conditioned.experts[0].mean_weights.float().numpy()
    )  # what no picture contributes lies along the population mean
    if mean.any():
        rest = rest - torch.outer(rest @ torch.as_tensor(mean) / float(mean @ mean), torch.as_tensor(mean))
    np.testing.assert_allclose(rest, 0, atol=1e-5)


def test_attention_of_the_published_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PerVoxelNetwork(PerVoxelConfig(features=FEATURES, width=20, layers=2, heads=10, hidden=8)).eval()
    encoder = InContextEncoder(network, voxel_batch=4).fit(X, Y)
    shares = context_shares(encoder)
    with torch.inference_mode():
        tokens = network.transformer[0](network._tokens(encoder._X.float(), encoder._Y))
        attention = network.transformer[1].attention_map(tokens)[:, :, 0].mean(dim=1)[:, LEARNED_TOKENS:].numpy()
    np.testing.assert_allclose(shares, attention / attention.sum(axis=1, keepdims=True), rtol=1e-4)


def test_pictures_in_another_order_have_the_same_shares():
    order = np.random.default_rng(0).permutation(IMAGES)
    found = context_shares(InContextEncoder(with_prior()).fit(X[order], Y[order]))
    np.testing.assert_allclose(found, context_shares(InContextEncoder(with_prior()).fit(X, Y))[:, order], atol=1e-5)


def test_constant_voxels_have_none_and_an_encoder_must_be_fitted():
    flat = Y.copy()
    flat[:, 2] = 4
    shares = context_shares(InContextEncoder(small_network()).fit(X, flat))
    assert np.isnan(shares[2]).all()
    assert np.isfinite(np.delete(shares, 2, axis=0)).all()
    with pytest.raises(NotFittedError):
        context_shares(InContextEncoder(small_network()))
