"""Damaged files by the thousand: each is a typed error or a valid result, in under 5 seconds and 1 GB.

``python -m tests.hostile.fuzz --mutants 2000`` tries so many of every kind and lists what went wrong; faulty files are
kept in ``--keep FOLDER``. A mutant depends on the seed, its kind and its number alone. All are read by one child
process with a limit on its memory, which is started again when it dies.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import gzip
import json
import os
import re
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
SECONDS, MEMORY = 5.0, 1 << 30
"""Of processor time and bytes that one file may take."""
PATIENCE = 120.0
"""Seconds on the clock after which the child is given up, on a busy machine."""
FAULTLESS = ("valid", "refused")


def seeds(folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    """Sound files of every kind, as (name, content), and in `folder` the models that some of them belong to."""
    sys.path.insert(0, str(TESTS))
    import nibabel
    import trimesh
    from make_tiny_model import golden_meshes
    from standin import save_small_model
    from synthetic import make_responses, with_grid

    from braincl.data.nifti import to_image
    from braincl.data.responses import netcdf_bytes

    torus, ball = golden_meshes()["torus"], trimesh.creation.icosphere(1)
    shutil.copytree(TESTS / "data" / "tiny", folder / "vat3d")
    save_small_model(folder / "braincl")
    responses = with_grid(make_responses())
    trials = np.repeat(responses["response"].values[:, None], 3, axis=1)
    responses["response_trials"] = (("image", "repeat", "voxel"), trials)
    packed = {name: {"zlib": True, "chunksizes": (10, 4)} for name in ("response",)}
    rng = np.random.default_rng(0)
    volume = to_image(rng.standard_normal((5, responses.sizes["voxel"])), responses).to_bytes()
    mask = nibabel.Nifti1Image((rng.random((3, 4, 5)) < 0.5).astype(np.int16), np.diag([2.0, 2, 2, 1])).to_bytes()

    (folder / "mask.nii").write_bytes(to_image(np.ones(responses.sizes["voxel"]), responses).to_bytes())

    def exported(mesh: Any, kind: str, **options: Any) -> bytes:
        data = mesh.export(file_type=kind, **options)
        return data if isinstance(data, bytes) else str(data).encode()

    quads = "\n".join(["# a box", *(f"v {x} {y} {z}" for x in (0, 1) for y in (0, 2) for z in (0, 3)),
                       "vt 0 0", "vn 0 0 1", "f 1/1/1 2/1/1 4/1/1 3/1/1", "f 5 7 8 6", "f -8 -7 -3 -4", "f 3 4 8 7",
                       "f 1 3 7 5", "f 2 6 8 4"])  # fmt: skip
    scene = trimesh.Scene([ball, torus])
    table = "image_id,image_file,onset\n" + "".join(f"{n:016x},picture {n}.png,{n / 3}\n" for n in range(30))
    configs = [(kind, (folder / kind / "config.json").read_bytes()) for kind in ("vat3d", "braincl")]
    tensors = [
        (f"{kind}/{name}.safetensors", (folder / kind / f"{name}.safetensors").read_bytes())
        for kind, name in (("vat3d", "model"), ("vat3d", "tables"), ("braincl", "model"))
    ]
    make_responses().to_netcdf(folder / "old.nc", engine="scipy")
    old = (folder / "old.nc").read_bytes()
    return {
        "netcdf": [("a.nc", netcdf_bytes(responses)), ("b.nc", netcdf_bytes(make_responses(), packed)), ("c.nc", old)],
        "nifti": [("a.nii", volume), ("b.nii.gz", gzip.compress(volume, mtime=0)), ("c.nii", mask)],
        "glb": [("a.glb", exported(ball, "glb")), ("b.glb", exported(scene, "glb"))],
        "obj": [("a.obj", exported(ball, "obj")), ("b.obj", quads.encode())],
        "ply": [("a.ply", exported(ball, "ply")), ("b.ply", exported(ball, "ply", encoding="ascii"))],
        "stl": [("a.stl", exported(ball, "stl")), ("b.stl", exported(ball, "stl_ascii"))],
        "off": [("a.off", exported(ball, "off")), ("b.off", exported(torus, "off"))],
        "csv": [("a.csv", table.encode()), ("b.tsv", table.replace(",", "\t").encode())],
        "config": [(f"{kind}/config.json", data) for kind, data in configs],
        "safetensors": tensors,
        "vat": [(f"{name}.vat", (TESTS / "data" / f"{name}.vat").read_bytes()) for name in ("box", "torus")],
    }


NUMBERS = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
WORDS = (b"", b"-1", b"0", b"nan", b"inf", b"1e999", b"-1e-999", b"4294967296", b"99999999999999999999", b"1" * 5000,
         b"true", b"null", b"[]", b"{}", b'""', b"\xff\xfe", b"\0", b"1e9", b"1000000000", b"/", b"..")  # fmt: skip


def mutated(data: bytes, rng: np.random.Generator, text: bool) -> bytes:
    """A file with one to four damages."""
    broken = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 4]))):
        if not broken:
            break
        at = int(rng.integers(len(broken)))
        if rng.random() < 0.5:  # heads and tables of contents are at the start
            at = int(rng.integers(min(len(broken), 400)))
        choice = rng.integers(5, 9) if text and rng.random() < 0.6 else rng.integers(7)
        if choice == 0:
            broken[at] ^= 1 << int(rng.integers(8))
        elif choice == 1:
            width = int(rng.choice([1, 2, 4, 8]))
            order: Any = rng.choice(["little", "big"])
            broken[at : at + width] = (int(rng.choice(NUMBERS)) % 256**width).to_bytes(width, order)
        elif choice == 2:  # a sector
            start = at // 512 * 512
            broken[start : start + 512] = bytes([int(rng.choice([0, 255]))]) * len(broken[start : start + 512])
        elif choice == 3:
            del broken[at:]
        elif choice == 4:
            part = broken[at : at + int(rng.integers(1, 200))]
            other = int(rng.integers(len(broken)))
            broken[other : other + len(part) * int(rng.integers(2))] = part
        elif choice == 5:
            del broken[at : at + int(rng.integers(1, 40))]
        elif choice == 6:
            broken[at : at + 8] = rng.bytes(8)
        else:
            found = list(re.finditer(rb"-?[0-9.]+(e-?\d+)?|\"[^\"]*\"|\w+", bytes(broken)))
            word = found[int(rng.integers(len(found)))] if found else re.match(b"", bytes(broken))
            assert word is not None
            broken[word.start() : word.end()] = WORDS[int(rng.integers(len(WORDS)))]
    return bytes(broken)


TEXT = {"a.csv", "b.tsv", "b.obj", "a.obj", "b.ply", "b.stl", "a.off", "b.off", "config.json"}


def mutants(kind: str, sound: list[tuple[str, bytes]], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names and contents of damaged files."""
    for number in range(count):
        rng = np.random.default_rng([seed, sum(map(ord, kind)), number])
        name, data = sound[number % len(sound)]
        inside = name.endswith(".gz") and rng.random() < 0.7
        broken = mutated(gzip.decompress(data) if inside else data, rng, Path(name).name in TEXT)
        if inside:
            broken = gzip.compress(broken, mtime=0)
        if kind == "vat" and rng.random() < 0.7:  # the checksum is right, so that more than it is tried
            broken = broken[:-4] + zlib.crc32(broken[:-4]).to_bytes(4, "little")
        if kind == "glb" and rng.random() < 0.7 and len(broken) > 12:  # and so is the length
            broken = broken[:8] + len(broken).to_bytes(4, "little") + broken[12:]
        yield name, broken


