"""Execute the notebooks, and write their outputs or check the committed ones: ``python tools/notebooks.py [--check]``.

The last cell of each shows a dict of key numbers. `--check` compares them with those of the committed outputs, within
.01, and writes nothing. A notebook whose data are not here shows a dict with the one key "skipped", and says why; there
is nothing to compare then.
"""

from __future__ import annotations

import argparse
import ast
import base64
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

from setcore.files import write_bytes

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
TOLERANCE = 0.01
SECONDS = 900  # of a cell
FEW_COLOURS = 2000


def main() -> int:
    """Execute all notebooks; 1 if a key number is another one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of notebooks, such as 01 (default: all)")
    parser.add_argument("--check", action="store_true", help="compare the key numbers, write nothing")
    args = parser.parse_args()
    failed = False
    for path in sorted(FOLDER.glob("*.ipynb")):
        if args.names and not path.name.startswith(tuple(args.names)):
            continue
        start, committed = time.monotonic(), nbformat.read(path, as_version=4)
        executed = execute(nbformat.read(path, as_version=4))
        found = key_numbers(executed)
        if args.check:
            said = differences(key_numbers(committed), found)
        else:
            said = []
            write_bytes(path, nbformat.writes(executed).encode())
        failed |= bool(said)
        result = f"skipped: {found['skipped']}" if "skipped" in found else "; ".join(said) or "ok"
        print(f"{path.name} ({time.monotonic() - start:.0f} s): {result}", flush=True)
    return int(failed)


def execute(notebook: Any) -> Any:
    """The notebook with outputs; without times and what was said on standard error, which differ from run to run."""
    with tempfile.TemporaryDirectory() as folder:
        where = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=SECONDS, record_timing=False, resources=where).execute()
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [part for part in cell.outputs if part.get("name") != "stderr"]
            for data in (part["data"] for part in cell.outputs if "image/png" in part.get("data", {})):
                data["image/png"] = with_palette(data["image/png"])
    return notebook


def with_palette(png: str) -> str:
    """A picture (PNG in base64) of few colours, as drawings of lines have, with a palette: a third of the bytes."""
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    opaque = "A" not in picture.getbands() or picture.getchannel("A").getextrema()[0] == 255
    if not opaque or picture.convert("RGB").getcolors(FEW_COLOURS) is None:
        return png
    smaller = io.BytesIO()
    few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(smaller, "png", optimize=True)
    return base64.b64encode(smaller.getvalue()).decode()


def key_numbers(notebook: Any) -> dict[str, Any]:
    """The dict that the last cell shows; empty where the notebook has no outputs."""
    shown = [part["data"]["text/plain"] for part in notebook.cells[-1].get("outputs", []) if "data" in part]
    return dict(ast.literal_eval(shown[-1])) if shown else {}


def differences(committed: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What is not as committed; nothing where either run had no data."""
    if "skipped" in committed or "skipped" in found:
        return []
    if committed.keys() != found.keys():
        return [f"key numbers {sorted(found)}, committed are {sorted(committed)}"]
    return [
        f"{name} is {value}, committed is {committed[name]}"
        for name, value in found.items()
        if abs(value - committed[name]) > TOLERANCE
    ]


if __name__ == "__main__":
    raise SystemExit(main())
