"""What every test shares: shapes checked at run time, a fixed number of threads, the development data by path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Every annotated function of the packages checks types and shapes; this must come before their first import.
install_import_hook(["setcore", "braincl", "vat3d"], "shapecheck.check")

# One thread for each test worker: sums in a fixed order, and workers that do not fight for cores.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--precision", choices=("float32", "bfloat16"), help="what vat3d takes `auto` for")
    parser.addoption("--device", default="cuda", help="of the tests marked gpu")


@pytest.fixture(autouse=True)
def _precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``--precision`` the tests run in it, whatever the processor has; all but those of the choice itself."""
    forced = request.config.getoption("--precision")
    if forced and request.path.name != "test_devices.py":
        monkeypatch.setattr("setcore.devices.auto_precision", lambda device=None: forced)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the development data; its path is relative to the project root unless absolute."""
    folder = ROOT / os.environ.get("SHARED_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"development data are not at {folder}; set SHARED_DATA to their folder")
    return folder
