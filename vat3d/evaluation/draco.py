"""Decimation + Draco at a number of bytes, as strong as it can be made: what users would pick instead of this package.

For every budget the best F-score at 0.02 among quadric decimation (a ladder of face counts, by fast_simplification and
by collapses that also join near parts), the same after dropping the smallest components, and vertex clustering, each at
5 to 11 bits and the compression level that makes it smallest.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from setcore.errors import InputError
from setcore.evaluation.mesh_metrics import THRESHOLDS, Surface, f_score_of
from setcore.files import read_json, write_json
from vat3d.evaluation.collapse import Collapses
from vat3d.mesh.canonical import CanonicalMesh, canonical_mesh, geometry_hash
from vat3d.mesh.compare import Reference
from vat3d.mesh_io.load import load_mesh

CACHE = Path("~/.cache/vat3d/draco")
BITS = tuple(range(5, 12))
LEVELS = (10, 7, 3, 1)
"""Of compression; small files are often smallest at the lowest."""
KEPT_AREAS = (1.0, 0.95, 0.9, 0.8, 0.65, 0.5)
CLUSTER_CELLS = tuple(range(4, 33))
LADDER = tuple(sorted({round(8 * 1.15**step) for step in range(48)}))
_LARGEST, _COLLAPSED = 40_000, 4_000  # faces that fast_simplification, and the slower collapses, begin with
_GIVE_UP = 1.5  # sizes do not quite grow with the ladder: quantisation merges vertices
_QUERIES = 3_000
_SHORT_LIST, _FINAL_LIST = 10, 4
_VERSION = 6
_NEAR = THRESHOLDS[-1]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One mesh as Draco writes it.

    Parameters
    ----------
    method : str
        How its faces became fewer.
    faces : int
    bits : int
        Of a coordinate.
    data : bytes
        The Draco file.
    """

    method: str
    faces: int
    bits: int
    data: bytes

    def decoded(self) -> tuple[np.ndarray, np.ndarray]:
        """The mesh in the file.

        Returns
        -------
        vertices : array of shape (n, 3)
            In the evaluation frame.
        faces : array of shape (m, 3)
        """
        return _decoded(self.data)


def _decoded(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    import DracoPy

    mesh = DracoPy.decode(data)
    return np.asarray(mesh.points, np.float64).reshape(-1, 3), np.asarray(mesh.faces, np.int64).reshape(-1, 3)


def best_at_budgets(
    mesh: Any, budgets: Sequence[int], cache: str | Path | None = CACHE
) -> dict[int, dict[str, Any] | None]:
    """The best Draco file of `mesh` at each budget, by F-score at 0.02.

    All candidates are encoded; those that fit are ranked on few samples, and the best few by the full evaluation.

    Parameters
    ----------
    mesh : path, trimesh.Trimesh, or (vertices, faces)
    budgets : bytes
    cache : folder for results by geometry, or None

    Returns
    -------
    dict
        For each budget what `vat3d.evaluate` returns plus `bytes`, `method`, `faces`, `bits` and the `file` itself
        (base 64); None where no candidate fits.

    Raises
    ------
    MeshError
        The mesh cannot be read.
    """
    vertices, faces, _ = load_mesh(mesh)
    canonical = canonical_mesh(vertices, faces)
    path = None if cache is None else Path(cache).expanduser() / f"{geometry_hash(canonical)}.json"
    known = _read_cache(path)
    missing = [budget for budget in budgets if str(budget) not in known]
    if missing:
        reference = Reference((vertices, faces))
        candidates = list(_candidates(canonical, max(missing)))
        scores: dict[int, float] = {}
        for budget in missing:
            known[str(budget)] = _best(reference, canonical, candidates, budget, scores)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"version": _VERSION, "budgets": known})
    return {budget: known[str(budget)] for budget in budgets}


