"""Families of everyday procedural shapes: furniture, vessels, tools, instruments, letters."""

# ruff: noqa: RUF005 - array + list is an addition of vectors here

from __future__ import annotations

import numpy as np
from manifold3d import CrossSection

from vat3d.procedural_parts import (
    Rng,
    Solid3,
    around,
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


def table(rng: Rng) -> Solid3:
    """Rectangular and round tables, desks, stools and benches: a top on legs, a pedestal or side panels."""
    u = rng.uniform
    x, y, z, thick = u(0.5, 1.2), u(0.35, 0.8), u(0.3, 0.9), u(0.03, 0.09)
    round_top = chance(rng, 0.35)
    if round_top:
        parts = [plate(CrossSection.circle(y, 48), thick).translate((0, 0, z))]
        x = y
    else:
        parts = [box((2 * x, 2 * y, thick), (0, 0, z + thick / 2), pick(rng, 0, 0.02))]
    style = rng.integers(4)
    if style == 0:
        foot = u(0.03, 0.06)
        parts.append(rod((0, 0, 0), (0, 0, z), foot * u(1, 2), foot))
        parts.append(lathe([(y * u(0.4, 0.8), 0), (y * 0.4, 0.04), (foot, u(0.06, 0.2))]))
    elif style == 1 and not round_top:
        parts += both_sides([box((2 * x * u(0.7, 0.95), thick, z), (0, y * 0.85, z / 2))])
        parts.append(box((2 * x * 0.8, thick * 0.6, z * u(0.2, 0.9)), (0, u(-0.5, 0.5) * y, z * u(0.5, 0.6))))
    else:
        leg, inset, splay = u(0.025, 0.07), u(0.7, 0.92), u(0, 0.15) if style == 3 else 0.0
        inset = 0.6 if round_top else inset
        sides = pick(rng, 4, 16)
        for sx in (1, -1):
            for sy in (1, -1):
                top = np.array([sx * x * inset, sy * y * inset, z + 0.01])
                parts.append(rod(top * [1 + splay, 1 + splay, 0], top, leg * u(0.6, 1), leg, sides))
        if chance(rng, 0.4):
            parts += both_sides([box((2 * x * inset, 0.03, 0.05), (0, y * inset, z * u(0.15, 0.9)))])
    if chance(rng, 0.25) and not round_top:
        parts.append(box((x * 0.6, 2 * y * 0.85, z * u(0.3, 0.85)), (x * 0.6, 0, z * 0.6)))
    return union(parts)


def chair(rng: Rng) -> Solid3:
    """Chairs, armchairs, stools with backs, swivel chairs, benches."""
    u = rng.uniform
    wide, deep, seat, back, thick = u(0.2, 0.6), u(0.2, 0.3), u(0.25, 0.5), u(0.25, 0.65), u(0.025, 0.09)
    lean, leg = u(0, 0.15), u(0.014, 0.035)
    parts = [box((2 * deep, 2 * wide, thick), (0, 0, seat), pick(rng, 0, 0.02))]
    base = rng.integers(4)
    if base == 0:
        parts.append(rod((0, 0, 0.06), (0, 0, seat), 0.03))
        spoke = limb((0, 0, 0.06), (deep * 1.1, 0, 0.03), 0.03, 0.022)
        parts += around(spoke, pick(rng, 4, 5))
        parts += around(ball((deep * 1.1, 0, 0.03), 0.035), 5) if chance(rng, 0.5) else []
    elif base == 1:
        parts += both_sides([box((2 * deep, thick, seat), (0, wide - thick / 2, seat / 2))])
    else:
        splay = u(0, 0.12) * (base == 3)
        for sx in (1, -1):
            parts += both_sides([rod((sx * (deep * 0.9 + splay), wide * 0.9 + splay, 0), (sx * deep * 0.9, wide * 0.9, seat),
                                     leg * 0.8, leg, pick(rng, 4, 12))])  # fmt: skip
        if chance(rng, 0.4):
            parts += both_sides(
                [rod((-deep * 0.9, wide * 0.9, seat * 0.4), (deep * 0.9, wide * 0.9, seat * 0.4), leg * 0.6)]
            )
    low, top = np.array([-deep * 0.92, 0, seat]), np.array([-deep * 0.92 - lean, 0, seat + back])
    style = rng.integers(3)
    if style == 0:
        panel = box((thick * 0.7, 2 * wide * u(0.8, 1), back * u(0.5, 1)), (0, 0, 0), 0.01)
        parts.append(
            panel.rotate((0, -np.degrees(np.arctan2(lean, back)), 0)).translate(tuple((low + top) / 2 + [0, 0, 0.03]))
        )
        parts += both_sides([rod(low + [0, wide * 0.85, 0], top + [0, wide * 0.85, 0], leg)])
    else:
        parts += both_sides([rod(low + [0, wide * 0.92, 0], top + [0, wide * 0.92, 0], leg)])
        count = int(rng.integers(2, 6))
        if style == 1:
            for t in np.linspace(0.3, 0.97, count):
                at = low + (top - low) * t
                parts.append(box((0.03, 2 * wide, back * u(0.06, 0.14)), at))
        else:
            parts.append(box((0.035, 2 * wide, back * 0.14), top))
            for y in np.linspace(-0.75, 0.75, count) * wide:
                parts.append(rod(low + [0, y, 0], top + [0, y, 0], leg * 0.6))
    if chance(rng, 0.45):
        arm = u(0.12, 0.22)
        parts += both_sides([box((2 * deep, thick * u(0.6, 2), 0.04), (0, wide, seat + arm))])
        parts += both_sides([box((0.04, 0.04, arm), (deep * 0.85, wide, seat + arm / 2))])
    return union(parts)


def sofa(rng: Rng) -> Solid3:
    """Sofas and beds: soft boxes with arms, back, cushions, a headboard."""
    u = rng.uniform
    wide, deep, seat, soft = u(0.35, 1.1), u(0.3, 0.9), u(0.15, 0.35), u(0.01, 0.05)
    parts = [box((2 * deep, 2 * wide, seat), (0, 0, seat / 2 + 0.06), soft)]
    back, thick = u(0.15, 0.6), u(0.08, 0.22)
    parts.append(box((thick, 2 * wide, seat + back), (-deep + thick / 2, 0, (seat + back) / 2 + 0.06), soft))
    if chance(rng, 0.65):
        arm = u(0.05, 0.25)
        parts += both_sides([box((2 * deep, thick, seat + arm), (0, wide + thick / 2, (seat + arm) / 2 + 0.06), soft)])
    cushions = pick(rng, 1, 2, 2, 3)
    for k in range(cushions):
        y = wide * ((2 * k + 1) / cushions - 1)
        size = (2 * deep - thick, 2 * wide / cushions * 0.95, u(0.06, 0.14))
        parts.append(box(size, (thick / 2, y, seat + 0.1), soft))
    for sx in (1, -1):
        parts += both_sides([rod((sx * deep * 0.85, wide * 0.9, 0), (sx * deep * 0.85, wide * 0.9, 0.1), 0.03)])
    if chance(rng, 0.3):
        parts.append(box((thick * 0.6, 2 * wide, seat + u(0.1, 0.3)), (deep, 0, seat / 2 + 0.1), soft))
    return union(parts)


def shelf(rng: Rng) -> Solid3:
    """Bookshelves, cabinets, wardrobes, drawers, fridges; books on shelves."""
    u = rng.uniform
    x, y, z, wall = u(0.12, 0.35), u(0.25, 0.8), u(0.4, 1.2), u(0.025, 0.06)
    body = box((2 * x, 2 * y, z), (0, 0, z / 2))
    rows, columns, parts = int(rng.integers(1, 6)), pick(rng, 1, 1, 2, 3), []
    closed = chance(rng, 0.35)
    wide, tall = (2 * y - wall) / columns, (z - wall) / rows
    for i in range(rows):
        for j in range(columns):
            at = np.array([0, -y + wall / 2 + wide * (j + 0.5), wall / 2 + tall * (i + 0.5)])
            size = np.array([2 * x - wall, wide - wall, tall - wall])
            if closed or chance(rng, 0.2):
                parts.append(box(size * [0.05, 1, 1] + [0.02, 0, 0], at + [x + 0.005, 0, 0]))
                parts.append(ball(at + [x + 0.035, wide * u(-0.4, 0.4) * (rows == 1), 0], 0.025, 10))
                continue
            body -= box(size, at + [wall, 0, 0])
            if chance(rng, 0.4):
                left, full = -size[1] / 2, u(0.3, 1)
                while left < size[1] * (full - 0.55):
                    book = u(0.03, 0.08)
                    high = size[2] * u(0.5, 0.9)
                    parts.append(box((x, book, high + 0.02), at + [0, left + book / 2, (high - size[2]) / 2 - 0.005]))
                    left += book * 1.02
    if chance(rng, 0.4):
        for sx in (1, -1):
            parts += both_sides([box((0.05, 0.05, 0.24), (sx * x * 0.8, y * 0.85, -0.1))])
    return union([body, *parts])


def vessel(rng: Rng) -> Solid3:
    """Bottles, vases, bowls, cups, jugs, teapots, glasses: lathes, hollow or solid, with handles and spouts."""
    u = rng.uniform
    z = np.linspace(0, 1, int(rng.integers(4, 7)))
    radius = u(0.1, 0.5, len(z))
    radius[0] = u(0.12, 0.35)
    if chance(rng, 0.4):  # a bottle's neck
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
    if chance(rng, 0.4):
        i, j = (
            np.sort(rng.choice(np.arange(3, len(outer)), 2, replace=False)) if len(outer) > 8 else (1, len(outer) - 2)
        )
        low, high = outer[i], outer[j]
        if high[1] - low[1] > 0.15:
            out = max(low[0], high[0]) + u(0.1, 0.3)
            path = curve([(low[0] - 0.02, 0, low[1]), (out, 0, low[1] * 0.8 + high[1] * 0.2),
                          (out, 0, high[1] * 0.8 + low[1] * 0.2), (high[0] - 0.02, 0, high[1])])  # fmt: skip
            handle = tube(path, u(0.025, 0.05), flat=u(0.6, 1))
            parts += [handle] if chance(rng, 0.7) else [handle, handle.rotate((0, 0, 180))]
            if chance(rng, 0.4):
                base = outer[len(outer) // 3]
                tip = np.array([-base[0] - u(0.2, 0.5), 0, base[1] + u(0.1, 0.5)])
                parts.append(
                    tube(curve([(0, 0, base[1]), (-base[0] * 1.1, 0, base[1]), tip], 20), np.linspace(0.08, 0.035, 20))
                )
    return union(parts)


def turned(rng: Rng) -> Solid3:
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
    if top == 0:
        solid += ball((0, 0, z), u(0.1, 0.25))
    elif top == 1:
        solid += lathe([(u(0.2, 0.6), z - 0.1), (u(0.1, 0.35), z + u(0.2, 0.5))])
    elif top == 2:
        solid += box((0.07, u(0.2, 0.3), 0.08), (0, 0, z + 0.12)) + box((0.07, 0.08, 0.4), (0, 0, z + 0.1))
    return solid


def lamp(rng: Rng) -> Solid3:
    """Floor and desk lamps, umbrellas, mushrooms, microphones: something on an (articulated) pole."""
    u = rng.uniform
    height, pole = u(0.5, 1.5), u(0.015, 0.04)
    foot = u(0.15, 0.4)
    parts = [lathe([(foot, 0), (foot, u(0.02, 0.05)), (pole, u(0.06, 0.15))])]
    path = [np.zeros(3), np.array([0, 0, height])]
    if chance(rng, 0.5):
        path = [np.zeros(3), np.array([-u(0, 0.4), 0, height * 0.5]), np.array([u(0, 0.5), 0, height])]
    if chance(rng, 0.3):
        path = list(curve([*path, path[-1] + [u(0.2, 0.5), 0, u(-0.2, 0)]], 16))
    parts += [limb(a, b, pole) for a, b in zip(path, path[1:], strict=False)]
    wide, tall, wall = u(0.15, 0.5), u(0.15, 0.5), 0.03
    shade = lathe([(wide, 0), (wide * u(0.2, 1), tall)])
    if chance(rng, 0.5):
        shade -= lathe([(wide - wall, -0.01), (wide * 0.2, tall - wall)])
    if chance(rng, 0.4):
        shade = lathe(profile_curve([(wide, 0), (wide * 0.75, tall * 0.5), (0.02, tall * 0.8)], 16))
    if chance(rng, 0.4):
        shade = shade.rotate((0, u(0, 70), 0))
    parts.append(shade.translate(tuple(path[-1] - [0, 0, tall * 0.4])))
    return union(parts)


def screen(rng: Rng) -> Solid3:
    """Monitors, laptops, phones, picture frames, books, keyboards, signs: plates with rims, stands and keys."""
    u = rng.uniform
    wide, tall, thick = u(0.4, 0.8), u(0.3, 0.6), u(0.02, 0.08)
    panel = box((thick, 2 * wide, 2 * tall), (0, 0, 0), 0.008)
    rim = u(0.03, 0.08)
    panel -= box((thick, 2 * (wide - rim), 2 * (tall - rim)), (thick * 0.8, 0, 0))
    style = rng.integers(4)
    if style == 0:
        base = rod((0, 0, -tall - 0.2), (0, 0, -tall * 0.4), 0.04).translate((-thick, 0, 0))
        return union([panel, base, box((u(0.2, 0.4), u(0.3, 0.7), 0.03), (-thick, 0, -tall - 0.2), 0.01)])
    if style == 1:
        keys = box((2 * tall, 2 * wide, thick), (tall, 0, -tall))
        for i in range(4):
            for j in range(9):
                keys += box(
                    (0.26 * tall, 0.17 * wide, 0.03),
                    (tall * (0.35 + 0.33 * i), wide * (j - 4) * 0.21, -tall + thick / 2),
                )
        return union([panel.translate((0, 0, tall)).rotate((0, -u(0, 35), 0)).translate((0, 0, -tall)), keys])
    if style == 2:
        return union([panel, rod((-thick, 0, -tall * u(2, 3.5)), (-thick, 0, tall * u(-0.5, 0.9)), u(0.02, 0.05))])
    if chance(rng, 0.5):
        rows, columns = pick(rng, 3, 4, 5), pick(rng, 3, 5, 10)
        for i in range(rows):
            for j in range(columns):
                at = (thick * 0.3, wide * (2 * (j + 0.5) / columns - 1) * 0.85, tall * (2 * (i + 0.5) / rows - 1) * 0.8)
                panel += box((thick, 1.2 * wide / columns, 1.1 * tall / rows), at)
    return panel.rotate((0, pick(rng, 0, 90), 0))


def blade(rng: Rng) -> Solid3:
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


def gun(rng: Rng) -> Solid3:
    """Pistols, rifles, drills, hair dryers, watering cans: a barrel, a body, a grip."""
    u = rng.uniform
    body, tall, wide = u(0.3, 0.7), u(0.06, 0.12), u(0.04, 0.08)
    parts = [box((2 * body, 2 * wide, 2 * tall), (0, 0, 0), pick(rng, 0, 0.03))]
    barrel = u(0.1, 1.1)
    parts.append(rod((body * 0.8, 0, tall * 0.4), (body + barrel, 0, tall * 0.4), u(0.03, 0.07), u(0.025, 0.09)))
    grip = box((u(0.12, 0.2), 2 * wide * 0.9, u(0.25, 0.4)), (0, 0, -0.17), 0.02).rotate((0, u(0, 30), 0))
    parts.append(grip.translate((-body * u(0.2, 0.8), 0, -tall)))
    parts.append(ring(0.09, 0.022, 24, 8).rotate((90, 0, 0)).translate((-body * 0.1, 0, -tall - 0.05)))
    if chance(rng, 0.5):
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


def instrument(rng: Rng) -> Solid3:
    """Guitars, violins, rackets, spoons-like paddles, drums with sticks."""
    u = rng.uniform
    if chance(rng, 0.2):
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


def letter(rng: Rng) -> Solid3:
    """Letters, digits and signs: pen strokes extruded."""
    strokes = {
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
        "8": [[(1, 3), (0, 4), (0, 5), (1, 6), (3, 6), (4, 5), (4, 4), (3, 3), (1, 3), (0, 2), (0, 1), (1, 0), (3, 0), (4, 1), (4, 2), (3, 3)]],
    }  # fmt: skip
    glyphs = [strokes[pick(rng, *strokes)] for _ in range(pick(rng, 1, 1, 1, 2, 3))]
    width, area = rng.uniform(0.5, 1.3), CrossSection()
    for k, lines in enumerate(glyphs):
        for line in lines:
            area += stroke(np.array(line, float) + [6.2 * k, 0], width)
    return plate(area, rng.uniform(0.4, 2.5), top=rng.uniform(0.85, 1.0)).rotate((90, 0, 0))


def glasses(rng: Rng) -> Solid3:
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
            half = union([ring(r * 0.6, wire * 1.3).translate((-0.8, sign * r * 0.5, 0)), limb((-0.5, sign * 0.12, 0), (0, 0, 0), 0.05),
                          plate(cross_section([(0, -0.06), (0, 0.06), (u(0.5, 0.9), sign * 0.01), (0.5, -sign * 0.05)]), 0.06).translate((0, 0, -0.03))])  # fmt: skip
            parts.append(half.rotate((0, 0, -sign * open_angle)).translate((0, 0, sign * 0.02)))
        return union([*parts, rod((0, 0, -0.08), (0, 0, 0.08), 0.05)])
    links = int(rng.integers(2, 7))
    link = ring(r, wire * 1.5).scale((1.5, 1, 1))
    return union([link.rotate((90 * (k % 2), 0, 0)).translate((k * (3 * r - 3 * wire), 0, 0)) for k in range(links)])


def potted_plant(rng: Rng) -> Solid3:
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


def gear(rng: Rng) -> Solid3:
    """Gears, cogs, stars, polygon prisms, nuts, snowflakes: extruded outlines with holes, tapered or twisted."""
    u = rng.uniform
    n, style = int(rng.integers(3, 18)), rng.integers(3)
    if style == 0:
        radius = np.tile([1.0, 1.0, u(0.6, 0.85), u(0.6, 0.85)], n)
        angle = 2 * np.pi * (np.arange(4 * n) + 0.5) / (4 * n)
        outline = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    elif style == 1:
        outline = regular_polygon(2 * n) * np.tile([1.0, u(0.3, 0.9)], n)[:, None]
    else:
        angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        waves = sum(u(-0.25, 0.25) * np.cos(k * angle + u(0, 6)) for k in range(2, 7))
        outline = (1 + waves)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
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
    return solid.rotate((pick(rng, 0, 90), 0, 0))
