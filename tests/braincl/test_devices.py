"""What runs on a device runs there alone: nothing that CUDA would refuse, and no copies but those that are named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from standin import make_prior, small_network
from standin_device import DEVICE, standin_device
from synthetic import make_responses

from braincl.estimators.in_context import InContextEncoder
from braincl.estimators.prior_ensemble import PriorEnsemble
from braincl.estimators.prior_kernel import PriorKernelRidge
from braincl.estimators.prior_ridge import PriorRidge
from braincl.estimators.ridge import RidgeCV
from braincl.models.config import SharedContextConfig
from braincl.models.experts import Context
from braincl.models.prior import Prior
from braincl.models.shared_context import SharedContextNetwork
from braincl.training.config import Stage, TrainConfig
from braincl.training.population_prior import Fold, PopulationFit, Subject
from braincl.training.tasks import TrainingSets
from braincl.training.train import _Trainer
from setcore.errors import InputError
from setcore.parallel.ranks import Ranks

FEATURES = 12
TINY = TrainConfig(
    network=SharedContextConfig(width=8, heads=2, hidden=8, layers=1, leave_one_out=True), queries=8, voxels=12
)


def population_network():
    network = SharedContextNetwork(SharedContextConfig(
        features=FEATURES, scales=(1.0, 0.5), leave_one_out=True, width=8, heads=2, hidden=8, layers=1
    ))  # fmt: skip
    network.set_prior(make_prior())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2)
    return network.eval()


def context():
    dataset = make_responses(images=30, voxels=9)
    X, Y = dataset["embedding"].values, dataset["response"].values.copy()
    Y[:, 4] = 2.5  # a constant voxel
    return X[:19], Y[:19], X[19:]


ESTIMATORS = {
    "agnostic": lambda device: InContextEncoder(small_network(), voxel_batch=4, device=device),
    "population": lambda device: InContextEncoder(population_network(), voxel_batch=4, device=device),
    "prior ensemble": lambda device: PriorEnsemble(make_prior(), device=device),
    "prior kernel": lambda device: PriorKernelRidge(make_prior(), device=device),
    "prior ridge": lambda device: PriorRidge(make_prior(), device=device),
    "ridge": lambda device: RidgeCV(device=device),
}


def copies(direction: str, *names: str) -> set[tuple[str, str]]:
    return {(direction, f"braincl.{name}") for name in names}


# The image side of a context is solved on the CPU; this is what voxels need of it.
CONTEXT = copies("in", "models.evidence.group_experts", "models.experts.Context.lower")
NETWORK = CONTEXT | copies(
    "in", "models.expert_features.common_features", "models.shared_context.SharedContextNetwork.condition",
    "models.shared_context.SharedContextNetwork.ask",
)  # fmt: skip
IN_CONTEXT = NETWORK | copies(
    "in", "estimators.in_context.InContextEncoder._prepare", "estimators.in_context.InContextEncoder._emit"
) | copies(
    "out", "estimators.in_context.InContextEncoder._emit", "estimators.in_context.InContextEncoder._predict_moments",
    "estimators.mean_dependent_noise.fit_mean_dependence",
)  # fmt: skip
PRIOR_RIDGE = ("estimators.prior_ridge.PriorRidge.fit", "estimators.prior_ridge.PriorRidge._predict_moments")
KERNELS = ("estimators.prior_kernel.PriorKernelRidge._moments",)
GIVEN = copies("in", "estimators.base.VoxelEncoder._on_device")
COPIES = {
    "agnostic": IN_CONTEXT,
    "population": IN_CONTEXT,
    "prior ensemble": CONTEXT | GIVEN | copies("in", *PRIOR_RIDGE) | copies("out", *PRIOR_RIDGE),
    "prior kernel": GIVEN | copies(
        "in", "models.evidence.group_experts", "estimators.prior_kernel.PriorKernelRidge._prepare", *KERNELS
    ) | copies("out", *KERNELS),
    "prior ridge": CONTEXT | GIVEN | copies("in", *PRIOR_RIDGE) | copies("out", *PRIOR_RIDGE),
    "ridge": GIVEN | copies("out", "estimators.ridge.RidgeCV.fit") | copies(
        "in", "estimators.ridge.RidgeCV.fit", "estimators.ridge.cross_validated_errors", "estimators.ridge.decompose"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ESTIMATORS)
def test_fit_and_predict_are_those_of_the_cpu(name):
    X, Y, queries = context()
    expected = ESTIMATORS[name]("cpu").fit(X, Y).predict(queries, return_std=True)
    with standin_device() as notes:
        encoder = ESTIMATORS[name](DEVICE.type).fit(X, Y)
        found = encoder.predict(queries, return_std=True)
    assert notes.found["start"] == COPIES[name]
    for left, right in zip(found, expected, strict=True):
        assert isinstance(left, np.ndarray)
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-6)


def test_a_device_that_is_not_there_is_said():
    with pytest.raises(InputError, match="cuda:7"):
        RidgeCV(device="cuda:7").fit(*context()[:2])


@pytest.mark.parametrize("simulated", [1.0, 0.0], ids=["simulated", "real"])
@pytest.mark.parametrize("components", [0, 2])
def test_a_training_step_takes_the_batch_in_and_lets_nothing_out(simulated, components):
    config = replace(TINY, network=replace(TINY.network, features=FEATURES, components=components))
    prior = make_prior()
    mixture = Prior(np.log([0.4, 0.6]), np.vstack([prior.means, -prior.means]), np.repeat(prior.covariances, 2, axis=0))
    dataset = make_responses(images=40, voxels=9)
    subject = Subject("S1", dataset["embedding"].values, dataset["response"].values)
    fold = Fold((0,), None)
    fit = PopulationFit(prior, mixture if components else None, [(fold, prior, mixture if components else None)], {})
    gradients = []
    for device in (torch.device("cpu"), DEVICE):
        with standin_device() as notes:
            trainer = _Trainer(Path(), TrainingSets([[subject]], "", []), [fit], config, 0, {}, Ranks(device))
            trainer.module = trainer._shared_loss()
            notes.phase = "step"
            loss = trainer._gradient(3, Stage(1.0, 8, 20, simulated))
            gradients.append([loss, *(parameter.grad for parameter in trainer.network.parameters())])
    batch = copies("in", "training.train._Trainer._loss")
    prior_now = copies("in", "models.shared_context.SharedContextNetwork.set_prior")
    assert notes.found["step"] == NETWORK | batch | prior_now
    for here, there in zip(*gradients, strict=True):
        torch.testing.assert_close(there.held, here, rtol=1e-4, atol=1e-6)


def test_float32_does_not_do_for_the_image_side():
    """Embeddings that differ by little beside their mean, as those of many networks do."""
    X = 50 + torch.as_tensor(np.random.default_rng(0).standard_normal((19, FEATURES)))
    kept, single = Context(X.float()).A, X.float() - X.float().mean(dim=0)
    stored = X.float().double()
    exact = stored - stored.mean(dim=0)
    worst = [float((A.double() @ A.double().T - exact @ exact.T).abs().max()) for A in (single, kept)]
    assert worst[1] < 1e-10 < 1e-6 < worst[0]
