"""One line and status 2 for every error, JSON on request, pipes that close early."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from setcore.cli import Parser, add_json_flag, print_result, run
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
