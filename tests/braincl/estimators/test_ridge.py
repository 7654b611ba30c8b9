"""Ridge against scikit-learn, and the population mean against its formula."""

import numpy as np
import pytest
import torch
from himalaya.ridge import RidgeCV as HimalayaRidgeCV
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold

from braincl.data.splits import grouped_folds
from braincl.errors import ResponseError
from braincl.estimators.ridge import Decomposition, RidgeCV, cross_validated_errors, decompose

ALPHAS = [0.1, 1.0, 10.0, 100.0, 1000.0]


def data(images, features, voxels=6, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((images, features)) + 2
    noise = np.linspace(0.1, 8, voxels)
    Y = (
        X @ rng.standard_normal((features, voxels)) / np.sqrt(features)
        + noise * rng.standard_normal((images, voxels))
        + 5
    )
    return X, Y


SHAPES = pytest.mark.parametrize(("images", "features"), [(23, 40), (61, 9), (30, 30)])


@SHAPES
def test_each_voxel_equals_grid_search_in_scikit_learn(images, features):
    X, Y = data(images, features)
    fitted = RidgeCV(ALPHAS, cv=4).fit(X, Y)
    assert len(set(fitted.alpha_)) > 1
    for voxel in range(Y.shape[1]):
        search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, cv=KFold(4), scoring="neg_mean_squared_error")
        search.fit(X, Y[:, voxel])
        assert fitted.alpha_[voxel] == search.best_params_["alpha"]
        np.testing.assert_allclose(fitted.coef_[voxel], search.best_estimator_.coef_, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(fitted.intercept_[voxel], search.best_estimator_.intercept_, rtol=1e-8)
        np.testing.assert_allclose(fitted.residual_std_[voxel] ** 2, -search.best_score_, rtol=1e-8)


@SHAPES
def test_all_voxels_equal_himalaya(images, features):
    X, Y = data(images, features)
    fitted = RidgeCV(ALPHAS, cv=4).fit(X, Y)
    other = HimalayaRidgeCV(alphas=ALPHAS, fit_intercept=True, cv=KFold(4), solver_params={"warn": False}).fit(X, Y)
    np.testing.assert_allclose(fitted.alpha_, other.best_alphas_)
    np.testing.assert_allclose(fitted.coef_.T, other.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(fitted.predict(X), other.predict(X), rtol=1e-6, atol=1e-8)


def test_one_shared_alpha_equals_scikit_learn():
    X, Y = data(40, 15)
    fitted = RidgeCV(ALPHAS, cv=5, per_voxel=False).fit(X, Y)
    search = GridSearchCV(Ridge(), {"alpha": ALPHAS}, cv=KFold(5), scoring="neg_mean_squared_error").fit(X, Y)
    assert set(fitted.alpha_) == {search.best_params_["alpha"]}
    np.testing.assert_allclose(fitted.coef_, search.best_estimator_.coef_, rtol=1e-8, atol=1e-10)


@SHAPES
def test_decomposition_solves_the_normal_equations(images, features):
    X, Y = data(images, features)
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    parts = Decomposition(*(part.numpy() for part in decompose(X, torch.as_tensor(Y))))
    for alpha in (0.3, 70.0):
        weights = (parts.synthesis / (parts.eigenvalues + alpha)) @ parts.analysis @ Y
        np.testing.assert_allclose(weights, np.linalg.solve(X.T @ X + alpha * np.eye(features), X.T @ Y), rtol=1e-7)


def test_cross_validated_errors_equal_refits():
    X, Y = data(20, 33)
    folds = list(KFold(3).split(X))
    errors = cross_validated_errors(X, torch.as_tensor(Y), np.array(ALPHAS), folds)
    for index, alpha in enumerate(ALPHAS):
        refits = [np.square(Y[out] - Ridge(alpha=alpha).fit(X[train], Y[train]).predict(X[out])).mean(axis=0)
                  for train, out in folds]  # fmt: skip
        np.testing.assert_allclose(errors[index], np.mean(refits, axis=0), rtol=1e-8)


def test_float32_stays_and_agrees():
    X, Y = data(50, 80, voxels=9)
    single, double = RidgeCV().fit(X.astype("f4"), Y.astype("f4")), RidgeCV().fit(X, Y)
    assert single.coef_.dtype == single.intercept_.dtype == single.predict(X.astype("f4")).dtype == np.float32
    np.testing.assert_allclose(single.predict(X.astype("f4")), double.predict(X), rtol=1e-3, atol=1e-3)


def test_default_alphas_do_not_depend_on_the_scale_of_the_embedding():
    X, Y = data(30, 50)
    np.testing.assert_allclose(RidgeCV().fit(X, Y).predict(X), RidgeCV().fit(1e-4 * X, Y).predict(1e-4 * X), rtol=1e-7)


def test_affine_change_of_responses_changes_predictions_by_it():
    X, Y = data(30, 50)
    scale, offset = np.linspace(0.5, 30, 6), np.linspace(-100, 50, 6)
    (mean, std), (changed, changed_std) = (
        RidgeCV().fit(X, values).predict(X, return_std=True) for values in (Y, Y * scale + offset)
    )
    np.testing.assert_allclose(changed, mean * scale + offset, rtol=1e-7)
    np.testing.assert_allclose(changed_std, std * scale, rtol=1e-7)


@pytest.mark.parametrize("images", [2, 3, 4])
def test_tiny_contexts_and_constant_voxels(images):
    X, Y = data(images, 10)
    Y[:, 2] = 0.1
    fitted = RidgeCV().fit(X, Y)
    mean, std = fitted.predict(data(5, 10, seed=1)[0], return_std=True)
    assert np.isfinite(mean).all()
    assert np.isfinite(std).all()
    np.testing.assert_array_equal(mean[:, 2], 0.1)
    np.testing.assert_array_equal(std[:, 2], 0)
    np.testing.assert_array_equal(fitted.constant_voxels_, np.arange(6) == 2)


def test_equal_embeddings_give_the_mean():
    _, Y = data(12, 4)
    fitted = RidgeCV().fit(np.ones((12, 4)), Y)
    np.testing.assert_allclose(fitted.predict(np.ones((3, 4))), np.tile(Y.mean(axis=0), (3, 1)))


def test_the_standard_deviation_is_that_of_new_responses():
    X, Y = data(400, 12, voxels=20)
    fitted = RidgeCV().fit(X[:200], Y[:200])
    mean, std = fitted.predict(X[200:], return_std=True)
    inside = (np.abs(Y[200:] - mean) < 1.645 * std).mean()
    assert 0.87 < inside < 0.93


@pytest.mark.parametrize("alphas", [[], [0.0], [-1.0], [np.nan]])
def test_bad_alphas_are_refused(alphas):
    with pytest.raises(ResponseError, match="positive"):
        RidgeCV(alphas).fit(*data(10, 4))


def test_reference_on_real_recordings(shared_data):
    """The published-in-design reference at n = 100, test animal PE; a loose band, since splits differ."""
    import braincl
    from braincl.evaluation.splits import context_draws
    from setcore.evaluation.metrics import pearson_r

    dataset = braincl.open_responses(shared_data / "v4_macaque" / "v4_PE_201025.nc")
    X, Y = dataset["embedding"].values, dataset["response"].values
    splits = context_draws(dataset["image_id"].values, [100], 5, 300, 0)
    r = [
        pearson_r(Y[splits.test], RidgeCV().fit(X[c], Y[c]).predict(X[splits.test])).mean()
        for c in splits.contexts[100]
    ]
    assert np.mean(r) == pytest.approx(0.380, abs=0.02)


def test_groups_stay_whole_where_folds_are_a_number():
    """As with a splitter of those folds; a group of its own for each image keeps nothing together."""
    rng = np.random.default_rng(4)
    X, Y = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))
    groups = np.repeat([5, 3, 9, 1, 7, 2], [3, 7, 4, 6, 5, 5])
    folds = [(np.setdiff1d(np.arange(30), fold), fold) for fold in grouped_folds(30, 5, groups)]
    one, other = RidgeCV(device="cpu").fit(X, Y, groups), RidgeCV(cv=folds, device="cpu").fit(X, Y)
    np.testing.assert_array_equal(one.residual_std_, other.residual_std_)
    assert (one.residual_std_ != RidgeCV(device="cpu").fit(X, Y).residual_std_).all()
    for wrong, message in ((np.arange(30), "one member"), (np.zeros(30), "one group"), (groups / np.nan, "30 of 30")):
        with pytest.raises(ResponseError, match=message):
            RidgeCV(device="cpu").fit(X, Y, wrong)
