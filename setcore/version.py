"""The version of what is installed."""

from __future__ import annotations

DISTRIBUTION = "braincl-vat3d"


def installed_version() -> str:
    """Version of the distribution that braincl, vat3d and setcore are installed from.

    Returns
    -------
    str
        "unknown" where the code is run from a folder that was never installed.
    """
    from importlib.metadata import PackageNotFoundError, version  # late: it takes longer than all else of a `--help`

    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"
