"""The population prior as a value: normalisation, shrinkage, spectra."""

import numpy as np
import pytest
from standin import make_prior

from braincl.models.prior import isotropic_prior


def test_a_priors_spectra_are_those_of_its_covariances():
    prior = make_prior()
    values, vectors = prior.spectra[0]
    np.testing.assert_allclose(vectors * values @ vectors.T, prior.covariances[0], atol=1e-12)
    assert (values > 0).all()


def test_shrinkage_keeps_the_trace_and_ends_at_the_identity():
    prior = make_prior(6)
    assert np.trace(prior.shrunk(0.3).covariances[0]) == pytest.approx(np.trace(prior.covariances[0]))
    np.testing.assert_array_equal(prior.shrunk(0.0).covariances, prior.covariances)
    level = np.trace(prior.covariances[0]) / 6
    np.testing.assert_allclose(prior.shrunk(1.0).covariances[0], level * np.eye(6), atol=1e-12)


def test_normalised_priors_have_unit_response_variance():
    spread = np.cov(np.random.default_rng(0).standard_normal((40, 6)).T)
    prior = make_prior(6).normalised(spread)
    mean, covariance = prior.means[0], prior.covariances[0]
    assert np.trace(covariance @ spread) + mean @ spread @ mean == pytest.approx(1)
    ratio = mean / make_prior(6).means[0]  # what is kept: all directions, and mean against spread
    np.testing.assert_allclose(ratio, ratio[0])
    np.testing.assert_allclose(covariance, make_prior(6).covariances[0] * ratio[0] ** 2)


def test_an_isotropic_prior_prefers_no_direction():
    prior = isotropic_prior(5, 0.3)
    assert prior.n_features == 5
    np.testing.assert_array_equal(prior.means, np.zeros((1, 5)))
    np.testing.assert_array_equal(prior.covariances, 0.3 * np.eye(5)[None])
    assert prior.shares.sum() == pytest.approx(1)
