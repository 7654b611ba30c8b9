"""The examples in the docstrings of public names run, and say what they say."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest

import braincl
import vat3d

PUBLIC = [(package, name) for package in (braincl, vat3d) for name in package.__all__]


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=[f"{package.__name__}.{name}" for package, name in PUBLIC])
def test_example(package, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = getattr(package, name)
    found = doctest.DocTestFinder(recurse=False).find(shown, name, module=False, globs={})
    examples = [example for test in found for example in test.examples]
    if inspect.isclass(shown) and issubclass(shown, Exception):
        pytest.skip("an error, which is raised")
    assert examples, f"{name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    said: list[str] = []
    for test in found:
        test.filename = inspect.getsourcefile(inspect.unwrap(shown)) or name
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
