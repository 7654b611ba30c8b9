"""Families of everyday procedural things: vessels, tools, instruments, letters, plants, gears."""

from __future__ import annotations

import numpy as np
from manifold3d import CrossSection, Manifold

from vat3d.procedural.notes import note
from vat3d.procedural.parts import (
    Rng,
    ball,
    both_sides,
    box,
    chance,
    cross_section,
    curve,
    lathe,
    limb,
    pick,
    plate,
    profile_curve,
    regular_polygon,
    ring,
    rod,
    stroke,
    tube,
    union,
)


def vessel(rng: Rng) -> Manifold:
    """Bottles, vases, bowls, cups, jugs, teapots, glasses: lathes, hollow or solid, with handles and spouts."""
    u = rng.uniform
    z = np.linspace(0, 1, int(rng.integers(4, 7)))
    radius = u(0.1, 0.5, len(z))
    radius[0] = u(0.12, 0.35)
    neck = chance(rng, 0.4)
    if neck:
        radius[-2:] = u(0.06, 0.14)
    height = u(0.6, 1.6)
    outer = (
        profile_curve(np.stack([radius, z * height], 1), 36) if chance(rng, 0.75) else np.stack([radius, z * height], 1)
    )
    sides = pick(rng, 40, 40, 40, 6, 8)
    solid = lathe(outer, sides)
    if chance(rng, 0.6):  # open at the top
        wall = u(0.03, 0.06)
        keep = outer[outer[:, 1] > wall * 1.2]
        inner = np.stack([np.maximum(keep[:, 0] - wall, 0.015), keep[:, 1]], 1)
        solid -= lathe(np.concatenate([inner, [[inner[-1, 0], height * 1.2]]]), sides)
    parts = [solid]
    handles = chance(rng, 0.4)
    note(rng, "" if handles else "bottle" if neck else "vase")
    if handles:
        i, j = (
            np.sort(rng.choice(np.arange(3, len(outer)), 2, replace=False)) if len(outer) > 8 else (1, len(outer) - 2)
        )
        low, high = outer[i], outer[j]
        if high[1] - low[1] > 0.15:
            out = max(low[0], high[0]) + u(0.1, 0.3)
            path = curve(
                [
                    (low[0] - 0.02, 0, low[1]),
                    (out, 0, low[1] * 0.8 + high[1] * 0.2),
                    (out, 0, high[1] * 0.8 + low[1] * 0.2),
                    (high[0] - 0.02, 0, high[1]),
                ]
            )
            note(rng, "jug")
            handle = tube(path, u(0.025, 0.05), flat=u(0.6, 1))
            parts += [handle] if chance(rng, 0.7) else [handle, handle.rotate((0, 0, 180))]
            if chance(rng, 0.4):
                note(rng, "teapot")
                base = outer[len(outer) // 3]
                tip = np.array([-base[0] - u(0.2, 0.5), 0, base[1] + u(0.1, 0.5)])
                parts.append(
                    tube(
                        curve(np.array([[0, 0, base[1]], [-base[0] * 1.1, 0, base[1]], [*tip]]), 20),
                        np.linspace(0.08, 0.035, 20),
                    )
                )
    return union(parts)


def turned(rng: Rng) -> Manifold:
    """Chess pieces, candlesticks, goblets, spinning tops, table lamps, balusters: lathes with sharp and soft turns."""
    u = rng.uniform
    z, points = 0.0, [(u(0.25, 0.4), 0.0)]
    slim = u(0.05, 0.16)
    while z < 1.2:
        kind, step = rng.integers(4), u(0.05, 0.35)
        r = u(0.08, 0.35) if kind else slim
        if kind == 1:
            t = np.linspace(0, np.pi, 9)
            points += [(slim + r * np.sin(a), z + step * (1 - np.cos(a)) / 2 + 1e-3) for a in t]
        elif kind == 2:
            points += [(r, z + 1e-3), (r, z + step * 0.5)]
            step *= 0.5
        else:
            points.append((r, z + step))
        z += step + 2e-3
    solid = lathe(points, pick(rng, 40, 40, 8, 6))
    top = rng.integers(4)
    note(rng, ("chess piece", "table lamp", "chess piece", "")[top])
    if top == 0:
        solid += ball((0, 0, z), u(0.1, 0.25))
    elif top == 1:
        solid += lathe([(u(0.2, 0.6), z - 0.1), (u(0.1, 0.35), z + u(0.2, 0.5))])
    elif top == 2:
        solid += box((0.07, u(0.2, 0.3), 0.08), (0, 0, z + 0.12)) + box((0.07, 0.08, 0.4), (0, 0, z + 0.1))
    return solid


def blade(rng: Rng) -> Manifold:
    """Swords, knives, axes, spears, shovels, hammers, spoons and forks: a handle and a working end."""
    u = rng.uniform
    grip, handle = u(0.025, 0.06), u(0.2, 0.9)
    parts = [rod((0, 0, 0), (0, 0, handle), grip, grip * u(0.7, 1.1), pick(rng, 6, 16))]
    style = rng.integers(5)
    if style == 0:
        wide, long = u(0.04, 0.13), u(0.4, 1.6)
        outline = [
            (-wide, 0),
            (wide, 0),
            (wide * u(0.6, 1.1), long * 0.7),
            (wide * u(-1, 0.8), long),
            (-wide * u(0.5, 1), long * 0.8),
        ]
        edge = plate(cross_section(outline), u(0.025, 0.05)).translate((0, 0, -0.015)).rotate((90, 0, 0))
        parts.append(edge.translate((0, 0, handle)))
        if chance(rng, 0.6):
            parts.append(box((u(0.2, 0.5), 0.07, 0.05), (0, 0, handle)))
            parts.append(ball((0, 0, 0), u(0.05, 0.08)))
    elif style == 1:
        size = np.array([u(0.2, 0.5), u(0.1, 0.2), u(0.1, 0.22)])
        parts.append(
            pick(
                rng,
                box(size, (0, 0, handle), 0.02),
                rod((-size[0], 0, handle), (size[0] * 0.7, 0, handle), size[1] * 0.5, size[1] * u(0.2, 0.5)),
            )
        )
    elif style == 2:
        out, tall = u(0.2, 0.45), u(0.15, 0.4)
        head = cross_section([(0, -0.07), (out, -tall), (out * 1.15, 0), (out, tall), (0, 0.07)])
        axe = plate(head, u(0.04, 0.08)).translate((0, 0, -0.03)).rotate((90, 0, 0)).translate((0, 0, handle * 0.92))
        parts += [axe] if chance(rng, 0.6) else [axe, axe.mirror((1, 0, 0))]
    elif style == 3:
        wide, long = u(0.1, 0.25), u(0.15, 0.45)
        bowl = ball((0, 0, handle + long * 0.9), (wide, u(0.05, 0.1), long))
        parts.append(bowl - ball((0, u(0.06, 0.1), handle + long * 0.9), (wide * 0.85, 0.07, long * 0.85)))
    else:
        tines, long = pick(rng, 2, 3, 4), u(0.2, 0.5)
        wide = u(0.12, 0.3)
        parts.append(box((2 * wide, 0.05, 0.08), (0, 0, handle)))
        parts += [
            rod((x, 0, handle), (x, 0.04, handle + long), 0.03, 0.02)
            for x in np.linspace(-wide * 0.9, wide * 0.9, tines)
        ]
    return union(parts).rotate((0, pick(rng, 0, 90), 0))


def gun(rng: Rng) -> Manifold:
    """Pistols, rifles, drills, hair dryers, watering cans: a barrel, a body, a grip."""
    u = rng.uniform
    body, tall, wide = u(0.3, 0.7), u(0.06, 0.12), u(0.04, 0.08)
    parts = [box((2 * body, 2 * wide, 2 * tall), (0, 0, 0), pick(rng, 0, 0.03))]
    barrel = u(0.1, 1.1)
    parts.append(rod((body * 0.8, 0, tall * 0.4), (body + barrel, 0, tall * 0.4), u(0.03, 0.07), u(0.025, 0.09)))
    grip = box((u(0.12, 0.2), 2 * wide * 0.9, u(0.25, 0.4)), (0, 0, -0.17), 0.02).rotate((0, u(0, 30), 0))
    parts.append(grip.translate((-body * u(0.2, 0.8), 0, -tall)))
    parts.append(ring(0.09, 0.022, 24, 8).rotate((90, 0, 0)).translate((-body * 0.1, 0, -tall - 0.05)))
    stocked = chance(rng, 0.5)
    note(rng, "rifle" if stocked else "pistol")
    if stocked:
        stock = cross_section([(0, -0.05), (0, 0.07), (-u(0.4, 0.8), 0.04), (-0.6, -u(0.15, 0.3))])
        parts.append(
            plate(stock, 1.6 * wide).translate((0, 0, -0.8 * wide)).rotate((90, 0, 0)).translate((-body * 0.9, 0, 0))
        )
    if chance(rng, 0.5):
        parts.append(
            box((u(0.08, 0.14), wide, u(0.2, 0.5)), (body * u(0, 0.5), 0, -tall - 0.12)).rotate((0, u(-15, 15), 0))
        )
    if chance(rng, 0.4):
        parts.append(rod((-body * 0.4, 0, tall + 0.07), (body * 0.4, 0, tall + 0.07), 0.045))
        parts.append(box((0.08, 0.05, 0.12), (0, 0, tall + 0.02)))
    return union(parts)


def instrument(rng: Rng) -> Manifold:
    """Guitars, violins, rackets, spoons-like paddles, drums with sticks."""
    u = rng.uniform
    if chance(rng, 0.2):
        note(rng, "drum")
        wide, tall = u(0.3, 0.6), u(0.2, 0.8)
        parts = [rod((0, 0, 0), (0, 0, tall), wide, wide * u(0.7, 1), 40)]
        parts += [ring(wide * 1.02, 0.03).translate((0, 0, z)) for z in (0.02, tall)]
        return union(
            parts
            + [rod((0.5 * wide * s, s * 0.1, tall + 0.05), (1.2 * wide * s, 0.5, tall + 0.4), 0.03) for s in (1, -1)]
        )
    z = np.linspace(0, 1, 7)
    half = np.array([0.05, u(0.3, 0.4), u(0.32, 0.45), u(0.16, 0.3), u(0.24, 0.34), u(0.2, 0.3), 0.05])
    side = curve(np.stack([half, z * u(0.8, 1.1)], 1), 30)
    outline = cross_section(np.concatenate([side, side[::-1] * [-1, 1]]))
    thick = u(0.06, 0.2)
    top = side[:, 1].max()
    body = plate(outline, thick)
    racket = chance(rng, 0.25)
    note(rng, "racket" if racket else "guitar")
    hole = CrossSection.circle(u(0.08, 0.12), 24).translate((0, top * 0.6))
    body -= plate(outline.offset(-0.05) if racket else hole, 2 * thick).translate(
        (0, 0, -thick * 0.5 if racket else thick * 0.3)
    )
    neck = u(0.5, 1.1)
    parts = [body, box((u(0.07, 0.12), neck + top * 0.4, 0.06), (0, top + neck / 2 - top * 0.2, thick))]
    if racket:
        parts[1] = box((0.07, neck, 0.06), (0, top + neck / 2 - 0.03, thick / 2))
    else:
        parts.append(box((0.16, 0.25, 0.05), (0, top + neck, thick), 0.01))
        parts += [rod((-0.15, top + neck + d, thick), (0.15, top + neck + d, thick), 0.02) for d in (-0.07, 0.0, 0.07)]
        parts.append(box((0.25, 0.04, 0.06), (0, top * 0.3, thick + 0.02)))
    return union(parts).rotate((90, 0, 0))


def letter(rng: Rng) -> Manifold:
    """Letters, digits and signs: pen strokes extruded."""
    strokes: dict[str, list[list[tuple[float, float]]]] = {
        "A": [[(0, 0), (2, 6), (4, 0)], [(1, 2.5), (3, 2.5)]],
        "E": [[(3.5, 0), (0, 0), (0, 6), (3.5, 6)], [(0, 3), (3, 3)]],
        "F": [[(0, 0), (0, 6), (3.5, 6)], [(0, 3), (3, 3)]],
        "H": [[(0, 0), (0, 6)], [(4, 0), (4, 6)], [(0, 3), (4, 3)]],
        "K": [[(0, 0), (0, 6)], [(4, 6), (0, 3), (4, 0)]],
        "M": [[(0, 0), (0, 6), (2.5, 3), (5, 6), (5, 0)]],
        "N": [[(0, 0), (0, 6), (4, 0), (4, 6)]],
        "R": [[(0, 0), (0, 6), (3, 6), (4, 5), (4, 4), (3, 3), (0, 3)], [(2, 3), (4, 0)]],
        "S": [[(4, 5), (3, 6), (1, 6), (0, 5), (0, 4), (4, 2), (4, 1), (3, 0), (1, 0), (0, 1)]],
        "T": [[(0, 6), (4, 6)], [(2, 6), (2, 0)]],
        "X": [[(0, 0), (4, 6)], [(0, 6), (4, 0)]],
        "Y": [[(0, 6), (2, 3), (4, 6)], [(2, 3), (2, 0)]],
        "Z": [[(0, 6), (4, 6), (0, 0), (4, 0)]],
        "2": [[(0, 5), (1, 6), (3, 6), (4, 5), (4, 4), (0, 0), (4, 0)]],
        "4": [[(3, 0), (3, 6), (0, 2), (4, 2)]],
        "5": [[(4, 6), (0, 6), (0, 3.5), (3, 3.5), (4, 2.5), (4, 1), (3, 0), (0, 0)]],
        "8": [
            [(1, 3), (0, 4), (0, 5), (1, 6), (3, 6), (4, 5), (4, 4), (3, 3), (1, 3)],
            [(1, 3), (0, 2), (0, 1), (1, 0), (3, 0), (4, 1), (4, 2), (3, 3)],
        ],
    }
    glyphs = [strokes[pick(rng, *strokes)] for _ in range(pick(rng, 1, 1, 1, 2, 3))]
    width, area = rng.uniform(0.5, 1.3), CrossSection()
    for k, lines in enumerate(glyphs):
        for line in lines:
            area += stroke(np.array(line, float) + [6.2 * k, 0], width)
    return plate(area, rng.uniform(0.4, 2.5), top=rng.uniform(0.85, 1.0)).rotate((90, 0, 0))


def glasses(rng: Rng) -> Manifold:
    """Glasses, scissors, pliers, handcuffs, chains: rings joined by bars."""
    u = rng.uniform
    style = rng.integers(3)
    r, wire = u(0.2, 0.35), u(0.025, 0.06)
    if style == 0:
        lens = ring(r, wire).scale((1, u(0.7, 1), 1)).rotate((0, 90, 0)).translate((0, r * 1.25, 0))
        arm = limb((0, r * 2.2, 0.05), (-u(0.8, 1.2), r * 2.1, 0.05), wire)
        hook = limb((-1, r * 2.1, 0.05), (-1.2, r * 2.1, -0.15), wire)
        return union([*both_sides([lens, arm, hook]), limb((0, -r * 0.4, 0.08), (0, r * 0.4, 0.08), wire)])
    if style == 1:
        parts, open_angle = [], u(8, 30)
        for sign in (1, -1):
            half = union(
                [
                    ring(r * 0.6, wire * 1.3).translate((-0.8, sign * r * 0.5, 0)),
                    limb((-0.5, sign * 0.12, 0), (0, 0, 0), 0.05),
                    plate(
                        cross_section([(0, -0.06), (0, 0.06), (u(0.5, 0.9), sign * 0.01), (0.5, -sign * 0.05)]), 0.06
                    ).translate((0, 0, -0.03)),
                ]
            )
            parts.append(half.rotate((0, 0, -sign * open_angle)).translate((0, 0, sign * 0.02)))
        return union([*parts, rod((0, 0, -0.08), (0, 0, 0.08), 0.05)])
    links = int(rng.integers(2, 7))
    link = ring(r, wire * 1.5).scale((1.5, 1, 1))
    return union([link.rotate((90 * (k % 2), 0, 0)).translate((k * (3 * r - 3 * wire), 0, 0)) for k in range(links)])


def potted_plant(rng: Rng) -> Manifold:
    """A pot with leaves or stems; bouquets; palms."""
    u = rng.uniform
    pot = u(0.15, 0.35)
    parts = [lathe([(pot * 0.7, 0), (pot, 0.35), (pot * 1.1, 0.35), (pot * 1.1, 0.42)])]
    stem = u(0, 0.7)
    if stem > 0.2:
        parts.append(rod((0, 0, 0.3), (0, 0, 0.4 + stem), 0.05, 0.035))
    else:
        stem = 0.0
    leaves = int(rng.integers(5, 14))
    long, wide, droop = u(0.35, 0.8), u(0.05, 0.14), u(-0.5, 0.7)
    for k in range(leaves):
        angle, lift = 2 * np.pi * k / leaves + u(-0.3, 0.3), u(0.2, 1.2)
        out = np.array([np.cos(angle), np.sin(angle), 0])
        root = np.array([0, 0, 0.38 + stem])
        path = curve(
            [
                root,
                root + out * long * 0.5 + [0, 0, lift * long * 0.6],
                root + out * long + [0, 0, long * (lift - 0.6 - droop)],
            ],
            14,
        )
        parts.append(
            tube(path, wide * np.interp(np.linspace(0, 1, 14), [0, 0.5, 1], [0.35, 1, 0.25]), sides=8, flat=0.25)
        )
    return union(parts)


def gear(rng: Rng) -> Manifold:
    """Gears, cogs, stars, polygon prisms, nuts, snowflakes: extruded outlines with holes, tapered or twisted."""
    u = rng.uniform
    n, style = int(rng.integers(3, 18)), rng.integers(3)
    note(rng, ("gear", "star", "")[style])
    if style == 0:
        radius = np.tile([1.0, 1.0, u(0.6, 0.85), u(0.6, 0.85)], n)
        angle = 2 * np.pi * (np.arange(4 * n) + 0.5) / (4 * n)
        outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    elif style == 1:
        outline = regular_polygon(2 * n) * np.tile([1.0, u(0.3, 0.9)], n)[:, None]
    else:
        angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        waves = [u(-0.25, 0.25) * np.cos(k * angle + u(0, 6)) for k in range(2, 7)]
        outline = (1 + np.sum(waves, axis=0))[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    area = cross_section(outline)
    if chance(rng, 0.6):
        area -= CrossSection.circle(u(0.1, 0.35), pick(rng, 32, 6, 4))
    if chance(rng, 0.4):
        for p in regular_polygon(pick(rng, 3, 4, 5, 6), 0.55):
            area -= CrossSection.circle(u(0.05, 0.14), 20).translate(tuple(p))
    height = u(0.1, 0.5) if chance(rng, 0.7) else u(0.5, 2.5)
    solid = plate(
        area, height, top=u(0.5, 1.0) if chance(rng, 0.3) else 1.0, twist=u(-90, 90) if chance(rng, 0.3) else 0.0
    )
    if chance(rng, 0.3):
        solid += rod((0, 0, -u(0, 0.5)), (0, 0, height + u(0.1, 0.8)), u(0.15, 0.35))
    turn = pick(rng, 0, 90)
    note(rng, "" if turn else "flat")
    return solid.rotate((turn, 0, 0))
