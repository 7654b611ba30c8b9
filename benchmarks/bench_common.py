"""What the benchmark scripts share: where outputs go, where development data lie, and how a script says it cannot run.

``make bench`` runs every script without arguments and without a network. One that needs data or a model which are not
here prints a line that begins with "skip" and ends without an error.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

OUTPUT = Path("bench_output")
"""Folder of results, relative to where a script is run."""
RESULTS = Path(__file__).resolve().parent / "results"
"""Stored measurements, which `tools/figures.py` draws."""
EMBEDDED_MESHES = Path(__file__).resolve().parents[1] / "vat3d" / "embedded"


def shared(folder: str) -> Path | None:
    """A folder of the development data (`SHARED_DATA`), None where it is absent."""
    path = Path(os.environ.get("SHARED_DATA", "../shared/data")) / folder
    return path if path.is_dir() else None


def mesh_files(folder: Path, every: int) -> list[Path]:
    """The meshes of a folder by name, every so many of them from the first."""
    from vat3d.mesh_io.load import EXTENSIONS  # not where braincl alone is measured

    return sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS)[::every]


def skip(reason: str) -> None:
    """End the script, saying what it needs."""
    print(f"skip: {reason}")
    raise SystemExit(0)


def commit() -> str:
    """The commit that is measured; empty outside a git checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def output(name: str) -> Path:
    """A path in the folder of results, which is made."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    return OUTPUT / name
