"""Families of procedural furniture: tables, chairs, sofas, shelves, lamps, screens."""

from __future__ import annotations

from itertools import pairwise

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
    curve,
    lathe,
    limb,
    pick,
    plate,
    profile_curve,
    rod,
    union,
)


def table(rng: Rng) -> Manifold:
    """Rectangular and round tables, desks, stools and benches: a top on legs, a pedestal or side panels."""
    u = rng.uniform
    x, y, z, thick = u(0.5, 1.2), u(0.35, 0.8), u(0.3, 0.9), u(0.03, 0.09)
    round_top = chance(rng, 0.35)
    note(rng, "round table" if round_top else "")
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
        note(rng, "desk")
        parts.append(box((x * 0.6, 2 * y * 0.85, z * u(0.3, 0.85)), (x * 0.6, 0, z * 0.6)))
    return union(parts)


def chair(rng: Rng) -> Manifold:
    """Chairs, armchairs, stools with backs, swivel chairs, benches."""
    u = rng.uniform
    wide, deep, seat, back, thick = u(0.2, 0.6), u(0.2, 0.3), u(0.25, 0.5), u(0.25, 0.65), u(0.025, 0.09)
    lean, leg = u(0, 0.15), u(0.014, 0.035)
    parts = [box((2 * deep, 2 * wide, thick), (0, 0, seat), pick(rng, 0, 0.02))]
    base = rng.integers(4)
    bench = wide > 0.42
    note(rng, "bench" if bench else "chair")
    if base == 0:
        note(rng, "" if bench else "office chair")
        parts.append(rod((0, 0, 0.06), (0, 0, seat), 0.03))
        spoke = limb((0, 0, 0.06), (deep * 1.1, 0, 0.03), 0.03, 0.022)
        parts += around(spoke, pick(rng, 4, 5))
        parts += around(ball((deep * 1.1, 0, 0.03), 0.035), 5) if chance(rng, 0.5) else []
    elif base == 1:
        parts += both_sides([box((2 * deep, thick, seat), (0, wide - thick / 2, seat / 2))])
    else:
        splay = u(0, 0.12) * (base == 3)
        for sx in (1, -1):
            parts += both_sides(
                [
                    rod(
                        (sx * (deep * 0.9 + splay), wide * 0.9 + splay, 0),
                        (sx * deep * 0.9, wide * 0.9, seat),
                        leg * 0.8,
                        leg,
                        pick(rng, 4, 12),
                    )
                ]
            )
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
        note(rng, "" if bench else "armchair")
        arm = u(0.12, 0.22)
        parts += both_sides([box((2 * deep, thick * u(0.6, 2), 0.04), (0, wide, seat + arm))])
        parts += both_sides([box((0.04, 0.04, arm), (deep * 0.85, wide, seat + arm / 2))])
    return union(parts)


def sofa(rng: Rng) -> Manifold:
    """Sofas and beds: soft boxes with arms, back, cushions, a headboard."""
    u = rng.uniform
    wide, deep, seat, soft = u(0.35, 1.1), u(0.3, 0.9), u(0.15, 0.35), u(0.01, 0.05)
    parts = [box((2 * deep, 2 * wide, seat), (0, 0, seat / 2 + 0.06), soft)]
    back, thick = u(0.15, 0.6), u(0.08, 0.22)
    parts.append(box((thick, 2 * wide, seat + back), (-deep + thick / 2, 0, (seat + back) / 2 + 0.06), soft))
    arms = chance(rng, 0.65)
    if arms:
        arm = u(0.05, 0.25)
        parts += both_sides([box((2 * deep, thick, seat + arm), (0, wide + thick / 2, (seat + arm) / 2 + 0.06), soft)])
    if deep > 0.55:
        note(rng, "" if arms else "bed")
    else:
        note(rng, "couch" if wide > 0.5 else "armchair" if arms else "")
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


def shelf(rng: Rng) -> Manifold:
    """Bookshelves, cabinets, wardrobes, drawers, fridges; books on shelves."""
    u = rng.uniform
    x, y, z, wall = u(0.12, 0.35), u(0.25, 0.8), u(0.4, 1.2), u(0.025, 0.06)
    body = box((2 * x, 2 * y, z), (0, 0, z / 2))
    rows, columns, parts = int(rng.integers(1, 6)), pick(rng, 1, 1, 2, 3), []
    closed = chance(rng, 0.35)
    note(rng, "cabinet" if closed else "bookshelf")
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


def lamp(rng: Rng) -> Manifold:
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
    parts += [limb(a, b, pole) for a, b in pairwise(path)]
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


def screen(rng: Rng) -> Manifold:
    """Monitors, laptops, phones, picture frames, books, keyboards, signs: plates with rims, stands and keys."""
    u = rng.uniform
    wide, tall, thick = u(0.4, 0.8), u(0.3, 0.6), u(0.02, 0.08)
    panel = box((thick, 2 * wide, 2 * tall), (0, 0, 0), 0.008)
    rim = u(0.03, 0.08)
    panel -= box((thick, 2 * (wide - rim), 2 * (tall - rim)), (thick * 0.8, 0, 0))
    style = rng.integers(4)
    note(rng, ("monitor", "laptop", "sign", "")[style])
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
