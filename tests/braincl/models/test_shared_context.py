"""The shared-context network behind its estimator: symmetries, batches, and what it is close to untrained."""

import numpy as np
import pytest
import torch
from standin import make_prior, small_network
from synthetic import make_responses

from braincl.errors import ModelError
from braincl.estimators.in_context import InContextEncoder
from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.config import SharedContextConfig
from braincl.models.evidence import evidence_of_all, solve, squared_scale
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.models.prior import Prior
from braincl.models.shared_context import SharedContextNetwork


def trained(network):
    """Random corrections in place of the zeros of an untrained network."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network


def mixture():
    means = np.stack([np.linspace(-0.5, 0.5, 12), np.linspace(0.4, -0.4, 12)])
    return Prior(np.log([0.3, 0.7]), means, np.stack([np.eye(12), np.diag(np.linspace(1, 2, 12))]) / 12)


def with_prior(**options):
    config = SharedContextConfig(features=12, components=2, width=8, heads=2, hidden=8, layers=1, **options)
    network = SharedContextNetwork(config)
    network.set_prior(make_prior(), mixture())
    return trained(network).eval()


@pytest.fixture(params=["agnostic", "population", "leave one out", "a share of ridge"])
def encoder(request):
    if request.param == "agnostic":
        return InContextEncoder(trained(small_network()))
    options = {} if request.param == "population" else {"scales": (1.0, 0.5), "leave_one_out": True}
    return InContextEncoder(with_prior(**options, prior_ridge_share=0.5 * (request.param == "a share of ridge")))


@pytest.fixture
def arrays():
    dataset = make_responses(images=30, voxels=9)
    X, Y = dataset["embedding"].values, dataset["response"].values
    return X[:19], Y[:19], X[19:]


def both(encoder, X, Y, queries):
    return encoder.fit(X, Y).predict(queries, return_std=True)


def test_the_order_of_the_context_does_not_matter(encoder, arrays):
    X, Y, queries = arrays
    order = np.random.default_rng(0).permutation(len(X))
    for left, right in zip(both(encoder, X, Y, queries), both(encoder, X[order], Y[order], queries), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5 * Y.std())


def test_voxels_in_another_order_are_the_same_voxels(encoder, arrays):
    X, Y, queries = arrays
    order = np.random.default_rng(0).permutation(Y.shape[1])
    for left, right in zip(both(encoder, X, Y, queries), both(encoder, X, Y[:, order], queries), strict=True):
        np.testing.assert_allclose(left[:, order], right, atol=1e-5 * Y.std())


def test_an_affine_change_of_responses_is_followed_exactly(encoder, arrays):
    X, Y, queries = arrays
    gain, offset = np.float32([3.0, -2.0, 0.1] * 3), np.float32([100, -5, 0] * 3)
    mean, std = both(encoder, X, Y, queries)
    changed_mean, changed_std = both(encoder, X, Y * np.abs(gain) + offset, queries)
    np.testing.assert_allclose(changed_mean, mean * np.abs(gain) + offset, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(changed_std, std * np.abs(gain), rtol=1e-4)


@pytest.mark.parametrize("voxel_batch", [1, 4])
def test_voxel_batch_changes_nothing(encoder, arrays, voxel_batch):
    X, Y, queries = arrays
    whole = both(encoder, X, Y, queries)
    parts = both(InContextEncoder(encoder.network, voxel_batch=voxel_batch), X, Y, queries)
    for left, right in zip(whole, parts, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


def test_predictions_are_those_of_the_moments(encoder, arrays):
    X, Y, queries = arrays
    mean, _ = both(encoder, X, Y, queries)
    shown = torch.as_tensor((Y - Y.mean(axis=0)) / Y.std(axis=0))
    conditioned = encoder.network.condition(torch.as_tensor(X), shown)
    direct, _ = encoder.network.predictive_moments(
        encoder.network.tell(conditioned, shown, slice(0, 9)),
        encoder.network.ask(conditioned, torch.as_tensor(queries)),
    )
    np.testing.assert_allclose(mean, direct.detach().numpy() * Y.std(axis=0) + Y.mean(axis=0), rtol=1e-4, atol=1e-4)


def test_weights_are_the_same_through_eigenvectors_and_through_images(encoder, arrays):
    X, Y = (torch.as_tensor(values) for values in arrays[:2])
    network, voxels = encoder.network, slice(0, Y.shape[1])
    conditioned = network.condition(X, (Y - Y.mean(dim=0)) / Y.std(dim=0))
    duals, means = network.read_through(conditioned, Y, voxels)
    on_images = duals.flatten(1) @ torch.cat(conditioned.context.bases) + means @ conditioned.means
    emitted, _ = network.emit(conditioned, Y, voxels)
    torch.testing.assert_close(emitted, on_images, rtol=1e-4, atol=1e-5)
    assert conditioned.context.few_systems == (not network.features)


def mixture_variance(network, conditioned, Y, queries):
    """Variance of a mixture of the experts, one after the other, as (t, V)."""
    context, found = conditioned.context, evidence_of_all(conditioned.context, conditioned.groups, Y)
    centred = queries.double() - context.offset
    weights = network.weights(conditioned, found, slice(0, Y.shape[1]))
    mean, second = torch.zeros(len(queries), Y.shape[1]), torch.zeros(len(queries), Y.shape[1])
    for group, of_group, weight in zip(conditioned.groups, found, weights, strict=True):
        for c, expert in enumerate(conditioned.experts[group.members]):
            solution = solve(group, of_group, weight, c)
            mass = weight[:, c].sum(dim=1)
            cross = (centred @ context.cross(expert).double()).float()
            part = torch.outer((centred @ expert.mean_weights).float(), solution.mean_coefficient)
            part = (part + cross @ solution.dual.T) / mass
            power = weight[:, c] * squared_scale(group, of_group)[..., c, :] / mass[:, None]
            within = torch.outer(context.prior_variance(expert, centred).float(), power.sum(dim=1))
            within = within - cross.square() @ (power @ group.inverse[c]).T
            within = within + power @ group.ratio[c] * (1 + 1 / len(Y))
            mean, second = mean + mass * part, second + mass * (within + part.square())
    return second - mean.square()


def test_the_variance_is_that_of_the_mixture_and_exact_where_one_coordinate_is_not_zero(encoder, arrays):
    X, Y, queries = (torch.as_tensor(values) for values in arrays)
    Y, network = (Y - Y.mean(dim=0)) / Y.std(dim=0, unbiased=False), encoder.network
    with torch.no_grad():
        network.std_scale.zero_()
        conditioned = network.condition(X, Y)
        told = network.tell(conditioned, Y, slice(0, 9))
        vectors = conditioned.context.systems[conditioned.groups[-1].system].vectors
        along = (conditioned.context.offset + vectors.T.double() @ conditioned.context.A).float()
        for asked, tolerance in ((along, 1e-4), (queries, 0.1)):
            expected = mixture_variance(network, conditioned, Y, asked)
            found = network.predictive_moments(told, network.ask(conditioned, asked))[1]
            if asked is along and len(conditioned.context.systems) > 1:
                continue  # the systems' own axes differ
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=1e-4)
            torch.testing.assert_close(found.mean(), expected.mean(), rtol=0.02, atol=0)


def test_agnostic_weights_see_embeddings_through_inner_products_only(arrays):
    X, Y, queries = arrays
    encoder = InContextEncoder(trained(small_network()))
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((12, 12)))[0].astype("f4")
    wider = np.vstack([np.float32(turn), np.zeros((5, 12), "f4")])  # a rotation into 17 features
    for left, right in zip(both(encoder, X, Y, queries), both(encoder, X @ wider.T, Y, queries @ wider.T), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


def test_two_images_are_enough_and_constant_voxels_stay_constant(encoder, arrays):
    X, Y, queries = arrays
    Y = Y.copy()
    Y[:, 4] = 7.25
    for n in (2, 3, 19):
        mean, std = both(encoder, X[:n], Y[:n], queries)
        assert np.isfinite(mean).all()
        assert np.isfinite(std).all()
        np.testing.assert_array_equal(mean[:, 4], np.float32(7.25))
        np.testing.assert_array_equal(encoder.constant_voxels_, np.arange(9) == 4)
        np.testing.assert_array_equal(std[:, 4], 0)
        assert (np.delete(std, 4, axis=1) > 0).all()


def test_all_voxels_constant(encoder, arrays):
    X, _, queries = arrays
    mean, std = both(encoder, X, np.ones((len(X), 3), "f4"), queries)
    np.testing.assert_array_equal(mean, 1)
    np.testing.assert_array_equal(std, 0)


@pytest.mark.parametrize(
    "options", [{}, {"scales": (1.0, 0.5, 2.0), "leave_one_out": True}], ids=["evidence", "leave one out"]
)
def test_untrained_it_is_close_to_population_prior_ridge(arrays, options):
    X, Y, queries = arrays
    network = SharedContextNetwork(SharedContextConfig(features=12, width=8, heads=2, hidden=8, layers=1, **options))
    network.set_prior(make_prior())
    ours, theirs = InContextEncoder(network.eval()).fit(X, Y), PriorRidge(make_prior()).fit(X, Y)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(ours.predict(queries).T, theirs.predict(queries).T, strict=True)]
    assert np.mean(r) > 0.95


def weights_of(X, Y, share, mode="eval"):
    """Encoder weights of a context, as a network gives them that has a population prior and random corrections."""
    torch.manual_seed(0)
    config = SharedContextConfig(features=12, scales=(1.0, 0.5), leave_one_out=True, prior_ridge_share=share)
    network = SharedContextNetwork(config)
    network.set_prior(make_prior())
    getattr(trained(network), mode)()
    Z = torch.as_tensor((Y - Y.mean(0)) / Y.std(0)).float()
    return network.emit(network.condition(torch.as_tensor(X), Z), Z, slice(0, Z.shape[1]))[0].detach().numpy()


def test_population_prior_ridge_has_its_share(arrays):
    X, Y, _ = arrays
    alone, half, whole = (weights_of(X, Y, share) for share in (0.0, 0.5, 1.0))
    assert np.abs(whole - alone).max() > 0.01
    np.testing.assert_allclose(half, (alone + whole) / 2, atol=1e-5)
    np.testing.assert_array_equal(weights_of(X, Y, 0.5, mode="train"), alone)
    ridge = PriorRidge(make_prior()).fit(X, (Y - Y.mean(0)) / Y.std(0)).coef_
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(whole, ridge, strict=True)]  # its noise levels are three times as many
    assert min(r) > 0.998


@pytest.mark.parametrize("options", [{}, {"leave_one_out": True, "scales": (0.5, 1.0)}, {"scales": (1.0,)}])
def test_a_share_needs_population_prior_ridge(options):
    with pytest.raises(ValueError, match="needs it as the first expert"):
        SharedContextConfig(features=12, prior_ridge_share=0.5, **options)


def test_another_width_than_the_priors_is_refused(arrays):
    X, Y, _ = arrays
    with pytest.raises(ModelError, match="11 features, the model was trained on 12"):
        InContextEncoder(with_prior()).fit(X[:, :11], Y)


def test_the_published_architecture_stands_behind_the_same_interface(arrays):
    X, Y, queries = arrays
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = PerVoxelNetwork(PerVoxelConfig(features=12, width=20, layers=2, heads=4, hidden=16)).eval()
    encoder = InContextEncoder(network, standardize=False)
    mean, std = both(encoder, X, Y, queries)
    with torch.inference_mode():
        weights, bias = network(torch.as_tensor(X), torch.as_tensor(Y))
    np.testing.assert_allclose(encoder.coef_, weights.numpy(), atol=1e-6)
    np.testing.assert_allclose(mean, queries @ weights.numpy().T + bias.numpy(), rtol=1e-5, atol=1e-5)
    assert std.shape == mean.shape
    standardised = InContextEncoder(network).fit(X, Y)
    moved = InContextEncoder(network).fit(X, 4 * Y + 2)
    np.testing.assert_allclose(moved.predict(queries), 4 * standardised.predict(queries) + 2, rtol=1e-3, atol=1e-3)
