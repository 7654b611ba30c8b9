"""Arrays, settings and units as they come: equal results, or an error that says where and what to do."""

import contextlib
import warnings

import numpy as np
import pandas
import pytest
import sklearn
import torch
import xarray as xr
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_validate
from standin import small_network
from synthetic import make_responses

import braincl
from braincl.errors import ResponseError
from braincl.estimators.base import standardiser
from braincl.estimators.population_mean import PopulationMean

ESTIMATORS = [
    braincl.RidgeCV(), braincl.RidgeCV(per_voxel=False), PopulationMean(), braincl.PriorRidge(),
    braincl.InContextEncoder(small_network()),
]  # fmt: skip
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)


@pytest.fixture
def arrays():
    dataset = make_responses()
    X, Y = dataset["embedding"].values, dataset["response"].values
    return X[:30], Y[:30], X[30:]


def predictions(estimator, X, Y, queries):
    return np.stack(clone(estimator).fit(X, Y).predict(queries, return_std=True))


@contextlib.contextmanager
def float64_by_default():
    torch.set_default_dtype(torch.float64)
    yield
    assert torch.get_default_dtype() == torch.float64
    torch.set_default_dtype(torch.float32)


@every_estimator
@pytest.mark.parametrize(
    "form",
    [
        lambda a: a[::-1].copy()[::-1],  # negative strides
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a.astype(">f4").astype("f4"),
        lambda a: np.ma.array(a, mask=False),
        torch.as_tensor,
        lambda a: torch.as_tensor(a).t().contiguous().t(),
        lambda a: xr.DataArray(a, dims=("image", "x")),
    ],
)
def test_the_same_numbers_give_the_same_predictions(estimator, arrays, form):
    X, Y, queries = arrays
    found = predictions(estimator, form(X), form(Y), form(queries))
    np.testing.assert_array_equal(found, predictions(estimator, X, Y, queries))


@every_estimator
def test_read_only_arrays_and_data_frames(estimator, arrays):
    X, Y, queries = arrays
    expected = predictions(estimator, X, Y, queries)
    for values in (X, Y, queries):
        values.flags.writeable = False
    np.testing.assert_array_equal(predictions(estimator, X, Y, queries), expected)
    framed = [pandas.DataFrame(values) for values in (X, Y, queries)]
    np.testing.assert_array_equal(predictions(estimator, *framed), expected)


@every_estimator
@pytest.mark.parametrize(
    "around", [float64_by_default, lambda: torch.autocast("cpu", dtype=torch.bfloat16), lambda: torch.device("meta")]
)
def test_what_is_set_elsewhere_in_torch_changes_nothing(estimator, arrays, around):
    expected = predictions(estimator, *arrays)
    with around():
        found = predictions(estimator, *arrays)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("around", [float64_by_default, lambda: torch.device("meta")])
def test_what_is_set_elsewhere_in_torch_does_not_change_what_is_loaded(arrays, around):
    expected = braincl.InContextEncoder().fit(*arrays[:2]).predict(arrays[2])
    with around():
        encoder = braincl.InContextEncoder.from_pretrained()
        found = encoder.fit(*arrays[:2]).predict(arrays[2])
    assert {tensor.dtype for tensor in encoder.network.state_dict().values()} == {torch.float32}
    np.testing.assert_array_equal(found, expected)


@every_estimator
def test_responses_in_raw_scanner_units(estimator, arrays):
    X, Y, queries = arrays
    raw = Y * 10 + np.float32(1e5)  # in float32: rounded to multiples of 1/128
    shifted = (raw.astype("f8") - 1e5) / 10
    mean, std = predictions(estimator, X, raw, queries)
    expected, expected_std = predictions(estimator, X, shifted.astype("f4"), queries)
    spread = 10 * Y.std(axis=0)
    np.testing.assert_array_less(np.abs(mean - (1e5 + 10 * expected)) / spread, 1e-3)
    np.testing.assert_allclose(std, 10 * expected_std, rtol=1e-3)


