"""Rate-distortion on a folder of meshes: ours and decimation + Draco at the same bytes, and each mesh's ceiling."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from setcore.errors import InputError
from setcore.evaluation.mesh_metrics import SAMPLES, THRESHOLDS, f_score_of
from setcore.files import add_record, atomic_path, check_writable, job_journal, write_json
from setcore.parallel.jobs import Parallel, run_tasks
from setcore.progress import progress_bar
from vat3d.bitstream.stream import TokenStream
from vat3d.bitstream.token_model import TokenModel
from vat3d.errors import CodecError, DatasetError, MeshError
from vat3d.evaluation.draco import CACHE, best_at_budgets, without_file
from vat3d.mesh.canonical import canonical_mesh
from vat3d.mesh.compare import Reference
from vat3d.mesh.fill import EVEN_ODD, NONZERO
from vat3d.mesh.solid import Solid
from vat3d.mesh_io.load import EXTENSIONS, load_mesh

GIGABYTES_EACH = 2.0
"""Memory that a process which measures needs at most on usual meshes."""
BUDGETS = (256, 512, 1024, 2048, 4096)
METHODS = ("ours", "draco")
SCORES = ("f_score@0.02", "f_score@0.01", "f_score@0.005", "chamfer_distance", "normal_consistency", "volume_iou")


@runtime_checkable
class Tokenizer(Protocol):
    """What is measured: `vat3d.MeshTokenizer`, or anything that encodes and decodes like it."""

    model: TokenModel

    def encode(self, mesh: Any, *, max_bytes: int, effort: str, seed: int) -> TokenStream:
        """Encode a mesh.

        Parameters
        ----------
        mesh : path or mesh
        max_bytes : int
        effort : str
        seed : int

        Returns
        -------
        TokenStream
        """

    def decode(self, stream: TokenStream, resolution: int) -> Any:
        """Decode a stream.

        Parameters
        ----------
        stream : TokenStream
        resolution : int

        Returns
        -------
        trimesh.Trimesh
        """


def bench(
    folder: str | Path,
    tokenizer: Tokenizer,
    out: str | Path,
    budgets: Sequence[int] = BUDGETS,
    effort: str = "best",
    resolution: int = 128,
    seed: int = 0,
    draco_cache: str | Path | None = CACHE,
    parallel: Parallel | None = None,
) -> dict[str, Any]:
    """Measure `tokenizer` and Draco on every mesh of `folder`, and write JSON and a plot.

    Finished meshes are kept in ``OUT.partial.jsonl``; a run with the same settings that was interrupted goes on there.

    Parameters
    ----------
    folder : folder of mesh files
    tokenizer : Tokenizer
    out : JSON file to write; the plot lies next to it, with the suffix ``.png``
    budgets : bytes of file
    effort, resolution, seed : passed on to `tokenizer`
    draco_cache : folder in which the baseline's results are kept by geometry, or None
    parallel : who measures; seconds are those of one thread where there are several processes

    Returns
    -------
    dict
        ``settings``, ``summary`` (see `summarise`), ``meshes`` (per mesh: ceiling, and per method and budget the
        scores of `vat3d.evaluate` with bytes (ours with those of header and payload) and seconds, None where nothing
        fits), ``failures``.

    Raises
    ------
    DatasetError
        The folder holds no mesh files.
    InputError
        `out` cannot be written.
    """
    folder, out = Path(folder), Path(out)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder of meshes")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise DatasetError(f"{folder} holds no mesh files ({', '.join(EXTENSIONS)})")
    if not budgets or min(budgets) < 1:
        raise CodecError("budgets are positive numbers of bytes")
    parallel = parallel or Parallel()
    parallel.check_memory(GIGABYTES_EACH)
    files = parallel.share(files)
    check_writable(out)
    settings: dict[str, Any] = {
        "model_id": tokenizer.model.model_id,
        "budgets": sorted(set(budgets)),
        "effort": effort,
        "resolution": resolution,
        "seed": seed,
    }
    partial = out.with_name(out.name + ".partial.jsonl")
    with job_journal(partial, settings) as records:
        left = [path for path in files if path.name not in records]
        tasks = [(path.resolve(), tokenizer, settings, draco_cache) for path in left]
        done_before = len(files) - len(left)
        with progress_bar(desc="bench", total=len(files), initial=done_before, unit="mesh") as bar:
            for index, found in run_tasks(_measure, tasks, parallel):
                name = left[index].name
                records[name] = {"file": name, "error": str(found)} if isinstance(found, InputError) else found
                add_record(partial, name, records[name])
                bar.update()
        done = [records[path.name] for path in files]
        meshes = [record for record in done if "error" not in record]
        result = {
            "settings": settings,
            "summary": summarise(meshes, settings["budgets"]),
            "meshes": meshes,
            "failures": [record for record in done if "error" in record],
        }
        write_json(out, result)
        save_plot(result, out.with_suffix(".png"))
    return result


def _measure(path: Path, tokenizer: Tokenizer, settings: dict[str, Any], cache: str | Path | None) -> dict[str, Any]:
    """One mesh at every budget."""
    vertices, faces, _ = load_mesh(path)
    reference = Reference((vertices, faces))
    mesh = canonical_mesh(vertices, faces)
    solid = Solid(mesh)
    ours: dict[str, Any] = {}
    for budget in settings["budgets"]:
        start = time.perf_counter()
        try:
            stream = tokenizer.encode(
                (vertices, faces), max_bytes=budget, effort=settings["effort"], seed=settings["seed"]
            )
        except CodecError:  # not even the first scale fits
            ours[str(budget)] = None
            continue
        data = stream.to_bytes()
        encoded = time.perf_counter()
        decoded = tokenizer.decode(TokenStream.from_bytes(data, stream.model), resolution=settings["resolution"])
        ours[str(budget)] = {
            **stream.sizes,
            "fill": stream.report.get("fill"),
            "encode_seconds": round(encoded - start, 3),
            "decode_seconds": round(time.perf_counter() - encoded, 3),
            **reference.compare(decoded),
        }
    draco = best_at_budgets((vertices, faces), settings["budgets"], cache)
    return {
        "file": path.name,
        "faces": len(faces),
        "closed": bool(solid.report["closed"]),
        "components": mesh.report["components"],
        "ceiling": _ceiling(solid, reference),
        "ours": ours,
        "draco": {str(budget): scores and without_file(scores) for budget, scores in draco.items()},
    }


def _ceiling(solid: Solid, reference: Reference) -> dict[str, float]:
    """F-scores of the solid's own surface, by the fill rule that shows more of the mesh."""

    def scores(rule: str) -> dict[str, float]:
        filled = solid.filled(rule)
        to_reference = reference.surface.nearest(filled.surface_samples(SAMPLES, seed=1)[0])[0]
        to_solid = np.abs(filled.signed_distance(reference.surface.samples.points))
        return {f"f_score@{threshold:g}": f_score_of(to_reference, to_solid, threshold) for threshold in THRESHOLDS}

    found = [scores(NONZERO)]
    with suppress(MeshError):  # no surface by this rule
        found.append(scores(EVEN_ODD))
    return max(found, key=lambda one: one["f_score@0.02"])


