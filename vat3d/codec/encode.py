"""Encoding: the search for the file of one mesh.

Geometry is sampled from the canonical form of a mesh, so that the order of vertices and faces cannot matter, turned so
that it lies along the axes, and in the frame as the file holds it, so that encoder and decoder agree to the last
bit on where things are. Then the fill rule is chosen, tokens are refined, a residual is laid over them where the file
has room for one, and the levels of the surface are set.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setcore.evaluation.mesh_metrics import SurfaceSamples
from setcore.seeding import derive_seed
from vat3d.bitstream.header import header_bytes
from vat3d.bitstream.residual import STEP_CODE, residual_ids
from vat3d.bitstream.stream import LEVELS, TokenStream, tokens_within
from vat3d.bitstream.token_model import TokenModel
from vat3d.codec.decode import decoded_field, finished, raw_surface
from vat3d.codec.effort import EFFORTS, SPARSE_EFFORTS, Schedule
from vat3d.codec.fidelity import FScoreEstimator
from vat3d.codec.half import MirroredView
from vat3d.codec.level_search import Volume, better, with_levels
from vat3d.codec.pose import best_pose
from vat3d.codec.refine_residual import refine_residual
from vat3d.codec.refine_tokens import refine
from vat3d.codec.search import Choice, Search
from vat3d.codec.targets import (
    FAST_SAMPLES,
    SLOW_SAMPLES,
    SURFACE_POINTS,
    CanonicalToFile,
    as_tensor,
    sample_target,
)
from vat3d.errors import MeshError
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.fill import EVEN_ODD, NONZERO
from vat3d.mesh.isosurface import GridField
from vat3d.mesh.solid import Solid
from vat3d.mesh.thin_parts import SOLID_WALL_FLAG, WIDTHS
from vat3d.mesh_io.load import load_mesh
from vat3d.network.codec_network import CodecNetwork

LEAST_ROOM = 96
"""Bytes after the tokens from which on a residual is worth its place."""
COARSE = 0.125
"""Share of the tokens before a residual that stay as the encoder chose them, but whole scales."""
TOKEN_HEADROOM = 2
"""So many times the tokens that a file would hold uncoded are chosen; even coded, fewer fit."""
TRIAL = 12
"""Steps on free vectors after which the fill rules are compared; refinement then begins anew."""
YET_TO_COME = 0.5
"""Share of what the trial's tokens lack of the solid's own F-score that a residual is trusted to bring."""


@dataclass(frozen=True)
class Attempt:
    """Surface and volume points (n, 3) of a mesh that is filled by one rule, in the file's frame; the encoder's latent
    and tokens of it, and the search that goes on from them."""

    fill: str
    surface: NDArray[np.float64]
    volume: Volume
    latent: Tensor
    search: Search
    start: Choice


class Encoding:
    """What is known of one mesh while its file is searched for.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    model : TokenModel
    mesh : path, trimesh.Trimesh, trimesh.Scene or (vertices, faces)
    max_bytes : int
    effort : {"fast", "normal", "best"}
    seed : int
    time_limit : float, optional
        Seconds from now on after which refinement stops.
    progress : bool

    Raises
    ------
    MeshError
        The mesh cannot be read or bounds nothing.
    """

    def __init__(
        self,
        network: CodecNetwork,
        model: TokenModel,
        mesh: Any,
        max_bytes: int,
        effort: str,
        seed: int,
        time_limit: float | None,
        progress: bool,
    ) -> None:
        self.network, self.model, self.max_bytes, self.seed, self.progress = network, model, max_bytes, seed, progress
        self.closely = effort != "fast"
        self.deadline = None if time_limit is None else time.perf_counter() + time_limit
        vertices, faces, notes = load_mesh(mesh)
        given = canonical_mesh(vertices, faces)
        posed = best_pose(given)
        canonical, self.original, self.solid, self.frame = posed.mesh, posed.surface, posed.solid, posed.frame
        self.place, self.half = CanonicalToFile(canonical, self.frame), MirroredView(self.frame)
        self.report: dict[str, Any] = {"notes": notes, **canonical.report, **self.solid.report, "effort": effort}
        self.report |= {"turned_degrees": self.frame.turned_degrees, "mirrored_axes": self.frame.mirrored_axes}
        self.report["reproducible"] = time_limit is None
        self.judge = FScoreEstimator(
            SurfaceSamples(self.place(self.original.points), self.original.normals),
            partial(raw_surface, network),
            lambda vertices, faces, width: finished(vertices, faces, width, self.frame),
            given.half_side / canonical.half_side,
        )
        self._fields: dict[tuple[int | None, bytes], GridField] = {}
        self.base = self._base_tokens() if self.closely else 0
        self.schedule = SPARSE_EFFORTS[effort] if self.base else EFFORTS[effort]
        self.most = sum(model.scales)

    def _base_tokens(self) -> int:
        """Tokens before a residual, if the file has room for one; else 0.

        All scales of components where a third of the file holds them, so that this third decodes well, too.
        """
        config = self.network.config
        many, few = sum(config.scales[: len(config.components)]), config.base_tokens

        def least(count: int) -> float:
            return header_bytes(self.frame) + (count * math.log2(config.codes) + 3 * len(config.components)) / 8

        if not few or not self.model.latent or least(few) + LEAST_ROOM > self.max_bytes:
            return 0
        return many if 3 * least(many) <= self.max_bytes else few

    def find(self, fill: str | None, min_f_score: float | None) -> TokenStream:
        """The file's stream, with its report; `fill` and `min_f_score` as in `MeshTokenizer.encode`."""
        chosen = self._chosen_rule() if fill is None and self.solid.hides_parts(self.original) else None
        if self.base:
            self.most = self.base
        if chosen is None:
            chosen = self._attempt(fill or NONZERO)
        elif self.base:  # with fewer tokens than the rules were compared by
            chosen = replace(chosen, start=chosen.search.choose_price(chosen.latent))
        self.report["fill"], search, start = chosen.fill, chosen.search, chosen.start
        refined = self._improve(search, start, self.schedule, self.progress)
        stream = self._stream(refined)
        if self.base:
            stream = self._with_residual(stream, chosen, refined)
            self.most = sum(self.model.scales)
        if self.schedule.free_steps:
            plain = self._stream(replace(start, kept=self._fit(start.ids)))
            stream = better(stream, plain, self._field, self.judge)
        solid = self.solid.filled(chosen.fill)
        widths: tuple[int, ...] = ()
        if solid.is_thin(self.original):
            kind = SOLID_WALL_FLAG if solid.has_walls(self.original) else 0
            widths = tuple(
                kind + width for width in WIDTHS[: 2 if self.closely else 1]
            )  # estimates overrate large ones
        stream, score = with_levels(stream, self._field, self.judge, chosen.volume, self.closely, widths)
        if min_f_score is not None:
            for shorter in (stream.truncate(scales) for scales in range(1, len(stream.ids))):
                f_scores = self.judge.f_scores(self._field(shorter), self.closely, shorter.width)
                shorter_score = f_scores(shorter.level)
                if shorter_score >= min_f_score:
                    stream, score = shorter, shorter_score
                    break
        stream.report["f_score@0.02"] = score
        stream.report.update(stream.sizes)
        return stream

    def _field(self, stream: TokenStream) -> GridField:
        key = stream.residual_step, np.concatenate(stream.ids).tobytes()
        if key not in self._fields:
            self._fields[key] = GridField(decoded_field(self.network, stream))
        return self._fields[key]

    def _stream(self, choice: Choice) -> TokenStream:
        return TokenStream(self.model.split(choice.tokens), self.frame, self.model, self.report)

    def _fit(self, ids: NDArray[np.int64]) -> int:
        return tokens_within(ids[: self.most], self.frame, self.model, self.max_bytes)

    def _improve(self, search: Search, start: Choice, schedule: Schedule, progress: bool = False) -> Choice:
        ends = np.cumsum(self.model.scales)
        still = int(ends[ends <= self.base * COARSE].max(initial=0)) if self.most == self.base else 0
        return refine(search, start, schedule, still=still, deadline=self.deadline, progress=progress)

    def _attempt(self, fill: str) -> Attempt:
        filled, samples = self.solid.filled(fill), SLOW_SAMPLES if self.closely else FAST_SAMPLES
        target, volume = sample_target(filled, self.place, self.half, self.seed, *samples)
        raw = 8 * self.max_bytes / math.log2(self.network.config.codes)
        search = Search(self.network, target, self._fit, self.model.tables, self.seed, limit=int(TOKEN_HEADROOM * raw))
        points, normals = filled.surface_samples(SURFACE_POINTS, derive_seed(self.seed, "encode"))
        surface = self.place(points)
        shown, normals = self._half_surface(filled, surface, normals)
        with torch.inference_mode():
            latent = self.network.encode(as_tensor(shown)[None], as_tensor(normals)[None], self.half.box)[0]
        return Attempt(fill, surface, volume, latent, search, search.choose_price(latent))

    def _half_surface(
        self, solid: Solid, points: NDArray[np.float64], normals: NDArray[np.float64]
    ) -> tuple[NDArray[np.floating], NDArray[np.float64]]:
        """What the encoder is shown of surface points and normals (n, 3) in the file's frame."""

        def inside(points: NDArray[np.float64]) -> NDArray[np.bool_]:
            return solid.contains(self.place.back(points))

        area = solid.area * self.place.scale**2
        shown, normals = self.half.surface(points, normals, area, inside, derive_seed(self.seed, "encode"))
        return self.half.seen(shown), normals

    def _chosen_rule(self) -> Attempt:
        """That of the fill rule which promises the better F-score after a few steps, by all tokens that fit.

        (Inner walls come last: of what the tokens lack, a residual will bring some, which is granted here.)
        """
        trial = Schedule(min(TRIAL, self.schedule.free_steps), 0)
        share = YET_TO_COME if self.base else 0.0

        def promise(attempt: Attempt) -> float:
            now = self.judge.estimate(self._field(self._stream(self._improve(attempt.search, attempt.start, trial))))
            return now + share * max(self.judge.ceiling(attempt.surface) - now, 0)

        attempts = [self._attempt(NONZERO)]
        with suppress(MeshError):  # no surface by this rule
            attempts.append(self._attempt(EVEN_ODD))
        return max(attempts, key=promise)

    def _with_residual(self, stream: TokenStream, attempt: Attempt, base: Choice) -> TokenStream:
        """The stream of a choice of tokens, with a sparse residual in what the file leaves, if any fits."""

        def with_residual(residual: NDArray[np.int64]) -> TokenStream:
            ids, levels = [*stream.ids, residual_ids(residual)], (LEVELS[-1],) * (len(stream.ids) + 1)
            return replace(stream, ids=ids, levels=levels, residual_step=STEP_CODE)

        def fits(residual: NDArray[np.int64]) -> bool:
            return not residual.any() or len(with_residual(residual).to_bytes()) <= self.max_bytes

        room = 8.0 * (self.max_bytes - len(stream.to_bytes())) - 4 - 3 * len(stream.ids)
        found = refine_residual(
            attempt.search, base, attempt.latent, self.schedule, room, fits,
            deadline=self.deadline, progress=self.progress,
        )  # fmt: skip
        return stream if found is None else replace(with_residual(found), levels=())
