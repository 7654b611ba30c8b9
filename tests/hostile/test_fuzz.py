"""Mutants of files of every kind: a few seconds of each here, `python -m tests.hostile.fuzz` by the thousand."""

from __future__ import annotations

import gzip

import pytest

from tests.hostile import fuzz

FEW = {"netcdf": 12, "vat": 40}
"""NetCDF takes a process each, and tokens a network."""


@pytest.mark.parametrize("kind", fuzz.READERS)
@pytest.mark.parametrize("many", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_mutant_is_refused_or_valid(kind, many, monkeypatch):
    monkeypatch.chdir(fuzz.TESTS.parent)
    found = fuzz.fuzz(kind, 200 if many else FEW.get(kind, 80), seed=int(many))
    assert set(found) <= set(fuzz.FAULTLESS)
    assert found["refused"] > found.total() / 4


def test_mutants_belong_to_their_seed_and_number():
    sound = [("a.obj", b"v 0 0 1\n" * 50), ("b.nii.gz", gzip.compress(bytes(500)))]
    made = list(fuzz.mutants("obj", sound, 30, seed=3))
    assert made == list(fuzz.mutants("obj", sound, 30, seed=3))
    assert made[:10] == list(fuzz.mutants("obj", sound, 10, seed=3))
    assert made != list(fuzz.mutants("obj", sound, 30, seed=4))
    assert sum(data != dict(sound)[name] for name, data in made) > 25


def test_faults_are_found(monkeypatch, tmp_path):
    """A reader that is no better than it should be, and a process that dies."""

    def reader(path):
        raise KeyError(path.name)

    path = tmp_path / "x.obj"
    with monkeypatch.context() as patch:
        patch.setitem(fuzz.READERS, "obj", reader)
        assert fuzz.answer("obj", path).startswith("KeyError at test_fuzz.py")
    assert fuzz.answer("obj", path) == "refused"
    monkeypatch.chdir(fuzz.TESTS.parent)
    child = fuzz.Child()
    try:
        assert child.ask("obj", path) == "refused"
        assert child.process is not None
        child.process.kill()
        child.process.wait()
        assert child.ask("obj", path) == "it crashed the process"
        assert child.ask("obj", path) == "refused"
    finally:
        child.close()
