"""Encoding: the stages from a mesh to its token stream.

The mesh is cleaned, posed and placed in the frame of its file (`place_shape`); a fill rule is chosen for its solid, by
tokens that a few steps find (`choose_fill`); tokens are refined (`refine`); a residual is laid over them where the file
has room for one (`add_residual`); and the levels of the surface are set (`with_levels`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vat3d.bitstream.residual import STEP_CODE, residual_ids
from vat3d.bitstream.stream import THICKNESSES, TokenStream, any_levels
from vat3d.bitstream.token_model import TokenModel
from vat3d.codec.decode import StreamDecoder
from vat3d.codec.effort import EFFORTS, RESIDUAL_EFFORTS, Schedule
from vat3d.codec.fidelity import FScoreEstimator
from vat3d.codec.level_search import better, with_levels
from vat3d.codec.refine_residual import refine_residual
from vat3d.codec.refine_tokens import refine
from vat3d.codec.targets import FAST_SAMPLES, SLOW_SAMPLES, ShapeSamples, sample_shape
from vat3d.codec.token_budget import TokenBudget, token_budget
from vat3d.codec.token_search import TokenChoice, TokenSearch
from vat3d.errors import CodecError, MeshError
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.fill import EVEN_ODD, FILLS, NONZERO
from vat3d.mesh_io.load import load_mesh
from vat3d.network.codec_network import CodecNetwork
from vat3d.placement.placed_shape import PlacedShape, place_shape

TRIAL_STEPS = 12
"""Steps on free vectors after which the fill rules are compared; refinement then begins anew."""
RESIDUAL_SHARE = 0.5
"""Share of what the trial's tokens lack of the solid's own F-score that a residual is trusted to bring."""


@dataclass(frozen=True)
class EncodeOptions:
    """How a mesh is encoded.

    Parameters
    ----------
    max_bytes : int
        Size of the file, header included.
    effort : {"fast", "normal", "best"}
    seed : int
    fill : {"nonzero", "even-odd"}, optional
        By default the better one.
    min_f_score : float, optional
        Keep the fewest scales that reach it.
    time_limit : float, optional
        Seconds after which refinement stops.
    progress : bool
        Progress bars on standard error.
    precision : {"auto", "float32", "bfloat16"}
        Of matrix products in refinement.

    Raises
    ------
    CodecError
        Effort or fill rule are unknown.
    """

    max_bytes: int = 512
    effort: str = "normal"
    seed: int = 0
    fill: str | None = None
    min_f_score: float | None = None
    time_limit: float | None = None
    progress: bool = False
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, value, known in (("effort", self.effort, EFFORTS), ("fill", self.fill or NONZERO, FILLS)):
            if value not in known:
                raise CodecError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")

    @property
    def refines(self) -> bool:
        """Whether tokens are refined and F-scores measured; else one forward pass and estimates have to do."""
        return self.effort != "fast"


@dataclass(frozen=True)
class _Task:
    """What stays the same while the file of one mesh is searched for."""

    network: CodecNetwork
    model: TokenModel
    options: EncodeOptions
    budget: TokenBudget
    schedule: Schedule
    decoder: StreamDecoder
    estimator: FScoreEstimator
    deadline: float | None

    def refined(self, search: TokenSearch, start: TokenChoice, schedule: Schedule, n_frozen: int = 0) -> TokenChoice:
        progress = self.options.progress and schedule is self.schedule
        return refine(search, start, schedule, n_frozen=n_frozen, deadline=self.deadline, progress=progress)

    def stream(self, tokens: NDArray[np.int64]) -> TokenStream:
        return TokenStream(self.model.split(tokens), self.budget.frame, self.model)


@dataclass(frozen=True)
class _Encoded:
    """What the encoder makes of a shape that is filled by one rule: its latent and first tokens, and the search that
    goes on from them."""

    shape: PlacedShape
    samples: ShapeSamples
    latent: Tensor
    search: TokenSearch
    start: TokenChoice


def encode_mesh(network: CodecNetwork, model: TokenModel, mesh: Any, options: EncodeOptions) -> TokenStream:
    """The token stream of a mesh.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    model : TokenModel
    mesh : path, trimesh.Trimesh, trimesh.Scene or (vertices, faces)
    options : EncodeOptions

    Returns
    -------
    TokenStream
        With its report.

    Raises
    ------
    MeshError
        The mesh cannot be read or bounds nothing.
    CodecError
        Not even the first scale fits.
    """
    deadline = None if options.time_limit is None else time.perf_counter() + options.time_limit
    vertices, faces, notes = load_mesh(mesh)
    canonical = canonical_mesh(vertices, faces)
    shape = place_shape(canonical)
    budget = token_budget(network.config, model, shape.frame, options.max_bytes, residual=options.refines)
    schedule = (RESIDUAL_EFFORTS if budget.below_residual else EFFORTS)[options.effort]
    decoder = StreamDecoder(network, shape.view)
    estimator = FScoreEstimator(shape.original, decoder, shape.unit)
    task = _Task(network, model, options, budget, schedule, decoder, estimator, deadline)

    encoded = choose_fill(task, shape)
    tokens = task.refined(encoded.search, encoded.start, schedule, budget.n_frozen)
    stream = add_residual(task, encoded, tokens)
    if schedule.free_steps:
        unrefined = encoded.start.ids[: budget.fitting(encoded.start.ids)]
        stream = better(stream, task.stream(unrefined), decoder, estimator)
    thicknesses = encoded.shape.thicknesses[: None if options.refines else 1]  # estimates overrate large ones
    stream, f_score = with_levels(stream, decoder, estimator, encoded.samples.volume, options.refines, thicknesses)
    if options.min_f_score is not None:
        stream, f_score = fewest_scales(task, stream, f_score, options.min_f_score)
    found = {"notes": notes, **encoded.shape.report, "fill": encoded.shape.solid.fill, "effort": options.effort}
    reached = {"reproducible": options.time_limit is None, "f_score@0.02": f_score, **stream.sizes}
    return replace(stream, report=found | reached)


def choose_fill(task: _Task, shape: PlacedShape) -> _Encoded:
    """Encode a shape by the fill rule that was asked for, or that promises the better F-score.

    Rules are compared after a few steps, by all tokens that fit. Inner walls come last: of what the tokens lack, a
    residual will bring some, which is granted here.

    Parameters
    ----------
    task : _Task
    shape : PlacedShape

    Returns
    -------
    _Encoded
        Ready for tokens that leave room for a residual, if the file has one.
    """
    budget, options = task.budget, task.options
    if options.fill is not None or not shape.has_internal_surfaces:
        return _encode(task, shape, options.fill or NONZERO, budget.leaving_room())
    trial = Schedule(min(TRIAL_STEPS, task.schedule.free_steps), 0)
    share = RESIDUAL_SHARE if budget.below_residual else 0.0

    def promise(encoded: _Encoded) -> float:
        tokens = task.refined(encoded.search, encoded.start, trial).tokens
        now = task.estimator.estimate(task.decoder.field(task.stream(tokens)))
        return now + share * max(task.estimator.ceiling(encoded.samples.surface) - now, 0)

    candidates = [_encode(task, shape, NONZERO, budget)]
    with suppress(MeshError):  # no surface by this rule
        candidates.append(_encode(task, shape, EVEN_ODD, budget))
    chosen = max(candidates, key=promise)
    if not budget.below_residual:
        return chosen
    search = chosen.search.with_fit(budget.leaving_room().fitting)
    return replace(chosen, search=search, start=search.choose_price(chosen.latent))


def _encode(task: _Task, shape: PlacedShape, fill: str, budget: TokenBudget) -> _Encoded:
    network, options = task.network, task.options
    shape = replace(shape, solid=shape.solid.filled(fill))
    samples = sample_shape(shape, options.seed, *(SLOW_SAMPLES if options.refines else FAST_SAMPLES))
    with torch.inference_mode():
        latent = network.encode(samples.points, samples.normals, shape.view.box)[0]
    search = TokenSearch(
        network, samples.target, budget.fitting, task.model.tables, options.seed, budget.n_chosen, options.precision
    )
    return _Encoded(shape, samples, latent, search, search.choose_price(latent))


def add_residual(task: _Task, encoded: _Encoded, tokens: TokenChoice) -> TokenStream:
    """The stream of tokens, with a sparse residual in what the file leaves, if it is to have one and any fits.

    Parameters
    ----------
    task : _Task
    encoded : _Encoded
    tokens : TokenChoice

    Returns
    -------
    TokenStream
        Its levels and thickness are still to be chosen.
    """
    stream, budget, options = task.stream(tokens.tokens), task.budget, task.options
    if not budget.below_residual:
        return stream

    def with_residual(residual: NDArray[np.int64]) -> TokenStream:
        ids = [*stream.ids, residual_ids(residual)]
        return replace(stream, ids=ids, levels=any_levels(len(ids)), residual_step=STEP_CODE, thickness=THICKNESSES - 1)

    def fits(residual: NDArray[np.int64]) -> bool:
        return not residual.any() or len(with_residual(residual).to_bytes()) <= options.max_bytes

    room = budget.residual_bits(len(stream.to_bytes()), len(stream.ids))
    found = refine_residual(
        encoded.search, tokens, encoded.latent, task.schedule, room, fits,
        deadline=task.deadline, progress=options.progress,
    )  # fmt: skip
    return stream if found is None else replace(with_residual(found), levels=(), thickness=0)


def fewest_scales(task: _Task, stream: TokenStream, f_score: float, wanted: float) -> tuple[TokenStream, float]:
    """The fewest scales of a stream whose F-score is good enough; all of them, if none is.

    Parameters
    ----------
    task : _Task
    stream : TokenStream
    f_score : float
        Of the whole stream.
    wanted : float

    Returns
    -------
    stream : TokenStream
    f_score : float
    """
    shorter: Sequence[TokenStream] = [stream.truncate(scales) for scales in range(1, len(stream.ids))]
    for prefix in shorter:
        f_scores = task.estimator.f_scores(task.decoder.field(prefix), task.options.refines, prefix.thickness)
        if f_scores(prefix.level) >= wanted:
            return prefix, f_scores(prefix.level)
    return stream, f_score
