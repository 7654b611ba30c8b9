"""What holds for every committed notebook; `tools/notebooks.py --check` runs them."""

from __future__ import annotations

import ast
import base64
import io
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
LARGEST_FIGURE, LARGEST_IN_ALL = 150_000, 300_000 * len(NOTEBOOKS)
TOOL = runpy.run_path(str(NOTEBOOKS[0].parents[1] / "tools" / "notebooks.py"))


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_there_and_small(path: Path) -> None:
    outputs = [part for cell in cells(path, "code") for part in cell["outputs"]]
    pictures = [part["data"]["image/png"] for part in outputs if "image/png" in part.get("data", {})]
    assert pictures
    assert max(map(len, pictures)) * 3 / 4 < LARGEST_FIGURE  # base64
    assert not [part for part in outputs if part["output_type"] == "error" or part.get("name") == "stderr"]


def test_all_are_small() -> None:
    assert sum(path.stat().st_size for path in NOTEBOOKS) < LARGEST_IN_ALL


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_imports_are_at_the_top_and_key_numbers_at_the_end(path: Path) -> None:
    first, *others = ["".join(cell["source"]) for cell in cells(path, "code")]
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.parse(first).body)
    late = [node for source in others for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import)]
    assert late == []
    texts = "\n".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    assert "## Your data here" in texts
    shown = cells(path, "code")[-1]["outputs"][-1]["data"]["text/plain"]
    numbers = ast.literal_eval("".join(shown))
    assert "skipped" in numbers or (numbers and all(isinstance(value, float) for value in numbers.values()))


def test_key_numbers_are_compared_within_a_hundredth() -> None:
    tool = TOOL["differences"]
    committed = {"r": 0.30, "F": 0.9}
    assert tool(committed, {"r": 0.309, "F": 0.9}) == []
    assert tool(committed, {"r": 0.311, "F": 0.9}) == ["r is 0.311, committed is 0.3"]
    assert len(tool(committed, {"r": 0.3})) == 1
    assert tool(committed, {"skipped": "no data here"}) == []


def test_a_palette_is_for_drawings() -> None:
    def png(pixels: np.ndarray) -> str:
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "png")
        return base64.b64encode(file.getvalue()).decode()

    rng = np.random.default_rng(0)
    drawing = np.full((60, 80, 4), 255)
    drawing[20:50, :, :3] = rng.integers(0, 256, (100, 3))[rng.integers(0, 100, (30, 80))]
    smaller = TOOL["with_palette"](png(drawing))
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(smaller))).convert("RGB"))
    assert np.array_equal(found, drawing[..., :3])
    assert len(smaller) < len(png(drawing)) / 2

    transparent = drawing.copy()
    transparent[:5, :, 3] = 0
    photograph = rng.integers(0, 256, (60, 80, 3))
    for kept in (png(transparent), png(photograph)):
        assert TOOL["with_palette"](kept) == kept
