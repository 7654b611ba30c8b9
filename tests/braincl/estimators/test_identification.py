"""Identification and decoding: the mathematics against dense matrices and known truth, and the estimator's methods."""

import copy
import dataclasses

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from standin import small_network
from synthetic import make_responses

from braincl import InContextEncoder, PriorRidge
from braincl.data.splits import grouped_folds
from braincl.errors import ResponseError
from braincl.estimators.decoding import Decoder
from braincl.estimators.identification import (
    LEAST_PICTURES,
    SHRINKAGES,
    LeftOutContext,
    ResponseNoise,
    above_others,
    best_shrinkage,
    better_method,
    correlation_scores,
    fit_noise,
    gaussian_scores,
    in_top,
    leave_out,
    left_out_scores,
    posterior_embedding,
    posterior_of_candidates,
    scores_by,
    shrunk_noise,
)

VOXELS = 6


def a_noise(rng, voxels=VOXELS):
    noise = ResponseNoise(
        rng.uniform(0.5, 2, voxels), np.linalg.qr(rng.standard_normal((voxels, 2)))[0], rng.uniform(0, 5, 2)
    )
    inner = np.eye(voxels) + noise.axes * noise.gain @ noise.axes.T
    return noise, inner * np.outer(noise.scale, noise.scale)


def dense(noise):
    return (np.eye(len(noise.scale)) + noise.axes * noise.gain @ noise.axes.T) * np.outer(noise.scale, noise.scale)


def test_gaussian_scores_are_the_log_density_of_the_whole_covariance():
    rng = np.random.default_rng(0)
    noise, covariance = a_noise(rng)
    responses, predicted = rng.standard_normal((5, VOXELS)), rng.standard_normal((4, VOXELS))
    expected = [[multivariate_normal.logpdf(r, mean, covariance) for mean in predicted] for r in responses]
    np.testing.assert_allclose(gaussian_scores(responses, predicted, noise), expected, rtol=1e-10)


