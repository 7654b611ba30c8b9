"""Both architectures behind the estimator, what it holds, and what it gives away."""

import pickle

import numpy as np
import pytest
import torch
from standin import small_network
from synthetic import make_responses

from braincl.errors import ModelError
from braincl.estimators.in_context import InContextEncoder
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork


@pytest.fixture
def arrays():
    dataset = make_responses(images=30, voxels=9)
    X, Y = dataset["embedding"].values, dataset["response"].values
    return X[:19], Y[:19], X[19:]


def published():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PerVoxelNetwork(PerVoxelConfig(features=12, width=20, layers=2, heads=4, hidden=16)).eval()


def test_the_published_network_sees_responses_as_they_are(arrays):
    X, Y, queries = arrays
    network = published()
    encoder = InContextEncoder(network, standardize=False, voxel_batch=4).fit(X, Y)
    mean, std = encoder.predict(queries, return_std=True)
    with torch.inference_mode():
        weights, bias = network(torch.as_tensor(X), torch.as_tensor(Y))
    np.testing.assert_allclose(encoder.coef_, weights.numpy(), atol=1e-6)
    np.testing.assert_allclose(mean, queries @ weights.numpy().T + bias.numpy(), rtol=1e-5, atol=1e-5)
    residual = np.sqrt(np.square(Y - encoder.predict(X)).mean(axis=0))
    np.testing.assert_allclose(std, np.tile(residual, (len(queries), 1)), rtol=1e-5)


def test_standardised_the_published_network_follows_an_affine_change(arrays):
    X, Y, queries = arrays
    standardised, moved = InContextEncoder(published()).fit(X, Y), InContextEncoder(published()).fit(X, 4 * Y + 2)
    np.testing.assert_allclose(moved.predict(queries), 4 * standardised.predict(queries) + 2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", [small_network, published])
@pytest.mark.parametrize("standardize", [True, False])
def test_constant_voxels_keep_their_value(arrays, make, standardize):
    X, Y, queries = arrays
    flat = Y.copy()
    flat[:, [2, 5]] = 7.25, -1.5
    encoder = InContextEncoder(make(), standardize).fit(X, flat)
    mean, std = encoder.predict(queries, return_std=True)
    np.testing.assert_array_equal(encoder.coef_[[2, 5]], 0)
    np.testing.assert_array_equal(mean[:, [2, 5]], np.tile(np.float32([7.25, -1.5]), (len(queries), 1)))
    np.testing.assert_array_equal(std[:, [2, 5]], 0)
    assert (np.delete(std, [2, 5], axis=1) > 0).all()
    nothing = InContextEncoder(make(), standardize).fit(X, np.ones_like(Y))
    np.testing.assert_array_equal(nothing.predict(queries), 1)
    np.testing.assert_array_equal(nothing.predict(queries, return_std=True)[1], 0)


@pytest.mark.parametrize("make", [small_network, published])
def test_a_copy_predicts_alike_without_what_was_kept_at_hand(arrays, make):
    X, Y, queries = arrays
    encoder = InContextEncoder(make()).fit(X, Y)
    copy = pickle.loads(pickle.dumps(encoder))
    for left, right in zip(*(e.predict(queries, return_std=True) for e in (encoder, copy)), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6)
    np.testing.assert_allclose(copy.context_shares(), encoder.context_shares(), rtol=1e-6)


def test_embeddings_of_another_width_are_refused_even_if_nothing_varies(arrays):
    X, Y, _ = arrays
    with pytest.raises(ModelError, match="11 features, the model was trained on 12"):
        InContextEncoder(published()).fit(X[:, :11], np.ones_like(Y))


def test_a_network_of_another_kind_is_refused(arrays):
    X, Y, _ = arrays
    encoder = InContextEncoder(small_network()).set_params(network=torch.nn.Linear(2, 2))
    with pytest.raises(ModelError, match="network is a Linear"):
        encoder.fit(X, Y)
