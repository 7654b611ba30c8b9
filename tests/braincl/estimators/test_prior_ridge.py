"""Population-prior ridge against the same written out with dense matrices."""

import numpy as np

from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.noise_levels import SIGNAL_SHARES
from braincl.models.prior import Prior


def test_prior_ridge_is_ridge_in_the_metric_of_the_prior():
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((19, 6)), rng.standard_normal(19)
    root = rng.standard_normal((6, 6))
    prior = Prior(np.zeros(1), rng.standard_normal((1, 6)) * 0.2, (root @ root.T / 20)[None])
    fitted = PriorRidge(prior).fit(X, y)
    share, A, z = prior.shares @ SIGNAL_SHARES, X - X.mean(axis=0), (y - y.mean()) / y.std()
    best = (-np.inf, None)
    basis = np.linalg.eigh(np.eye(19) - 1 / 19)[1][:, 1:]
    for noise in np.geomspace(0.02, 2, 30):
        spread = basis.T @ (share * A @ prior.covariances[0] @ A.T + noise * np.eye(19)) @ basis
        rest = basis.T @ (z - np.sqrt(share) * A @ prior.means[0])
        density = -0.5 * rest @ np.linalg.solve(spread, rest) - 0.5 * np.linalg.slogdet(spread)[1]
        gain = share * prior.covariances[0] @ A.T @ basis @ np.linalg.solve(spread, rest)
        best = max(best, (density, noise), key=lambda pair: pair[0]) if best[1] is not None else (density, noise)
        if best[1] == noise:
            weights = y.std() * (np.sqrt(share) * prior.means[0] + gain)
            inner = share * prior.covariances[0] @ A.T @ basis
            left = share * prior.covariances[0] - inner @ np.linalg.solve(spread, inner.T)
            variance = noise * (1 + 1 / 19)
    np.testing.assert_allclose(fitted.coef_[0], weights, rtol=1e-6)
    queries = rng.standard_normal((4, 6))
    mean, std = fitted.predict(queries, return_std=True)
    np.testing.assert_allclose(mean, y.mean() + (queries - X.mean(axis=0)) @ weights, rtol=1e-6)
    centred = queries - X.mean(axis=0)
    expected = y.std() * np.sqrt((centred @ left * centred).sum(axis=1) + variance)
    np.testing.assert_allclose(std, expected, rtol=1e-6)
