"""Bootstrap intervals over voxels and test images.

A resample with replacement is a vector of multinomial counts, so every resampled moment is a matrix product of counts
and data, and no resampled data are ever formed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from setcore.errors import InputError
from setcore.evaluation.metrics import pearson_r
from setcore.seeding import numpy_generator

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating]
Predictions: TypeAlias = npt.NDArray[np.floating] | Sequence[npt.NDArray[np.floating]]
_BLOCK = 256  # columns worked on at a time: bounds memory to a few (n_boot, 256) arrays
_FLAT = 1e-10  # variance of a resample, relative to the full sample, below which it is rounding error


def bootstrap_mean(
    values: npt.ArrayLike, draws: int = 1000, seed: int = 0, *, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of the mean of `values` (Efron & Tibshirani 1993, chapter 13).

    Parameters
    ----------
    values : array of shape (n,)
    draws : int
        Number of resamples.
    seed : int
    level : float
        Probability of the central interval.

    Returns
    -------
    low, high : float

    Raises
    ------
    InputError
        `values` is empty, not one-dimensional or not finite, or `draws` or `level` is out of range.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise InputError("bootstrap_mean needs one axis of finite values; leave out voxels without a score")
    centre = values.mean()
    means = np.zeros(_checked(draws, level))
    for columns, counts in _count_blocks(len(values), draws, seed, "mean"):
        means += counts @ (values[columns] - centre)
    low, high = _central(centre + means / len(values), level)
    return low, high


def bootstrap_pearson(
    y: npt.ArrayLike, predictions: Predictions, n_boot: int = 1000, seed: int = 0, *, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval of Pearson r, averaged over draws and voxels, resampling test images and voxels jointly.

    Parameters
    ----------
    y : array of shape (n_images, n_voxels)
        Measured responses. Voxels constant in `y` are left out; in a resample where a voxel does not vary it does not
        count, and a prediction that does not vary has r = 0, as in `setcore.evaluation.metrics.pearson_r`.
    predictions : array of shape (n_draws, n_images, n_voxels), or a sequence of n_draws arrays
        Predictions of the same test images from several context draws.
    n_boot : int
        Number of resamples.
    seed : int
    level : float

    Returns
    -------
    low, high : float

    Raises
    ------
    InputError
        Shapes do not fit, a value is not finite, or no voxel varies.
    """
    return bootstrap_methods(y, {"": predictions}, n_boot=n_boot, seed=seed, level=level)[0][""]


