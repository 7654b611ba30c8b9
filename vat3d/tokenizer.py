"""`MeshTokenizer`: meshes to token streams and back.

Geometry is sampled from the canonical form of a mesh, so that the order of vertices and faces cannot matter, and in
the frame as the file's header holds it, so that encoder and decoder agree to the last bit on where things are.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from setcore.mesh_metrics import SurfaceSamples, sample_surface
from setcore.seeding import derive_seed, numpy_generator
from vat3d.errors import CodecError, MeshError
from vat3d.evaluate import SAMPLES
from vat3d.extract import Field, GridField, decimate, extract_surface
from vat3d.frame import Frame
from vat3d.geometry import EXTENT, stretch_box
from vat3d.inside import EVEN_ODD, FILLS, NONZERO, SHELL, Solid
from vat3d.levels import Judge, better, with_levels
from vat3d.mesh_io import load_mesh
from vat3d.network import CodecNetwork
from vat3d.refine import EFFORTS, SPARSE_EFFORTS, Choice, Schedule, Search, Target, refine, refine_residual
from vat3d.release import load_release
from vat3d.repair import CanonicalMesh, canonical_mesh
from vat3d.residual import STEP_CODE, STEPS, residual_ids
from vat3d.stream import (
    LEVEL_STEP,
    LEVELS,
    TokenModel,
    TokenStream,
    embedded_model,
    embedded_models,
    header_bytes,
    read_model_id,
    tokens_within,
)

if TYPE_CHECKING:
    import trimesh

DEFAULT_MODEL = "default-5"
SURFACE_POINTS = 8192
FAST_SAMPLES, SLOW_SAMPLES = (4_000, 4_000), (40_000, 20_000)
"""Near-surface and volume samples of a mesh that the search for its tokens sees."""
NEAR_SIGMAS = (0.01, 0.04)
LEAST_ROOM = 96
"""Bytes after the tokens from which on a residual is worth its place."""
TRIAL = 12
"""Steps on free vectors after which the fill rules are compared; refinement then begins anew."""
TIP = 0.01
"""What a decoded side may lack of its box, in half-sides, and still count as error rather than as a lost tip."""


class MeshTokenizer:
    """Encodes meshes into token streams of a few hundred bytes and decodes them.

    Parameters
    ----------
    network : CodecNetwork
        Frozen.
    model : TokenModel
        Its tables and id.
    facts : dict, optional
        What is known of the training, for `info`.
    """

    def __init__(self, network: CodecNetwork, model: TokenModel, facts: dict[str, Any] | None = None) -> None:
        self.network = network
        self.model = model
        self.facts = facts or {}

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path | None = None) -> MeshTokenizer:
        """The tokenizer of a model folder, of an embedded model's id or name, or the embedded default.

        Raises
        ------
        CodecError, CheckpointError
            There is no such model, or its folder is damaged.
        """
        return cls(*load_release(model_folder(path_or_name)))

    @torch.inference_mode()
    def _latent(self, solid: Solid, place: _Place, box: Tensor, seed: int) -> Tensor:
        points, normals = solid.surface_samples(SURFACE_POINTS, derive_seed(seed, "encode"))
        return self.network.encode(_tensor(place(points))[None], _tensor(normals)[None], box)[0]

    def encode(
        self,
        mesh: Any,
        max_bytes: int = 512,
        effort: str = "normal",
        seed: int = 0,
        *,
        fill: str | None = None,
        min_f_score: float | None = None,
        time_limit: float | None = None,
        progress: bool | None = None,
    ) -> TokenStream:
        """Encode a mesh into a file of at most `max_bytes`.

        Parameters
        ----------
        mesh : path, trimesh.Trimesh, trimesh.Scene or (vertices, faces)
            Open sheets become shells of stated thickness; colours and textures are dropped. `report` says so.
        max_bytes : int
            Size of the file, header included.
        effort : {"fast", "normal", "best"}
            One forward pass, or also a fixed number of refinement steps (up to about 20 s and 60 s on two cores), whose
            result is kept unless its estimated F-score is clearly worse.
        seed : int
            Same mesh, seed and machine: same bytes.
        fill : {"nonzero", "even-odd"}, optional
            What overlapping parts stand for: the space they fill together, or what lies in an odd number of them, so
            that walls within others are kept, and where two overlap is empty. By default the latter where parts hide
            others and it has the better estimated F-score; `report` says which.
        min_f_score : float, optional
            Keep the fewest scales whose F-score at .02, as `report` states it, reaches this, if `max_bytes` allows.
        time_limit : float, optional
            Seconds after which refinement stops; marks the stream as not reproducible.
        progress : bool, optional
            A progress bar on standard error; by default for "best".

        Returns
        -------
        TokenStream
            `report` holds what was found, repaired and closed, the F-score at .02 of what it decodes to against the
            mesh as given (parts of it that no closed surface shows count against it; "fast" estimates it, to about
            .02), and sizes in bytes.

        Raises
        ------
        MeshError
            The mesh cannot be read or bounds nothing.
        CodecError
            Not even the first scale fits, or `effort` or `fill` is unknown.
        """
        for name, value, known in (("effort", effort, EFFORTS), ("fill", fill or NONZERO, FILLS)):
            if value not in known:
                raise CodecError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")
        started = time.perf_counter()
        vertices, faces, notes = load_mesh(mesh)
        canonical = canonical_mesh(vertices, faces)
        solid = Solid(canonical)
        frame = _frame(canonical)
        place = _Place(canonical, frame)
        box = network_box(frame)
        report: dict[str, Any] = {"notes": notes, **canonical.report, **solid.report, "effort": effort}
        report["reproducible"] = time_limit is None
        original = sample_surface(canonical.vertices, canonical.faces, SAMPLES, seed=1, any_order=False)
        judge = Judge(
            SurfaceSamples(place(original.points), original.normals),
            lambda field, level, cells: self._surface(field, level, cells, box),
        )

        fields: dict[tuple[int | None, bytes], GridField] = {}

        def field_of(stream: TokenStream) -> GridField:
            key = stream.residual_step, np.concatenate(stream.ids).tobytes()
            if key not in fields:
                fields[key] = GridField(self.field(stream))
            return fields[key]

        def stream_of(choice: Choice) -> TokenStream:
            return TokenStream(self.model.split(choice.tokens), frame, self.model, report)

        deadline = None if time_limit is None else started + time_limit
        components = self._components(max_bytes, frame) if effort != "fast" else 0
        most = whole = sum(self.model.scales)

        def fit(ids: NDArray[np.int64]) -> int:
            return tokens_within(ids[:most], frame, self.model, max_bytes)

        def improve(search: Search, start: Choice, schedule: Schedule, progress: bool = False) -> Choice:
            return refine(search, start, schedule, deadline=deadline, progress=progress)

        def attempt(fill: str) -> _Attempt:
            filled, samples = solid.filled(fill), FAST_SAMPLES if effort == "fast" else SLOW_SAMPLES
            search = Search(
                self.network,
                _target(filled, place, box, seed, *samples),
                fit,
                self.model.tables,
                seed,
            )
            return _Attempt(fill, search, search.choose_price(self._latent(filled, place, box, seed)))

        schedule = SPARSE_EFFORTS[effort] if components else EFFORTS[effort]
        chosen: _Attempt | None = None
        if fill is None and solid.hides_parts(original):
            trial = Schedule(min(TRIAL, schedule.free_steps), 0)

            def promise(one: _Attempt) -> float:
                return judge.estimate(field_of(stream_of(improve(one.search, one.start, trial))))

            attempts = [attempt(NONZERO)]
            with suppress(MeshError):  # parts in one place cancel each other
                attempts.append(attempt(EVEN_ODD))
            chosen = max(attempts, key=promise)  # by all tokens that fit: inner walls are what comes last
        most = components or whole
        if chosen is None or components:
            chosen = attempt(chosen.fill if chosen else fill or NONZERO)
        report["fill"], search, start = chosen.fill, chosen.search, chosen.start
        progress = effort == "best" if progress is None else progress
        refined = improve(search, start, schedule, progress)
        stream = stream_of(refined)
        if components:
            stream = self._with_residual(stream, search, refined, schedule, max_bytes, deadline, progress)
            most = whole
        if schedule.free_steps:
            plain = stream_of(replace(start, kept=fit(start.ids)))
            stream = better(stream, plain, field_of, judge)
        closely = effort != "fast"
        stream, score = with_levels(stream, field_of, judge, search.target, closely)
        if min_f_score is not None:
            for shorter in (stream.truncate(scales) for scales in range(1, len(stream.ids))):
                shorter_score = judge.f_scores(field_of(shorter), closely)(shorter.level)
                if shorter_score >= min_f_score:
                    stream, score = shorter, shorter_score
                    break
        stream.report["f_score@0.02"] = score
        stream.report.update(stream.sizes)
        return stream

    def _components(self, max_bytes: int, frame: Frame) -> int:
        """Tokens before a residual, if `max_bytes` have room for one; else 0."""
        count = self.network.config.base_tokens
        least = header_bytes(frame) + count * math.log2(self.network.config.codes) / 8 + LEAST_ROOM
        return count if count and self.model.latent and least <= max_bytes else 0

    def _with_residual(
        self,
        stream: TokenStream,
        search: Search,
        base: Choice,
        schedule: Schedule,
        max_bytes: int,
        deadline: float | None,
        progress: bool,
    ) -> TokenStream:
        """The stream of a choice of tokens, with a sparse residual in what `max_bytes` leave, if any fits."""

        def with_residual(residual: NDArray[np.int64]) -> TokenStream:
            ids, levels = [*stream.ids, residual_ids(residual)], (LEVELS[-1],) * (len(stream.ids) + 1)
            return replace(stream, ids=ids, levels=levels, residual_step=STEP_CODE)

        def fits(residual: NDArray[np.int64]) -> bool:
            return not residual.any() or len(with_residual(residual).to_bytes()) <= max_bytes

        room = 8.0 * (max_bytes - len(stream.to_bytes())) - 4 - 3 * len(stream.ids)
        found = refine_residual(search, base, schedule, room, fits, deadline=deadline, progress=progress)
        return stream if found is None else replace(with_residual(found), levels=())

    def info(self) -> dict[str, Any]:
        """Id, parameters, scales, codebook, and how the codes are used on training shapes."""
        parts = {name: sum(p.numel() for p in module.parameters()) for name, module in self.network.named_children()}
        config = self.network.config
        return {
            "model": self.model.model_id,
            "parameters": sum(parts.values()),
            **{f"parameters_{name}": count for name, count in parts.items()},
            "codes": config.codes,
            "scales": list(config.scales),
            **self.facts,
        }

    @torch.inference_mode()
    def field(self, stream: TokenStream) -> Field:
        """The signed distance that a stream's tokens decode to, a function of points (n, 3) in the evaluation frame."""
        box = network_box(stream.frame)
        tokens, residual = [torch.from_numpy(part)[None] for part in stream.tokens], None
        if stream.residual is not None and stream.residual_step is not None:
            residual = torch.from_numpy(stream.residual.astype(np.float32))[None] * STEPS[stream.residual_step]
        planes = self.network.decode(tokens, box, residual)

        @torch.inference_mode()
        def distance(points: NDArray[np.float32]) -> NDArray[np.float32]:
            chunks = torch.from_numpy(np.ascontiguousarray(points, np.float32)).split(8192)
            return np.concatenate(
                [self.network.signed_distance(planes, chunk[None], box)[0].numpy() for chunk in chunks]
            )

        return distance

    def _surface(
        self, field: Field, level: int, resolution: int, box: Tensor
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Vertices in the evaluation frame, fitted to the file's box, and faces."""
        saturation = 3 * self.network.config.sharpness
        vertices, faces = extract_surface(field, resolution=resolution, iso=level * LEVEL_STEP, saturation=saturation)
        return fit_box(vertices, box[0].double().numpy()), faces

    def decode(
        self, stream: TokenStream | bytes, resolution: int = 128, scales: int | None = None, faces: int | None = None
    ) -> trimesh.Trimesh:
        """The mesh of a stream, watertight, in the frame and units of the mesh that was encoded.

        Parameters
        ----------
        stream : TokenStream or bytes
        resolution : int
            Cells along the longest side of the extraction grid, up to 512.
        scales : int, optional
            Decode only so many scales.
        faces : int, optional
            Decimate to about so many faces.

        Raises
        ------
        CodecError
            The stream is damaged or belongs to another model.
        """
        import trimesh

        if isinstance(stream, bytes | bytearray):
            stream = TokenStream.from_bytes(bytes(stream), self.model)
        if stream.model_id != self.model.model_id:
            raise CodecError(
                f"the stream was written with model {stream.model_id}, not {self.model.model_id}; load that model"
            )
        if scales is not None:
            stream = stream.truncate(scales)
        box = network_box(stream.frame)
        vertices, triangles = self._surface(self.field(stream), stream.level, resolution, box)
        if faces is not None:
            vertices, triangles = decimate(vertices, triangles, faces)
        return trimesh.Trimesh(stream.frame.to_input(vertices), triangles, process=False)


@dataclass(frozen=True)
class _Attempt:
    """The encoder's tokens of a mesh that is filled by one rule."""

    fill: str
    search: Search
    start: Choice


class _Place:
    """Points of a canonical mesh's frame, moved into the frame as the header holds it."""

    def __init__(self, mesh: CanonicalMesh, frame: Frame) -> None:
        self.scale = mesh.half_side / frame.half_side
        self.shift = (mesh.centre - frame.centre) / frame.half_side

    def __call__(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        return points * self.scale + self.shift


def _frame(mesh: CanonicalMesh) -> Frame:
    extent = np.abs(mesh.vertices).max(0) * mesh.half_side
    return Frame.from_box(mesh.centre - extent, mesh.centre + extent)


def network_box(frame: Frame) -> Tensor:
    """Half-extents that the network is told, shape (1, 3): those of the file, and no thinner than a shell."""
    return torch.from_numpy(np.maximum(frame.aspect, SHELL).astype(np.float32))[None]


def fit_box(vertices: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move vertices so that their bounding box is the one of half-extents `half`, centred.

    What a side lacks by `TIP` or less is made up smoothly (the shift grows with the cube of the distance from the
    middle). More is a lost tip, whose place is unknown: then the side's outermost vertex alone is drawn out to the box,
    which leaves the rest of the surface where it was decoded. What a side has too much is pressed into the layer below,
    so that no two vertices come to lie in one place, as they would if they were clipped.
    """
    fitted = np.array(vertices, np.float64)
    for axis in range(3):
        for side in (-1.0, 1.0):
            x = side * fitted[:, axis]
            tip = int(x.argmax())
            missing = half[axis] - x[tip]
            if missing < 0:
                start = max(0.0, half[axis] + 2 * missing)
                outer = x > start
                pressed = start + (x[outer] - start) * ((half[axis] - start) / (x[tip] - start))
                fitted[outer, axis] = side * np.minimum(pressed, half[axis])
            elif missing <= TIP and x[tip] > 3 * missing:  # the shift keeps the order of points
                outer = x > 0
                fitted[outer, axis] += side * missing * (x[outer] / x[tip]) ** 3
            else:
                fitted[tip, axis] = side * half[axis]
    return fitted


def _target(solid: Solid, place: _Place, box: Tensor, seed: int, near_count: int, volume_count: int) -> Target:
    """Near-surface and volume samples of a mesh, volume samples inside the part of space that the planes cover."""
    rng = numpy_generator(seed, "target")
    surface = solid.surface_samples(near_count, derive_seed(seed, "target"))[0]
    sigma = np.where(np.arange(near_count) % 2, *NEAR_SIGMAS)[:, None]
    near = surface + sigma * rng.standard_normal(surface.shape)
    reach = EXTENT * stretch_box(box)[0].numpy()
    volume = rng.uniform(-reach, reach, (volume_count, 3))
    points = np.concatenate([near, volume])
    # In two calls, so that the solid of the other fill rule finds the same volume points' winding numbers again.
    distances = np.concatenate([solid.signed_distance(part) for part in (near, volume)]) * place.scale
    return Target(box, _tensor(place(points)), _tensor(distances), near_count)


def _tensor(array: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))


def model_folder(path_or_name: str | Path | None) -> Path:
    """Folder of a model: an embedded one by name or id, or any folder.

    Raises
    ------
    CodecError
        It is neither.
    """
    name = DEFAULT_MODEL if path_or_name is None else str(path_or_name)
    embedded = {known: folder for key, (folder, _) in embedded_models().items() for known in (folder.name, key)}
    if name in embedded:
        return embedded[name]
    if Path(name).is_dir():
        return Path(name)
    raise CodecError(f"{name} is neither a model folder nor an embedded model ({', '.join(embedded) or 'none'})")


def tokenizer_for(data: bytes) -> MeshTokenizer:
    """The embedded tokenizer that wrote a file.

    Raises
    ------
    CodecError
        The file is damaged, or its model is not here.
    """
    return MeshTokenizer.from_pretrained(embedded_model(read_model_id(data))[0])
