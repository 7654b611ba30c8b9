"""The choice of pictures against posterior variances computed from scratch, and the command."""

import csv
import json

import numpy as np
import pytest
import torch
import xarray as xr
from standin import make_prior, small_network
from synthetic import make_responses

import braincl
from braincl.analysis.image_selection import (
    _belief_from_context,
    _belief_from_one,
    _greedy,
    _most_central,
    select_images,
)
from braincl.cli.main import main
from braincl.data.stores.blocks import VoxelBlocks
from braincl.errors import ModelError, ResponseError
from braincl.estimators.in_context import InContextEncoder
from braincl.models.config import SharedContextConfig
from braincl.models.model_folder import ModelCard, save_encoder
from braincl.models.noise_levels import SIGNAL_SHARES
from braincl.models.shared_context import SharedContextNetwork

FEATURES = 12


def model_with_prior():
    network = SharedContextNetwork(SharedContextConfig(features=FEATURES, width=8, heads=2, hidden=8, layers=1))
    network.set_prior(make_prior())
    return InContextEncoder(network.eval())


def variance_left(covariance, noise, shown, targets):
    """Mean variance over targets of the signal, offset included, given responses to `shown`: generalised least squares.

    The offset has a flat prior: it is estimated by weighted averaging, whose own error is added (Rasmussen & Williams
    2006, eq. 2.42).
    """
    kernel = shown @ covariance @ shown.T + noise * np.eye(len(shown))
    inverse, ones = np.linalg.inv(kernel), np.ones(len(shown))
    cross = targets @ covariance @ shown.T
    spread = (targets @ covariance * targets).sum(axis=1) - (cross @ inverse * cross).sum(axis=1)
    return (spread + (1 - cross @ inverse @ ones) ** 2 / (ones @ inverse @ ones)).mean()


def by_hand(belief, shown, candidates, targets, count, chosen=()):
    """Greedy choice, every variance from scratch."""
    covariance, chosen, left = belief.prior.numpy(), list(chosen), []

    def total(rows):
        pictures = np.vstack([*shown, candidates[rows]])
        return sum(
            weight * variance_left(covariance, noise, pictures, targets)
            for weight, noise in zip(belief.weight.numpy(), belief.noise.numpy(), strict=True)
        )

    left = [total(chosen)] * len(chosen)
    while len(chosen) < count:
        scores = [np.inf if j in chosen else total([*chosen, j]) for j in range(len(candidates))]
        chosen.append(int(np.argmin(scores)))
        left.append(min(scores))
    centred = targets - targets.mean(axis=0)
    before = belief.weight.numpy().sum() * (centred @ covariance * centred).sum(axis=1).mean()
    return chosen, np.array(left) / before


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    return rng.standard_normal((23, FEATURES)) + 1, rng.standard_normal((31, FEATURES)) + 2


def test_the_choice_after_a_context_is_the_greedy_one(pictures):
    candidates, targets = pictures
    context = make_responses(images=9)
    X = context["embedding"].values
    belief = _belief_from_context(make_prior(), VoxelBlocks(context, block_bytes=1), torch.as_tensor(targets))
    rows, left = _greedy(belief, torch.as_tensor(candidates), torch.as_tensor(targets), 6)
    expected_rows, expected_left = by_hand(belief, [X.astype(float)], candidates, targets, 6)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(left, expected_left, rtol=1e-9)


def test_the_choice_without_a_context_is_the_greedy_one(pictures):
    candidates, targets = (torch.as_tensor(part) for part in pictures)
    first = _most_central(candidates, targets, torch.as_tensor(make_prior().covariances[0]))
    belief = _belief_from_one(make_prior(), candidates[first], targets)
    rows, left = _greedy(belief, candidates, targets, 6, [first])
    start = [variance_left(make_prior().covariances[0], 0.3, picture[None], pictures[1]) for picture in pictures[0]]
    assert rows[0] == np.argmin(start)  # of a single picture, the noise only adds to the offset's
    expected_rows, expected_left = by_hand(belief, [], *pictures, 6, chosen=[first])
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(left, expected_left, rtol=1e-9)
    assert (np.diff(left) < 0).all()


