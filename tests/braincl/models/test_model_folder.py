"""Model folders: what is written is read again, whichever network it is; what is damaged or unknown is named."""

import json

import numpy as np
import pytest
import torch
from standin import make_prior, small_network

from braincl.errors import CheckpointError, ModelError
from braincl.estimators.in_context import InContextEncoder
from braincl.models.config import SharedContextConfig
from braincl.models.model_folder import DEFAULT_MODEL, ModelCard, find_model, load_model, save_encoder
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.models.shared_context import SharedContextNetwork
from setcore.checkpoint import WEIGHTS_FILE


def with_prior():
    network = SharedContextNetwork(SharedContextConfig(features=12, width=8, heads=2, hidden=8, layers=1)).eval()
    network.set_prior(make_prior())
    return network


def per_voxel():
    return PerVoxelNetwork(PerVoxelConfig(features=12, width=20, layers=2, heads=4, hidden=16)).eval()


@pytest.mark.parametrize("make", [small_network, with_prior, per_voxel])
def test_a_model_folder_gives_back_network_and_card(tmp_path, make):
    network, card = make(), ModelCard(["S1"], "no reason", "clip", False, {"seed": 3})
    save_encoder(tmp_path, network, card)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == network.architecture
    loaded, found = load_model(tmp_path)
    assert type(loaded) is type(network)
    assert (loaded.config, found, loaded.training) == (network.config, card, False)
    assert loaded.state_dict().keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    encoder = InContextEncoder.from_pretrained(tmp_path)
    assert encoder.training_subjects == ["S1"]
    assert (encoder.prior_reason, encoder.backbone, encoder.standardize) == ("no reason", "clip", False)
    assert InContextEncoder.from_pretrained(tmp_path, standardize=True).standardize is True


def test_the_population_prior_comes_back_as_an_estimator(tmp_path):
    save_encoder(tmp_path, with_prior(), ModelCard())
    prior = InContextEncoder.from_pretrained(tmp_path).population_prior().prior
    np.testing.assert_allclose(prior.means, make_prior().means, rtol=1e-6)
    np.testing.assert_allclose(prior.covariances, make_prior().covariances, rtol=1e-6)
    assert InContextEncoder(small_network()).population_prior() is None
    assert InContextEncoder().population_prior() is None  # that of the embedded default
    assert InContextEncoder().starting_prior(5).n_features == 5


def test_unknown_models_and_damaged_folders_are_named(tmp_path):
    assert find_model(None) == find_model(DEFAULT_MODEL)
    with pytest.raises(ModelError, match="nowhere is neither a model folder nor an embedded model"):
        InContextEncoder.from_pretrained("nowhere")
    save_encoder(tmp_path, small_network(), ModelCard())
    assert find_model(tmp_path) == tmp_path
    (tmp_path / WEIGHTS_FILE).write_bytes(b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text('{"config": {}, "architecture": "other"}')
    with pytest.raises(CheckpointError, match="names architecture 'other', expected 'shared_context' or 'per_voxel'"):
        load_model(tmp_path)
