"""Families of built and abstract procedural shapes: buildings, machine parts, springs, frames, plates, solids."""

from __future__ import annotations

import numpy as np
from manifold3d import CrossSection, Manifold

from vat3d.procedural.notes import note
from vat3d.procedural.parts import (
    Rng,
    around,
    ball,
    both_sides,
    box,
    chance,
    cross_section,
    curve,
    lathe,
    pick,
    plate,
    profile_curve,
    regular_polygon,
    ring,
    rod,
    rotation,
    superquadric,
    tube,
    union,
)


def building(rng: Rng) -> Manifold:
    """Houses, churches, castles, skyscrapers, pagodas, temples."""
    u = rng.uniform
    style = rng.integers(4)
    note(rng, ("house", "tower", "castle", "temple")[style])
    if style == 0:
        parts = []
        for k in range(pick(rng, 1, 1, 2)):
            x, y, z, roof = u(0.3, 0.7), u(0.25, 0.5), u(0.25, 0.7), u(0.15, 0.5)
            gable = cross_section([(-y * 1.12, 0), (y * 1.12, 0), (y * u(0, 0.4), roof), (-y * 0.2, roof)])
            house = box((2 * x, 2 * y, z), (0, 0, z / 2)) + plate(gable, 2.15 * x).rotate((90, 0, 90)).translate(
                (-1.075 * x, 0, z - 0.01)
            )
            for wx in np.linspace(-0.65, 0.65, pick(rng, 2, 3, 4)) * x:
                house -= union(both_sides([box((0.13, 0.12, z * 0.35), (wx, y, z * 0.55))]))
            parts.append(house.rotate((0, 0, 90 * k)).translate((0.3 * k, 0.3 * k, 0)))
        if chance(rng, 0.6):
            parts.append(box((0.1, 0.1, 0.5), (u(-0.2, 0.2), 0.15, z + roof * 0.8)))
        return union(parts)
    if style == 1:
        parts, z, x, y = [], 0.0, u(0.25, 0.5), u(0.25, 0.5)
        for _ in range(int(rng.integers(1, 5))):
            tall = u(0.2, 1.0)
            sides = pick(rng, 4, 4, 4, 6, 24)
            block = rod((0, 0, 0), (0, 0, tall), 1.0, u(0.85, 1), sides).rotate((0, 0, 45)).scale((x * 1.4, y * 1.4, 1))
            parts.append(block.translate((0, 0, z)))
            z += tall - 1e-3
            x, y = x * u(0.55, 0.95), y * u(0.55, 0.95)
        if chance(rng, 0.5):
            parts.append(rod((0, 0, z - 0.02), (0, 0, z + u(0.2, 0.6)), 0.05, 0.018))
        return union(parts)
    if style == 2:
        wall, half, thick = u(0.25, 0.5), u(0.5, 0.8), 0.1
        parts = [box((2 * half, thick, wall), (0, s * half, wall / 2)) for s in (1, -1)]
        parts += [box((thick, 2 * half, wall), (s * half, 0, wall / 2)) for s in (1, -1)]
        tower = lathe(
            [(0.17, 0), (0.15, wall * u(1.2, 2)), (0.2, wall * 2.01), (0.02, wall * u(2.5, 3.2))], pick(rng, 4, 8, 24)
        )
        parts += [tower.translate((sx * half, sy * half, 0)) for sx in (1, -1) for sy in (1, -1)]
        if chance(rng, 0.6):
            parts.append(box((half, half * u(0.6, 1), wall * u(1.5, 2.5)), (0, 0, wall * 0.8)))
            parts.append(box((2 * half, 2 * half, 0.04), (0, 0, 0.02)))
        return union(parts)
    parts = [box((1.4, 2 * u(0.35, 0.6), 0.08), (0, 0, 0.04)), box((1.4, 0.8, 0.08), (0, 0, 0.75))]
    parts += [
        rod((x, s * 0.33, 0.05), (x, s * 0.33, 0.75), 0.05, 0.04)
        for x in np.linspace(-0.6, 0.6, int(rng.integers(3, 7)))
        for s in (1, -1)
    ]
    roof = cross_section([(-0.45, 0), (0.45, 0), (0, u(0.15, 0.35))])
    return union([*parts, plate(roof, 1.4).rotate((90, 0, 90)).translate((-0.7, 0, 0.78))])


