"""Small models for tests: one without weights behind the interface of the encoder, and a folder of a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from braincl.estimators.ridge import RidgeCV
from braincl.models.config import SharedContextConfig
from braincl.models.model_folder import ModelCard, save_encoder
from braincl.models.prior import Prior
from braincl.models.shared_context import SharedContextNetwork


def make_prior(features: int = 12) -> Prior:
    """A Gaussian prior whose mean and covariance are both of some use."""
    mean = np.linspace(-1, 1, features)[None]
    return Prior(np.zeros(1), mean / np.sqrt(features), np.diag(np.linspace(0.5, 1.5, features))[None] / features)


def small_network() -> SharedContextNetwork:
    """A real network, untrained, that takes embeddings of any width."""
    return SharedContextNetwork(SharedContextConfig(width=8, heads=2, hidden=8, layers=1)).eval()


def save_small_model(folder: Path) -> Path:
    """Write `small_network` as a model folder."""
    folder.mkdir()
    save_encoder(folder, small_network(), ModelCard(["S7", "S8"], "it takes any embedding"))
    return folder


class StandInEncoder(RidgeCV):
    """Ridge in the place of the in-context encoder; remembers which images it saw."""

    training_subjects = ("S7", "S8")
    training_images: tuple[str, ...] = ()
    prior_reason: str | None = "a stand-in has no prior"
    prior: Any = None

    def population_prior(self) -> Any:
        return self.prior

    def fit(self, X: Any, y: Any) -> StandInEncoder:
        self._contexts = [*getattr(self, "_contexts", []), X]
        super().fit(X, y)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        self._queries = [*getattr(self, "_queries", []), X]
        return super().predict(X, return_std=return_std)
