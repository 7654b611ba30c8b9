"""Check that every public name of the packages has a complete numpydoc docstring: ``python tools/check_docstrings.py``.

numpydoc's validator looks at the imported objects, so that the fields of data classes count as parameters. A name is
public if neither it nor anything around it begins with an underscore.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from numpydoc.validate import validate

PACKAGES = ("setcore", "braincl", "vat3d")
CHECKS = {
    "GL08": "no docstring",
    "PR01": "parameters not documented",
    "PR02": "unknown parameters documented",
    "RT01": "no Returns section",
}
BUILDERS = tuple(
    f"vat3d.procedural.{name}" for name in ("asked_for", "furniture", "objects", "organic", "solids", "vehicles")
)
"""Modules whose functions all take a random generator and return a solid, as `vat3d.procedural.parts` says once."""


def public_names(module: ModuleType) -> Iterator[str]:
    """Full names of a module's public functions and classes, and of their public methods and properties.

    Parameters
    ----------
    module : module

    Yields
    ------
    str
    """
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield f"{module.__name__}.{name}"
        elif inspect.isclass(value):
            if not getattr(value, "_is_protocol", False):  # whose signature is nobody's
                yield f"{module.__name__}.{name}"
            for member, part in vars(value).items():
                if not member.startswith("_") and (_is_method(part) or isinstance(part, property)):
                    yield f"{module.__name__}.{name}.{member}"


def _is_method(part: Any) -> bool:
    return inspect.isfunction(part) or isinstance(part, classmethod | staticmethod)


def main() -> int:
    """Print what is missing; returns 1 if anything is.

    Returns
    -------
    int
    """
    problems = checked = 0
    for package in PACKAGES:
        root = importlib.import_module(package)
        for info in pkgutil.walk_packages(root.__path__, f"{package}."):
            if info.name in BUILDERS or info.name.endswith("__main__"):
                continue
            for name in public_names(importlib.import_module(info.name)):
                checked += 1
                found = [code for code, _ in validate(name)["errors"] if code in CHECKS]
                problems += len(found)
                for code in found:
                    print(f"{name}: {code} {CHECKS[code]}")
    print(f"{checked} public names, {problems} problems", file=sys.stderr)
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())
