"""A data set of mesh samples on disk: written once, resumable at any point, read through memory maps.

Layout of a data set folder::

    dataset.json             what it was made with
    index.jsonl              one line a mesh: name, source, category, group, split, shard, row, closed, faces, geometry
    failures.jsonl           one line a mesh that was left out, with the reason
    shard-00000.safetensors  float16 tensors `surface` (m, 8192, 6), `near` (m, 8192, 4), `volume` (m, 8192, 4)
    pending/                 meshes of the shard that is not full yet, and some whose turn has not come

The two `.jsonl` files are the journal: a mesh is done when its line is there, and its samples were whole on disk
before. A killed run therefore loses at most the mesh it was at, and a resumed one ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from setcore.errors import InputError
from setcore.files import append_line, locked_folder, read_json, read_lines, remove_leftovers, write_bytes, write_json
from setcore.parallel.jobs import Parallel, in_order, run_tasks
from setcore.progress import progress_bar
from vat3d.data.dataset import KINDS, shard_path
from vat3d.data.items import MeshItem
from vat3d.data.sampling import POINTS
from vat3d.data.split import VALIDATION, split_share
from vat3d.data.worker import end_child, sample_in_child
from vat3d.errors import DatasetError, MeshError
from vat3d.mesh.fill import NONZERO
from vat3d.mesh_io.load import EXTENSIONS

SHARD = 64
"""Meshes in a shard."""
EARLY = "early-"
"""Begins the names of samples whose mesh is not in the journal yet."""
GIGABYTES_EACH = 1.2
"""Memory that a process which samples meshes needs at most on usual ones."""


def mesh_items(sources: Sequence[str | Path]) -> list[MeshItem]:
    """Items for mesh files and folders (searched recursively), sorted by name; a file's stem is its group.

    Parameters
    ----------
    sources : sequence of paths

    Returns
    -------
    list of MeshItem

    Raises
    ------
    DatasetError
        A source does not exist, or nothing readable is in it.
    """
    items = {}
    for source in map(Path, sources):
        if source.is_file():
            found, root = [source], source.parent
        elif source.is_dir():
            found = [p for p in source.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file()]
            root = source
        else:
            raise DatasetError(f"{source} does not exist; name mesh files or folders of meshes")
        if not found:
            raise DatasetError(f"{source} holds no mesh of the formats {', '.join(EXTENSIONS)}")
        for path in found:
            name = f"{root.resolve().name}/{path.relative_to(root).as_posix()}"
            items[name] = MeshItem(name, root.resolve().name, path.parent.name, path.stem, str(path.resolve()))
    return [items[name] for name in sorted(items)]


def prepare(
    items: Iterable[MeshItem],
    out: str | Path,
    *,
    seed: int = 0,
    validation: float = VALIDATION,
    seconds_per_mesh: float = 60.0,
    closed_only: bool = False,
    fill: str = NONZERO,
    progress: bool = True,
    parallel: Parallel | None = None,
) -> dict[str, int]:
    """Sample meshes into the data set folder `out`; run again after an interruption, or with more items, to go on.

    Parameters
    ----------
    items : iterable of MeshItem
        In a fixed order; those that the journal knows are skipped.
    out : path
        Created if need be, and locked against a second writer.
    seed : int
        With a mesh's geometry it decides its samples; with nothing else.
    validation : float
        Share of groups whose meshes are for validation, chosen by a hash of the group's name. Of meshes that
        `vat3d.data.split` lists the list decides, and those for the test are left out.
    seconds_per_mesh : float
        A mesh that takes longer is listed in `failures.jsonl`.
    closed_only : bool
        Leave out meshes with open parts, which would become shells.
    fill : {"nonzero", "even-odd"}
        What overlapping parts stand for (see `vat3d.mesh.solid`). By the even-odd rule meshes that hide no parts are
        left out: prepare a data set by each rule, and train on both.
    progress : bool
        A progress bar on standard error, where that is a terminal.
    parallel : Parallel, optional
        Who samples; whoever it is, the data set is the same. Each shard of a job array makes a data set of its own.

    Returns
    -------
    dict
        Counts of all meshes in the folder: `meshes`, `closed`, `validation`, `failures`, `duplicates`, `test`, `open`
        and `unchanged` (left out by the split, by `closed_only` and by `fill`).

    Raises
    ------
    DatasetError
        `out` was made with other settings.
    InputError
        Another process writes there.
    OSError
        The disk is full, or another fault of it; no mesh is left out for it.
    """
    with locked_folder(out) as folder:
        settings: dict[str, Any] = {
            "version": 1,
            "seed": seed,
            "validation": validation,
            "points": POINTS,
            "shard": SHARD,
        }
        if fill != NONZERO:
            settings["fill"] = fill
        if not (folder / "dataset.json").exists():
            write_json(folder / "dataset.json", settings)
        elif (found := read_json(folder / "dataset.json")) != settings:
            raise DatasetError(f"{folder} was prepared with {found}, not {settings}; choose another folder")
        parallel = parallel or Parallel()
        parallel.check_memory(GIGABYTES_EACH)
        writer = _Writer(folder)
        mine = parallel.share(list(items))
        left = [item for item in mine if item.name not in writer.known]
        early = [folder / "pending" / f"{EARLY}{number}" for number in range(len(left))]
        tasks = [
            (replace(item, fill=fill), seed, str(path.resolve()), seconds_per_mesh)
            for item, path in zip(left, early, strict=True)
        ]
        known = len(mine) - len(left)
        bar = progress_bar(left, desc="prepare", total=len(mine), initial=known, unit="mesh", shown=progress)
        try:
            for item, path, facts in zip(
                bar, early, in_order(run_tasks(sample_in_child, tasks, parallel)), strict=True
            ):
                if isinstance(facts, MeshError):
                    writer.refuse(item, "failure", str(facts))
                elif isinstance(facts, InputError):
                    raise facts
                elif "left_out" in facts:
                    writer.refuse(item, facts["left_out"], facts["reason"])
                elif facts["geometry"] in writer.geometries:
                    writer.refuse(item, "duplicate", f"same geometry as {writer.geometries[facts['geometry']]}")
                elif closed_only and not facts["closed"]:
                    writer.refuse(item, "open", "not closed")
                else:
                    split = "validation" if split_share(item.group) < validation else "train"
                    writer.accept(item, facts.pop("split") or split, facts, path)
                path.unlink(missing_ok=True)
        finally:
            end_child()
        writer.finish()
        kinds = [line["kind"] for line in writer.refused]
        return {
            "meshes": len(writer.index),
            "closed": sum(line["closed"] for line in writer.index),
            "validation": sum(line["split"] == "validation" for line in writer.index),
            "failures": kinds.count("failure"),
            "duplicates": kinds.count("duplicate"),
            "test": kinds.count("test"),
            "open": kinds.count("open"),
            "unchanged": kinds.count("unchanged"),
        }


def failures(folder: str | Path) -> dict[str, str]:
    """The meshes that a data set lacks because they could not be read or sampled.

    Parameters
    ----------
    folder : path

    Returns
    -------
    dict of str to str
        Name to reason.
    """
    lines = read_lines(Path(folder) / "failures.jsonl")
    return {line["name"]: line["reason"] for line in lines if line["kind"] == "failure"}


class _Writer:
    """The journal and the shards of one folder; every step leaves a state that a new writer can go on from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pending").mkdir(exist_ok=True)
        remove_leftovers(folder / "pending")
        for path in (folder / "pending").glob(f"{EARLY}*"):
            path.unlink()
        self.index = read_lines(folder / "index.jsonl", repair=True)
        self.refused = read_lines(folder / "failures.jsonl", repair=True)
        self.known = {line["name"] for line in self.index + self.refused}
        self.geometries = {line["geometry"]: line["name"] for line in self.index}
        self._pack()

    def pending(self, number: int) -> Path:
        return self.folder / "pending" / f"{number:07d}.safetensors"

    def accept(self, item: MeshItem, split: str, facts: dict[str, Any], samples: Path) -> None:
        number = len(self.index)
        samples.rename(self.pending(number))
        line = {
            "name": item.name,
            "source": item.source,
            "group": item.group,
            "split": split,
            "shard": number // SHARD,
            "row": number % SHARD,
            **facts,
        }
        append_line(self.folder / "index.jsonl", line)
        self.index.append(line)
        self.known.add(item.name)
        self.geometries[line["geometry"]] = item.name
        if len(self.index) % SHARD == 0:
            self._pack()

    def refuse(self, item: MeshItem, kind: str, reason: str) -> None:
        line = {"name": item.name, "source": item.source, "kind": kind, "reason": reason}
        append_line(self.folder / "failures.jsonl", line)
        self.refused.append(line)
        self.known.add(item.name)

    def finish(self) -> None:
        """Write the last shard, full or not; its pending files stay until it is full."""
        self.pending(len(self.index)).unlink(missing_ok=True)  # left by a kill before the journal's line
        if len(self.index) % SHARD:
            self._write_shard(len(self.index) // SHARD, len(self.index) % SHARD)

    def _pack(self) -> None:
        """Turn pending meshes of full shards into shards."""
        for shard in range(len(self.index) // SHARD):
            numbers = [self.pending(shard * SHARD + row) for row in range(SHARD)]
            if numbers[0].exists():  # deleted first: while it is there, all are, and the shard may not be whole
                self._write_shard(shard, SHARD)
            if numbers[-1].exists():
                for path in numbers:
                    path.unlink(missing_ok=True)
        for row in range(len(self.index) % SHARD):
            path = self.pending(len(self.index) // SHARD * SHARD + row)
            if not path.exists():
                raise DatasetError(f"{path} is missing although {self.folder / 'index.jsonl'} lists it; start afresh")

    def _write_shard(self, shard: int, rows: int) -> None:
        parts = [load_file(self.pending(shard * SHARD + row)) for row in range(rows)]
        write_bytes(
            shard_path(self.folder, shard), save({kind: np.stack([part[kind] for part in parts]) for kind in KINDS})
        )