def _mesh(path: Path) -> None:
    from vat3d.mesh_io.load import load_mesh

    vertices, faces, _ = load_mesh(path)
    assert len(faces)
    assert 0 <= faces.min() <= faces.max() < len(vertices)
    assert np.isfinite(vertices[np.unique(faces)]).all()


def _netcdf(path: Path) -> None:
    import braincl

    dataset = braincl.open_responses(path)
    assert np.isfinite(dataset["response"].values).all()


def _nifti(path: Path) -> None:
    import braincl

    if path.name == "c.nii":
        braincl.voxel_table(path)
        return
    from braincl.data.nifti import read_voxels

    values = read_voxels(path, braincl.voxel_table(path.with_name("mask.nii")))
    assert values.shape[0] >= 1


def _table(path: Path) -> None:
    from braincl.datasets.files import read_table

    read_table(path, ("image_id",))


def _model(path: Path) -> None:
    if path.parent.name == "vat3d":
        from vat3d.pretrained import load_pretrained

        load_pretrained(path.parent)
    else:
        from braincl.models.model_folder import load_model

        load_model(path.parent)


def _tokens(path: Path) -> None:
    mesh = _tokenizer().decode(path.read_bytes(), resolution=16)
    assert np.isfinite(mesh.vertices).all()


@functools.cache
def _tokenizer() -> Any:
    from vat3d.tokenizer import MeshTokenizer

    return MeshTokenizer.from_pretrained(TESTS / "data" / "tiny")


