"""Public names of a package that are imported when they are first used, so that importing the package stays quick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from setcore.version import installed_version


def lazy_exports(
    package: str, exports: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package's ``__init__`` defines so that its names are imported late (PEP 562).

    Parameters
    ----------
    package : str
        ``__name__`` of the package.
    exports : mapping of str to str
        Public name to the module that defines it.

    Returns
    -------
    tuple
        ``__getattr__`` (which also knows ``__version__``), ``__dir__`` and ``__all__``.
    """

    def _load(name: str) -> Any:
        if name == "__version__":
            return installed_version()
        if name not in exports:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(exports[name]), name)

    return _load, lambda: sorted(exports), list(exports)
