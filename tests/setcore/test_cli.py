"""One line and status 2 for every error, JSON on request, pipes that close early."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys

import pytest

from setcore.cli import (
    Parser,
    add_json_flag,
    number_list,
    number_within,
    print_result,
    report_failures,
    run,
    writes_file,
    writes_folder,
)
from setcore.errors import CheckpointError, InputError


def parser(handler) -> Parser:
    made = Parser(prog="tool")
    made.add_argument("count", type=int)
    add_json_flag(made)
    made.set_defaults(handler=handler)
    return made


def test_result_as_text_and_as_json(capsys):
    made = parser(lambda args: print_result({"count": args.count}, args.json, f"{args.count} things"))
    assert run(made, ["3"]) == 0
    assert capsys.readouterr() == ("3 things\n", "")
    assert run(made, ["3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"count": 3}


@pytest.mark.parametrize(
    "error", [InputError("no such\n  voxel"), CheckpointError("no such voxel"), PermissionError("no such voxel")]
)
def test_errors_of_input_and_disk_are_one_line_and_status_2(capsys, error):
    def fail(args):
        raise error

    assert run(parser(fail), ["3"]) == 2
    assert capsys.readouterr() == ("", "tool: no such voxel\n")


def test_faults_of_the_program_are_not_hidden():
    def fail(args):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run(parser(fail), ["3"])


@pytest.mark.parametrize("arguments", [[], ["three"], ["3", "--absent"]])
def test_usage_errors_are_one_line_and_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        run(parser(lambda args: None), arguments)
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("tool: ")
    assert "see tool --help" in err


def with_outputs(handler=lambda args: None) -> Parser:
    made = Parser(prog="tool")
    command = made.add_subparsers(required=True).add_parser("work")
    command.add_argument("inputs", nargs="+")
    writes_file(command.add_argument("--out"), ".nc")
    writes_file(command.add_argument("--nifti"), ".nii", ".nii.gz")
    writes_file(command.add_argument("--report"), ".json", beside=(".png",))
    writes_file(command.add_argument("--tokens"), ".vat", or_folder=True)
    writes_folder(command.add_argument("--folder"))
    writes_file(command.add_argument("--page"), ".html")
    command.set_defaults(handler=handler)
    return made


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "in.nc"], "would replace the input"),
        (["--out", "link.nc"], "would replace the input"),
        (["--out", "sub/../in.nc"], "would replace the input"),
        (["--out", "sub"], "is a folder"),
        (["--out", "absent/x.nc"], "does not exist"),
        (["--out", "/dev/null"], "is a device"),
        (["--out", "cat.png"], "is there and is not a .nc file"),
        (["--out", "x.nii", "--nifti", "x.nii"], "is named twice"),
        (["--nifti", "mesh.obj"], "is there and is not a .nii or .nii.gz file"),
        (["--report", "x.txt"], "name the report .json"),
        (["--report", "dog.json"], "would replace the input"),
        (["--tokens", "sub"], None),
        (["--folder", "in.nc"], "is a file; name a folder"),
        (["--folder", "source"], "is an input"),
        (["--page", "x.txt"], "is to be a page; name it .html"),
        (["--out", "new.nc", "--nifti", "new.nii.gz", "--report", "new.json", "--folder", "new"], None),
        (["--out", "old.nc"], None),
    ],
    ids=str,
)
def test_outputs_never_replace_what_they_must_not(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("sub", "source"):
        (tmp_path / name).mkdir()
    for name in ("in.nc", "dog.png", "old.nc", "cat.png", "mesh.obj"):
        (tmp_path / name).write_text(name)
    (tmp_path / "link.nc").symlink_to("in.nc")
    before = sorted(tmp_path.rglob("*"))
    assert run(with_outputs(), ["work", "in.nc", "dog.png", "source", *arguments]) == (0 if message is None else 2)
    said = capsys.readouterr().err
    assert said.count("\n") == (message is not None)
    assert (message or "") in said
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_cannot_be_written_in_is_refused_before_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def refused(dir):  # as of a folder without permission, which root has everywhere
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    assert run(with_outputs(), ["work", "in.nc", "--folder", "new/one"]) == 2
    message = f"cannot write in {tmp_path} (Permission denied); name a folder that can be written"
    assert message in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run(with_outputs(), ["work", "in.nc", "--folder", "file/one"]) == 2
    assert "file is a file; name a folder" in capsys.readouterr().err


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a system without /proc")
@pytest.mark.parametrize(
    "arguments", [["--out", "/proc/x.nc"], ["--report", "/proc/x.json"], ["--folder", "/proc/new"]], ids=str
)
def test_a_place_where_nobody_makes_files_is_refused_before_work(arguments, capsys):
    """Permissions say that root may write there."""
    assert run(with_outputs(), ["work", "in.nc", *arguments]) == 2
    said = capsys.readouterr().err
    assert "cannot write in /proc (" in said
    assert said.count("\n") == 1


def test_failures_are_listed_once_by_name(capsys):
    made = parser(lambda args: report_failures({"a.obj": "a.obj: no faces", "b.obj": "cut\n off"}))
    assert run(made, ["3"]) == 1
    assert capsys.readouterr() == ("", "a.obj: no faces\nb.obj: cut off\n")
    assert run(parser(lambda args: report_failures({})), ["3"]) == 0


def test_numbers_are_within_their_range():
    share = number_within(0, 1)
    assert [share("1"), share("0.25")] == [1.0, 0.25]
    for text in ("0", "-1", "1.5", "nan", "inf", "much"):
        with pytest.raises(argparse.ArgumentTypeError, match="above 0 and up to 1"):
            share(text)
    with pytest.raises(argparse.ArgumentTypeError, match=r"above 0$"):
        number_within(0, math.inf)("inf")


def test_no_memory_is_one_line(capsys):
    def fail(args):
        raise MemoryError

    assert run(parser(fail), ["3"]) == 2
    assert capsys.readouterr().err == "tool: out of memory\n"


def test_interrupt_is_status_130(capsys):
    def interrupt(args):
        raise KeyboardInterrupt

    assert run(parser(interrupt), ["3"]) == 130
    assert capsys.readouterr().err == "tool: interrupted\n"


PIPED = """
import sys
from setcore.cli import Parser, run
parser = Parser(prog="tool")
parser.set_defaults(handler=lambda args: [sys.stdin.read(), print("x" * 10)])
sys.exit(run(parser, []))
"""


def test_a_reader_that_has_gone_is_no_error():
    child = subprocess.Popen(
        [sys.executable, "-c", PIPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.close()
    child.stdin.close()
    assert child.stderr.read() == b""
    child.stderr.close()
    assert child.wait() == 0


def with_commands() -> Parser:
    made = Parser(prog="tool")
    commands = made.add_subparsers(required=True)
    command = commands.add_parser("count", help="counts")
    command.add_argument("file", metavar="FILE.nc", help="what to count")
    command.add_argument("--sizes", type=number_list, default=(2, 30), help="100 %% of them")
    command.add_argument("--name", help="of the result")
    command.add_argument("--exact", action="store_true", help="to the digit")
    command.set_defaults(handler=print)
    return made


def test_help_of_subcommands_shows_defaults_as_they_are_typed(capsys):
    with pytest.raises(SystemExit):
        run(with_commands(), ["count", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "100 % of them (default: 2,30)" in out
    assert "of the result --exact to the digit" in out


@pytest.mark.parametrize(
    ("option", "message"),
    [("--exat", "there is no option --exat; did you mean --exact?"), ("--weights=3", "there is no option --weights=3")],
)
def test_unknown_options_are_said_by_the_subcommand(capsys, option, message):
    with pytest.raises(SystemExit) as caught:
        run(with_commands(), ["count", "x.nc", option])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"tool count: {message} (see tool count --help)\n"


def test_errors_of_subcommands_are_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        run(with_commands(), ["count", "x.nc", "--sizes", "2,many"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "tool count: argument --sizes: '2,many' is not a list of integers such as 20,50,100 (see tool count --help)\n"
    )


def test_version_is_that_of_the_distribution(capsys):
    with pytest.raises(SystemExit) as caught:
        run(with_commands(), ["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"tool {importlib.metadata.version('braincl-vat3d')}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_knows_commands_options_and_files(capsys, shell):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as caught:
        run(with_commands(), ["--print-completion", shell])
    assert caught.value.code == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("count", "sizes"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_and_options(capsys):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit):
        run(with_commands(), ["--print-completion", "bash"])
    script = capsys.readouterr().out
    asked = 'COMP_WORDS=(tool {}); COMP_CWORD={}; _shtab_tool 2>/dev/null; echo "${{COMPREPLY[@]}}"'
    for words, expected in ((["c"], "count"), (["count", "--s"], "--sizes")):
        command = script + asked.format(" ".join(words), len(words))
        found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
        assert expected in found.split()