def machine_part(rng: Rng) -> Manifold:
    """Brackets, flanges, pipes, bolts, bearings: plates, bosses and holes."""
    u = rng.uniform
    style = rng.integers(4)
    if style == 0:
        x, y, t = u(0.4, 1), u(0.3, 0.8), u(0.08, 0.2)
        part = box((2 * x, 2 * y, t), (0, 0, 0), pick(rng, 0, 0.03))
        if chance(rng, 0.7):
            part += box((t, 2 * y, u(0.3, 1.2)), (-x + t / 2, 0, 0.3))
        for _ in range(int(rng.integers(1, 5))):
            at = np.array([u(-0.7, 0.7) * x, u(-0.7, 0.7) * y, 0])
            if chance(rng, 0.5):
                part += rod(at, at + [0, 0, u(0.2, 0.7)], u(0.12, 0.25))
            part -= rod(at - [0, 0, 2], at + [0, 0, 2], u(0.05, 0.12), segments=pick(rng, 20, 6))
        return part
    if style == 1:
        bore, wall = u(0.15, 0.35), u(0.06, 0.12)
        bends = [np.array([0, 0, -1.0]), np.zeros(3), np.array([u(-1, 1), u(-1, 1), u(0.2, 1)])]
        path = curve([bends[0], bends[0] * 0.5, bends[1], bends[2] * 0.6, bends[2]], 40)
        part = tube(path, bore + wall, sides=20)
        ends = [(path[0], path[1] - path[0]), (path[-1], path[-2] - path[-1])]
        for at, inward in ends:
            inward = inward / np.linalg.norm(inward)
            part += rod(at, at + inward * 0.1, bore + wall * u(2, 3.5), segments=pick(rng, 24, 6))
        return part - tube(
            np.concatenate([[path[0] - (path[1] - path[0])], path, [path[-1] * 2 - path[-2]]]), bore, sides=20
        )
    if style == 2:
        r, long = u(0.1, 0.25), u(0.4, 1.6)
        head = rod((0, 0, 0), (0, 0, u(0.15, 0.3)), r * u(1.6, 2.4), segments=pick(rng, 6, 6, 4, 24))
        part = head + rod((0, 0, -long), (0, 0, 0.01), r, segments=24)
        part += union(
            [
                ring(r, r * 0.18, 24, 6).translate((0, 0, -long + d))
                for d in np.arange(0.08, long * u(0.3, 0.9), r * 0.5)
            ]
        )
        return part - box((3 * r, r * 0.5, r), (0, 0, 0.3)) if chance(rng, 0.4) else part
    r, h = u(0.6, 1), u(0.1, 0.5)
    part = rod((0, 0, 0), (0, 0, h), r, segments=40)
    if chance(rng, 0.6):
        part += rod((0, 0, 0), (0, 0, h + u(0.2, 0.8)), r * u(0.3, 0.6), segments=32)
    part -= rod((0, 0, -1), (0, 0, 3), r * u(0.1, 0.28), segments=24)
    for p in regular_polygon(pick(rng, 3, 4, 6, 8), 0.78 * r):
        part -= rod((*p, -1), (*p, 3), u(0.05, 0.12), segments=16)
    return part.rotate((pick(rng, 0, 90), 0, 0))


def spring(rng: Rng) -> Manifold:
    """Springs, knots, rings, hooks, wires, pretzels: a tube along a closed or open space curve."""
    u = rng.uniform
    style, thick = rng.integers(4), u(0.03, 0.15)
    if style == 0:
        turns = u(1.5, 6)
        t = np.linspace(0, 1, int(26 * turns))
        wide = np.linspace(u(0.3, 0.7), u(0.2, 0.7), len(t))
        rise = max(u(0.5, 2), 2.3 * thick * turns)
        path = np.stack([wide * np.cos(2 * np.pi * turns * t), wide * np.sin(2 * np.pi * turns * t), rise * t], 1)
        return tube(path, min(thick, 0.13), sides=10, flat=pick(rng, 1.0, 1.0, 0.4))
    t = np.linspace(0, 2 * np.pi, 140, endpoint=False)
    if style == 1:
        p, q = pick(rng, (2, 3), (3, 2), (2, 5), (3, 4), (1, 3), (1, 5))
        r = u(0.25, 0.45)
        path = np.stack(
            [(1 + r * np.cos(q * t)) * np.cos(p * t), (1 + r * np.cos(q * t)) * np.sin(p * t), r * np.sin(q * t)], 1
        )
        return tube(path, min(thick, r * 0.45), closed=True, sides=10)
    if style == 2:
        wave = sum(u(-0.4, 0.4, 3) / k * np.cos(k * t[:, None] + u(0, 6, 3)) for k in range(2, 5))
        path = np.stack([np.cos(t), np.sin(t), np.zeros_like(t)], 1) + wave
        return tube(path, thick, closed=True, sides=12)
    points = rng.normal(0, 0.5, (int(rng.integers(4, 8)), 3)).cumsum(0)
    path = curve(points, 80)
    return union([tube(path, thick, sides=12), ball(path[0], thick * u(1, 2)), ball(path[-1], thick * u(1, 2))])