@every_estimator
@pytest.mark.parametrize("scale", [2.0**-84, 2.0**-110, 2.0**100, 2.0**84])  # about 5e-26, 8e-34, 1e30, 2e25
def test_a_voxel_in_tiny_or_huge_units_is_like_the_others(estimator, arrays, scale):
    X, Y, queries = arrays
    scales = np.where(np.arange(7) == 3, np.float32(scale), np.float32(1))
    found, expected = predictions(estimator, X, Y * scales, queries), predictions(estimator, X, Y, queries)
    if getattr(estimator, "per_voxel", True):
        np.testing.assert_allclose(found / scales, expected, rtol=1e-5, atol=1e-5)
    elif scale > 1:  # one alpha by the error of all voxels: that of the largest units decides
        shared, alone = clone(estimator).fit(X, Y * scales).alpha_, braincl.RidgeCV().fit(X, Y[:, 3]).alpha_
        np.testing.assert_array_equal(shared, np.tile(alone, 7))
        assert np.isfinite(found).all()


@every_estimator
@pytest.mark.parametrize("bad", [1e-38, 1e37])
def test_a_voxel_beyond_the_range_of_numbers_is_named_and_the_others_do_without_it(estimator, arrays, bad):
    X, Y, queries = arrays
    spoilt = Y.copy()
    spoilt[:, [2, 5]] *= np.float32(bad)
    rest = [0, 1, 3, 4, 6]
    with pytest.warns(UserWarning, match=r"voxel 2 of 7 is beyond the range of numbers.*, 2 such voxels.*are NaN"):
        fitted = clone(estimator).fit(X, spoilt)
    found = np.stack(fitted.predict(queries, return_std=True))
    assert np.isnan(found[..., [2, 5]]).all()
    np.testing.assert_array_equal(fitted.unusable_voxels_, np.isin(np.arange(7), (2, 5)))
    assert not fitted.constant_voxels_.any()
    np.testing.assert_allclose(found[..., rest], predictions(estimator, X, Y[:, rest], queries), rtol=1e-5, atol=1e-5)
    assert np.isnan(fitted.coef_[[2, 5]]).all()


def test_standardising_is_exact_in_any_unit():
    values = np.random.default_rng(0).standard_normal((50, 6))
    units = np.array([1, 2.0**-400, 2.0**400, 2.0**-900, 2.0**900, 1])
    offset = np.array([0, 0, 0, 0, 0, 1e7])
    found = standardiser(values * units + offset, np.float64)
    plain = standardiser(values + offset, np.float64)
    np.testing.assert_array_equal(found.scale / units, plain.scale)
    np.testing.assert_array_equal(found(values * units + offset), plain(values + offset))
    np.testing.assert_allclose(plain.scale, (values + offset).std(axis=0), rtol=1e-13)
    np.testing.assert_array_equal(found.undo(found(values * units + offset))[:, 0], plain.undo(plain(values))[:, 0])


@every_estimator
def test_messages_say_which_voxel_or_image_how_many_and_what_to_do(estimator, arrays):
    X, Y, _ = arrays
    Y = np.tile(Y, (1, 3))  # 21 voxels
    holed, more, endless = Y.copy(), Y.copy(), X.copy()
    holed[[4, 9, 11], 17] = np.nan
    more[3, [6, 8]], more[7, 6] = np.nan, np.nan
    endless[12, 3] = np.inf
    masked = np.ma.array(Y, mask=np.arange(30)[:, None] == [[4] * 21])
    for bad_X, bad_Y, message in [
        (X, holed, r"^y: voxel 17 of 21 holds 3 NaN: leave out such voxels, or the images where they are missing$"),
        (X, more, r"^y: voxel 6 of 21 holds 2 NaN, 1 other voxels hold some: leave out"),
        (X, np.where(np.isnan(holed), np.inf, holed), r"voxel 17 of 21 holds 3 inf"),
        (X, holed[:, 17], r"^y: voxel 0 of 1 holds 3 NaN"),
        (endless, Y, r"^X: image 12 of 30 holds 1 inf \(infinity\): leave out such images$"),
        (X, Y.T, r"30 images in X, 21 in y; y of shape \(21, 30\) is transposed, .*give y\.T"),
        (X[:-1], Y, r"inconsistent: 29 images in X, 30 in y; give one row for each image in both"),
        (X, masked, r"y is a masked array with 21 masked values, in 1 of 30 rows; leave these images out"),
        (np.ma.array(X, mask=X > 1), Y, r"X is a masked array with"),
        (make_responses(), Y, r"X is a whole Dataset; hand over one of its arrays: X\.response\.values, X\.embedding"),
        (X, make_responses(), r"y is a whole Dataset"),
        (torch.as_tensor(X).requires_grad_(), Y, r"X is a tensor that requires grad, .* give X\.detach\(\)"),
        (X, torch.as_tensor(Y).to_sparse(), r"y is a tensor of layout torch\.sparse_coo"),
        (sparse.csr_array(X), Y, r"X is a sparse matrix; give a dense array: X\.toarray\(\)"),
        (X, None, "requires y to be passed"),
        (X.astype(complex), Y, r"^Complex data not supported$"),
        (X[:, 0], Y, r"^Expected 2D array, got 1D array instead: Reshape your data .*single sample\.$"),
        (X, 3.0, "scalar"),
        (X, {"a": 1}, "not 'dict'"),
    ]:
        with pytest.raises(ResponseError, match=message) as caught:
            clone(estimator).fit(bad_X, bad_Y)
        assert "\n" not in str(caught.value)
    fitted = clone(estimator).fit(X, Y)
    for call in (fitted.predict, lambda values: fitted.score(values, Y)):
        with pytest.raises(ResponseError, match=r"^X: image 12 of 30 holds 1 inf"):
            call(endless)
    with pytest.raises(ResponseError, match="X is a whole Dataset"):
        fitted.predict(make_responses())


