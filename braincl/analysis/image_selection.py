"""Which pictures to show next: those whose responses would shrink the predicted uncertainty most.

Under a Gaussian prior over tuning, how much a response narrows the posterior depends on the picture and on the noise
but not on the response itself, so that pictures can be chosen before they are shown: each pick is the candidate that
lessens the expected predictive variance over the target pictures most, averaged over voxels, given all picks before it
(sequential A-optimal design, Chaloner & Verdinelli 1995, section 2.2; for Gaussian processes, Seo et al. 2000, eq. 8).
Voxels differ in noise: the variance is averaged over noise levels, weighted by what the context says of them.

A pick is a rank-one update of a posterior covariance, and the gains of all candidates follow from it without the
candidates' covariance ever being formed: after a start of J E^2, a pick costs ``l (E^2 + J E)``.

Axes: J candidate, t target, n context image, E feature, V voxel, l noise level, k eigenvector. F = E + 1: features, and
the offset.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from braincl.data.responses import check_same_embedding
from braincl.data.stores.blocks import VoxelBlocks
from braincl.data.torch_settings import plain_torch
from braincl.errors import ResponseError
from braincl.estimators.base import standardiser
from braincl.estimators.in_context import InContextEncoder
from braincl.models.evidence import evidence, group_experts, squared_scale
from braincl.models.experts import Context
from braincl.models.noise_levels import SIGNAL_SHARES, posterior
from braincl.models.prior import Prior
from setcore.devices import find_device
from setcore.files import write_bytes


class Selection(NamedTuple):
    """Pictures in the order in which they were picked.

    Parameters
    ----------
    rows : array of shape (count,)
        Of the candidates.
    unexplained : array of shape (count,)
        After each pick, the expected variance that is left in the signal over the targets, as a share of its variance
        before any picture was shown; voxels count by their signal. Above 1 while few pictures leave voxels' offsets
        open as well.
    """

    rows: NDArray[np.int64]
    unexplained: NDArray[np.float64]


class Belief(NamedTuple):
    """What is known of the tuning and offset of voxels, at several noise levels.

    Parameters
    ----------
    centre : tensor (E,)
        The embedding at which the offset stands.
    covariance : tensor (l, F, F)
        Of tuning and offset, in units of a voxel's signal scale.
    noise : tensor (l,)
        Variance of a response's noise in these units.
    weight : tensor (l,)
        Squared signal scale, summed over the voxels at that noise level.
    prior : tensor (E, E)
        Covariance of tuning before any picture.
    """

    centre: Tensor
    covariance: Tensor
    noise: Tensor
    weight: Tensor
    prior: Tensor


@plain_torch()
def select_images(
    encoder: InContextEncoder,
    candidates: xr.Dataset,
    count: int,
    *,
    context: xr.Dataset | None = None,
    targets: xr.Dataset | None = None,
) -> Selection:
    """Pick the pictures to show next to a subject.

    Parameters
    ----------
    encoder : InContextEncoder
        Its population prior, or an isotropic one where it has none, says what tuning to expect.
    candidates : Dataset with ``embedding (image, feature)``
        Of pictures that come twice, or are in the context, by `image_id`, no second showing is picked.
    count : int
    context : response set with embeddings, optional
        What has been shown so far. None: nothing.
    targets : Dataset with ``embedding (image, feature)``, optional
        The pictures whose responses are to be predicted. None: the candidates.

    Returns
    -------
    Selection

    Raises
    ------
    ResponseError
        There are fewer candidates than `count`, or embeddings do not go together.
    ModelError
        The model takes embeddings of another width.

    Examples
    --------
    >>> import numpy as np
    >>> import braincl
    >>> rng = np.random.default_rng(0)
    >>> subject = braincl.from_arrays(rng.normal(size=(30, 5)), rng.normal(size=(30, 8)), subject="S1")
    >>> encoder = braincl.InContextEncoder.from_pretrained()
    >>> chosen = braincl.select_images(encoder, subject, 4)
    >>> len(set(chosen.rows.tolist()))
    4
    """
    for other in (context, targets):
        if other is not None:
            check_same_embedding(other, candidates)
    open_rows = _open_rows(candidates, context)
    if not 1 <= count <= len(open_rows):
        raise ResponseError(
            f"cannot pick {count} pictures: {len(open_rows)} candidates of {candidates.sizes['image']} are different "
            "pictures that the context does not hold; ask for 1 or more, and give candidates enough"
        )
    X = torch.as_tensor(candidates["embedding"].values[open_rows]).double()
    wanted = X if targets is None else torch.as_tensor(targets["embedding"].values).double()
    prior = encoder.starting_prior(X.shape[1])
    first: list[int] = []
    if context is None:
        first = [_most_central(X, wanted, torch.as_tensor(prior.covariances[0]))]
        belief = _belief_from_one(prior, X[first[0]], wanted)
    else:
        belief = _belief_from_context(prior, VoxelBlocks(context), wanted)
    device = find_device(encoder.device)
    if device.type != "mps":  # it has no float64, which many pictures in a row need
        belief, X, wanted = Belief(*(part.to(device) for part in belief)), X.to(device), wanted.to(device)
    rows, unexplained = _greedy(belief, X, wanted, count, first)
    return Selection(open_rows[rows], unexplained)


def _belief_from_one(prior: Prior, first: Float[Tensor, "e"], targets: Float[Tensor, "t e"]) -> Belief:
    """What is known once `first` has been shown, before its response is looked at: the offset there, up to noise.

    With a flat prior on the offset, the first response is spent on it.
    """
    covariance = torch.as_tensor(prior.covariances[0])
    mean = torch.as_tensor(prior.means[0])
    centred = targets - targets.mean(dim=0)
    variance = ((centred @ covariance * centred).sum(dim=1) + (centred @ mean).square()).mean()
    shares = torch.as_tensor(SIGNAL_SHARES)
    noise = (1 - shares) / shares * variance
    return Belief(
        first, _with_offset(covariance.expand(len(noise), -1, -1), noise), noise,
        shares / variance * torch.as_tensor(prior.shares), covariance,
    )  # fmt: skip


def _belief_from_context(prior: Prior, blocks: VoxelBlocks, targets: Float[Tensor, "t e"]) -> Belief:
    """What is known after responses to the pictures of a set; their noise is read off the responses."""
    X = blocks.head["embedding"].values
    context = Context(torch.as_tensor(X))
    covariance, mean = torch.as_tensor(prior.covariances[0]), torch.as_tensor(prior.means[0])
    expert = context.gaussian("population", mean, context.add_basis(covariance))
    (group,) = group_experts([expert], len(X))
    power = torch.zeros_like(group.ratio[0])
    for _, Y in blocks:
        found = evidence(group, len(X), context.project(torch.as_tensor(standardiser(Y)(Y)).double()))
        weights = posterior(found.log_likelihood + torch.as_tensor(prior.shares).log()).weights
        power += (weights * squared_scale(group, found)).sum(dim=(0, 1))
    if not power.any():  # no voxel varies
        return _belief_from_one(prior, context.offset, targets)
    cross, noise = context.cross(expert), group.ratio[0]
    left = torch.stack([covariance - (cross * inverse) @ cross.T for inverse in group.inverse[0]])
    return Belief(context.offset, _with_offset(left, noise / len(X)), noise, power, covariance)


def _with_offset(covariance: Tensor, variance: Tensor) -> Tensor:
    """Covariances (l, E, E) of tuning and variances (l,) of the offset as covariances (l, F, F) of both."""
    padded = torch.nn.functional.pad(covariance, (0, 1, 0, 1))
    padded[:, -1, -1] = variance
    return padded


def _most_central(
    candidates: Float[Tensor, "j e"], targets: Float[Tensor, "t e"], covariance: Float[Tensor, "e e"]
) -> int:
    """The candidate with the least mean variance of ``(x_t - x_j) u`` over the targets."""
    away = candidates - targets.mean(dim=0)
    return int((away @ covariance * away).sum(dim=1).argmin())


def _greedy(
    belief: Belief,
    candidates: Float[Tensor, "j e"],
    targets: Float[Tensor, "t e"],
    count: int,
    first: list[int] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the candidates in the order of choice, and the share of variance left after each.

    `first`: rows that `belief` knows of already; they lead the list.
    """
    Z, T = (_augmented(embeddings, belief.centre) for embeddings in (candidates, targets))
    wanted = T.T @ T / len(T)
    covariance, noise, weight = belief.covariance.clone(), belief.noise[:, None], belief.weight
    # own (l, J) = z' P z, a candidate's variance; gain (l, J) = z' P W P z, what it could take from the targets
    carried = [Z @ level for level in covariance]
    own = torch.stack([(product * Z).sum(dim=1) for product in carried])
    gain = torch.stack([(product @ wanted * product).sum(dim=1) for product in carried])
    left = (covariance * wanted).sum(dim=(1, 2))
    centred = targets - targets.mean(dim=0)
    before = (centred @ belief.prior * centred).sum(dim=1).mean() * weight.sum()
    chosen = list(first or [])
    unexplained = [float(weight @ left / before)] * len(chosen)
    while len(chosen) < count:
        score = weight @ (gain / (own + noise))
        score[chosen] = -torch.inf
        pick = int(score.argmax())
        step = covariance @ Z[pick] / (own[:, pick, None] + noise).sqrt()
        seen, aimed = step @ Z.T, step @ wanted
        taken = (aimed * step).sum(dim=1)
        ahead = (covariance @ aimed[:, :, None])[:, :, 0] @ Z.T
        gain = gain - 2 * seen * ahead + seen.square() * taken[:, None]
        own = own - seen.square()
        covariance -= step[:, :, None] * step[:, None, :]
        left = left - taken
        chosen.append(pick)
        unexplained.append(float(weight @ left / before))
    return np.array(chosen), np.array(unexplained)