READERS: dict[str, Callable[[Path], None]] = {
    "netcdf": _netcdf,
    "nifti": _nifti,
    **dict.fromkeys(("glb", "obj", "ply", "stl", "off"), _mesh),
    "csv": _table,
    "config": _model,
    "safetensors": _model,
    "vat": _tokens,
}


def _used() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def answer(kind: str, path: Path) -> str:
    """Read a file; "valid", "refused", or what went wrong."""
    from setcore.errors import InputError

    try:
        READERS[kind](path)
    except InputError as error:
        named = path.name in str(error) or path.parent.name in str(error) or kind == "vat"  # bytes have no name
        return "refused" if named else f"a message without the file's name: {error}"
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        last = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        frames = f"{Path(last[-1].filename).name}:{last[-1].lineno} > {Path(where.filename).name}:{where.lineno}"
        return f"{type(error).__name__} at {frames}: {' '.join(str(error).split())[:200]}"
    return "valid"


def serve() -> None:
    """Answer requests, a line of JSON each, until standard input ends."""
    import warnings

    import torch

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    from vat3d.mesh_io import load  # what takes memory before any file is read  # noqa: F401

    _tokenizer()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, resource.RLIM_INFINITY))
    for line in sys.stdin:
        kind, path = json.loads(line)
        start = _used()
        found = answer(kind, Path(path))
        seconds = _used() - start
        if seconds > SECONDS:
            found = f"{seconds:.1f} s of processor time ({found})"
        print(json.dumps(found), file=answers, flush=True)


class Child:
    """The process that reads files; started when it is needed, and again when it died."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, kind: str, path: Path) -> str:
        """Read a file there."""
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.hostile.fuzz", "--serve"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=TESTS.parent,
            )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it died, and says nothing
            self.process.stdin.write(json.dumps([kind, str(path)]).encode() + b"\n")
            self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else b""
        if line:
            return str(json.loads(line))
        self.close()
        return "it crashed the process" if ready else f"no answer in {PATIENCE:g} s"

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def fuzz(kind: str, count: int, seed: int = 0, keep: Path | None = None) -> collections.Counter[str]:
    """Try mutants of one kind; how often each answer came."""
    found: collections.Counter[str] = collections.Counter()
    child = Child()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sound = seeds(folder)[kind]
        try:
            for file, data in sound:  # nothing is learned from files that are refused anyway
                place = folder / file
                place.write_bytes(data)
                assert (said := child.ask(kind, place)) == "valid", f"{file}: {said}"
            for number, (file, data) in enumerate(mutants(kind, sound, count, seed)):
                place = folder / file
                place.write_bytes(data)
                said = child.ask(kind, place)
                found[said] += 1
                if said not in FAULTLESS and keep is not None:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{kind}-{seed}-{number}-{place.name}").write_bytes(data)
                place.write_bytes(dict(sound)[file])
        finally:
            child.close()
    return found


def main() -> int:
    """Fuzz every kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=200, help="of each kind")
    parser.add_argument("--kinds", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that went wrong")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return 0
    faults = 0
    for kind in args.kinds:
        start = time.monotonic()
        found = fuzz(kind, args.mutants, args.seed, args.keep)
        wrong = {said: times for said, times in found.items() if said not in FAULTLESS}
        faults += sum(wrong.values())
        print(f"{kind}: {found['valid']} valid, {found['refused']} refused, {sum(wrong.values())} wrong, "
              f"{time.monotonic() - start:.0f} s", flush=True)  # fmt: skip
        for said, times in sorted(wrong.items(), key=lambda item: -item[1]):
            print(f"  {times} x {said}", flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
