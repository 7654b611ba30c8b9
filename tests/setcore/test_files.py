"""Files are whole or absent: errors, kills and rival writers included."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from setcore.errors import InputError
from setcore.files import atomic_path, check_output, locked_folder, read_json, write_bytes, write_json


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    for content in (b"first", b"second"):
        write_bytes(tmp_path / "out.bin", content)
    assert (tmp_path / "out.bin").read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["out.bin"]


@pytest.mark.parametrize(("name", "suffix"), [("map.nii.gz", ".nii.gz"), ("a.b.nc", ".nc"), ("plain", "")])
def test_temporary_name_keeps_the_suffix_that_writers_choose_a_format_by(tmp_path, name, suffix):
    with atomic_path(tmp_path / name) as temporary:
        assert "".join(Path(temporary.name.removeprefix(f".{name}.")).suffixes) == suffix
        assert temporary.parent == tmp_path
        temporary.write_text("x")
    assert os.listdir(tmp_path) == [name]


def test_an_error_while_writing_leaves_the_old_file(tmp_path):
    write_bytes(tmp_path / "out.bin", b"old")

    def write_half() -> None:
        with atomic_path(tmp_path / "out.bin") as temporary:
            temporary.write_bytes(b"ne")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write_half()
    assert (tmp_path / "out.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_file_mode_follows_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        write_bytes(tmp_path / "out.bin", b"")
    finally:
        os.umask(previous)
    assert (tmp_path / "out.bin").stat().st_mode & 0o777 == 0o640


def test_impossible_targets_are_typed_errors(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        write_bytes(tmp_path, b"")
    with pytest.raises(InputError, match="create it first"):
        write_bytes(tmp_path / "absent" / "out.bin", b"")


REWRITE = """
import sys
from setcore.files import write_bytes
print("started", flush=True)
for round in range(10**9):
    write_bytes(sys.argv[1], sys.argv[2].encode() * 2_000_000)
"""


def test_a_killed_writer_never_leaves_half_a_file(tmp_path):
    target = tmp_path / "out.bin"
    write_bytes(target, b"o" * 2_000_000)
    for delay in (0.0, 0.01, 0.03, 0.05):
        with python(REWRITE, target, "n") as child:
            assert child.stdout.readline() == "started\n"
            time.sleep(delay)
            child.send_signal(signal.SIGKILL)
        content = target.read_bytes()
        assert content in (b"o" * 2_000_000, b"n" * 2_000_000)


def test_of_two_writers_one_wins_whole(tmp_path):
    target = tmp_path / "out.bin"
    writers = [python(REWRITE, target, letter) for letter in "ab"]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "started\n"
        while not target.exists():
            time.sleep(0.001)
        seen = {target.read_bytes() for _ in range(100)}
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert seen <= {letter * 2_000_000 for letter in (b"a", b"b")}


def test_json_round_trip_refuses_nan_and_names_damage(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, {"r": [0.25, None], "name": "V4"})
    assert read_json(path) == {"r": [0.25, None], "name": "V4"}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"r": float("nan")})
    assert read_json(path)["name"] == "V4"
    for damage in (b'{"r": [0.2', b"\xff\xfe\x00", b"[" * 200_000, b"1" * 10_000):
        path.write_bytes(damage)
        with pytest.raises(InputError, match="not valid JSON"):
            read_json(path)
    with pytest.raises(InputError, match="cannot read"):
        read_json(tmp_path / "absent.json")


HOLD = """
import sys
from setcore.files import locked_folder
with locked_folder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_locked_against_others_and_free_after_a_kill(tmp_path):
    folder = tmp_path / "run"
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="in use by another process"), locked_folder(folder):
            pass
    finally:
        child.kill()
        child.communicate()
    with locked_folder(folder) as held:
        assert held == folder
    with locked_folder(folder):
        pass


def test_a_file_in_the_place_of_a_folder_is_a_typed_error(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="cannot write"), locked_folder(tmp_path / "run"):
        pass


def test_outputs_that_cannot_be_written_are_refused_before_any_work(tmp_path):
    check_output(tmp_path / "new.nc", tmp_path / "absent.nc")
    for path in (tmp_path, tmp_path / "absent" / "x.nc"):
        with pytest.raises(InputError, match="name a file in a folder that exists"):
            check_output(path)
    (tmp_path / "in.nc").touch()
    (tmp_path / "link.nc").symlink_to(tmp_path / "in.nc")
    for path in ("in.nc", "link.nc"):
        with pytest.raises(InputError, match=f"{path} would replace the input"):
            check_output(tmp_path / path, tmp_path / "other.nc", tmp_path / "in.nc")