def test_the_noise_of_the_context_is_found():
    for noise, low, high in ((0.2, 0.8, 0.99), (3.0, 0.01, 0.3)):
        context = make_responses(images=60, voxels=40, noise=noise)
        X = context["embedding"].values
        belief = _belief_from_context(make_prior(), VoxelBlocks(context), torch.as_tensor(X).double())
        share = (belief.weight @ torch.as_tensor(SIGNAL_SHARES)) / belief.weight.sum()
        assert low < share < high


def test_shown_and_repeated_pictures_are_not_picked_again():
    dataset = make_responses()
    candidates = xr.concat([dataset, dataset.isel(image=[20, 21])], "image")[["embedding"]]
    chosen = select_images(model_with_prior(), candidates, 31, context=dataset.isel(image=slice(0, 9)))
    assert sorted(chosen.rows) == list(range(9, 40))
    with pytest.raises(ResponseError, match="cannot pick 32 pictures: 31 candidates of 42"):
        select_images(model_with_prior(), candidates, 32, context=dataset.isel(image=slice(0, 9)))
    with pytest.raises(ResponseError, match="cannot pick 0"):
        select_images(model_with_prior(), candidates, 0)


def test_an_agnostic_model_expects_no_direction_and_a_turn_of_the_embedding_changes_nothing():
    dataset = make_responses()
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((FEATURES, FEATURES)))[0]
    turned = dataset.assign(embedding=(("image", "feature"), (dataset["embedding"].values @ turn).astype("f4")))
    for shown in (None, slice(0, 9)):
        a, b = (
            select_images(
                InContextEncoder(small_network()), d, 8, context=None if shown is None else d.isel(image=shown)
            )
            for d in (dataset, turned)
        )
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_allclose(a.unexplained, b.unexplained, rtol=1e-4)


def test_targets_are_the_candidates_unless_they_are_given():
    dataset = make_responses()
    candidates, targets = dataset.isel(image=slice(0, 25)), dataset.isel(image=slice(25, None))
    shown = make_responses(images=9, seed=5)
    own, same, other = (
        select_images(model_with_prior(), candidates, 6, context=shown, targets=given)
        for given in (None, candidates, targets)
    )
    np.testing.assert_array_equal(own.rows, same.rows)
    arrays = [torch.as_tensor(part["embedding"].values).double() for part in (candidates, targets)]
    belief = _belief_from_context(make_prior(), VoxelBlocks(shown), arrays[1])
    np.testing.assert_array_equal(other.rows, _greedy(belief, *arrays, 6)[0])
    assert list(other.rows) != list(own.rows)


def test_a_context_of_constant_voxels_tells_nothing_of_noise():
    dataset = make_responses()
    flat = dataset.assign(response=(("image", "voxel"), np.ones((40, 7), "f4"))).isel(image=slice(0, 5))
    assert len(select_images(model_with_prior(), dataset, 4, context=flat).rows) == 4


def test_embeddings_that_do_not_go_together_are_refused():
    dataset = make_responses()
    with pytest.raises(ModelError, match="9 features, the model was trained on 12"):
        select_images(model_with_prior(), make_responses(features=9), 3)
    with pytest.raises(ResponseError, match="9 features"):
        select_images(model_with_prior(), dataset, 3, context=make_responses(features=9))


def test_the_command_writes_the_list(tmp_path, capsys):
    dataset = make_responses()
    (tmp_path / "model").mkdir()
    save_encoder(tmp_path / "model", model_with_prior().network, ModelCard())
    dataset[["embedding"]].to_netcdf(tmp_path / "candidates.nc", engine="h5netcdf")
    braincl.save_responses(dataset.isel(image=slice(0, 9)), tmp_path / "context.nc")
    argv = ["select", str(tmp_path / "candidates.nc"), "--model", str(tmp_path / "model"), "--count", "5"]
    argv += ["--context", str(tmp_path / "context.nc"), "--out", str(tmp_path / "list.csv"), "--json"]
    assert main(argv) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = select_images(model_with_prior(), dataset, 5, context=dataset.isel(image=slice(0, 9)))
    with open(tmp_path / "list.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["row"]) for row in rows] == list(expected.rows)
    assert [row["image_id"] for row in rows] == list(dataset["image_id"].values[expected.rows]) == printed["image_id"]
    assert [float(row["unexplained"]) for row in rows] == pytest.approx(list(expected.unexplained), abs=1e-5)
    assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4, 5]
    assert main(["99" if word == "5" else word for word in argv]) == 2
    assert "cannot pick 99" in capsys.readouterr().err
