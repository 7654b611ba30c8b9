"""The estimator: a pretrained network behind fit and predict. `fit` stores the context and emits weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from braincl.data.memory import saying_what_fits
from braincl.data.scatter import scatter
from braincl.data.torch_settings import plain_torch
from braincl.errors import ModelError
from braincl.estimators.base import LinearEncoder
from braincl.estimators.decoding import Decoder
from braincl.estimators.mean_dependent_noise import MeanDependence, fit_mean_dependence
from braincl.estimators.prior_ridge import PriorRidge
from braincl.models.model_folder import ModelCard, find_model, load_model
from braincl.models.network import InContextNetwork, Summary, batches
from braincl.models.prior import Prior
from setcore.devices import find_device

TILE = 1024  # voxels whose moments are worked out at once
KEPT_VOXELS = 2**15  # what error bars take from the first of them is kept between calls of `predict`: about 100 MB


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
    device : str
        Where voxels are worked on: cpu, cuda, mps, or auto, the best there is. A network that lies elsewhere is copied.
    any_backbone : bool
        Take embeddings that state another image encoder than those of training. Right where one encoder goes by two
        names; else predictions mean little.

    Attributes
    ----------
    coef_ : float32 array of shape (n_voxels, n_features)
    intercept_ : float32 array of shape (n_voxels,)
    mean_dependence_ : MeanDependence
        How the variance of a response goes with its predicted mean: alike for all voxels, found on the context.

    Notes
    -----
    A voxel's predictions depend a little on which voxels are fitted with it: the default network weighs its experts for
    each voxel with an eye on how they fare for all voxels of the context. On macaque V4 (55 to 89 sites, contexts of 50
    and 200) predictions from half of the sites differ from those from all by 1 to 2 % of a site's standard deviation
    (root mean square; 15 % at most), those of a site fitted alone by 5 to 7 % (57 % at most). Fit the same voxels where
    predictions are compared. Their standard deviations differ as much (1.5 %, and 5 to 6 %; 16 and 59 % at most): how
    these go with the mean is found on all voxels together; in fits in parts, too, where `summarise` has seen them all.
    `RidgeCV` and `PriorRidge` treat each voxel on its own, and so do published networks.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 8))  # embeddings of 60 pictures
    >>> Y = X @ rng.standard_normal((8, 5)) + 0.1 * rng.standard_normal((60, 5))  # responses of 5 voxels
    >>> from braincl import InContextEncoder
    >>> encoder = InContextEncoder.from_pretrained().fit(X[:40], Y[:40])  # takes the embeddings of any encoder
    >>> mean, std = encoder.predict(X[40:], return_std=True)
    >>> mean.shape, std.shape
    ((20, 5), (20, 5))
    >>> bool((encoder.score(X[40:], Y[40:]) > 0.9).all())
    True
    """

    _precision = np.float32

    def __init__(
        self,
        network: InContextNetwork | None = None,
        standardize: bool = True,
        voxel_batch: int = 2048,
        device: Any = "auto",
        any_backbone: bool = False,
    ) -> None:
        self.network = network
        self.standardize = standardize
        self.voxel_batch = voxel_batch
        self.device = device
        self.any_backbone = any_backbone

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
        return cls(network, **{"standardize": card.standardize, **parameters})

    @property
    def training_subjects(self) -> list[str]:
        """Names of the subjects that the network was trained on.

        Returns
        -------
        list of str
        """
        return self._model_card.training_subjects

    @property
    def training_images(self) -> list[str]:
        """The pictures that the network was trained on, as far as its model says.

        Returns
        -------
        list of str
            By `braincl.models.model_folder.short_ids`.
        """
        return self._model_card.training_images

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
        """The image encoder whose embeddings the network wants; empty where it takes any or none is known.

        Returns
        -------
        str
        """
        return "" if self.any_backbone else self._model_card.backbone

    def population_prior(self) -> PriorRidge | None:
        """Population-prior ridge with the prior that the model holds.

        Returns
        -------
        PriorRidge or None
            None where the model holds no prior.
        """
        prior = self._find_network().gaussian_prior()
        return None if prior is None else PriorRidge(prior, device=self.device)

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
        return self._find_network().card or ModelCard()

    @plain_torch()
    def summarise(self, X: Any, y: Any) -> Summary | None:
        """What `fit` takes from all voxels of a context, for fits in parts; summaries of parts add up.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
        y : array of shape (n_images, n_voxels)
            Some of the voxels.

        Returns
        -------
        Summary or None
            None where no voxel varies, or where the network takes every voxel on its own.

        Raises
        ------
        ResponseError, ModelError
            As of `fit`.
        """
        self._prepare(X, y)
        if not self._Y.shape[1]:
            return None
        with torch.inference_mode():
            return self._network.summarise(self._X, self._Y, self.voxel_batch)

    @plain_torch()
    def fit(self, X: Any, y: Any, summary: Summary | None = None) -> InContextEncoder:
        """Condition on a context and emit the weights of every voxel; there is no gradient step.

        Parameters
        ----------
        X : array of shape (n_images, n_features)
            Embeddings of the context images.
        y : array of shape (n_images, n_voxels) or (n_images,)
        summary : Summary, optional
            From `summarise`, of all voxels of the subject where y has only some of them. None: y has all.

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
        InputError
            The device is not there, or memory is too small; the message says what to set.
        """
        self._prepare(X, y)
        with torch.inference_mode(), saying_what_fits(f"voxel_batch is {self.voxel_batch}: set it lower"):
            self.coef_, self.intercept_ = self._emit(summary)
        return self

    def _prepare(self, X: Any, y: Any) -> None:
        """Check a context and bring it to where the network is, `_X` (n, E) and `_Y` (n, v)."""
        X, Y, standardise = self._validate_fit(X, y)
        if not isinstance(self.voxel_batch, int) or self.voxel_batch < 1:
            raise ModelError(f"voxel_batch must be a positive integer, got {self.voxel_batch!r}")
        self._network = self._find_network()
        self._network.check_features(X.shape[1])
        if self._network.device != (device := find_device(self.device)):
            self._network = copy.deepcopy(self._network).to(device)
        if not self.standardize:
            raw = scatter(np.zeros(len(standardise.varying)), standardise.varying, Y[0].shape, fill=standardise.shift)
            standardise = standardise._replace(shift=raw, scale=np.ones(Y.shape[1]))
        self._standardiser = standardise
        self._decoder: Decoder | None = None
        self._X, self._Y = torch.as_tensor(X), torch.as_tensor(standardise(Y, np.float32)).to(device)

    def __getstate__(self) -> dict[str, Any]:
        """A copy does without what `fit` kept at hand and `predict` can find anew."""
        state: dict[str, Any] = super().__getstate__()
        if "_conditioned" in state:
            state |= {"_conditioned": state["_conditioned"].compact(), "_told": {}, "_decoder": None}
        return state

    def _find_network(self) -> InContextNetwork:
        network = load_model(find_model(None))[0] if self.network is None else self.network
        if not isinstance(network, InContextNetwork):
            raise ModelError(f"network is a {type(network).__name__}; use InContextEncoder.from_pretrained")
        return network.eval()

    def _emit(self, summary: Summary | None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weights (V, E) and intercepts (V,); constant voxels keep their value."""
        shift, scale, varying = self._standardiser
        coef = np.zeros((len(shift), self._X.shape[1]), np.float32)
        coef[np.isnan(shift)] = np.nan
        intercept, whole = shift.copy(), len(varying) == len(shift)
        self.mean_dependence_ = MeanDependence()
        if len(varying):
            self._conditioned = self._network.condition(self._X, self._Y, self.voxel_batch, summary)
            sums = self._network.noise_sums(self._conditioned)
            if sums is not None and self.standardize:
                self.mean_dependence_ = fit_mean_dependence(sums)
        self._told: dict[int, Any] = {}
        units = torch.as_tensor(scale[varying].astype(np.float32)).to(self._Y)
        in_place = torch.from_numpy(coef) if whole and self._Y.device.type == "cpu" else None
        for part in batches(len(varying), self.voxel_batch):
            rows = part if whole else varying[part]
            out = None if in_place is None else in_place[part]
            weights, biases = self._network.emit(self._conditioned, self._Y[:, part], part, units[part], out)
            if out is None:
                coef[rows] = weights.cpu().numpy()
            intercept[rows] += biases.cpu().numpy()
        return coef, intercept.astype(np.float32)

    @plain_torch()
    def _predict_moments(self, X: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        shift, scale, varying = self._standardiser
        mean = np.tile(shift.astype(np.float32), (len(X), 1))
        std = np.zeros_like(mean)
        std[:, np.isnan(shift)] = np.nan
        if not len(varying):
            return mean, std
        with torch.inference_mode():
            asked = self._network.ask(self._conditioned, torch.as_tensor(X, dtype=torch.float32))
            for part in batches(len(varying), self.voxel_batch):
                if (told := self._told.get(part.start)) is None:
                    told = self._network.tell(self._conditioned, self._Y[:, part], part)
                    if part.stop <= KEPT_VOXELS:
                        self._told[part.start] = told
                for tile in batches(part.stop - part.start, TILE):  # what stays in the processor's cache
                    centre, variance = self._network.predictive_moments(told.part(tile), asked)
                    spread = self.mean_dependence_.of_std(centre).mul_(variance.sqrt())
                    voxels = slice(part.start + tile.start, part.start + tile.stop)
                    rows = voxels if len(varying) == len(shift) else varying[voxels]
                    in_units = scale[rows].astype(np.float32)
                    mean[:, rows] += centre.cpu().numpy() * in_units
                    std[:, rows] = spread.cpu().numpy() * in_units
        return mean, std

    @plain_torch()
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
                shares[part] = self._network.context_shares(self._conditioned, self._Y[:, part], part).cpu()
        return scatter(shares, self._standardiser.varying, (len(self.coef_), images), fill=np.nan)

    def identify(
        self, responses: Any, candidates: Any, method: str = "auto", voxels: Any = None, groups: Any = None
    ) -> NDArray[np.float64]:
        """Which of several pictures evoked each response: a score of every candidate, the likeliest highest.

        Noise is that of context pictures which are left out: the first call after a fit takes ten more fits.

        Parameters
        ----------
        responses : array of shape (m, n_voxels)
            To new pictures, in the units of the context.
        candidates : array of shape (n_candidates, n_features)
            Embeddings of the pictures that may have been seen, two or more.
        method : {"auto", "gaussian", "correlation"}
            "gaussian": log likelihood, in nats, with noise that voxels share. "correlation": Pearson's over voxels, of
            responses standardised on the context. "auto": that which identifies the context's own pictures better.
        voxels : bool or int array, optional
            Those to identify by, such as one region's. None: all. Voxels that are constant in the context say nothing.
        groups : array of shape (n_images,), optional
            Context pictures that are left out together when the noise is measured, such as the runs of a time series.

        Returns
        -------
        array of shape (m, n_candidates)

        Raises
        ------
        sklearn.exceptions.NotFittedError
        ResponseError
            Responses are of other voxels than the context's or none, candidates of another width or fewer than two,
            the context has fewer than 8 pictures, or the groups are not one for each of them.

        Examples
        --------
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> X = rng.standard_normal((60, 8))  # embeddings of 60 pictures
        >>> Y = X @ rng.standard_normal((8, 5)) + 0.1 * rng.standard_normal((60, 5))  # responses of 5 voxels
        >>> from braincl import InContextEncoder
        >>> scores = InContextEncoder.from_pretrained().fit(X[:40], Y[:40]).identify(Y[40:], X[40:])
        >>> scores.shape, int((scores.argmax(axis=1) == np.arange(20)).sum())
        ((20, 20), 20)
        """
        return self._turned_round(groups).identify(responses, candidates, method, voxels)

    def decode(
        self, responses: Any, pictures: Any = None, voxels: Any = None, groups: Any = None
    ) -> NDArray[np.float32]:
        """The embedding of the picture that evoked each response: its posterior mean.

        Parameters
        ----------
        responses : array of shape (m, n_voxels)
            To new pictures, in the units of the context.
        pictures : array of shape (n_pictures, n_features), optional
            Embeddings of the pictures that may have been seen: their mean, each weighted by how probable the response
            makes it; the nearest of them is the likeliest. None: any embedding, under a Gaussian with mean and
            covariance of the context's. That is the least squared error, but shrunk most along what voxels tell least,
            and so finds fewer pictures of a bank (top-1 .13 beside .34 on macaque V4, .34 beside .42 on people): to
            find a picture in one, give it here.
        voxels, groups
            As of `identify`.

        Returns
        -------
        array of shape (m, n_features)

        Raises
        ------
        sklearn.exceptions.NotFittedError
        ResponseError
            As of `identify`.
        """
        return self._turned_round(groups).decode(responses, pictures, voxels)

    def _turned_round(self, groups: Any) -> Decoder:
        check_is_fitted(self, "coef_")
        if self._decoder is None or not np.array_equal(np.asarray(self._decoder.groups), np.asarray(groups)):
            labels = None if groups is None else np.array(groups)
            responses = self._standardiser.undo(self._Y.cpu().numpy())
            self._decoder = Decoder(self, self._X.numpy(), responses, labels)
        return self._decoder
