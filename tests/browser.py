"""Pages as a browser draws them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 1000, 700


def drawn(page: Path, tmp_path: Path) -> NDArray[np.uint8]:
    """Pixels (height, width, 3) of a page in Chromium, whose console names no error; skips without one."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium here; Debian's package is chromium")
    picture = tmp_path / "page.png"
    said = subprocess.run(
        [browser, "--headless=new", "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader",
         "--enable-unsafe-swiftshader", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}",
         "--virtual-time-budget=20000", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
         f"--screenshot={picture}", page.resolve().as_uri()],
        check=True, capture_output=True, text=True, timeout=120,
    ).stderr  # fmt: skip
    assert [line for line in said.splitlines() if "CONSOLE" in line and ("Uncaught" in line or "Error" in line)] == []
    return np.asarray(Image.open(picture).convert("RGB"))
