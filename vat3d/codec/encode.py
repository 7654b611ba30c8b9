"""Encoding: the stages from a mesh to its token stream.

The mesh is cleaned, posed and placed in the frame of its file (`place_shape`); of its half or whole, if it is its own
mirror image, and of two rules that fill its solid, the better are chosen by tokens that a few steps find
(`choose_start`); tokens are refined (`refine`); a residual is laid over them where the file
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

from setcore.evaluation.mesh_metrics import SAMPLES
from vat3d.bitstream.residual import STEP_CODE, residual_ids
from vat3d.bitstream.stream import THICKNESSES, TokenStream, any_levels
from vat3d.bitstream.token_model import TokenModel
from vat3d.codec.decode import StreamDecoder
from vat3d.codec.effort import EFFORTS, RESIDUAL_EFFORTS, Schedule
from vat3d.codec.fidelity import CELLS, FEW_SAMPLES, ROUGH_CELLS, FScoreEstimator
from vat3d.codec.level_search import better, with_levels
from vat3d.codec.refine_residual import refine_residual
from vat3d.codec.refine_tokens import refine
from vat3d.codec.targets import FAST_SAMPLES, SLOW_SAMPLES, ShapeSamples, sample_shape
from vat3d.codec.token_budget import TokenBudget, token_budget
from vat3d.codec.token_search import PRICES, TokenChoice, TokenSearch
from vat3d.errors import CodecError, MeshError
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.fill import EVEN_ODD, FILLS, NONZERO
from vat3d.mesh_io.load import load_mesh
from vat3d.network.codec_network import CodecNetwork
from vat3d.placement.placed_shape import PlacedShape, place_shape

RESIDUAL_SHARE = 0.5
"""Share of what the trial's tokens lack of the solid's own F-score that a residual is trusted to bring."""

LARGE_SURFACE = 60_000
"""Faces on the rough grid; a cube that fills it has 45,000."""


@dataclass(frozen=True)
class EncodeOptions:
    """How a mesh is encoded.

    Parameters
    ----------
    max_bytes : int, optional
        Size of the file, header included. None: all scales, without a residual.
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

    max_bytes: int | None = 512
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
    def measures(self) -> bool:
        """Whether choices rest on F-scores that are measured, on many samples; else estimates have to do."""
        return self.effort != "fast"


@dataclass(frozen=True)
class _Task:
    """What stays the same while the file of one mesh, in one frame, is searched for."""

    network: CodecNetwork
    model: TokenModel
    options: EncodeOptions
    shape: PlacedShape
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

    @property
    def late(self) -> bool:
        """Whether the time limit has passed."""
        return self.deadline is not None and time.perf_counter() > self.deadline

    def f_score(self, stream: TokenStream) -> float:
        """The F-score of what decodes, from fewer samples at effort "fast"; on a rough grid when it is late,
        or at "fast" where the surface is so large that a finer look would take longer than all else."""
        field, options = self.decoder.field(stream), self.options
        count, cells = (SAMPLES if options.measures else FEW_SAMPLES), CELLS
        if self.late:
            count, cells = FEW_SAMPLES, ROUGH_CELLS
        elif not options.measures and len(self.estimator.surface(field, stream.level, ROUGH_CELLS)[1]) > LARGE_SURFACE:
            cells = ROUGH_CELLS
        return self.estimator.measured(field, stream.level, stream.thickness, count, cells)


@dataclass(frozen=True)
class _Encoded:
    """What the encoder makes of a shape that is filled by one rule: its latent and first tokens, and the search that
    goes on from them."""

    task: _Task
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
    placed = place_shape(canonical_mesh(vertices, faces))
    shapes = [placed, placed.unmirrored()] if placed.frame.mirror else [placed]
    encoded = choose_start([_task(network, model, options, shape, deadline) for shape in shapes])
    task = encoded.task

    tokens = task.refined(encoded.search, encoded.start, task.schedule, task.budget.n_frozen)
    stream = add_residual(task, encoded, tokens)
    if options.measures and not task.late:
        unrefined = encoded.start.ids[: task.budget.fitting(encoded.start.ids)]
        stream = better(stream, task.stream(unrefined), task.decoder, task.estimator)
    if not task.late:
        thicknesses = encoded.shape.thicknesses[: None if options.measures else 1]  # estimates overrate large ones
        volume = encoded.samples.volume
        stream = with_levels(stream, task.decoder, task.estimator, volume, options.measures, thicknesses)
    stream, f_score = fewest_scales(task, stream)
    if options.min_f_score is not None and f_score < options.min_f_score:
        wanted = f"F@.02 does not reach {options.min_f_score:g}, which was asked for"
        notes = [*notes, f"{wanted}; more bytes or a higher effort may"]
    found = {"notes": notes, **encoded.shape.report, "fill": encoded.shape.solid.fill, "effort": options.effort}
    reached = {"reproducible": options.time_limit is None, "f_score@0.02": f_score, **stream.sizes}
    return replace(stream, report=found | reached)


