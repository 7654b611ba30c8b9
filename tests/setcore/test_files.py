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
from setcore.files import (
    add_record,
    append_line,
    atomic_path,
    check_output,
    job_journal,
    locked_folder,
    read_json,
    read_lines,
    write_bytes,
    write_json,
)


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


def test_an_existing_mode_is_kept_and_a_symlink_written_through(tmp_path):
    target, link = tmp_path / "elsewhere" / "out.bin", tmp_path / "link.bin"
    target.parent.mkdir()
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_bytes(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert os.listdir(tmp_path / "elsewhere") == ["out.bin"]


@pytest.mark.parametrize("kind", ["fifo", "/dev/null"])
def test_what_is_no_file_is_never_replaced(tmp_path, kind):
    path = Path(kind)
    if kind == "fifo":
        path = tmp_path / "fifo"
        os.mkfifo(path)
    with pytest.raises(InputError, match="is a device"):
        write_bytes(path, b"")
    with pytest.raises(InputError, match="is a device"):
        check_output(path)
    assert path.exists()
    assert not path.is_file()


def test_what_a_killed_writer_left_is_removed_and_what_another_writes_is_not(tmp_path):
    with python(WRITE_AND_WAIT, tmp_path / "a.bin") as killed, python(WRITE_AND_WAIT, tmp_path / "b.bin") as writing:
        assert killed.stdout.readline() == writing.stdout.readline() == "writing\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(os.listdir(tmp_path)) == 2
        (tmp_path / ".notes.tmp").write_text("mine")
        write_bytes(tmp_path / "c.bin", b"")
        left = sorted(os.listdir(tmp_path))
        writing.kill()
    assert [left[0], left[2]] == [".notes.tmp", "c.bin"] or left[1:] == [".notes.tmp", "c.bin"]
    assert sum(name.startswith(".b.bin") for name in left) == 1
    assert not any(name.startswith(".a.bin") for name in left)


WRITE_AND_WAIT = """
import sys, time
from setcore.files import atomic_path
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(100)
"""


def test_locking_a_folder_truncates_nothing(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".lock").symlink_to("precious")
    with locked_folder(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


def test_errors_of_the_disk_name_the_file(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"No space left on device: .*out\.bin'"):
        write_bytes(tmp_path / "out.bin", b"")
    assert os.listdir(tmp_path) == []


def test_lines_that_a_kill_cut_off_are_left_out(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_lines(path) == []
    append_line(path, {"a": 1})
    append_line(path, [2])
    with open(path, "ab") as file:
        file.write(b'{"a": ')
    assert read_lines(path) == [{"a": 1}, [2]]
    size = path.stat().st_size
    assert read_lines(path, repair=True) == [{"a": 1}, [2]]
    assert path.stat().st_size == size - 6
    path.write_bytes(b"{\n[]\n")
    with pytest.raises(InputError, match=r"log\.jsonl is damaged"):
        read_lines(path)


def test_a_job_goes_on_only_with_its_own_journal(tmp_path):
    path, settings = tmp_path / "job.jsonl", {"seed": 1, "sizes": (2, 3)}

    def killed(asked):
        with job_journal(path, asked) as done:
            found = dict(done)
            add_record(path, f"part {len(done)}", {"score": len(done)})
            raise KeyboardInterrupt(found)

    for expected in ({}, {"part 0": {"score": 0}}):
        with pytest.raises(KeyboardInterrupt) as stop:
            killed(settings)
        assert stop.value.args == (expected,)
    with pytest.raises(KeyboardInterrupt) as stop:
        killed({"seed": 2})
    assert stop.value.args == ({},)
    with job_journal(path, {"seed": 2}) as done:
        assert list(done) == ["part 0"]
        with pytest.raises(InputError, match="in use by another process"), job_journal(path, {"seed": 2}):
            pass
    assert not path.exists()