@pytest.mark.parametrize("images", [4, 200])
def test_noise_is_the_covariance_shrunk_towards_its_diagonal(images):
    rng = np.random.default_rng(2)
    residuals = rng.standard_normal((images, 9)) + 0.7 * rng.standard_normal((images, 1)) * rng.choice([-2.0, 1], 9)
    sample = residuals.T @ residuals / images
    for share, noise in zip((0.3, 1), shrunk_noise(residuals, (0.3, 1)), strict=True):
        expected = share * np.diag(np.diag(sample)) + (1 - share) * sample
        np.testing.assert_allclose(dense(noise), expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(noise.log_determinant, np.linalg.slogdet(dense(noise))[1])
        white = noise.whiten(np.eye(9))
        np.testing.assert_allclose(white @ white.T, np.linalg.inv(dense(noise)), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("residuals", [np.zeros((9, 3)), np.ones((9, 3)), np.arange(9.0)[:, None]])
def test_noise_of_degenerate_residuals_is_finite(residuals):
    noise = fit_noise(LeftOutContext(residuals, np.zeros_like(residuals), grouped_folds(9, 3)))
    scores = gaussian_scores(residuals[:4], residuals, noise)
    assert np.isfinite(scores).all()


def test_correlation_does_not_see_gain_and_offset_and_is_numpys():
    rng = np.random.default_rng(3)
    responses, predicted = rng.standard_normal((5, VOXELS)), rng.standard_normal((4, VOXELS))
    scores = correlation_scores(responses, predicted)
    np.testing.assert_allclose(scores, np.corrcoef(responses, predicted)[:5, 5:], rtol=1e-12)
    np.testing.assert_allclose(correlation_scores(3 * responses + 1, 0.2 * predicted - 7), scores, rtol=1e-10)
    assert (correlation_scores(np.ones((2, VOXELS)), predicted) == 0).all()


def test_ranks_and_ties():
    scores = np.array([[3.0, 2, 1, 0], [1, 1, 1, 1], [0, 5, 5, 1]])
    right = np.array([0, 2, 1])
    np.testing.assert_allclose(above_others(scores, right), [1, 0.5, 2.5 / 3])
    np.testing.assert_allclose(in_top(scores, right, 1), [1, 0.25, 0.5])
    np.testing.assert_allclose(in_top(scores, right, 2), [1, 0.5, 1])
    np.testing.assert_allclose(in_top(scores, right, 5), 1)


def test_every_picture_is_left_out_once():
    seen = []

    def predict(rest, asked):
        assert not set(rest) & set(asked)
        assert len(rest) + len(asked) == 23
        seen.extend(asked)
        return np.repeat(asked[:, None], 2, axis=1)

    found = leave_out(predict, np.zeros((23, 2)))
    assert sorted(seen) == list(range(23))
    np.testing.assert_array_equal(found.predicted, np.repeat(np.arange(23)[:, None], 2, axis=1))
    with pytest.raises(ResponseError, match=f"has 7 pictures; .* needs {LEAST_PICTURES} or more"):
        leave_out(predict, np.zeros((7, 2)))


def left_out_context(rng, gain):
    """Responses of 40 voxels that are predicted but for what they share, and noise of their own."""
    signal = rng.standard_normal((200, 40))
    common = gain * rng.standard_normal((200, 1)) * rng.choice([-1.0, 1.0], 40)
    responses = signal + common + 2 * rng.standard_normal((200, 40))
    return LeftOutContext(responses, 0.5 * signal, grouped_folds(200, 10))


def test_the_better_method_is_the_one_that_identifies_more():
    rng = np.random.default_rng(4)
    context = left_out_context(rng, gain=3)
    scaled = left_out_context(rng, gain=0)
    scaled = dataclasses.replace(
        scaled, responses=scaled.responses * rng.lognormal(0, 1.5, (200, 1))
    )  # a gain of each response
    asked = np.arange(200)
    for given in (context, scaled):
        found = left_out_scores(given)
        likelihood = found[best_shrinkage(found)]
        for fold in given.folds[:2]:  # the noise is that of other folds
            rest = np.setdiff1d(asked, fold)
            noise = shrunk_noise((given.responses - given.predicted)[rest], SHRINKAGES)[best_shrinkage(found)]
            expected = gaussian_scores(given.responses[fold], given.predicted, noise)
            np.testing.assert_allclose(likelihood[fold], expected, rtol=1e-12)
        found = {"gaussian": likelihood, "correlation": correlation_scores(given.responses, given.predicted)}
        means = {method: above_others(scores, asked).mean() for method, scores in found.items()}
        assert better_method(given) == max(means, key=means.get)
        both = given.responses[:9], given.predicted
        np.testing.assert_array_equal(scores_by("auto", *both, given), scores_by(better_method(given), *both, given))
    assert {better_method(context), better_method(scaled)} == {"gaussian", "correlation"}
    with pytest.raises(ResponseError, match="must be one of auto, gaussian, correlation"):
        scores_by("nearest", context.responses, context.predicted, context)


def test_shared_noise_is_told_from_the_picture():
    """A component that all voxels share hides the picture from independent voxels more than from the likelihood."""
    context = left_out_context(np.random.default_rng(5), gain=3)
    right = np.arange(200)
    noise = fit_noise(context)
    independent = ResponseNoise(np.sqrt(np.diag(dense(noise))), noise.axes, 0 * noise.gain)
    top = [
        in_top(gaussian_scores(context.responses, context.predicted, n), right, 1).mean() for n in (noise, independent)
    ]
    assert top[0] > top[1] + 0.1


def test_the_posterior_mean_is_bayes_rule_in_closed_form():
    from sklearn.covariance import ledoit_wolf

    rng = np.random.default_rng(6)
    noise, covariance = a_noise(rng)
    pictures, coef, bias = rng.standard_normal((30, 9)), rng.standard_normal((VOXELS, 9)), rng.standard_normal(VOXELS)
    responses = rng.standard_normal((4, VOXELS))
    prior, mean = ledoit_wolf(pictures)[0], pictures.mean(axis=0)
    gain = prior @ coef.T @ np.linalg.inv(coef @ prior @ coef.T + covariance)
    expected = mean + (responses - coef @ mean - bias) @ gain.T
    np.testing.assert_allclose(posterior_embedding(responses, coef, bias, noise, pictures), expected, rtol=1e-8)


def test_probabilities_of_candidates_sum_to_one_however_far_apart():
    probabilities = posterior_of_candidates(np.array([[0.0, -1e4, 2.0], [5.0, 5.0, 5.0]]))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(probabilities[1], 1 / 3)


@pytest.fixture(scope="module")
def subject():
    dataset = make_responses(images=70, voxels=11, noise=0.3)
    return dataset["embedding"].values, dataset["response"].values


@pytest.fixture(scope="module")
def encoder(subject):
    X, Y = subject
    return InContextEncoder(small_network()).fit(X[:40], Y[:40])


def test_the_encoder_identifies_and_decodes(subject, encoder):
    X, Y = subject
    scores = encoder.identify(Y[40:], X[40:])
    assert scores.shape == (30, 30)
    assert (scores.argmax(axis=1) == np.arange(30)).mean() > 0.8
    decoded, among = encoder.decode(Y[40:]), encoder.decode(Y[40:], X[40:])
    assert decoded.dtype == among.dtype == np.float32
    error = [
        np.square(found - X[40:]).sum() for found in (decoded, among, np.broadcast_to(X[:40].mean(axis=0), (30, 12)))
    ]
    assert error[0] < 0.7 * error[2]
    assert error[1] < error[0]


def test_scores_follow_candidates_and_voxels_and_no_units(subject, encoder):
    X, Y = subject
    scores = encoder.identify(Y[40:], X[40:], "gaussian")
    order = np.random.default_rng(0).permutation(30)
    np.testing.assert_allclose(encoder.identify(Y[40:], X[40:][order], "gaussian"), scores[:, order], rtol=1e-6)
    changed = InContextEncoder(small_network()).fit(X[:40], 5 * Y[:40] - 40)
    np.testing.assert_allclose(changed.identify(5 * Y[40:] - 40, X[40:], "gaussian"), scores, rtol=1e-2, atol=1e-2)
    some = encoder.identify(Y[40:], X[40:], "gaussian", voxels=[1, 4, 7])
    mask = np.isin(np.arange(11), [1, 4, 7])
    np.testing.assert_array_equal(some, encoder.identify(Y[40:], X[40:], "gaussian", voxels=mask))
    assert np.abs(some - scores).max() > 1


def test_constant_voxels_say_nothing(subject):
    X, Y = subject
    flat = Y.copy()
    flat[:40, [2, 5]] = 7.0
    encoder = InContextEncoder(small_network()).fit(X[:40], flat[:40])
    without = InContextEncoder(small_network()).fit(X[:40], np.delete(Y, [2, 5], axis=1)[:40])
    expected = without.identify(np.delete(Y, [2, 5], axis=1)[40:], X[40:], "gaussian")
    np.testing.assert_allclose(encoder.identify(Y[40:], X[40:], "gaussian"), expected, rtol=1e-3, atol=1e-3)
    assert np.isfinite(encoder.decode(Y[40:])).all()
    with pytest.raises(ResponseError, match="no chosen voxel varies"):
        encoder.identify(Y[40:], X[40:], voxels=[2, 5])


def test_what_was_left_out_is_found_once_and_not_copied(subject, encoder, monkeypatch):
    X, Y = subject
    encoder.identify(Y[40:], X[40:])
    monkeypatch.setattr(InContextEncoder, "fit", None)
    encoder.identify(Y[40:50], X[40:])
    assert copy.deepcopy(encoder)._decoder is None


def test_groups_are_left_out_whole(subject, monkeypatch):
    X, Y = subject
    runs = np.repeat(np.arange(8), 5)
    encoder = InContextEncoder(small_network()).fit(X[:40], Y[:40])
    expected = Decoder(encoder, X[:40], Y[:40], runs)
    scores = encoder.identify(Y[40:], X[40:], "gaussian", groups=runs)
    np.testing.assert_allclose(scores, expected.identify(Y[40:], X[40:], "gaussian"), rtol=1e-3, atol=1e-3)
    decoded = encoder.decode(Y[40:], groups=runs.tolist())
    np.testing.assert_allclose(decoded, expected.decode(Y[40:]), rtol=1e-3, atol=1e-3)
    fit = InContextEncoder.fit
    fitted = []
    monkeypatch.setattr(InContextEncoder, "fit", lambda self, X, y: (fitted.append(len(X)), fit(self, X, y))[1])
    encoder.identify(Y[40:], X[40:], groups=runs)
    assert not fitted  # known already
    alone = encoder.identify(Y[40:], X[40:], "gaussian")
    assert len(fitted) == 10  # folds of pictures
    assert np.abs(alone - scores).max() > 1e-2
    with pytest.raises(ResponseError, match=r"groups have shape \(39,\), there are 40 images"):
        encoder.identify(Y[40:], X[40:], groups=runs[:39])


def test_any_encoder_identifies(subject):
    X, Y = subject
    decoder = Decoder(PriorRidge().fit(X[:40], Y[:40]), X[:40], Y[:40])
    scores = decoder.identify(Y[40:], X[40:], "correlation")
    assert (scores.argmax(axis=1) == np.arange(30)).mean() > 0.8
    decoder.encoder.coef_ = None
    with pytest.raises(ResponseError, match="PriorRidge has no weights to invert; give the pictures"):
        decoder.decode(Y[40:])


def test_wrong_input_names_both_sides(subject, encoder):
    X, Y = subject
    with pytest.raises(ResponseError, match=r"responses have shape \(30, 10\), the context has 11 voxels"):
        encoder.identify(Y[40:, :10], X[40:])
    for ask in (encoder.identify, encoder.decode):
        with pytest.raises(ResponseError, match=r"responses have shape \(0, 11\): there is none"):
            ask(Y[:0], X[40:])
    with pytest.raises(ResponseError, match="5 features, but InContextEncoder is expecting 12"):
        encoder.identify(Y[40:], X[40:, :5])
    with pytest.raises(ResponseError, match="there is 1 candidate"):
        encoder.identify(Y[40:], X[40:41])
    with pytest.raises(ResponseError, match="NaN"):
        encoder.identify(np.full((3, 11), np.nan), X[40:])
    with pytest.raises(ResponseError, match="voxels choose among the context's 11"):
        encoder.identify(Y[40:], X[40:], voxels=[11])


def test_shrinkage_is_what_gives_the_pictures_that_were_seen_the_highest_probability():
    """One component in all voxels asks for little shrinkage; independent noise and few pictures for much."""
    rng = np.random.default_rng(8)
    shared, own = left_out_context(rng, gain=5), left_out_context(rng, gain=0)
    few = LeftOutContext(own.responses[:30], own.predicted[:30], grouped_folds(30, 10))
    chosen = []
    for context in (shared, few):
        scores = left_out_scores(context)
        probabilities = [np.diagonal(posterior_of_candidates(found)) for found in scores]
        chosen.append(best_shrinkage(scores))
        assert chosen[-1] == np.argmax([np.log(found).sum() for found in probabilities])
    assert chosen[0] < chosen[1] == len(SHRINKAGES) - 1
