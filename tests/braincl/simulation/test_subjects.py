"""Simulated subjects: what they are said to be, and the demo's subject as it is shipped."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import braincl
from braincl.cli.main import main
from braincl.errors import ResponseError
from braincl.simulation.subjects import (
    _banded_rotation,
    _draw_weights,
    _principal_axes,
    category_prior,
    gaussian_prior,
    power_law_covariance,
    simulate_population,
    simulate_responses,
    simulate_subject,
    transplant_map,
    transplant_weights,
    with_truth,
)

IMAGES, FEATURES, VOXELS = 90, 11, 400
DEMO = Path(braincl.__file__).parent / "embedded" / "demo"


@pytest.fixture(scope="module")
def X():
    rng = np.random.default_rng(0)
    return rng.standard_normal((IMAGES, FEATURES)) @ rng.standard_normal((FEATURES, FEATURES)) + 2


def test_a_subject_is_a_valid_response_set_that_says_it_is_simulated(X, tmp_path):
    made = simulate_subject(X, gaussian_prior(X, seed=1), 7, seed=2, name="one", backbone="random")
    braincl.save_responses(made.dataset, tmp_path / "subject.nc")
    stored = braincl.open_responses(tmp_path / "subject.nc")
    assert stored.identical(made.dataset)
    assert dict(stored.sizes) == {"image": IMAGES, "voxel": 7, "feature": FEATURES}
    assert (stored.attrs["simulated"], stored.attrs["subject"]) == (1, "simulated one")


def test_the_same_seed_gives_the_same_subject_and_another_seed_another(X):
    prior = category_prior(X, seed=1)
    first, again, other = (simulate_subject(X, prior, 5, seed=seed, noise_rank=2) for seed in (3, 3, 4))
    assert first.dataset.identical(again.dataset)
    assert not np.allclose(first.dataset["response"], other.dataset["response"])


@pytest.mark.parametrize("repeats", [1, 4])
@pytest.mark.parametrize("noise_rank", [0, 3])
def test_signal_and_noise_are_as_strong_as_they_are_said_to_be(X, repeats, noise_rank):
    made = simulate_subject(X, gaussian_prior(X, seed=1), VOXELS, seed=5, repeats=repeats, noise_rank=noise_rank)
    np.testing.assert_allclose(made.signal, made.offset + (X - X.mean(axis=0)) @ made.weights.T)
    noise = (made.dataset["response"].values - made.signal) / (made.scale * np.sqrt(1 - made.share))
    assert abs(noise.var() - 1) < (0.08 if noise_rank else 0.03)  # 3 standard errors; patterns are few samples
    explained = made.signal.var(axis=0) / (made.signal.var(axis=0) + made.scale**2 * (1 - made.share))
    np.testing.assert_allclose(made.dataset["noise_ceiling"], explained, rtol=1e-5)
    assert made.share.min() >= 0.02
    assert made.share.max() <= 0.7


def test_trials_average_to_the_response_and_scatter_around_the_signal(X):
    made = simulate_subject(X, gaussian_prior(X, seed=1), VOXELS, seed=5, repeats=4)
    trials = made.dataset["response_trials"].values
    np.testing.assert_allclose(trials.mean(axis=1), made.dataset["response"], atol=1e-5)
    noise = (trials - made.signal[:, None]) / (2 * made.scale * np.sqrt(1 - made.share))  # a mean of 4 has half of it
    assert abs(noise.var() - 1) < 0.03


def test_a_noise_rank_correlates_the_noise_of_voxels(X):
    def correlation(noise_rank):
        made = simulate_subject(X, gaussian_prior(X, seed=1), 60, seed=5, noise_rank=noise_rank)
        r = np.corrcoef((made.dataset["response"].values - made.signal).T)
        return np.sqrt((r[np.triu_indices(60, 1)] ** 2).mean())

    assert correlation(0) == pytest.approx(1 / np.sqrt(IMAGES - 1), rel=0.05)
    assert correlation(1) > 0.25  # one pattern holds 30 % of every voxel's noise


@pytest.mark.parametrize("make", [gaussian_prior, category_prior])
def test_a_prior_has_mean_response_variance_one(X, make):
    prior = make(X, seed=1)
    covariance = np.cov(X.T, bias=True)
    second = prior.covariances + prior.means[:, :, None] * prior.means[:, None, :]
    assert np.exp(prior.log_weights) @ np.einsum("cij,ij->c", second, covariance) == pytest.approx(1)
    np.testing.assert_allclose(np.einsum("cij,ij->c", second, covariance), 1)


def test_drawn_weights_have_the_moments_of_their_component(X):
    prior = category_prior(X, components=2, seed=1)
    weights, component = _draw_weights(prior, 60_000, seed=2)
    np.testing.assert_allclose(np.bincount(component) / 60_000, np.exp(prior.log_weights), atol=0.01)
    for c in range(3):
        own, size = weights[component == c], np.sqrt(np.trace(prior.covariances[c]))
        np.testing.assert_allclose(own.mean(axis=0), prior.means[c], atol=0.03 * size)
        np.testing.assert_allclose(np.cov(own.T), prior.covariances[c], atol=0.04 * size**2)


def test_a_power_law_has_its_eigenvalues_and_a_rotation_stays_within_its_bands(X):
    values = np.linalg.eigvalsh(power_law_covariance(X, 1.5, seed=1))[::-1]
    np.testing.assert_allclose(values / values[0], np.arange(1, FEATURES + 1) ** -1.5)
    rotation = _banded_rotation(FEATURES, band=4, seed=1)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(FEATURES), atol=1e-12)
    bands = np.arange(FEATURES) // 4
    assert (rotation[bands[:, None] != bands] == 0).all()


def test_carried_weights_keep_what_is_relative_between_voxels_and_match_ranks(X):
    rng = np.random.default_rng(3)
    spectrum = np.array([100, 30, 10, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0])[:, None]
    weights = (spectrum * rng.standard_normal((13, 50))).T @ np.linalg.qr(rng.standard_normal((13, 13)))[0]
    carry = transplant_map(weights, X, seed=4)
    np.testing.assert_allclose(carry.T @ carry, np.eye(FEATURES), atol=1e-10)
    carried = transplant_weights(weights, carry, X)
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True)
    gram = carried @ carried.T
    np.testing.assert_allclose(gram / gram[0, 0], unit @ unit.T, atol=1e-10)  # 5 directions fit into 11
    assert np.var(X @ carried.T, axis=0).mean() == pytest.approx(1)
    on_axes = carried @ _principal_axes(X)
    assert np.abs(on_axes[:, 8:]).max() < 1e-10  # nothing leaves the first band


def test_what_cannot_be_simulated_is_refused(X):
    weights = np.ones((3, FEATURES))
    with pytest.raises(ResponseError, match="signal_shares"):
        simulate_responses(X, weights, seed=0, signal_shares=(0.5, 0.2))
    with pytest.raises(ResponseError, match="repeats"):
        simulate_responses(X, weights, seed=0, repeats=0)
    with pytest.raises(ResponseError, match="equally many features"):
        simulate_responses(X, weights[:, 1:], seed=0)
    with pytest.raises(ResponseError, match=f"{FEATURES} features"):
        simulate_subject(X[:, 1:], gaussian_prior(X, seed=0), 3, seed=0)
    with pytest.raises(ResponseError, match="cannot fill"):
        transplant_map(weights[:, 1:], X, seed=0)


def test_the_demo_subject_is_what_its_readme_says():
    dataset = braincl.open_responses(DEMO / "subject.nc")
    assert dict(dataset.sizes) == {"image": 410, "voxel": 2963, "feature": 256}
    assert dataset.attrs["simulated"] == 1
    assert "SIMULATED" in dataset.attrs["note"]
    areas = {str(area): int(count) for area, count in zip(*np.unique(dataset["roi"], return_counts=True), strict=True)}
    assert areas == {"EarlyVis": 1218, "LOC": 958, "OPA": 320, "PPA": 273, "RSC": 194}
    credits = [line.split("\t") for line in (DEMO / "CREDITS.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    assert [line[0] for line in credits] == dataset["image_id"].values.tolist()
    assert {line[3] for line in credits} == {"CC0-1.0", "CC-BY-3.0", "CC-BY-3.0-US"}
    assert all(line[2] for line in credits)
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 5e6


@pytest.mark.parametrize("components", [0, 3])
def test_a_population_is_one_prior_seen_by_several_subjects(X, components):
    embeddings = xr.Dataset({"embedding": (("image", "feature"), X.astype("f4"))}, attrs={"backbone": "random"})
    made = list(simulate_population(embeddings, 2, 6, components=components, seed=4, noise_rank=1))
    X = embeddings["embedding"].values
    prior = category_prior(X, components, seed=4) if components else gaussian_prior(X, seed=4)
    for number, subject in enumerate(made):
        alone = simulate_subject(X, prior, 6, seed=5 + number, noise_rank=1)
        np.testing.assert_array_equal(subject.dataset["response"], alone.dataset["response"])
        assert subject.dataset.attrs["subject"] == f"simulated {number}"
        assert subject.dataset.attrs["backbone"] == "random"
    with pytest.raises(ResponseError, match="1 or more"):
        next(simulate_population(embeddings, 1, 0))


def test_the_command_writes_subjects_with_their_truth(X, tmp_path, capsys):
    embeddings = xr.Dataset(
        {"embedding": (("image", "feature"), X.astype("f4"))},
        coords={"image_id": ("image", [f"{i:016x}" for i in range(IMAGES)])},
    )
    embeddings.to_netcdf(tmp_path / "e.nc", engine="h5netcdf")
    argv = ["simulate", str(tmp_path / "e.nc"), "--out", str(tmp_path / "made"), "--prior", "mixture", "--voxels", "7"]
    argv += ["--components", "3", "--subjects", "2", "--seed", "5", "--signal-shares", "0.1,0.4"]
    assert main([*argv, "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)["out"]
    assert paths == [str(tmp_path / "made" / f"subject_{k}.nc") for k in (0, 1)]
    stored = braincl.open_responses(paths[1])
    direct = list(simulate_population(embeddings, 2, 7, components=3, seed=5, signal_shares=(0.1, 0.4)))[1]
    assert stored.identical(with_truth(direct))
    signal = stored["true_offset"] + (stored["embedding"] - stored["embedding_centre"]) @ stored["true_weights"].T
    np.testing.assert_allclose(signal.transpose("image", "voxel"), stored["true_signal"], rtol=1e-3, atol=1e-4)
    assert ((stored["true_signal_share"] > 0.1) & (stored["true_signal_share"] < 0.4)).all()
    before = (tmp_path / "made" / "subject_0.nc").read_bytes()
    assert main([*argv[:-1], "0.4,0.1"]) == 2
    assert "signal_shares must be" in capsys.readouterr().err
    assert (tmp_path / "made" / "subject_0.nc").read_bytes() == before
