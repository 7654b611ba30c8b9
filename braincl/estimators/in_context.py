"""The estimator: a pretrained network behind fit and predict. `fit` stores the context and emits weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from braincl.errors import ModelError
from braincl.estimators.base import LinearEncoder, standardiser
from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.model_folder import (
    ModelCard,
    find_model,
    load_model,
)
from braincl.models.per_voxel import PerVoxelNetwork
from braincl.models.shared_context import SharedContextNetwork, batches

PER_VOXEL_TOKENS = 40_000  # context tokens that the published network takes at once; about 2 GB at its CLIP size


class InContextEncoder(LinearEncoder):
    """Linear encoders for the voxels of a new subject, from one forward pass of a pretrained network.

    Parameters
    ----------
    network : SharedContextNetwork or PerVoxelNetwork, optional
        None: the embedded default, which takes any embedding. See `from_pretrained`.
    standardize : bool
        Standardise each voxel on the context and undo it on output. False hands responses over as they are, as the
        published networks expect.
    voxel_batch : int
        Voxels that are worked on at once; bounds memory and changes nothing else.

    Attributes
    ----------
    coef_ : array of shape (n_voxels, n_features)
    intercept_ : array of shape (n_voxels,)
    """

    def __init__(self, network: nn.Module | None = None, standardize: bool = True, voxel_batch: int = 1024) -> None:
        self.network = network
        self.standardize = standardize
        self.voxel_batch = voxel_batch

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path | None = None, **parameters: Any) -> InContextEncoder:
        """An encoder from a model folder, an embedded name, or (None) the embedded default.

        Parameters
        ----------
        path_or_name : path or str, optional
            A folder with `model.safetensors` and `config.json`, or the name of an embedded model.
        **parameters
            Parameters of the estimator; `standardize` is the model's own unless it is given.

        Raises
        ------
        ModelError
            There is no such folder or name.
        CheckpointError
            The folder is damaged or of another architecture.
        """
        folder = find_model(path_or_name)
        network, card = load_model(folder)
        encoder = cls(network, **{"standardize": card.standardize, **parameters})
        encoder._card = card
        return encoder

    @property
    def training_subjects(self) -> list[str]:
        """Names of the subjects that the network was trained on."""
        return self._model_card.training_subjects

    @property
    def prior_reason(self) -> str:
        """Why there is no population prior, where there is none."""
        return self._model_card.prior_reason or "the model was trained without a population prior"

    @property
    def backbone(self) -> str:
        """The image encoder whose embeddings the network was trained on; empty where it takes any or none is known."""
        return self._model_card.backbone

    def population_prior(self) -> PriorRidge | None:
        """Population-prior ridge with the prior that the model holds, or None."""
        prior = self.network.gaussian_prior() if isinstance(self.network, SharedContextNetwork) else None
        return None if prior is None else PriorRidge(prior)

    @property
    def _model_card(self) -> ModelCard:
        return getattr(self, "_card", None) or ModelCard()

    def fit(self, X: Any, y: Any) -> InContextEncoder:
        """Condition on a context and emit the weights of every voxel; there is no gradient step.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
            Embeddings of the context images.
        y : array of shape (n_images, n_voxels) or (n_images,)

        Raises
        ------
        ResponseError
            The context cannot be used.
        ModelError
            The network takes embeddings of another width.
        """
        X, Y, _ = self._validate_fit(X, y)
        if not isinstance(self.voxel_batch, int) or self.voxel_batch < 1:
            raise ModelError(f"voxel_batch must be a positive integer, got {self.voxel_batch!r}")
        self._network = self._find_network()
        standardise = standardiser(Y)
        if not self.standardize:
            standardise = standardise._replace(shift=np.zeros_like(Y[0]), scale=np.ones_like(Y[0]))
        self._live, shift, scale = standardise.live, standardise.shift, standardise.scale
        self._scale = scale[self._live]
        self._Y = torch.as_tensor(standardise(Y), dtype=torch.float32)
        self._X = torch.as_tensor(X)
        with torch.inference_mode():
            coef, bias = self._emit()
        coef *= self._scale[:, None]  # in place: for many voxels copies would take longer than the network
        intercept = (bias * self._scale + shift[self._live]).astype(np.float32)
        if len(self._live) < Y.shape[1]:
            coef, intercept = self._with_constant_voxels(coef, intercept, Y)
        self.coef_, self.intercept_ = coef, intercept
        return self

    def _with_constant_voxels(
        self, coef: NDArray[Any], intercept: NDArray[Any], Y: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weights and intercepts of all voxels from those that vary; the others keep their value."""
        weights, bias = np.zeros((Y.shape[1], coef.shape[1]), np.float32), Y[0].astype(np.float32)
        weights[self._live], bias[self._live] = coef, intercept
        return weights, bias

    def __getstate__(self) -> dict[str, Any]:
        """A copy does without the evidence that `fit` kept at hand; `predict` gathers it anew."""
        state = super().__getstate__()
        return state | {"_reading": state["_reading"]._replace(found={})} if "_reading" in state else state

    def _find_network(self) -> SharedContextNetwork | PerVoxelNetwork:
        network = load_model(find_model(None))[0] if self.network is None else self.network
        if not isinstance(network, SharedContextNetwork | PerVoxelNetwork):
            raise ModelError(f"network is a {type(network).__name__}; use InContextEncoder.from_pretrained")
        return network.eval()

    def _emit(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weights (V, E) and biases (V,) of the voxels that vary, for responses as the network saw them."""
        if isinstance(self._network, PerVoxelNetwork):
            width = self._network.config.features
            if self._X.shape[1] != width:
                raise ModelError(
                    f"the embeddings have {self._X.shape[1]} features, the published network takes {width}"
                )
            batch = min(self.voxel_batch, max(1, PER_VOXEL_TOKENS // len(self._X)))
            X = self._X.float()
            parts = [self._network(X, self._Y[:, part]) for part in batches(len(self._live), batch)]
            weights, bias = (torch.cat(column) for column in zip(*parts, strict=True)) if parts else self._nothing()
            self._residual = (self._Y - X @ weights.T - bias).square().mean(dim=0).sqrt().numpy()
            return weights.numpy(), bias.numpy()
        if not len(self._live):
            return tuple(part.numpy() for part in self._nothing())  # type: ignore[return-value]
        self._reading = self._network.read(self._X, self._Y, self.voxel_batch)
        weights = torch.empty(len(self._live), self._X.shape[1])
        for part in batches(len(self._live), self.voxel_batch):
            weights[part] = self._network.emit(self._reading, self._Y[:, part], part)
        return weights.numpy(), -(weights @ self._reading.context.offset.float()).numpy()

    def _nothing(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(0, self._X.shape[1]), torch.zeros(0)

    def _predict_std(self, X: NDArray[Any]) -> NDArray[Any]:
        std = np.zeros((len(X), len(self.intercept_)), np.float32)
        if isinstance(self._network, PerVoxelNetwork):  # it knows no uncertainty of its own: the context's residuals
            std[:, self._live] = self._residual * self._scale
            return std
        queries = torch.as_tensor(X)
        with torch.inference_mode():
            for part in batches(len(self._live), self.voxel_batch):
                _, variance = self._network.moments(self._reading, self._Y[:, part], part, queries)
                std[:, self._live[part]] = variance.sqrt().numpy().T * self._scale[part]
        return std