def draco_mesh(mesh: Any, scores: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The mesh behind one result of `best_at_budgets`, decoded.

    Parameters
    ----------
    mesh : path or mesh
    scores : dict

    Returns
    -------
    vertices : array of shape (n, 3)
        In the frame of `mesh`.
    faces : array of shape (m, 3)

    Raises
    ------
    MeshError
        `mesh` cannot be read.
    """
    canonical = canonical_mesh(*load_mesh(mesh)[:2])
    vertices, faces = _decoded(base64.b64decode(scores["file"]))
    return vertices * canonical.half_side + canonical.centre, faces


def without_file(scores: dict[str, Any]) -> dict[str, Any]:
    """One result of `best_at_budgets` as tables keep it.

    Parameters
    ----------
    scores : dict

    Returns
    -------
    dict
    """
    return {key: value for key, value in scores.items() if key != "file"}


def _read_cache(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    values = read_json(path)
    return dict(values["budgets"]) if values.get("version") == _VERSION else {}


def _candidates(mesh: CanonicalMesh, largest: int) -> Iterator[Candidate]:
    """All files of at most `largest` bytes."""
    for kept in KEPT_AREAS:
        vertices, faces = drop_components(mesh, kept)
        if kept < 1 and len(faces) == len(mesh.faces):
            continue
        yield from _decimated(vertices, faces, f"decimation of {kept:.0%} of the area", largest)
        yield from _collapsed(vertices, faces, f"collapses of {kept:.0%} of the area", largest)
    fitting = set(BITS)
    for cells in CLUSTER_CELLS:
        vertices, faces = _clustered(mesh.vertices, mesh.faces, cells)
        yield from _encoded(vertices, faces, f"clustering in {cells} cells", fitting, largest)


def _decimated(vertices: np.ndarray, faces: np.ndarray, method: str, largest: int) -> Iterator[Candidate]:
    """The ladder of face counts upwards, each number of bits until it no longer fits."""
    import fast_simplification

    if len(faces) > _LARGEST:
        vertices, faces = fast_simplification.simplify(vertices, faces.astype(np.int32), target_count=_LARGEST)
    rungs = [(vertices, faces)]
    for count in reversed(LADDER):
        if count < len(rungs[-1][1]):
            rungs.append(fast_simplification.simplify(vertices, faces.astype(np.int32), target_count=count))
            if len(rungs[-1][1]) > 1.05 * count:  # nothing left to collapse: lower rungs would be the same
                break
    fitting = set(BITS)
    for points, triangles in reversed(rungs):
        yield from _encoded(points, triangles, method, fitting, largest)


def _collapsed(vertices: np.ndarray, faces: np.ndarray, method: str, largest: int) -> Iterator[Candidate]:
    """The same ladder by `Collapses`, which keep more of a shape where few faces are left."""
    import fast_simplification

    if len(faces) > _COLLAPSED:
        vertices, faces = fast_simplification.simplify(vertices, faces.astype(np.int32), target_count=_COLLAPSED)
    collapses, fitting = Collapses(vertices.astype(np.float64), faces.astype(np.int64)), set(BITS)
    for count in LADDER:
        if count > len(faces):
            return
        points, triangles = collapses.mesh(count // 2 + 2)  # a closed surface of so many faces has as many vertices
        yield from _encoded(points, _distinct(triangles), method, fitting, largest)


def _encoded(
    vertices: np.ndarray, faces: np.ndarray, method: str, fitting: set[int], largest: int
) -> Iterator[Candidate]:
    """Files of a mesh that fit, at each number of bits in `fitting`, which loses those that are far too large."""
    used, inverse = np.unique(faces, return_inverse=True)
    points, triangles = vertices[used].astype(np.float32), inverse.reshape(-1, 3).astype(np.uint32)
    if len(triangles) < 1 or np.ptp(points, axis=0).max() <= 0:
        return
    for bits in sorted(fitting):
        data = _smallest(points, triangles, bits, _GIVE_UP * largest)
        if len(data) <= largest:
            yield Candidate(method, len(triangles), bits, data)
        elif len(data) > _GIVE_UP * largest:
            fitting.discard(bits)


def _smallest(points: np.ndarray, triangles: np.ndarray, bits: int, hopeless: float) -> bytes:
    """The file at the level that makes it smallest; at the highest level alone where that takes hopelessly many."""
    import DracoPy

    files: list[bytes] = []
    for level in LEVELS:
        files.append(DracoPy.encode(points, triangles, quantization_bits=bits, compression_level=level))
        if len(files[0]) > hopeless:
            break
    return min(files, key=len)


def drop_components(mesh: CanonicalMesh, kept: float) -> tuple[np.ndarray, np.ndarray]:
    """The largest components that together hold at least a share of the area.

    Parameters
    ----------
    mesh : CanonicalMesh
    kept : float
        That share.

    Returns
    -------
    vertices : array of shape (n, 3)
    faces : array of shape (m, 3)
    """
    area = np.bincount(mesh.component, mesh.areas_normals[0])
    order = np.argsort(-area, kind="stable")
    enough = int(np.searchsorted(np.cumsum(area[order]), kept * area.sum() * (1 - 1e-9))) + 1
    faces = mesh.faces[np.isin(mesh.component, order[:enough])]
    used, inverse = np.unique(faces, return_inverse=True)
    return mesh.vertices[used], inverse.reshape(-1, 3)


def _clustered(vertices: np.ndarray, faces: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices of one cell merged at their mean; faces that collapse or repeat dropped."""
    grid = np.clip(np.floor((vertices + 1) / 2 * cells), 0, cells - 1).astype(np.int64)
    _, cluster = np.unique((grid[:, 0] * cells + grid[:, 1]) * cells + grid[:, 2], return_inverse=True)
    size = np.bincount(cluster)
    merged = np.stack([np.bincount(cluster, vertices[:, axis]) / size for axis in range(3)], 1)
    return merged, _distinct(cluster[faces])


def _distinct(faces: np.ndarray) -> np.ndarray:
    """Faces without those that have collapsed, and each once."""
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(1)]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    return faces[np.sort(first)]