def _task(
    network: CodecNetwork, model: TokenModel, options: EncodeOptions, shape: PlacedShape, deadline: float | None
) -> _Task:
    budget = token_budget(network.config, model, shape.frame, options.max_bytes)
    schedule = (RESIDUAL_EFFORTS if budget.below_residual else EFFORTS)[options.effort]
    decoder = StreamDecoder(network, shape.view)
    estimator = FScoreEstimator(shape.samples, decoder, shape.solid.face_distance, shape.unit)
    return _Task(network, model, options, shape, budget, schedule, decoder, estimator, deadline)


def choose_start(tasks: Sequence[_Task]) -> _Encoded:
    """Encode a shape by the frame and the fill rule that promise the best F-score.

    A shape that is its own mirror image may be encoded as its half or whole, and one with walls within it by either
    fill rule, unless one was asked for. They are compared after a few steps, by all tokens that fit. Inner walls come
    last: of what the tokens lack, a residual will bring some, which is granted here.

    Parameters
    ----------
    tasks : sequence of _Task
        One for each frame.

    Returns
    -------
    _Encoded
        Ready for tokens that leave room for a residual, if the file has one.
    """
    options = tasks[0].options
    fills = [options.fill or NONZERO]
    if options.fill is None and tasks[0].shape.has_internal_surfaces:
        fills.append(EVEN_ODD)
    if len(tasks) == len(fills) == 1 or tasks[0].late:
        return _encode(tasks[0], fills[0], tasks[0].budget.leaving_room())
    candidates = [_encode(task, fills[0], task.budget) for task in tasks]
    for task in tasks if len(fills) > 1 and not tasks[0].late else ():
        with suppress(MeshError):  # no surface by this rule
            candidates.append(_encode(task, EVEN_ODD, task.budget))
    chosen = candidates[0] if tasks[0].late else max(candidates, key=_promise)
    budget = chosen.task.budget
    if not budget.below_residual:
        return chosen
    search = chosen.search.with_fit(budget.leaving_room().fitting)
    return replace(chosen, search=search, start=search.choose_price(chosen.latent))


def _promise(encoded: _Encoded) -> float:
    """The F-score that tokens promise after a few steps, with the share of the rest that a residual may bring."""
    task = encoded.task
    trial = replace(task.schedule, free_steps=task.schedule.trial_steps, steps=0)
    tokens = task.refined(encoded.search, encoded.start, trial).tokens
    now = task.estimator.estimate(task.decoder.field(task.stream(tokens)), between=task.options.measures)
    share = RESIDUAL_SHARE if task.budget.below_residual else 0.0
    return now + share * max(task.estimator.ceiling(encoded.samples.surface) - now, 0)


def _encode(task: _Task, fill: str, budget: TokenBudget) -> _Encoded:
    network, options = task.network, task.options
    shape = replace(task.shape, solid=task.shape.solid.filled(fill))
    samples = sample_shape(shape, options.seed, *(SLOW_SAMPLES if options.measures else FAST_SAMPLES))
    samples = samples.to(network.device)
    with torch.no_grad():
        latent = network.encode(samples.points, samples.normals, samples.target.box)[0]
    search = TokenSearch(
        network, samples.target, budget.fitting, task.model.tables, options.seed, budget.n_chosen, options.precision,
        PRICES if task.schedule.prices else (),
    )  # fmt: skip
    return _Encoded(task, shape, samples, latent, search, search.choose_price(latent))


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
        return not residual.any() or len(with_residual(residual).to_bytes()) <= budget.max_bytes

    room = budget.residual_bits(len(stream.to_bytes()), len(stream.ids))
    found = refine_residual(
        encoded.search, tokens, encoded.latent, task.schedule, room, fits,
        deadline=task.deadline, progress=options.progress,
    )  # fmt: skip
    return stream if found is None else replace(with_residual(found), levels=(), thickness=0)


def fewest_scales(task: _Task, stream: TokenStream) -> tuple[TokenStream, float]:
    """A stream, or the fewest scales of it whose F-score is good enough, where one was asked for; and its F-score.

    Parameters
    ----------
    task : _Task
    stream : TokenStream

    Returns
    -------
    stream : TokenStream
    f_score : float
    """
    wanted = task.options.min_f_score
    if wanted is not None:
        for scales in range(1, len(stream.ids)):
            prefix = stream.truncate(scales)
            f_score = task.f_score(prefix)
            if f_score >= wanted:
                return prefix, f_score
    return stream, task.f_score(stream)
