"""What a package says of itself: its version, and names that are imported when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

from setcore.errors import InputError

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


def need_plotly() -> None:
    """Refuse to go on without plotly, which draws the pages of both packages.

    Raises
    ------
    InputError
    """
    try:
        import_module("plotly.graph_objects")
    except ImportError as error:
        wanted = "pages are drawn by plotly, which is not here (extra `interactive`): pip install plotly"
        raise InputError(wanted) from error


def lazy_exports(
    package: str, exports: Mapping[str, str], modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package's ``__init__`` defines so that its names are imported late (PEP 562).

    Parameters
    ----------
    package : str
        ``__name__`` of the package.
    exports : mapping of str to str
        Public name to the module that defines it.
    modules : sequence of str
        Parts of the package that are imported when they are first used, such as ``plot``.

    Returns
    -------
    tuple
        ``__getattr__`` (which also knows ``__version__``), ``__dir__`` and ``__all__``.
    """

    def _load(name: str) -> Any:
        if name == "__version__":
            return installed_version()
        if name in modules:
            return import_module(f"{package}.{name}")
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(exports[name]), name)

    return _load, lambda: sorted([*exports, *modules]), list(exports)
