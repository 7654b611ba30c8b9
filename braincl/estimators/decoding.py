"""A fitted encoder turned round: which picture was seen, and the embedding of what was seen.

`braincl.estimators.identification` has the mathematics. Axes: m response, c candidate, n context image, V voxel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braincl.data.arrays import check_finite, plain_array
from braincl.errors import ResponseError
from braincl.estimators.base import VoxelEncoder, standardiser
from braincl.estimators.identification import (
    LeftOutContext,
    fit_noise,
    leave_out,
    posterior_embedding,
    posterior_of_candidates,
    scores_by,
)


class Decoder:
    """Identifies and decodes with an encoder; `InContextEncoder.identify` and `decode` are its methods.

    What it learns of the noise comes from context pictures that are left out in turn, for which ten more encoders are
    fitted when it is first asked.

    Parameters
    ----------
    encoder : encoder
        Fitted to X and Y. One without weights identifies, and decodes among given pictures only.
    X : array of shape (n_images, n_features)
    Y : array of shape (n_images, n_voxels)
    groups : array of shape (n_images,), optional
        Pictures that are left out together, such as the runs of a time series.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((60, 8))  # embeddings of 60 pictures
    >>> Y = X @ rng.standard_normal((8, 5)) + 0.1 * rng.standard_normal((60, 5))  # responses of 5 voxels
    >>> from braincl import PriorRidge
    >>> from braincl.estimators.decoding import Decoder
    >>> decoder = Decoder(PriorRidge().fit(X[:40], Y[:40]), X[:40], Y[:40])
    >>> int((decoder.identify(Y[40:], X[40:]).argmax(axis=1) == np.arange(20)).sum())
    20
    """

    def __init__(self, encoder: VoxelEncoder, X: NDArray[Any], Y: NDArray[Any], groups: Any = None) -> None:
        self.encoder, self.X, self.Y, self.groups = encoder, X, Y, groups
        self._standardise = standardiser(Y, np.float64)
        self._left_out: LeftOutContext | None = None
        self._left_out_of: dict[bytes, LeftOutContext] = {}

    @property
    def left_out(self) -> LeftOutContext:
        """The context, every picture predicted without it.

        Returns
        -------
        LeftOutContext

        Raises
        ------
        ResponseError
            There are too few pictures.
        """
        if self._left_out is None:
            parameters = self.encoder.get_params(deep=False)

            def predict(seen: NDArray[np.int64], asked: NDArray[np.int64]) -> NDArray[Any]:
                fitted = type(self.encoder)(**parameters).fit(self.X[seen], self.Y[seen])
                return self._in_units(fitted.predict(self.X[asked]))

            self._left_out = leave_out(predict, self._in_units(self.Y), self.groups)
        return self._left_out

    @property
    def varying(self) -> NDArray[np.int64]:
        """Voxels that vary in the context; others say nothing.

        Returns
        -------
        int array
        """
        return self._standardise.varying

    def left_out_of(self, voxels: Any) -> LeftOutContext:
        """`left_out` of some voxels.

        Parameters
        ----------
        voxels : bool or int array, optional
            None: all that vary.

        Returns
        -------
        LeftOutContext

        Raises
        ------
        ResponseError
            There are too few pictures, or none of the voxels varies.
        """
        chosen = self._chosen(voxels)
        if len(chosen) == len(self.varying):
            return self.left_out
        key = chosen.tobytes()
        if key not in self._left_out_of:
            self._left_out_of[key] = self.left_out.of(chosen)
        return self._left_out_of[key]

    def identify(
        self, responses: Any, candidates: Any, method: str = "auto", voxels: Any = None
    ) -> NDArray[np.float64]:
        """A score of every candidate for every response; see `InContextEncoder.identify`.

        Parameters
        ----------
        responses : array of shape (m, n_voxels)
        candidates : array of shape (n_candidates, n_features)
        method : {"auto", "gaussian", "correlation"}
        voxels : bool or int array, optional

        Returns
        -------
        array of shape (m, n_candidates)

        Raises
        ------
        ResponseError
        """
        expected = self._in_units(self.encoder.predict(candidates))
        if len(expected) < 2:
            raise ResponseError("there is 1 candidate; identification takes two or more")
        seen, chosen = self._responses(responses), self._chosen(voxels)
        return scores_by(method, seen[:, chosen], expected[:, chosen], self.left_out_of(voxels))

    def decode(self, responses: Any, pictures: Any = None, voxels: Any = None) -> NDArray[np.float32]:
        """The embedding of what evoked each response; see `InContextEncoder.decode`.

        Parameters
        ----------
        responses : array of shape (m, n_voxels)
        pictures : array of shape (n_pictures, n_features), optional
        voxels : bool or int array, optional

        Returns
        -------
        array of shape (m, n_features)

        Raises
        ------
        ResponseError
        """
        if pictures is not None:
            scores = self.identify(responses, pictures, "gaussian", voxels)
            weights = posterior_of_candidates(scores)
            return np.asarray(weights @ np.asarray(plain_array(pictures, "pictures"), np.float64), np.float32)
        coef, intercept = (getattr(self.encoder, name, None) for name in ("coef_", "intercept_"))
        if coef is None or intercept is None:
            raise ResponseError(
                f"{type(self.encoder).__name__} has no weights to invert; give the pictures that may have been seen"
            )
        chosen = self._chosen(voxels)
        seen, context = self._responses(responses)[:, chosen], self.left_out_of(voxels)
        rows = self._standardise.varying[chosen]
        shift, scale = self._standardise.shift[rows], self._standardise.scale[rows]
        weights, bias = coef[rows].astype(np.float64) / scale[:, None], (intercept[rows] - shift) / scale
        noise = fit_noise(context)
        return posterior_embedding(seen, weights, bias, noise, self.X.astype(np.float64)).astype(np.float32)

    def _in_units(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Voxels that vary in the context, standardised as there."""
        return self._standardise(values.reshape(len(values), -1), np.float64)

    def _responses(self, responses: Any) -> NDArray[np.float64]:
        values = np.asarray(plain_array(responses, "responses"))
        if values.ndim != 2 or values.shape[1] != self.Y.shape[1]:
            raise ResponseError(
                f"responses have shape {values.shape}, the context has {self.Y.shape[1]} voxels; give (response, "
                "voxel) of the same voxels in the same order"
            )
        if not len(values):
            raise ResponseError(f"responses have shape {values.shape}: there is none to tell a picture from; give one")
        check_finite(values, "responses", axis=1)
        return self._in_units(values)

    def _chosen(self, voxels: Any) -> NDArray[np.int64]:
        """Places of the chosen voxels among those that vary in the context."""
        varying = self._standardise.varying
        if voxels is None:
            chosen = np.arange(len(varying))
        else:
            mask = np.zeros(self.Y.shape[1], bool)
            try:
                mask[np.asarray(voxels)] = True
            except IndexError as error:
                raise ResponseError(f"voxels choose among the context's {len(mask)} ({error})") from error
            chosen = np.flatnonzero(mask[varying])
        if not len(chosen):
            raise ResponseError("no chosen voxel varies in the context, so that none tells pictures apart")
        return chosen
