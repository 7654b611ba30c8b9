"""Names of the objects in mesh files, cleaned so that variants of one object have one name."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_SAYS_NOTHING = re.compile(
    # parts of file names, makers of robots
    "visual|vis|viz|collision|coll|col|vhacd|hull|convex|mesh|meshes|obj|stl|model|scaled|lowres|simplified|decimated|"
    "textured|left|right|fl|fr|rl|rr|lf|rf|mirrored|front|rear|body|base|part|link|assets|original|new|mat|"
    "modular|transformed|lvl|level|leve|side|with|without|and|of|kuka|franka|emika|sim|description|"
    # sizes, shapes, colours, materials, states
    "small|medium|large|big|little|mini|tall|short|long|high|low|slim|thin|thick|wide|narrow|single|double|triple|"
    "quadruple|round|rounded|square|rectangle|oval|straight|simple|pointy|cylindric|"
    "black|white|red|green|blue|pink|yellow|golden|wood|wooden|metal|iron|stone|leather|plastic|concrete|"
    "open|opened|closed|broken|damaged|dead|snow|moss|autumn|empty|filled|full|half|lit|burnt|harvested|"
    "old|modern|classic|contemporary|celtic|evil|"
    # where an object is kept, or stands in a game
    "kitchen|bathroom|props|details|resource|pickup|hazard|first|second|age"
)
"""Words that are dropped; if nothing is left, they stay."""
_ADDED = re.compile("bricks?|flowers?|berries|entrance|roof|sail|stack|group|pile|mirror")
"""Words that say what is on an object or that it is there several times; dropped unless they come first."""
_PLURAL = (("glasses", "glasses"), ("stairs", "stairs"), ("ies", "y"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"),
           ("ss", "ss"), ("us", "us"), ("is", "is"), ("shelves", "shelf"), ("s", ""))  # fmt: skip


def clean_name(text: str) -> str:
    """The object that a name speaks of: small letters, without numbers, sizes, colours, sides and states, singular.

    Parameters
    ----------
    text : str
        Words in any spelling: camel case, underscores, blanks.

    Returns
    -------
    str
        Empty where the name says nothing.

    Examples
    --------
    >>> from vat3d.data.object_names import clean_name
    >>> clean_name("Couch_Small2"), clean_name("White round tables"), clean_name("left_03_visual")
    ('couch', 'table', '')
    """
    words = [word for word in _words(text) if len(word) > 1 and not _SAYS_NOTHING.fullmatch(word)]
    words = [word for number, word in enumerate(words) if not number or not _ADDED.fullmatch(word)]
    return " ".join([*words[:-1], *map(_singular, words[-1:])])


def object_name(path: str) -> str:
    """The object in a mesh file of a package; a file whose own name says nothing takes its folder's.

    Parameters
    ----------
    path : str
        Inside the package.

    Returns
    -------
    str
    """
    pure = PurePosixPath(path)
    if "random_urdfs" in pure.parts:
        return f"random {pure.stem}"
    names = map(clean_name, (pure.stem, *(parent.name for parent in pure.parents)))
    return next(filter(None, names), pure.stem.lower())


def pack_name(name: str) -> str:
    """The object of a model that a pack calls `Object_Variant`: what the first part says that says anything.

    Parameters
    ----------
    name : str

    Returns
    -------
    str

    Examples
    --------
    >>> from vat3d.data.object_names import pack_name
    >>> pack_name("BirchTree_Dead_Snow_1"), pack_name("Kitchen_Fridge"), pack_name("Farm_FirstAge_Level1_Wheat")
    ('birch tree', 'fridge', 'farm')
    """
    return next(filter(None, map(clean_name, name.split("_"))), " ".join(_words(name)))


def _words(text: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[a-z][A-Z])(?=[A-Z])|(?<=imple)(?=tower)", " ", text)
    return re.findall("[a-z]+", spaced.lower())


def _singular(word: str) -> str:
    plural, ending = next((pair for pair in _PLURAL if word.endswith(pair[0])), ("", ""))
    return word.removesuffix(plural) + ending