def _best(
    reference: Reference, mesh: CanonicalMesh, candidates: list[Candidate], budget: int, scores: dict[int, float]
) -> dict[str, Any] | None:
    """The best candidate that fits `budget`; `scores` keeps quick scores by index from budget to budget."""
    by_recipe: dict[tuple[str, int], list[int]] = {}
    for index, candidate in enumerate(candidates):
        if len(candidate.data) <= budget:
            kind = "clustering" if candidate.method.startswith("clustering") else candidate.method
            by_recipe.setdefault((kind, candidate.bits), []).append(index)
    if not by_recipe:
        return None

    def quick(index: int) -> float:
        if index not in scores:
            scores[index] = _quick_score(reference, mesh, candidates[index])
        return scores[index]

    for indices in by_recipe.values():
        indices.sort(key=lambda index: -len(candidates[index].data))
    recipes = sorted(by_recipe.values(), key=lambda indices: -quick(indices[0]))
    short = [index for indices in recipes[:_SHORT_LIST] for index in indices[:3]]
    final = sorted(short, key=lambda index: -quick(index))[:_FINAL_LIST]
    full = {index: _framed_scores(reference, mesh, candidates[index]) for index in final}
    winner = candidates[max(full, key=lambda index: full[index][f"f_score@{_NEAR:g}"])]
    vertices, faces = winner.decoded()
    result = reference.compare((vertices * mesh.half_side + mesh.centre, faces))
    result |= {"bytes": len(winner.data), "method": winner.method, "faces": winner.faces, "bits": winner.bits}
    return result | {"file": base64.b64encode(winner.data).decode()}


def _framed_scores(reference: Reference, mesh: CanonicalMesh, candidate: Candidate) -> dict[str, float]:
    vertices, faces = candidate.decoded()
    try:
        return reference.surface_scores(vertices * mesh.half_side + mesh.centre, faces)
    except InputError:  # quantisation left no area
        return {f"f_score@{_NEAR:g}": 0.0}


def _quick_score(reference: Reference, mesh: CanonicalMesh, candidate: Candidate) -> float:
    """F-score at 0.02 from the first samples of each side."""
    vertices, faces = candidate.decoded()
    try:
        other = Surface(vertices, faces, _QUERIES, seed=1)
    except InputError:
        return 0.0
    to_reference = reference.surface.nearest(other.samples.points)[0]
    to_other = other.nearest(reference.surface.samples.points[:_QUERIES])[0]
    return f_score_of(to_reference, to_other, _NEAR)
