"""Bars are for people who look: in logs and pipes there is none, or a line now and then where it is asked for."""

import sys

import pytest

from setcore.progress import progress_bar, progress_lines


@pytest.mark.parametrize(
    ("terminal", "kernel", "shown", "drawn"),
    [(True, False, True, True), (False, True, True, True), (False, False, True, False), (True, True, False, False)],
)
def test_where_a_bar_is_drawn(monkeypatch, capsys, terminal, kernel, shown, drawn):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    if kernel:
        monkeypatch.setitem(sys.modules, "ipykernel", sys)
    else:
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert list(progress_bar(range(3), desc="count", shown=shown)) == [0, 1, 2]
    assert ("count" in capsys.readouterr().err) == drawn


def test_lines_in_a_log_where_they_are_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with progress_lines():
        list(progress_bar(range(9), desc="never", shown=False))
        for _ in progress_bar(range(1), desc="outer"):
            list(progress_bar(range(1000), desc="count"))
    said = capsys.readouterr().err
    assert "\r" not in said
    lines = said.splitlines()
    assert "\x1b" not in said
    # the first and the last of each: they take less than a minute
    assert [line.partition(":")[0] for line in lines] == ["outer", "count", "count", "outer"]
    assert "1000/1000" in lines[2]
    list(progress_bar(range(3), desc="count"))
    assert capsys.readouterr().err == ""
