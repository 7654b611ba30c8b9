"""Closed procedural shapes of many families, for the half of the training data that no licence restricts.

`shape(seed)` draws a family, builds one solid of it and sometimes bends, twists, tapers or stretches the whole. Every
result is a closed triangle mesh, so that inside and outside are certain.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from manifold3d import Manifold
from numpy.typing import NDArray

from setcore.seeding import numpy_generator
from vat3d.errors import MeshError
from vat3d.procedural import asked_for, furniture, objects, organic, solids, vehicles
from vat3d.procedural.notes import NotingRng
from vat3d.procedural.parts import Rng, arrays, builder_name, chance

FAMILIES: dict[str, tuple[Callable[[Rng], Manifold], float]] = {
    "quadruped": (organic.quadruped, 3.0),
    "humanoid": (organic.humanoid, 3.0),
    "bird": (organic.bird, 2.0),
    "fish": (organic.fish, 1.5),
    "insect": (organic.insect, 1.5),
    "tree": (organic.tree, 1.5),
    "radial_creature": (organic.radial_creature, 1.5),
    "snake": (organic.snake, 0.7),
    "head": (organic.head, 1.0),
    "blobs": (organic.blobs, 1.0),
    "teddy": (organic.teddy, 1.0),
    "table": (furniture.table, 1.5),
    "chair": (furniture.chair, 2.0),
    "sofa": (furniture.sofa, 1.0),
    "shelf": (furniture.shelf, 1.0),
    "vessel": (objects.vessel, 2.0),
    "turned": (objects.turned, 1.5),
    "lamp": (furniture.lamp, 1.2),
    "screen": (furniture.screen, 1.2),
    "blade": (objects.blade, 1.5),
    "gun": (objects.gun, 1.5),
    "instrument": (objects.instrument, 1.0),
    "letter": (objects.letter, 0.7),
    "glasses": (objects.glasses, 0.8),
    "potted_plant": (objects.potted_plant, 1.0),
    "gear": (objects.gear, 1.2),
    "car": (vehicles.car, 2.0),
    "truck": (vehicles.truck, 1.2),
    "tank": (vehicles.tank, 0.8),
    "plane": (vehicles.plane, 2.5),
    "helicopter": (vehicles.helicopter, 1.0),
    "ship": (vehicles.ship, 1.2),
    "rocket": (vehicles.rocket, 0.8),
    "cycle": (vehicles.cycle, 1.0),
    "building": (solids.building, 1.5),
    "machine_part": (solids.machine_part, 1.5),
    "spring": (solids.spring, 1.0),
    "constructive": (solids.constructive, 1.2),
    "truss": (solids.truss, 0.7),
    "plates": (solids.plates, 0.8),
    "blocks": (solids.blocks, 0.6),
    "basic": (solids.basic, 0.6),
}
"""Builder and relative frequency of each family."""
ASKED_FOR: dict[str, tuple[Callable[[Rng], Manifold], float]] = {
    "sword": (asked_for.sword, 1.0),
    "mushroom": (asked_for.mushroom, 1.0),
    "bed": (asked_for.bed, 1.0),
    "house": (asked_for.house, 1.0),
}
"""Families that are made by name only."""
SILENT = frozenset(ASKED_FOR) | frozenset(
    ("quadruped", "humanoid", "fish", "snake", "head", "blobs", "teddy", "lamp", "blade", "letter", "glasses")
    + ("potted_plant", "car", "truck", "tank", "plane", "machine_part", "spring", "constructive", "truss")
)
"""Families whose builders note nothing (see `vat3d.procedural.notes`)."""


def shape(seed: int, family: str | None = None) -> tuple[NDArray[np.float64], NDArray[np.int64], str]:
    """One closed shape.

    Parameters
    ----------
    seed : int
    family : str, optional
        A key of `FAMILIES` or `ASKED_FOR`; drawn from the former by its frequency if not given.

    Returns
    -------
    vertices : float64 array of shape (n_vertices, 3), z up, any size
    faces : int64 array of shape (n_faces, 3), outward
    family : str

    Raises
    ------
    MeshError
        The seed's parts cancelled to nothing, or the family does not exist.
    """
    rng = numpy_generator(seed, "procedural")
    family = builder_name(rng, _builders(family), family)
    solid = _builders(family)[family][0](rng)
    if chance(rng, 0.35) and not solid.is_empty():
        solid = deform(solid, rng)
    vertices, faces = arrays(solid)
    if not len(faces) or solid.volume() <= 0:
        raise MeshError(f"the procedural shape {family} of seed {seed} is empty")
    return vertices, faces, family


def shape_notes(seed: int, family: str | None = None) -> tuple[str, ...]:
    """What `shape` of this seed shows, in plain words.

    Parameters
    ----------
    seed : int
    family : str, optional
        As for `shape`.

    Returns
    -------
    tuple of str
        The family, and what its builder notes: ("table", "round table").
    """
    rng = NotingRng(numpy_generator(seed, "procedural"))
    family = builder_name(rng, _builders(family), family)
    if family not in SILENT:
        FAMILIES[family][0](rng)
    return (family, *rng.notes)


def _builders(family: str | None) -> dict[str, tuple[Callable[[Rng], Manifold], float]]:
    """Those that one is drawn from, or, where a family is named, all."""
    return FAMILIES if family is None else FAMILIES | ASKED_FOR


def deform(solid: Manifold, rng: Rng) -> Manifold:
    """Stretch the axes, and sometimes bend, twist, taper or ripple, smoothly and invertibly.

    Parameters
    ----------
    solid : Manifold
    rng : numpy.random.Generator

    Returns
    -------
    Manifold
    """
    low, high = np.reshape(solid.bounding_box(), (2, 3))
    centre, half = (low + high) / 2, float((high - low).max()) / 2
    stretch = np.exp(rng.normal(0, 0.22, 3))
    twist, taper, bend, wave = rng.normal(0, [0.35, 0.2, 0.25, 0.05]) * (rng.random(4) < 0.4)
    phase, pitch = rng.uniform(0, 2 * np.pi, 3), rng.uniform(2, 5)
    if twist or taper or bend or wave:
        solid = solid.refine_to_length(half * 0.15)

    def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
        p = (points - centre) / half * stretch
        z = p[:, 2].copy()
        p[:, :2] *= np.exp(taper * z)[:, None]
        c, s = np.cos(twist * z), np.sin(twist * z)
        p[:, 0], p[:, 1] = c * p[:, 0] - s * p[:, 1], s * p[:, 0] + c * p[:, 1]
        p[:, 0] += bend * z**2
        return np.asarray(p + wave * np.sin(pitch * p[:, [1, 2, 0]] + phase))

    return solid.warp_batch(move)
