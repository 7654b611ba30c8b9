"""The estimator: a pretrained network behind fit and predict. `fit` stores the context and emits weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from braincl.data.scatter import scatter
from braincl.errors import ModelError
from braincl.estimators.base import LinearEncoder, standardiser
from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.model_folder import ModelCard, find_model, load_model
from braincl.models.network import InContextNetwork, batches
from braincl.models.prior import Prior


class InContextEncoder(LinearEncoder):
    """Linear encoders for the voxels of a new subject, from one forward pass of a pretrained network.

    Parameters
    ----------
    network : InContextNetwork, optional
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

    def __init__(
        self, network: InContextNetwork | None = None, standardize: bool = True, voxel_batch: int = 1024
    ) -> None:
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

        Returns
        -------
        InContextEncoder

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
        """Names of the subjects that the network was trained on.

        Returns
        -------
        list of str
        """
        return self._model_card.training_subjects

    @property
    def prior_reason(self) -> str:
        """Why there is no population prior, where there is none.

        Returns
        -------
        str
        """
        return self._model_card.prior_reason or "the model was trained without a population prior"

    @property
    def backbone(self) -> str:
        """The image encoder whose embeddings the network was trained on; empty where it takes any or none is known.

        Returns
        -------
        str
        """
        return self._model_card.backbone

    def population_prior(self) -> PriorRidge | None:
        """Population-prior ridge with the prior that the model holds.

        Returns
        -------
        PriorRidge or None
            None where the model holds no prior.
        """
        prior = self._find_network().gaussian_prior()
        return None if prior is None else PriorRidge(prior)

    def starting_prior(self, features: int) -> Prior:
        """The Gaussian over tuning that the model expects before any response is seen; isotropic where it knows none.

        Parameters
        ----------
        features : int
            Width of the embeddings at hand.

        Returns
        -------
        Prior

        Raises
        ------
        ModelError
            The model takes embeddings of another width.
        """
        return self._find_network().starting_prior(features)

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

        Returns
        -------
        InContextEncoder
            This one.

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
        self._network.check_features(X.shape[1])
        standardise = standardiser(Y)
        if not self.standardize:
            standardise = standardise._replace(shift=np.zeros_like(Y[0]), scale=np.ones_like(Y[0]))
        self._standardiser, varying = standardise, standardise.varying
        self._X, self._Y = torch.as_tensor(X), torch.as_tensor(standardise(Y), dtype=torch.float32)
        with torch.inference_mode():
            weights, bias = self._emit()
        self.coef_ = standardise.undo_weights(weights)
        intercept = (bias * standardise.scale[varying] + standardise.shift[varying]).astype(np.float32)
        self.intercept_ = scatter(intercept, varying, Y[0].shape, fill=Y[0])  # constant voxels keep their value
        return self

    def __getstate__(self) -> dict[str, Any]:
        """A copy does without what `fit` kept at hand and `predict` can find anew."""
        state: dict[str, Any] = super().__getstate__()
        return state | {"_conditioned": state["_conditioned"].compact()} if "_conditioned" in state else state

    def _find_network(self) -> InContextNetwork:
        network = load_model(find_model(None))[0] if self.network is None else self.network
        if not isinstance(network, InContextNetwork):
            raise ModelError(f"network is a {type(network).__name__}; use InContextEncoder.from_pretrained")
        return network.eval()

    def _emit(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weights (v, E) and biases (v,) of the voxels that vary, for responses as the network saw them."""
        voxels = self._Y.shape[1]
        weights, bias = torch.empty(voxels, self._X.shape[1]), torch.empty(voxels)
        if voxels:
            self._conditioned = self._network.condition(self._X, self._Y, self.voxel_batch)
        for part in batches(voxels, self.voxel_batch):
            weights[part], bias[part] = self._network.emit(self._conditioned, self._Y[:, part], part)
        return weights.numpy(), bias.numpy()

    def _predict_std(self, X: NDArray[Any]) -> NDArray[Any]:
        queries, voxels = torch.as_tensor(X), self._Y.shape[1]
        std = np.empty((len(X), voxels), np.float32)
        with torch.inference_mode():
            for part in batches(voxels, self.voxel_batch):
                found = self._network.predictive_std(self._conditioned, self._Y[:, part], part, queries)
                std[:, part] = found.numpy().T
        return self._standardiser.undo_std(std).astype(np.float32)

    def context_shares(self) -> NDArray[np.float32]:
        """How much of each voxel's weights rests on each context picture.

        See `braincl.analysis.attribution.context_shares`, which says what the numbers mean.

        Returns
        -------
        array of shape (n_voxels, n_images)
            Rows sum to one; NaN for voxels that are constant in the context.

        Raises
        ------
        sklearn.exceptions.NotFittedError
        """
        check_is_fitted(self, "coef_")
        images, voxels = self._Y.shape
        shares = np.empty((voxels, images), np.float32)
        with torch.inference_mode():
            for part in batches(voxels, self.voxel_batch):
                shares[part] = self._network.context_shares(self._conditioned, self._Y[:, part], part)
        return scatter(shares, self._standardiser.varying, (len(self.coef_), images), fill=np.nan)
