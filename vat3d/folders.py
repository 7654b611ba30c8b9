"""Many meshes to token files and back: bad files are listed, and what a killed run has done is not done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from setcore.errors import InputError, naming
from setcore.files import add_record, check_folder, check_output, job_journal
from setcore.parallel.jobs import Parallel, run_tasks
from setcore.progress import progress_bar
from vat3d.bitstream.stream import read_token_file
from vat3d.mesh_io.raw_mesh import RawMesh
from vat3d.mesh_io.save import save_mesh
from vat3d.tokenizer import MeshTokenizer, tokenizer_for

GIGABYTES_EACH = 1.2
"""Memory that a process which encodes or decodes needs at most on usual meshes."""


@dataclass
class Outcome:
    """What became of many files.

    Parameters
    ----------
    results : list of dict
        What is reported of each file that was done, in the order of the files.
    failures : dict of str to str
        Reason, by file.
    found : int
        Files that a run which was interrupted had done.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    found: int = 0


def encode_file(
    tokenizer: MeshTokenizer, options: dict[str, Any], path: str | Path, target: str | Path, mesh: RawMesh | None = None
) -> dict[str, Any]:
    """Encode one mesh into a token file.

    Parameters
    ----------
    tokenizer : MeshTokenizer
    options : dict
        Arguments of `MeshTokenizer.encode`.
    path, target : path
    mesh : RawMesh, optional
        The mesh, where it was read already.

    Returns
    -------
    dict
        The report of the encoding.

    Raises
    ------
    InputError
        The mesh cannot be encoded; the message names the file.
    """
    with naming(path):
        stream = tokenizer.encode(mesh or path, **options)
    stream.save(target)
    return stream.report


def decode_file(
    tokenizer: MeshTokenizer | None, device: str, options: dict[str, Any], path: str | Path, target: str | Path
) -> dict[str, Any]:
    """Decode one token file into a mesh file.

    Parameters
    ----------
    tokenizer : MeshTokenizer or None
        None: the embedded one that wrote the file.
    device : str
        Of the latter.
    options : dict
        Arguments of `MeshTokenizer.decode`.
    path, target : path

    Returns
    -------
    dict
        Numbers of `vertices` and `faces`; whether the mesh is `watertight`.

    Raises
    ------
    InputError
        The file cannot be read or decoded; the message names it.
    """
    data = read_token_file(path)
    with naming(path):
        mesh = (tokenizer or tokenizer_for(data, device)).decode(data, **options)
    save_mesh(target, mesh.vertices, mesh.faces)
    return {"vertices": len(mesh.vertices), "faces": len(mesh.faces), "watertight": bool(mesh.is_watertight)}


def pair_files(
    sources: Sequence[str | Path], out: str | Path, endings: Sequence[str], made: Sequence[str]
) -> tuple[list[tuple[Path, Path]], bool]:
    """Each file of some files and folders, and the file that is to be made of it.

    Parameters
    ----------
    sources : sequence of paths
        Files, and folders whose files with one of `endings` are taken.
    out : path
        A file for one source file, else a folder, which is made.
    endings : sequence of str
    made : sequence of str
        What a file that is made may end in; in a folder they have the first of these.

    Returns
    -------
    pairs : list of (Path, Path)
    several : bool
        Whether the job is for a folder.

    Raises
    ------
    InputError
        There is nothing to do, two files would be made under one name, or `out` is not of the kind that is needed.
    """
    inputs: list[Path] = []
    for source in map(Path, sources):
        if source.is_dir():
            inputs += sorted(path for path in source.iterdir() if path.suffix.lower() in endings)
        else:
            inputs.append(source)
    if not inputs:
        raise InputError(f"nothing to do: no file in {' '.join(map(str, sources))} ends in {', '.join(endings)}")
    out, several = Path(out), len(sources) > 1 or Path(sources[0]).is_dir()
    if (out.suffix.lower() in made) == several and not out.is_dir():
        wanted = "a folder, for several files" if several else f"a file that ends in {', '.join(made)}, or a folder"
        raise InputError(f"{out} is not {wanted}; name one")
    targets = [out / f"{path.stem}{made[0]}" for path in inputs] if several or out.is_dir() else [out]
    if len(set(targets)) < len(targets):
        raise InputError("two files have the same name and would make one; give them two folders")
    if several:
        check_folder(out)
        out.mkdir(parents=True, exist_ok=True)
    for target in targets:
        check_output(target, *inputs)
    return list(zip(inputs, targets, strict=True)), several


def convert_files(
    function: Callable[..., dict[str, Any]],
    arguments: tuple[Any, ...],
    settings: dict[str, Any],
    files: Sequence[tuple[Path, Path]],
    parallel: Parallel,
    title: str,
    *,
    progress: bool = True,
) -> Outcome:
    """Make a file of each file; those are left out that an earlier run with the same settings has made.

    Parameters
    ----------
    function : callable
        `encode_file` or `decode_file`.
    arguments : tuple
        Its first arguments; source and target follow.
    settings : dict
        Plain JSON values that decide what is made.
    files : sequence of (Path, Path)
        Source and target; all targets lie in one folder.
    parallel : Parallel
    title : str
        Names the journal and the progress bar.
    progress : bool
        Show a progress bar on standard error, where that is a terminal.

    Returns
    -------
    Outcome

    Raises
    ------
    InputError
        The same job is running, or a process was killed.
    """
    parallel.check_memory(GIGABYTES_EACH)
    part, parts = parallel.shard
    mine = parallel.share(files)
    journal = files[0][1].parent / (f".{title}.jsonl" if parts == 1 else f".{title}-{part}-of-{parts}.jsonl")
    outcome, results = Outcome(), {}
    with job_journal(journal, settings) as done:
        left = []
        for path, target in mine:
            record = done.get(str(path))
            if record is not None and record["stamps"] == _stamps(path, target):
                results[path] = record["result"]
            else:
                left.append((path, target))
        outcome.found = len(results)
        tasks = [(*arguments, str(path.resolve()), str(target.resolve())) for path, target in left]
        with progress_bar(desc=title, total=len(mine), initial=len(results), unit="file", shown=progress) as bar:
            for index, made in run_tasks(function, tasks, parallel):
                path, target = left[index]
                if isinstance(made, InputError):
                    outcome.failures[str(path)] = str(made)
                else:
                    results[path] = {"input": str(path), "out": str(target), **made}
                    add_record(journal, str(path), {"stamps": _stamps(path, target), "result": results[path]})
                bar.update()
    outcome.results = [results[path] for path, _ in mine if path in results]
    return outcome


def _stamps(*paths: Path) -> list[list[int]]:
    """Sizes and times of files, to tell whether they were changed; nothing of those that are not there."""
    found = [path.stat() for path in paths if path.exists()]
    return [[file.st_size, file.st_mtime_ns] for file in found]