def paired_bootstrap_difference(
    y: npt.ArrayLike,
    pred_a: Predictions,
    pred_b: Predictions,
    n_boot: int = 1000,
    seed: int = 0,
    *,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Difference in mean Pearson r of two methods on the same voxels and test images, with its percentile interval.

    Every resample takes the same images and voxels for both methods and all draws.

    Parameters
    ----------
    y : array of shape (n_images, n_voxels)
    pred_a, pred_b : as `predictions` in `bootstrap_pearson`
        The two methods may have different numbers of draws.
    n_boot, seed, level
        As in `bootstrap_pearson`.

    Returns
    -------
    mean, low, high : float
        Mean of r(a) - r(b) over voxels on the full sample, and the bounds of its interval.

    Raises
    ------
    InputError
        As `bootstrap_pearson`.
    """
    both = {"a": pred_a, "b": pred_b}
    return bootstrap_methods(y, both, [("a", "b")], n_boot=n_boot, seed=seed, level=level)[1]["a", "b"]


def bootstrap_methods(
    y: npt.ArrayLike,
    predictions: Mapping[str, Predictions],
    pairs: Sequence[tuple[str, str]] = (),
    n_boot: int = 1000,
    seed: int = 0,
    *,
    level: float = 0.95,
) -> tuple[dict[str, tuple[float, float]], dict[tuple[str, str], tuple[float, float, float]]]:
    """`bootstrap_pearson` of several methods and `paired_bootstrap_difference` of pairs, resampled once for all.

    Parameters
    ----------
    y : array of shape (n_images, n_voxels)
    predictions : mapping of a method's name to what `bootstrap_pearson` takes
    pairs : sequence of (name, name)
    n_boot, seed, level : as in `bootstrap_pearson`

    Returns
    -------
    intervals : dict of name to (low, high)
    differences : dict of pair to (mean, low, high)

    Raises
    ------
    InputError
    """
    y = np.asarray(y)
    for p in (p for of_method in predictions.values() for p in of_method):
        if y.ndim != 2 or np.shape(p) != y.shape:
            raise InputError(f"y has shape {y.shape} and a prediction {np.shape(p)}; both must be (image, voxel)")
    varying = np.flatnonzero(np.ptp(y, axis=0) > 0) if len(y) else np.empty(0, dtype=int)
    bootstrap = MethodBootstrap(len(y), len(varying), pairs, n_boot, seed, level=level)
    bootstrap.add(y[:, varying], {name: [np.asarray(p)[:, varying] for p in of] for name, of in predictions.items()})
    return bootstrap.finish()


class MethodBootstrap:
    """`bootstrap_methods` of voxels that come in parts.

    Parameters
    ----------
    n_images : int
    n_voxels : int
        How many will come in all; every one varies over the images.
    pairs : sequence of (name, name)
    n_boot, seed, level : as in `bootstrap_pearson`

    Raises
    ------
    InputError
        There is no voxel, or `n_boot` or `level` is out of range.
    """

    def __init__(
        self, n_images: int, n_voxels: int, pairs: Sequence[tuple[str, str]] = (), n_boot: int = 1000, seed: int = 0,
        *, level: float = 0.95,
    ) -> None:  # fmt: skip
        if n_voxels == 0:
            raise InputError("no voxel of y varies over the test images, so r is not defined")
        self.pairs, self.level, self.n_boot = pairs, level, _checked(n_boot, level)
        image_counts = numpy_generator(seed, "bootstrap", "image").multinomial(
            n_images, np.full(n_images, 1 / n_images), n_boot
        )
        self._weights = image_counts / n_images
        self._blocks = _count_blocks(n_voxels, n_boot, seed, "voxel")
        self._sums: dict[str, Array] = {}
        self._counted = np.zeros(n_boot)
        self._r: dict[str, list[Array]] = {}
        self._left: list[tuple[Floats, dict[str, list[Floats]]]] = []  # fewer voxels than a block has

    def add(self, y: npt.ArrayLike, predictions: Mapping[str, Predictions]) -> None:
        """Take some more voxels.

        Parameters
        ----------
        y : array of shape (n_images, voxels)
        predictions : mapping of a method's name to what `bootstrap_pearson` takes

        Raises
        ------
        InputError
            A value is not finite, or a method has no prediction.
        """
        if not all(len(of_method) for of_method in predictions.values()):
            raise InputError("there are no predictions; give at least one draw")
        y = np.asarray(y)
        for name in {name for pair in self.pairs for name in pair}:
            self._r.setdefault(name, []).append(np.mean([pearson_r(y, p) for p in predictions[name]], axis=0))
        parts = [*self._left, (y, {name: [np.asarray(p) for p in of] for name, of in predictions.items()})]
        names = list(predictions)
        whole = np.concatenate([part for part, _ in parts], axis=1)
        guesses = {
            name: [np.concatenate(of, axis=1) for of in zip(*(part[name] for _, part in parts), strict=True)]
            for name in names
        }
        done = whole.shape[1] // _BLOCK * _BLOCK
        for start in range(0, done, _BLOCK):
            part = slice(start, start + _BLOCK)
            self._block(whole[:, part], {name: [p[:, part] for p in of] for name, of in guesses.items()})
        self._left = [(whole[:, done:], {name: [p[:, done:] for p in of] for name, of in guesses.items()})]

    def _block(self, y: Floats, predictions: Mapping[str, Sequence[Floats]]) -> None:
        _, voxel_counts = next(self._blocks)
        weights, truth = self._weights, _standardized(y.astype(np.float64))
        mean_y = weights @ truth
        var_y = weights @ truth**2 - mean_y**2
        voxel_counts = np.where(var_y > _FLAT, voxel_counts, 0)
        self._counted += voxel_counts.sum(axis=1)
        share_y = voxel_counts / np.sqrt(np.where(var_y > _FLAT, var_y, 1))
        for name, of_method in predictions.items():
            total = self._sums.setdefault(name, np.zeros(self.n_boot))
            for p in of_method:
                guess = _standardized(p.astype(np.float64))
                if not guess.any():  # constant predictions, as those of a mean: r = 0 in every resample
                    continue
                mean_p = weights @ guess
                covariance = weights @ (truth * guess)
                covariance -= mean_y * mean_p
                var_p = weights @ guess**2
                var_p -= np.square(mean_p, out=mean_p)
                var_p[var_p <= _FLAT] = np.inf  # r = 0
                covariance /= np.sqrt(var_p, out=var_p)
                total += np.einsum("bv,bv->b", share_y, covariance) / len(of_method)

    def resampled(self) -> dict[str, Array]:
        """Mean r of every resample, once all voxels have come.

        Returns
        -------
        dict of a method's name to array of shape (n_boot,)
            Without resamples in which no voxel varies.
        """
        for y, predictions in self._left:
            if y.shape[1]:
                self._block(y, predictions)
        self._left, usable = [], self._counted > 0
        return {name: total[usable] / self._counted[usable] for name, total in self._sums.items()}

    def finish(self) -> tuple[dict[str, tuple[float, float]], dict[tuple[str, str], tuple[float, float, float]]]:
        """What `bootstrap_methods` returns, once all voxels have come.

        Returns
        -------
        intervals : dict of name to (low, high)
        differences : dict of pair to (mean, low, high)
        """
        resampled = self.resampled()
        intervals = {name: _central(values, self.level) for name, values in resampled.items()}
        r = {name: np.concatenate(parts) for name, parts in self._r.items()}
        differences = {
            (a, b): (float(np.nanmean(r[a] - r[b])), *_central(resampled[a] - resampled[b], self.level))
            for a, b in self.pairs
        }
        return intervals, differences


def _standardized(values: Array) -> Array:
    """Zero mean and unit variance per column, constant columns 0; r is unchanged and sums of squares keep digits."""
    if not np.isfinite(values).all():
        raise InputError("responses or predictions hold NaN or infinite values")
    spread = np.where(np.ptp(values, axis=0) > 0, values.std(axis=0), np.inf)
    return np.asarray((values - values.mean(axis=0)) / spread)


def _count_blocks(n: int, draws: int, seed: int, name: str) -> Iterator[tuple[slice, npt.NDArray[np.int64]]]:
    """Multinomial counts of `draws` resamples of n items, yielded in blocks of columns so that they are never whole.

    The number of items that fall into each block is multinomial itself, and so are the counts inside a block given it.
    """
    rng = numpy_generator(seed, "bootstrap", name)
    starts = range(0, n, _BLOCK)
    widths = np.array([min(_BLOCK, n - start) for start in starts])
    in_block = rng.multinomial(n, widths / n, draws)
    for index, (start, width) in enumerate(zip(starts, widths, strict=True)):
        yield slice(start, start + width), rng.multinomial(in_block[:, index], np.full(width, 1 / width))


def _checked(draws: int, level: float) -> int:
    if draws < 1 or not 0 < level < 1:
        raise InputError(f"{draws} resamples at level {level}: give at least 1 resample and a level between 0 and 1")
    return draws


def _central(values: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)
