"""The names that meshes of the training corpus go by, in words that a person would type, and how they stand.

`catalogue.csv` beside this file has a line for each name: the more general names (`kinds`) that whatever goes by it
goes by as well, the nearest name of the bank of CLIP text vectors (`bank`; empty where none is near in sense, so that a
generator learns a vector of its own), and the meshes (`models`). `turns.csv` says how meshes are turned so that they
stand along +y and face +z. In both, meshes are meant by patterns separated by `|`:

- the name of a group, as the index of a data set has it ("birch tree");
- a path pattern of the mesh's name, where it has a / ("*/nature_pack/*_Dead_*");
- "procedural " and what the builder notes ("procedural round table", see `vat3d.procedural.notes`), or "any" and a
  family ("procedural any table");
- ! before one of these takes meshes out again.

Groups that are for the test as a whole (see `vat3d.data.split`) have no names of their own here, at most general ones.
"""

from __future__ import annotations

import csv
import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from fnmatch import translate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from setcore.errors import InputError
from vat3d.data.items import procedural_item
from vat3d.data.split import PROCEDURAL

CATALOGUE_FILE = Path(__file__).with_name("catalogue.csv")
TURNS_FILE = Path(__file__).with_name("turns.csv")
NOTED = "procedural "
"""Begins the patterns of procedural shapes."""
UNNAMED = "random "
"""Begins the groups of meshes that have a number for a name."""


class _Patterns:
    """The meshes that the lines of a table mean.

    Parameters
    ----------
    cells : iterable of str
        Of each line its patterns, with | between them.
    """

    def __init__(self, cells: Iterable[str]) -> None:
        self._wanted, self._taken_out = _Matcher(), _Matcher()
        for number, cell in enumerate(cells):
            for pattern in cell.split("|"):
                if pattern.startswith("!"):
                    self._taken_out.add(pattern[1:], number)
                else:
                    self._wanted.add(pattern, number)

    def lines(self, line: Mapping[str, Any]) -> list[int]:
        """Numbers of the lines that mean a mesh."""
        keys = _keys(line)
        wanted = self._wanted.lines(keys, line["name"]) if keys else set()
        return sorted(wanted - self._taken_out.lines(keys, line["name"])) if wanted else []


class _Matcher:
    def __init__(self) -> None:
        self._keys: dict[str, set[int]] = {}
        self._paths: list[tuple[re.Pattern[str], int]] = []

    def add(self, pattern: str, number: int) -> None:
        if "/" in pattern:
            self._paths.append((re.compile(translate(pattern)), number))
        else:
            self._keys.setdefault(pattern, set()).add(number)

    def lines(self, keys: Iterable[str], name: str) -> set[int]:
        by_path = {number for path, number in self._paths if path.match(name)}
        return by_path.union(*(self._keys.get(key, ()) for key in keys))


class CatalogueName(NamedTuple):
    """A line of the catalogue.

    Parameters
    ----------
    name : str
    kinds : tuple of str
        All more general names, the nearest ones first.
    bank : str
        Empty: none is near.
    """

    name: str
    kinds: tuple[str, ...]
    bank: str


@functools.cache
def read_catalogue() -> dict[str, CatalogueName]:
    """The lines of the catalogue by their names.

    Returns
    -------
    dict of str to CatalogueName
        In the order of the file.
    """
    lines = {line["name"]: line for line in _table(CATALOGUE_FILE)}

    def kinds(name: str) -> list[str]:
        above = list(filter(None, lines[name]["kinds"].split("|")))
        return list(dict.fromkeys([*above, *(higher for kind in above for higher in kinds(kind))]))

    return {name: CatalogueName(name, tuple(kinds(name)), line["bank"]) for name, line in lines.items()}


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


@functools.cache
def _patterns(file: Path) -> _Patterns:
    return _Patterns(line["models"] for line in _table(file))


@functools.cache
def _turns() -> tuple[NDArray[np.int64], ...]:
    return tuple(signed_axes(line["turn"]) for line in _table(TURNS_FILE))


def all_names() -> tuple[str, ...]:
    """Every name that a shape can be asked for by.

    Returns
    -------
    tuple of str
        In the order of the alphabet.
    """
    return tuple(sorted(read_catalogue()))


