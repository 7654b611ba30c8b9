"""The published network: its size, one step of it on the meta device, and training at an eighth of its width."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from standin import make_prior
from standin_device import DEVICE, standin_device
from synthetic import make_responses

from braincl.estimators.in_context import InContextEncoder
from braincl.models.per_voxel import PerVoxelConfig, PerVoxelNetwork
from braincl.training.config import PRESETS, Schedule, Stage
from braincl.training.population_prior import Fold, PopulationFit, Subject
from braincl.training.tasks import TrainingSets
from braincl.training.train import _Trainer, meta_train
from setcore.parallel.ranks import Ranks
from setcore.training import Budget

PAPER = PRESETS["paper"]


def test_the_paper_preset_is_the_published_network_and_takes_a_step():
    """Shapes alone: on the meta device nothing is computed."""
    with torch.device("meta"):
        network = PerVoxelNetwork(PAPER.network)
        X, Y, queries = torch.empty(500, 512), torch.empty(500, PAPER.voxels), torch.empty(PAPER.queries, 512)
        weights, bias = network(X, Y)
        predicted = queries @ weights.T + bias
        (predicted - torch.empty(PAPER.queries, PAPER.voxels)).square().mean().backward()
    torch.optim.AdamW(network.parameters(), lr=PAPER.learning_rate).step()  # its counts of steps are on the CPU
    assert sum(parameter.numel() for parameter in network.parameters()) == 97_074_852
    assert predicted.shape == (100, 64)
    assert all(parameter.grad.shape == parameter.shape for parameter in network.parameters())


def test_the_paper_preset_trains_at_an_eighth_of_its_width(tmp_path):
    network = replace(PAPER.network, width=PAPER.network.width // 8, hidden=PAPER.network.hidden // 8)
    stages = Schedule(Stage(0.4, 12, 12, 1.0), Stage(0.3, 5, 20, 1.0), Stage(0.3, 5, 20, 0.0))
    config = replace(
        PAPER, network=network, schedule=stages, voxels=6, queries=8, validation_contexts=(5, 11), report_every=1
    )
    subjects = [make_responses(seed=seed, voxels=9).assign_attrs(subject=f"S{seed}") for seed in (1, 2)]
    trained = meta_train(subjects, config, tmp_path / "model", budget=Budget(steps=10), progress=False)
    assert isinstance(trained, PerVoxelNetwork)
    assert (trained.config.width, trained.config.layers, trained.config.features) == (70, 20, 12)
    encoder = InContextEncoder.from_pretrained(tmp_path / "model")
    assert encoder.prior_reason == "a per_voxel network holds no population prior"
    X, Y = subjects[0]["embedding"].values, subjects[0]["response"].values
    assert np.isfinite(encoder.fit(X[:20], Y[:20]).predict(X[20:])).all()


def test_a_step_and_a_fit_on_a_device_are_those_of_the_cpu():
    network = PerVoxelConfig(features=12, width=20, layers=2, heads=4, hidden=8)
    config = replace(PAPER, network=network, voxels=6, queries=8)
    prior, dataset = make_prior(), make_responses(images=40, voxels=9)
    X, Y = dataset["embedding"].values, dataset["response"].values
    fit = PopulationFit(prior, None, [(Fold((0,), None), prior, None)], {})
    found = []
    for device in (torch.device("cpu"), DEVICE):
        with standin_device() as notes:
            trainer = _Trainer(
                Path(), TrainingSets([[Subject("S1", X, Y)]], "", []), [fit], config, 0, {}, Ranks(device)
            )
            trainer.module = trainer._shared_loss()
            notes.phase = "step"
            loss = trainer._gradient(3, Stage(1.0, 8, 20, 1.0))
            gradients = [parameter.grad for parameter in trainer.network.parameters()]
            notes.phase = "fit"
            encoder = InContextEncoder(trainer.network.eval(), device=device.type).fit(X[:20], Y[:20])
            mean, std = encoder.predict(X[20:], return_std=True)
        found.append([loss, *gradients, torch.as_tensor(mean), torch.as_tensor(std)])
    assert notes.of("refused") == set()
    assert notes.found["step"] == {("in", "braincl.training.train._Trainer._loss")}
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(getattr(there, "held", there), here, rtol=1e-4, atol=1e-5)
