"""What a command imports and prints before it does its work."""

import subprocess
import sys

CHILD = """
import sys
from importlib import import_module
main = import_module(sys.argv[1]).main
try:
    status = main(sys.argv[2:])
except SystemExit as error:
    status = error.code
print(status, *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def started(main_module: str, *arguments: str) -> tuple[int, set[str], str, str]:
    """Exit status, imported packages, output and errors of a command in a process of its own."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD, main_module, *arguments], capture_output=True, text=True, check=True
    )
    status, *modules = child.stderr.splitlines()[-1].split()
    return int(status), set(modules), child.stdout, child.stderr


def check_defaults(main_module: str, command: str) -> None:
    """The help of a command shows each default once, and none that says nothing."""
    _, _, text, _ = started(main_module, command, "--help")
    assert "None)" not in text
    assert "False)" not in text
    assert "default: " not in text.replace("(default: ", "")