def constructive(rng: Rng) -> Manifold:
    """Abstract solids: superquadrics, boxes, rods and rings added and cut, half of them mirror-symmetric."""
    u = rng.uniform
    solid = superquadric(u(0.3, 0.8, 3), u(0.1, 1.6), u(0.1, 1.6))
    for _ in range(int(rng.integers(1, 6))):
        at, turn = rng.normal(0, 0.35, 3), rng.uniform(0, 360, 3) * chance(rng, 0.4)
        kind = rng.integers(5)
        if kind == 0:
            part = superquadric(u(0.1, 0.5, 3), u(0.1, 1.6), u(0.1, 1.6), 20)
        elif kind == 1:
            part = box(u(0.1, 1.0, 3))
        elif kind == 2:
            part = rod((0, 0, -u(0.2, 0.8)), (0, 0, u(0.2, 0.8)), u(0.06, 0.3), u(0.06, 0.3), pick(rng, 5, 6, 24))
        elif kind == 3:
            part = ring(u(0.2, 0.5), u(0.05, 0.15))
        else:
            part = lathe([(u(0.1, 0.4), 0), (u(0.05, 0.4), u(0.2, 0.6)), (0.01, u(0.6, 0.9))], 24)
        part = part.rotate(tuple(turn)).translate(tuple(at))
        solid = solid - part if chance(rng, 0.3) else solid + part
    if chance(rng, 0.5):
        solid += solid.mirror((0, 1, 0))
    return solid


def truss(rng: Rng) -> Manifold:
    """Frames, ladders, cages, fences, bridges, jacks: rods between points of a lattice, and thin plates."""
    u = rng.uniform
    nx, ny, nz = (int(rng.integers(1, k)) for k in (5, 3, 4))
    thick, sides, step = u(0.03, 0.09), pick(rng, 4, 6, 12), u(0.4, 0.8, 3)
    keep, parts = u(0.55, 1.0), []
    nodes: set[tuple[float, ...]] = set()
    grid = [np.array([i, j, k]) for i in range(nx + 1) for j in range(ny + 1) for k in range(nz + 1)]
    for a in grid:
        for move in np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 1], [0, 1, 1]])[: pick(rng, 3, 5)]:
            b = a + move
            if (b <= [nx, ny, nz]).all() and chance(rng, keep if move.sum() == 1 else 0.25):
                parts.append(rod(a * step, b * step, thick, segments=sides))
                nodes |= {tuple(a * step), tuple(b * step)}
    parts += [ball(node, thick * 1.1, 10) for node in sorted(nodes)]
    if chance(rng, 0.5) or not parts:
        size = np.array([nx, ny, nz]) * step
        parts.append(box((size[0] + 0.1, size[1] + 0.1, u(0.03, 0.08)), size * [0.5, 0.5, pick(rng, 0, 1)]))
    return union(parts)


