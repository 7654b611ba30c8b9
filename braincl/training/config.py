"""What meta-training is made of: three stages, and the settings that stay the same throughout.

Stages come one after another and divide the budget by their shares, whether it is given in steps or in minutes: where a
run stands follows from how much of the budget is used, so that a run killed in any stage goes on in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

from braincl.models.config import SharedContextConfig
from braincl.models.per_voxel import PerVoxelConfig
from setcore.checkpoint import config_from_dict
from setcore.errors import InputError


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Parameters
    ----------
    share : float
        Of the budget, 0..1; 0 leaves the stage out.
    min_context, max_context : int
        Pictures in a context, drawn log-uniformly; where a data set has fewer pictures, as many as it has.
    simulated : float
        Share of steps on simulated subjects, whose voxels are drawn as the step needs them.
    """

    share: float
    min_context: int
    max_context: int
    simulated: float

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or not 0 <= self.simulated <= 1:
            raise InputError(f"share is {self.share} and simulated {self.simulated}; both must lie in 0..1")
        if not 2 <= self.min_context <= self.max_context:
            raise InputError(f"contexts of {self.min_context} to {self.max_context} pictures: need 2 <= min <= max")

    def __str__(self) -> str:
        sizes = f"{self.min_context}" + (f"..{self.max_context}" if self.max_context > self.min_context else "")
        return f"{self.share:.0%} of the budget, contexts of {sizes} pictures, {self.simulated:.0%} simulated"


@dataclass(frozen=True)
class Schedule:
    """The stages of training, in this order; their shares sum to one.

    Parameters
    ----------
    synthetic : Stage
        Simulated voxels on the training pictures, contexts of one size.
    extension : Stage
        The same over all context sizes.
    real : Stage
        The training subjects, simulated ones among them: a few sessions cannot tell what a new subject will be like.
    """

    synthetic: Stage = Stage(0.15, 100, 100, 1.0)
    extension: Stage = Stage(0.25, 8, 1000, 1.0)
    real: Stage = Stage(0.6, 8, 400, 0.4)

    def __post_init__(self) -> None:
        shares = [stage.share for stage in self.stages]
        if not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise InputError(f"the stages' shares of the budget are {shares}; they must sum to 1")

    def __str__(self) -> str:
        return "; ".join(f"{name}: {stage}" for name, stage in zip(self.names, self.stages, strict=True))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages, in their order.

        Returns
        -------
        tuple of str
        """
        return tuple(field.name for field in fields(self))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, in their order.

        Returns
        -------
        tuple of Stage
        """
        return tuple(getattr(self, name) for name in self.names)

    def at(self, used: float) -> int:
        """Position of the stage that the run is in.

        Parameters
        ----------
        used : float
            Share of the budget, 0..1.

        Returns
        -------
        int
        """
        shares = [stage.share for stage in self.stages]
        taken = [position for position, share in enumerate(shares) if share]
        return next((p for p in taken if used < sum(shares[: p + 1]) - 1e-9), taken[-1])

    def with_shares(self, shares: tuple[float, float, float]) -> Schedule:
        """The same stages with other shares of the budget.

        Parameters
        ----------
        shares : (float, float, float)
            By stage; they sum to one.

        Returns
        -------
        Schedule
        """
        parts = zip(self.names, self.stages, shares, strict=True)
        return Schedule(**{name: replace(stage, share=share) for name, stage, share in parts})


@dataclass(frozen=True)
class TrainConfig:
    """Settings of `braincl.meta_train`, stored with the weights.

    Parameters
    ----------
    network : SharedContextConfig or PerVoxelConfig
        `features` and, of a `shared_context` network, `components` are set from the data.
    schedule : Schedule
    start : str
        Model whose learned parameters training starts from, embedded name or folder, its network of the sizes of
        `network`; empty for an untrained network.
    agnostic : bool
        Train a network without a population prior, which takes any embedding; the priors of the training subjects then
        only make the simulated ones. Subjects may have embeddings of several image encoders.
    batch : int
        Draws of a step, each of a subject, pictures and voxels; their gradients are averaged, and processes share them.
    queries, voxels : int
        Query pictures and (at most) voxels of a draw.
    most_voxels : int
        Of each data set, drawn at random where it has more: only these are read and kept in memory.
    learning_rate, weight_decay, clip : float
    validation_images : int
        Pictures per data set that are kept for validation (at most a fifth of them).
    validation_contexts : tuple of int
    report_every : int
        Steps between validations, which are also the checkpoints. A validation takes about as long as 3 steps for each
        data set.
    device : str
        Where voxels are worked on: cpu, cuda, mps, or auto, the best there is. A run may go on on another one.
    """

    network: SharedContextConfig | PerVoxelConfig = field(default_factory=SharedContextConfig)
    schedule: Schedule = field(default_factory=Schedule)
    start: str = ""
    agnostic: bool = False
    batch: int = 1
    queries: int = 100
    voxels: int = 256
    most_voxels: int = 20_000
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    validation_images: int = 200
    validation_contexts: tuple[int, ...] = (10, 30, 100, 300)
    report_every: int = 200
    device: str = "auto"


# Each further expert costs time per voxel, and more of them predicted no better.
POPULATION_EXPERTS = SharedContextConfig(
    scales=(1.0, 0.5, 2.0), relaxations=((0.3, 1.0), (0.7, 0.7)), powers=(0.0,), leave_one_out=True
)  # fmt: skip
AGNOSTIC_EXPERTS = SharedContextConfig(signals=(0.1, 0.3), leave_one_out=True)
PRESETS = {
    "small": TrainConfig(network=POPULATION_EXPERTS, start="agnostic"),
    "agnostic": TrainConfig(network=AGNOSTIC_EXPERTS, agnostic=True, report_every=500),
    # Yu et al. 2025: contexts of 500 pictures, then of 30 to 500, then real subjects; 100 queries.
    "paper": TrainConfig(
        network=PerVoxelConfig(),
        schedule=Schedule(Stage(0.4, 500, 500, 1.0), Stage(0.3, 30, 500, 1.0), Stage(0.3, 30, 500, 0.0)),
        voxels=64,
        learning_rate=1e-4,
        validation_images=100,
        report_every=500,
    ),
    # Half an hour on one core: many steps of few voxels and short contexts teach more than few large ones.
    "per_voxel": TrainConfig(
        network=PerVoxelConfig(width=64, layers=3, heads=4, hidden=128),
        schedule=Schedule(Stage(0.3, 20, 20, 1.0), Stage(0.4, 10, 100, 1.0), Stage(0.3, 10, 100, 0.5)),
        voxels=32,
        learning_rate=2e-3,
        report_every=1000,
    ),
}


def stored_schedule(training: dict[str, Any], where: str) -> Schedule | None:
    """The schedule that a model was trained by.

    Parameters
    ----------
    training : dict
        The facts of training that a model folder holds.
    where : str
        Where they are from, for messages.

    Returns
    -------
    Schedule or None
        None where the facts state none.

    Raises
    ------
    CheckpointError
        What they state is no schedule.
    """
    values = training.get("train_config", {}).get("schedule")
    return None if values is None else config_from_dict(Schedule, values, f"{where}: schedule")
