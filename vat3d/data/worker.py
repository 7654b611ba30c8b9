"""The child process that reads and samples one mesh at a time, so that a bad mesh can be stopped or may crash.

Started by `vat3d.data.prepare` as ``python -m vat3d.data.worker``; one JSON request a line on standard input, one JSON
answer a line on standard output.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from setcore.errors import InputError
from vat3d.data.items import MeshItem, procedural_mesh
from vat3d.errors import DatasetError, MeshError

STARTING = 600.0
"""Seconds that a child process may take to import what it needs, on a busy machine."""


def sample_item(item: MeshItem, seed: int, out: Path) -> dict[str, Any]:
    """Read or make a mesh and sample it into a safetensors file.

    Parameters
    ----------
    item : MeshItem
    seed : int
    out : path

    Returns
    -------
    dict
        What to index, with the `split` that is listed for the mesh or None; or the kind by which it is `left_out`,
        and the `reason`.

    Raises
    ------
    MeshError
        The mesh cannot be read, or bounds nothing.
    """
    from safetensors.numpy import save

    from setcore.evaluation.mesh_metrics import sample_surface
    from setcore.files import write_bytes
    from setcore.seeding import derive_seed
    from vat3d.data.sampling import sample_solid
    from vat3d.data.split import listed_split
    from vat3d.mesh.canonical import canonical_mesh, geometry_hash
    from vat3d.mesh.fill import EVEN_ODD
    from vat3d.mesh.solid import HIDDEN_SAMPLES, Solid
    from vat3d.mesh_io.load import load_mesh

    category = item.category
    if item.seed is not None:
        vertices, faces, category = procedural_mesh(item.seed, item.opened, item.family)
    else:
        vertices, faces, _ = load_mesh(item.path)
    mesh = canonical_mesh(vertices, faces)
    geometry = geometry_hash(mesh)
    split = listed_split(geometry, item.source, category)
    if split == "test":
        return {"left_out": "test", "reason": "the split lists it for the test"}
    solid = Solid(mesh)
    if item.fill == EVEN_ODD:
        if not solid.has_internal_surfaces(sample_surface(mesh.vertices, mesh.faces, HIDDEN_SAMPLES)):
            reason = "no part lies within others; the even-odd rule would change nothing"
            return {"left_out": "unchanged", "reason": reason}
        solid = solid.filled(EVEN_ODD)
    samples = sample_solid(solid, derive_seed(seed, geometry))
    write_bytes(out, save(samples))
    return {
        "split": split,
        "category": category,
        "closed": solid.report["closed"],
        "faces": mesh.report["faces"],
        "components": mesh.report["components"],
        "geometry": geometry,
    }


class Worker:
    """Runs `sample_item` in a child process that is killed when a mesh takes too long and started again.

    Parameters
    ----------
    seconds : float
        Time limit of a mesh.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, item: MeshItem, seed: int, out: Path) -> dict[str, Any]:
        """As `sample_item`.

        Raises
        ------
        MeshError
            Also when the mesh took longer than `seconds` or the child died.
        DatasetError
            The child did not start, or somebody ended it.
        OSError
            The samples cannot be written.
        """
        if self._process is not None and self._process.poll() is not None:  # somebody ended it while it waited
            self.close()
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vat3d.data.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "IGL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for whoever waits for the child, and is no fault of the mesh
            )
            try:
                self._read(STARTING)  # the child says when its imports are done: they do not count as the mesh's time
            except MeshError as error:
                raise DatasetError(f"the process that reads meshes did not start: {error}") from error
        assert self._process.stdin is not None
        request = {"item": dataclasses.asdict(item), "seed": seed, "out": str(out)}
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self.close()
            raise DatasetError("the process that reads meshes died; start again") from None
        answer = self._read(self.seconds)
        if "disk" in answer:
            raise OSError(answer["disk"])
        if "error" in answer:
            raise MeshError(answer["error"])
        return answer

    def close(self) -> int | None:
        """End the child process.

        Returns
        -------
        int or None
            Its exit status, if there was one.
        """
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.communicate()
        return process.returncode

    def _read(self, seconds: float) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor, line, deadline = self._process.stdout.fileno(), b"", time.monotonic() + seconds
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            part = os.read(descriptor, 1 << 16) if ready else b""
            if not part:
                status = self.close()
                if status in (-signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
                    raise DatasetError("the process that reads meshes was told to end; start again")
                raise MeshError(
                    "reading the mesh crashed the process (its memory, or a damaged file)"
                    if ready
                    else f"took longer than {seconds:g} s; raise the limit or simplify the mesh"
                )
            line += part
        result: dict[str, Any] = json.loads(line)
        return result


_workers = threading.local()


def sample_in_child(item: MeshItem, seed: int, out: str, seconds: float) -> dict[str, Any]:
    """As `sample_item`, in the child process of this thread, with a time limit.

    Parameters
    ----------
    item : MeshItem
    seed : int
    out : str
        A path.
    seconds : float

    Returns
    -------
    dict

    Raises
    ------
    MeshError, DatasetError, OSError
        As a `Worker` raises them.
    """
    if not hasattr(_workers, "worker"):
        _workers.worker = Worker(seconds)
    _workers.worker.seconds = seconds
    answer: dict[str, Any] = _workers.worker(item, seed, Path(out))
    return answer


def end_child() -> None:
    """End the child process of this thread, if there is one."""
    if hasattr(_workers, "worker"):
        _workers.worker.close()


def main() -> None:
    """Answer requests; end when standard input does."""
    import torch

    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints goes to standard error, not among the answers
    requests: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            requests.put(line)
        os._exit(0)  # whoever asked has ended, and nobody waits for the mesh at hand

    threading.Thread(target=listen, daemon=True).start()
    print(json.dumps({"ready": True}), file=answers, flush=True)
    while True:
        request = json.loads(requests.get())
        try:
            answer = sample_item(MeshItem(**request["item"]), request["seed"], Path(request["out"]))
        except MeshError as error:
            answer = {"error": str(error)}
        except (InputError, OSError) as error:  # reading faults are MeshErrors: this is the place that is written to
            answer = {"disk": str(error)}
        except (ValueError, IndexError, KeyError, TypeError, RuntimeError, MemoryError) as error:
            answer = {"error": f"{type(error).__name__} while sampling: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # whoever asked was killed
        main()