def summarise(meshes: Sequence[dict[str, Any]], budgets: Sequence[int]) -> list[dict[str, Any]]:
    """Means over meshes, one row for each set of meshes (all, closed), method and budget.

    A row has the number of ``meshes`` and of those that ``fit``, the mean F-scores over all (0 for a mesh that fits
    nothing) as ``f_score@T``, every score over those that fit as ``SCORE_fitting``, and for F-scores the
    mean ``SCORE_ceiling`` and ``SCORE_share`` of it.

    Parameters
    ----------
    meshes : sequence of dict
        Results of each mesh.
    budgets : sequence of int

    Returns
    -------
    list of dict
    """
    rows = []
    for name, chosen in (("all", list(meshes)), ("closed", [mesh for mesh in meshes if mesh["closed"]])):
        for method in METHODS:
            for budget in budgets:
                found = [mesh[method][str(budget)] for mesh in chosen]
                row: dict[str, Any] = {"set": name, "method": method, "budget": budget, "meshes": len(chosen)}
                row["fit"] = sum(scores is not None for scores in found)
                for score in SCORES:
                    row[f"{score}_fitting"] = _mean([scores[score] for scores in found if scores is not None])
                for threshold in THRESHOLDS:
                    score = f"f_score@{threshold:g}"
                    values = [scores[score] if scores is not None else 0.0 for scores in found]
                    ceilings = [mesh["ceiling"][score] for mesh in chosen]
                    row[score] = _mean(values)
                    row[f"{score}_ceiling"] = _mean(ceilings)
                    row[f"{score}_share"] = _mean([v / c for v, c in zip(values, ceilings, strict=True) if c > 0])
                rows.append(row)
    return rows


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def table(result: dict[str, Any]) -> str:
    """The summary as a Markdown table.

    Parameters
    ----------
    result : dict
        Of `bench`.

    Returns
    -------
    str
    """
    header = [
        "meshes",
        "method",
        "bytes",
        "fit",
        "F@.02",
        "F@.01",
        "F@.005",
        "of ceiling",
        "F@.02 fitting",
        "chamfer",
        "normals",
        "IoU",
    ]
    keys = ["f_score@0.02", "f_score@0.01", "f_score@0.005", "f_score@0.02_share", "f_score@0.02_fitting"]
    keys += [f"{score}_fitting" for score in ("chamfer_distance", "normal_consistency", "volume_iou")]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for row in result["summary"]:
        cells = [f"{row['set']} ({row['meshes']})", row["method"], str(row["budget"]), str(row["fit"])]
        cells += ["-" if row[key] is None else f"{row[key]:.3f}" for key in keys]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save_plot(result: dict[str, Any], path: str | Path) -> None:
    """Rate-distortion curves of both methods with the mean ceiling, as a PNG.

    Parameters
    ----------
    result : dict
        Of `bench`.
    path : path
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    rows = [row for row in result["summary"] if row["set"] == "all" and row["meshes"]]
    for axes, threshold in zip(figure.subplots(1, 2), (0.02, 0.01), strict=True):
        score = f"f_score@{threshold:g}"
        for method, label in zip(
            METHODS, (f"vat3d, effort {result['settings']['effort']}", "decimation + Draco"), strict=True
        ):
            mine = [row for row in rows if row["method"] == method]
            axes.plot([row["budget"] for row in mine], [row[score] for row in mine], marker="o", label=label)
        if rows:
            axes.axhline(rows[0][f"{score}_ceiling"], color="grey", linestyle="--", label="ceiling")
        axes.set_xscale("log", base=2)
        axes.set_xticks(result["settings"]["budgets"], [str(budget) for budget in result["settings"]["budgets"]])
        axes.set(xlabel="bytes of file", ylabel=f"F-score at {threshold:g}", ylim=(0, 1))
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