def names_of(line: Mapping[str, Any]) -> tuple[str, ...]:
    """The names that a mesh of a data set goes by.

    Parameters
    ----------
    line : mapping
        Of the data set's index: `name`, `source`, `category` and `group` are looked at. Of some procedural
        shapes the building is begun anew to learn what they show, which takes up to a tenth of a second.

    Returns
    -------
    tuple of str
        The narrowest first ("round table", "table"); empty where nothing honest can be said.
    """
    catalogue = read_catalogue()
    every = list(catalogue)
    named = {every[number] for number in _patterns(CATALOGUE_FILE).lines(line)}
    named |= {kind for name in named for kind in catalogue[name].kinds}
    return tuple(sorted(named, key=lambda name: (-len(catalogue[name].kinds), every.index(name))))


def bank_name(name: str) -> str:
    """The nearest name of the bank of CLIP text vectors.

    Parameters
    ----------
    name : str
        Of the catalogue.

    Returns
    -------
    str
        Empty where none is near in sense.

    Raises
    ------
    InputError
        The catalogue does not hold the name; the nearest ones are offered.
    """
    return catalogue_name(name).bank


def catalogue_name(name: str) -> CatalogueName:
    """A line of the catalogue; capitals and blanks around the name do not count.

    Parameters
    ----------
    name : str

    Returns
    -------
    CatalogueName

    Raises
    ------
    InputError
        The catalogue does not hold the name; the nearest ones are offered.
    """
    plain = " ".join(name.lower().split())
    if plain not in read_catalogue():
        offered = ", ".join(nearest_names(plain)) or ", ".join(all_names()[:3]) + ", ..."
        raise InputError(f"nothing goes by the name {name!r}; names like it are {offered}")
    return read_catalogue()[plain]


def nearest_names(word: str, count: int = 5) -> list[str]:
    """Names of the catalogue that are spelled like a word, or have it in them.

    Parameters
    ----------
    word : str
    count : int
        At most so many.

    Returns
    -------
    list of str
        The nearest first.
    """
    plain = " ".join(word.lower().split())
    sharing = [name for name in all_names() if plain and (set(plain.split()) & set(name.split()) or plain in name)]
    alike = difflib.get_close_matches(plain, all_names(), count, 0.6)
    return list(dict.fromkeys([*alike[:1], *sharing, *alike]))[:count]


def orientation(line: Mapping[str, Any]) -> NDArray[np.int64]:
    """The turn after which a mesh of a data set stands along +y and, where it has a front, faces +z.

    Parameters
    ----------
    line : mapping
        As for `names_of`.

    Returns
    -------
    int array of shape (3, 3)
        A rotation whose rows are signed axes: turned vertices are ``vertices @ orientation(line).T``.
    """
    meant = _patterns(TURNS_FILE).lines(line)
    return _turns()[meant[-1]].copy() if meant else np.eye(3, dtype=np.int64)  # later lines are about fewer meshes


def signed_axes(text: str) -> NDArray[np.int64]:
    """A rotation as the tables write it.

    Parameters
    ----------
    text : str
        What the new x, y and z axes are in the old ones: "z y -x".

    Returns
    -------
    int array of shape (3, 3)

    Raises
    ------
    InputError
        These are no three axes, or they make a mirror image.
    """
    words = text.split()
    turn = np.array([[(word == axis) - (word == f"-{axis}") for axis in "xyz"] for word in words], np.int64)
    if turn.shape != (3, 3) or (turn @ turn.T != np.eye(3)).any() or np.linalg.det(turn) < 0:
        raise InputError(f"{text!r} is no turn of the axes; write three of x, y, z with their signs, as in 'z y -x'")
    return turn


def _keys(line: Mapping[str, Any]) -> frozenset[str]:
    """What a mesh is known by, besides its name."""
    if line["source"] in PROCEDURAL:
        return _procedural_keys(line["name"], line["category"])
    return frozenset() if line["group"].startswith(UNNAMED) else frozenset((line["group"],))


@functools.cache
def _procedural_keys(name: str, category: str) -> frozenset[str]:
    """The family, and what the builder notes."""
    from vat3d.procedural.shapes import ASKED_FOR, FAMILIES, shape_notes

    item, (family, *words) = procedural_item(name), (category,)
    if category in FAMILIES | ASKED_FOR and item is not None and item.seed is not None:
        family, *words = shape_notes(item.seed, item.family)
    return frozenset(NOTED + word.replace("_", " ") for word in (f"any {family}", *words))