def test_a_clone_keeps_the_card_of_the_model(arrays):
    loaded = braincl.InContextEncoder.from_pretrained("demo", voxel_batch=3)
    assert len(loaded.training_subjects) > 0
    for other in (clone(loaded), clone(clone(loaded)), clone(loaded).set_params(voxel_batch=7)):
        assert other.training_subjects == loaded.training_subjects
        assert other.backbone == loaded.backbone
        assert other.prior_reason == loaded.prior_reason
    assert braincl.InContextEncoder().training_subjects == braincl.InContextEncoder.from_pretrained().training_subjects
    other = clone(loaded).set_params(network=small_network())
    assert other.training_subjects == []


def test_groups_reach_the_splitter(arrays):
    X, Y, queries = arrays
    sessions = np.arange(30) % 5
    grouped = braincl.RidgeCV(cv=GroupKFold(5)).fit(X, Y, groups=sessions)
    folds = [(np.flatnonzero(sessions != s), np.flatnonzero(sessions == s)) for s in range(5)]
    by_hand = braincl.RidgeCV(cv=folds).fit(X, Y)
    np.testing.assert_array_equal(grouped.alpha_, by_hand.alpha_)
    np.testing.assert_allclose(grouped.residual_std_, by_hand.residual_std_, rtol=1e-6)
    np.testing.assert_array_equal(grouped.predict(queries), by_hand.predict(queries))
    with pytest.raises(ResponseError, match=r"cannot split 30 images: .*give them to fit\(X, y, groups=\.\.\.\)"):
        braincl.RidgeCV(cv=GroupKFold(5)).fit(X, Y)
    with pytest.raises(ResponseError, match="cannot split 30 images"):
        braincl.RidgeCV(cv=GroupKFold(5)).fit(X, Y, groups=np.zeros(30))
    with pytest.raises(ResponseError, match=r"cv=folds cannot split"):
        braincl.RidgeCV(cv="folds").fit(X, Y)


@every_estimator
def test_metadata_routing_changes_nothing(estimator, arrays):
    X, Y, _ = arrays
    expected = cross_val_predict(estimator, X, Y, cv=3)
    with sklearn.config_context(enable_metadata_routing=True):
        np.testing.assert_array_equal(cross_val_predict(estimator, X, Y, cv=3, params={}), expected)


def test_metadata_routing_hands_groups_on(arrays):
    X, Y, _ = arrays
    sessions = np.arange(30) % 6
    with sklearn.config_context(enable_metadata_routing=True), warnings.catch_warnings():
        estimator = braincl.RidgeCV(cv=GroupKFold(2)).set_fit_request(groups=True)
        found = cross_validate(
            estimator, X, Y, cv=GroupKFold(3), params={"groups": sessions}, scoring=braincl.mean_explained_variance,
            return_estimator=True, return_indices=True, error_score="raise",
        )  # fmt: skip
    for fitted, rows in zip(found["estimator"], found["indices"]["train"], strict=True):
        by_hand = braincl.RidgeCV(cv=GroupKFold(2)).fit(X[rows], Y[rows], groups=sessions[rows])
        np.testing.assert_array_equal(fitted.coef_, by_hand.coef_)
