"""The catalogue of names against the list of all meshes, and its turns against what procedural shapes show."""

from __future__ import annotations

import ast
import csv
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest

from setcore.errors import InputError
from setcore.name_bank import load_name_bank
from vat3d.data.catalogue import (
    CATALOGUE_FILE,
    NOTED,
    TURNS_FILE,
    all_names,
    bank_name,
    names_of,
    nearest_names,
    orientation,
    read_catalogue,
    signed_axes,
)
from vat3d.data.corpus import procedural_items
from vat3d.data.split import ALWAYS_TRAIN, read_split
from vat3d.procedural import furniture
from vat3d.procedural.shapes import ASKED_FOR, FAMILIES, shape_notes

FEWEST = 3


def line(name, group="", category="", source=None):
    return {"name": name, "source": source or name.split("/")[0], "category": category, "group": group}


@pytest.fixture(scope="module")
def named():
    """Names of every listed mesh, each geometry once."""
    rows = {row.geometry: row for row in reversed(read_split()) if row.geometry}
    return [(row, names_of(line(row.name, row.group, source=row.source))) for row in rows.values()]


def test_every_name_has_shapes_to_learn_it_from(named):
    trained = Counter(name for row, names in named if row.split == "train" for name in names)
    with CATALOGUE_FILE.open(newline="", encoding="utf-8") as file:
        drawn = {entry["name"] for entry in csv.DictReader(file) if f"|{NOTED}" in f"|{entry['models']}"}
    assert {name for name in all_names() if trained[name] < FEWEST and name not in drawn} == set()
    assert 150 <= len(all_names()) <= 300
    assert set(all_names()) >= ALWAYS_TRAIN


def test_no_name_is_that_of_a_group_for_the_test():
    held_out = {row.group for row in read_split() if row.split == "test"}
    assert held_out & set(all_names()) == set()


def test_every_pattern_means_something():
    """Patterns are spelled as the meshes are, and procedural ones as families and notes are."""
    rows = [row for row in read_split() if row.geometry]
    patterns = set()
    for file in (CATALOGUE_FILE, TURNS_FILE):
        with file.open(newline="", encoding="utf-8") as opened:
            for entry in csv.DictReader(opened):
                patterns |= {pattern.removeprefix("!") for pattern in entry["models"].split("|")}
    drawn = {pattern for pattern in patterns if pattern.startswith(NOTED)}
    paths = {pattern for pattern in patterns if "/" in pattern and not pattern.startswith("procedural")}
    families = {f"any {family}".replace("_", " ") for family in FAMILIES | ASKED_FOR}
    assert drawn <= {NOTED + word for word in families.union(noted_words())}
    assert {pattern for pattern in paths if not any(fnmatchcase(row.name, pattern) for row in rows)} == set()
    assert {pattern for pattern in patterns - drawn if "/" not in pattern} - {row.group for row in rows} == set()


def noted_words():
    """All that builders may note: what stands in their calls of `note`."""
    for file in Path(furniture.__file__).parent.glob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == "note":
                yield from (
                    part.value
                    for part in ast.walk(call)
                    if isinstance(part, ast.Constant) and isinstance(part.value, str)
                )


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (line("quaternius/nature_pack/BirchTree_1", "birch tree"), ("birch tree", "tree")),
        (line("quaternius/nature_pack/BirchTree_Dead_Snow_1", "birch tree"), ("birch tree", "bare tree", "tree")),
        (line("quaternius/ultimate_space_pack/Tree_Blob_1-transformed", "tree"), ("alien tree",)),
        (line("quaternius/house_interior_pack/Couch_L", "couch"), ("corner couch", "couch")),
        (line("quaternius/crops_pack/Apple_1", "apple"), ("seedling",)),
        (line("sweethome3d-furniture/usr/share/x/round-table/round-table.obj", "table"), ("round table", "table")),
        (line("pybullet/pybullet_data/random_urdfs/001/001.obj", "random 001"), ()),
        (line("robosuite/robosuite/models/assets/arm.stl", "arm"), ()),
        (line("procedural/mine", category="fish"), ("fish",)),
        (line("procedural/sword-0-2", category="sword"), ("sword",)),
    ],
)
def test_names(found, names):
    assert names_of(found) == names


def test_a_kind_is_never_beside_its_own_meshes_only(named):
    """Whatever goes by a name goes by all its kinds, which come after it."""
    for _, names in named:
        for place, name in enumerate(names):
            kinds = read_catalogue()[name].kinds
            assert set(kinds) <= set(names[place + 1 :])


def test_procedural_shapes_go_by_what_their_builder_notes():
    """From the number in its name alone a shape is known again."""
    for item in procedural_items(40):
        family, *notes = shape_notes(item.seed)
        names = names_of(line(item.name, item.group, family))
        if family in ("table", "ship", "building"):
            assert set(notes) <= set(names)
            assert family in names
        if family in ("chair", "helicopter"):  # these make benches and airships, too
            assert (family in names) == (family in notes)


def test_bank_names_are_in_the_bank():
    bank = load_name_bank()
    missing = {entry.bank for entry in read_catalogue().values() if entry.bank} - set(bank.names)
    assert missing == set()
    assert bank_name("Tree ") == "Christmas tree"
    assert bank_name("rock") == ""


def test_unknown_names_are_told_with_those_like_them():
    assert nearest_names("chiar")[0] == "chair"
    assert "birch tree" in nearest_names("fir tree")
    assert nearest_names("qqq") == []
    with pytest.raises(InputError, match=r"'chiar'; names like it are chair"):
        bank_name("chiar")
    with pytest.raises(InputError, match="''"):
        bank_name("")


def test_turns_are_rotations_and_procedural_shapes_stand():
    assert (signed_axes("z y -x") @ [1, 2, 3] == [3, 2, -1]).all()
    for bad in ("x y", "x x z", "x z y", "a b c"):
        with pytest.raises(InputError, match="is no turn"):
            signed_axes(bad)
    assert (orientation(line("quaternius/nature_pack/Rock_1", "rock")) == np.eye(3)).all()
    turned = line("procedural/none", category="quadruped")
    assert (orientation(turned) == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]).all()  # z was up, x the front
    assert orientation(turned) is not orientation(turned)


def test_the_docs_list_the_names_without_a_near_one_in_the_bank():
    page = Path(__file__).resolve().parents[3] / "docs" / "how_to" / "new_shapes.md"
    listed = " ".join(page.read_text(encoding="utf-8").split()).partition("which was learned: ")[2].partition(".")[0]
    assert listed.split(", ") == [name for name in all_names() if not bank_name(name)]