def write_selection(selection: Selection, candidates: xr.Dataset, path: str | Path) -> None:
    """Write a selection as CSV: rank, row among the candidates, image_id and image_file where known, unexplained share.

    Parameters
    ----------
    selection : Selection
    candidates : Dataset
        Those that the pictures were picked from.
    path : path
    """
    named = [name for name in ("image_id", "image_file") if name in candidates.coords]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "row", *named, "unexplained"])
    for rank, (row, unexplained) in enumerate(zip(*selection, strict=True), start=1):
        names = [str(candidates[name].values[row]) for name in named]
        writer.writerow([rank, row, *names, f"{unexplained:.6f}"])
    write_bytes(path, text.getvalue().encode())


def _augmented(embeddings: Tensor, centre: Tensor) -> Tensor:
    return torch.nn.functional.pad(embeddings - centre, (0, 1), value=1.0)


def _open_rows(candidates: xr.Dataset, context: xr.Dataset | None) -> NDArray[np.int64]:
    """Rows of the candidates that show a picture for the first time."""
    if "image_id" not in candidates.coords:
        return np.arange(candidates.sizes["image"])
    ids = candidates["image_id"].values
    first = np.sort(np.unique(ids, return_index=True)[1])
    return first if context is None else first[~np.isin(ids[first], context["image_id"].values)]
