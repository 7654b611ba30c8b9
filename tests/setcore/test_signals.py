"""Commands that are told to end: one line, whatever they are at."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from setcore.cli import Parser, run
from setcore.errors import InputError
from setcore.signals import SIGNALS, Stopped, catch_signals, restore_signals, signals_wait

WORK = """
import sys, time
from setcore.cli import Parser, run
def work(args):
    try:
        print("working", flush=True)
        time.sleep(100)
    finally:
        print("tidied", flush=True)
parser = Parser(prog="tool")
parser.set_defaults(handler=work)
sys.exit(run(parser, None))
"""
IMPORT = """
import sys, time
from setcore.signals import catch_signals
catch_signals("tool")
sys.path.insert(0, sys.argv[1])
import slow
"""
SLOW = """
import time
print("working", flush=True)
try:
    time.sleep(100)
except BaseException:
    raise ImportError("as libraries do whose imports are interrupted")
"""


def stopped(code: str, number: signal.Signals, *arguments: str) -> tuple[int, str, str]:
    child = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "working\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=60)
    return child.returncode, out, err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_work_is_unwound_and_the_status_is_that_of_a_shell(number, status, tmp_path):
    line = f"tool: {SIGNALS[number]}\n"
    assert stopped(WORK, number) == (status, "tidied\n", line)
    (tmp_path / "slow.py").write_text(SLOW)
    assert stopped(IMPORT, number, str(tmp_path)) == (status, "", line)


def test_handlers_are_as_before_when_a_command_was_a_call(capsys):
    before = [signal.getsignal(number) for number in SIGNALS]
    parser = Parser(prog="tool")
    parser.set_defaults(handler=lambda args: signal.raise_signal(signal.SIGTERM))
    assert run(parser, []) == 143
    assert capsys.readouterr().err == "tool: terminated\n"
    assert [signal.getsignal(number) for number in SIGNALS] == before


def swallowing(error: Exception):
    """A command in which compiled code makes another error of what a signal raises, as safetensors does."""

    def work(args):
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            raise error from None

    parser = Parser(prog="tool")
    parser.set_defaults(handler=work)
    return parser


@pytest.mark.parametrize("error", [InputError("not a readable file"), ValueError("no shape"), OSError("no file")])
def test_a_signal_is_told_though_other_code_made_an_error_of_it(error, capsys):
    assert run(swallowing(error), []) == 143
    assert capsys.readouterr().err == "tool: terminated\n"
    plain = Parser(prog="tool")
    plain.set_defaults(handler=lambda args: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):  # the next command was told nothing
        run(plain, [])


def test_a_thread_may_run_a_command_though_it_catches_no_signals():
    caught = []
    thread = threading.Thread(target=lambda: caught.append(catch_signals("tool")))
    thread.start()
    thread.join()
    assert caught == [{}]
    restore_signals(caught[0])
    assert issubclass(Stopped, KeyboardInterrupt)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_wait_for_the_end_of_a_block_that_may_raise_nothing(number):
    before = catch_signals("tool")
    done = []
    try:
        with pytest.raises(Stopped) as told:  # noqa: PT012 (what comes before the end matters)
            with signals_wait():
                signal.raise_signal(number)
                done.append("in the block")
            done.append("after it")
        assert told.value.status == 128 + number
    finally:
        restore_signals(before)
    assert done == ["in the block"]


def test_a_block_in_which_no_signal_comes_leaves_the_handlers_as_they_were():
    before = [signal.getsignal(number) for number in SIGNALS]
    with signals_wait():
        assert [signal.getsignal(number) for number in SIGNALS] != before
    assert [signal.getsignal(number) for number in SIGNALS] == before
    caught = []

    def work():
        with signals_wait():
            caught.append([signal.getsignal(number) for number in SIGNALS])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert caught == [before]
