"""Follow one `fast` encode through the files of the code: ``python tools/encode_trace.py [MESH]``.

Prints the files in the order in which functions of theirs are called for the first time, and how often a reader who
follows these calls is sent back to a file that they had left (a *return*).
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any


def first_calls(root: Path, run: Any) -> list[tuple[str, str]]:
    """File, relative to `root`, and name of every function of it, in the order of their first calls in ``run()``.

    Lambdas, comprehensions and the like belong to the function around them.
    """
    calls: dict[tuple[str, str], None] = {}

    def profile(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(root) and not frame.f_code.co_name.startswith("<"):
            calls.setdefault((path.relative_to(root).as_posix(), frame.f_code.co_qualname))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return list(calls)


def walk(files: list[str]) -> tuple[list[str], int]:
    """The files of successive calls, each run of one file as one visit; and how many visits are returns."""
    visits = [name for k, name in enumerate(files) if k == 0 or files[k - 1] != name]
    returns = sum(name in visits[:k] for k, name in enumerate(visits))
    return visits, returns


def main() -> None:
    """Encode the embedded demo mesh, or that of the command line, and print the walk."""
    import vat3d

    root = Path(vat3d.__file__).parent
    mesh = sys.argv[1] if len(sys.argv) > 1 else str(root / "embedded" / "vertebra.ply")
    tokenizer = vat3d.MeshTokenizer.from_pretrained()
    tokenizer.encode(mesh, 512, "fast")  # lazy imports and caches
    calls = first_calls(root, lambda: tokenizer.encode(mesh, 512, "fast"))
    visits, returns = walk([name for name, _ in calls])
    for name in visits:
        print(name)
    print(f"{len(calls)} functions in {len(set(visits))} files, {len(visits)} visits, {returns} returns")


if __name__ == "__main__":
    main()