def plates(rng: Rng) -> Manifold:
    """Thin curved sheets with thickness: bent plates, bowls, hats, leaves, shells, open boxes, masks."""
    u = rng.uniform
    style, thick = rng.integers(4), u(0.02, 0.06)
    if style == 0:
        sheet = box((2, u(0.6, 2), thick)).refine_to_length(0.12)
        bend, twist, wave = u(-1.2, 1.2), u(-1, 1), u(0, 0.25)

        def fold(p: np.ndarray) -> np.ndarray:
            z = (
                p[:, 2]
                + bend * p[:, 0] ** 2 * 0.5
                + twist * p[:, 0] * p[:, 1] * 0.5
                + wave * np.sin(4 * p[:, 0] + 2 * p[:, 1])
            )
            return np.stack([p[:, 0], p[:, 1], z], 1)

        return sheet.warp_batch(fold)
    note(rng, ("", "", "", "flower")[style])
    if style == 1:  # hat or bowl
        r, brim = u(0.3, 0.5), u(0.5, 1.0)
        crown = profile_curve([(r * 1.05, 0), (r, u(0.15, 0.3)), (r * u(0.5, 0.9), u(0.4, 0.6)), (0.02, 0.65)], 24)
        inside = crown * [1, 1] - [thick, thick]
        solid = (
            lathe(crown, 40)
            - lathe(np.maximum(inside, [0.001, -9]), 40)
            + (
                ring(brim * 0.5 + r * 0.5, 0.02)
                if chance(rng, 0.3)
                else lathe([(brim, 0), (brim, thick)], 40) - rod((0, 0, -1), (0, 0, 1), r, segments=40)
            )
        )
        turn = pick(rng, 0, 180)
        note(rng, "" if turn else "hat")
        return solid.rotate((turn, 0, 0))
    if style == 2:  # open box or tray
        size = u(0.3, 1.0, 3)
        solid = box(2 * size) - box(2 * size - 2 * thick, (0, 0, 2 * thick))
        if chance(rng, 0.4):
            lid = box((2 * size[0], 2 * size[1], thick)).translate((size[0], 0, 0)).rotate((0, -u(20, 110), 0))
            solid += lid.translate((-size[0], 0, size[2]))
        return solid
    spread = [
        ball((0, 0, 0), (0.5, u(0.4, 0.9), thick)).rotate((0, u(-60, 0), 0)).translate((0.45, 0, 0)) for _ in range(1)
    ]
    return union(
        [
            *around(spread[0], int(rng.integers(3, 9))),
            ball((0, 0, 0), (0.2, 0.2, u(0.08, 0.4))),
            rod((0, 0, -u(0.3, 1)), (0, 0, 0), 0.04),
        ]
    )


def blocks(rng: Rng) -> Manifold:
    """Stacks of boxes, stairs, crates, robots of blocks, arches, tetromino-like solids."""
    u = rng.uniform
    style, parts = rng.integers(3), []
    note(rng, ("stairs", "", "robot")[style])
    if style == 0:
        n, rise = int(rng.integers(3, 9)), u(0.1, 0.3)
        wide = u(0.3, 1.0)
        for k in range(n):
            parts.append(
                box((0.26, wide, rise * (k + 1 if chance(rng, 2.0) else 1)), (0.25 * k, 0, rise * (k + 1) / 2))
            )
    elif style == 1:
        cells: set[tuple[int, ...]] = {(0, 0, 0)}
        while len(cells) < int(rng.integers(3, 12)):
            base = list(cells)[int(rng.integers(len(cells)))]
            cells.add(
                tuple(int(c) for c in np.add(base, pick(rng, (1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0), (0, -1, 0))))
            )
        parts = [box((1.001, 1.001, 1.001), cell) for cell in sorted(cells)]
    else:
        body = box((u(0.25, 0.4), u(0.4, 0.6), u(0.4, 0.6)), (0, 0, 0.8))
        parts = [body, box(u(0.2, 0.4, 3), (0, 0, 1.25)), rod((0, 0, 1), (0, 0, 1.2), 0.08)]
        leg = box((u(0.12, 0.25), u(0.12, 0.2), 0.6), (0, u(0.12, 0.2), 0.3))
        arm = box((0.14, 0.14, u(0.4, 0.7)), (0, 0, -0.25)).rotate((u(0, 80), u(-40, 40), 0)).translate((0, 0.32, 0.98))
        parts += both_sides([leg, arm, box((0.3, 0.18, 0.08), (0.05, 0.16, 0.04))])
    return (
        union(parts).transform(np.concatenate([rotation("z", u(0, 20)), np.zeros((3, 1))], 1))
        if style
        else union(parts)
    )


def basic(rng: Rng) -> Manifold:
    """Spheres, tori, cones, cylinders, boxes, prisms, pyramids, ellipsoids, superquadrics: what all else is made of."""
    u = rng.uniform
    kind = rng.integers(6)
    note(rng, ("ball", "donut", "", "", "", "")[kind])
    if kind == 0:
        solid = ball((0, 0, 0), 1, 40)
    elif kind == 1:
        solid = ring(1, u(0.1, 0.6), 48, 20)
    elif kind == 2:
        solid = rod((0, 0, 0), (0, 0, u(0.3, 3)), 1, u(0.0, 1), pick(rng, 3, 4, 5, 6, 40))
    elif kind == 3:
        solid = superquadric(u(0.3, 1, 3), u(0.05, 2), u(0.05, 2), 40)
    elif kind == 4:
        solid = box(u(0.2, 1, 3), bevel=pick(rng, 0, 0.05, 0.1))
    else:
        solid = plate(CrossSection.circle(1, 48) - CrossSection.circle(u(0.3, 0.85), 48), u(0.1, 2))
    return solid.rotate((pick(rng, 0, 0, 90), 0, 0))
