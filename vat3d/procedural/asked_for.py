"""Families of things that generators are asked for by name and of which the packs hold few: one thing each.

They are made by name only (``shape(seed, "sword")``): `vat3d.procedural.shapes.FAMILIES`, of which shapes are drawn by
chance, leaves them out, so that what a seed draws there stays as it is.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from manifold3d import Manifold

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
    limb,
    pick,
    plate,
    rod,
    union,
)


def sword(rng: Rng) -> Manifold:
    """Swords and sabres, point up: a blade with a ridge, straight or curved, a guard, a grip and a pommel."""
    u = rng.uniform
    long, wide, thick, grip = u(0.8, 1.9), u(0.04, 0.13), u(0.035, 0.06), u(0.2, 0.5)
    bow, t = pick(rng, 0.0, 0.0, u(0.05, 0.3)), np.linspace(0, 1, 12)
    half = wide * np.interp(t, [0, 0.4, u(0.7, 0.93), 1], [u(0.7, 1), u(0.7, 1), u(0.6, 1.2), 0.06])
    sections = [
        np.array([[m - h, 0, z], [m + h, 0, z], [m, thick / 2, z], [m, -thick / 2, z]])
        for m, h, z in zip(bow * t**2, half, long * t - 0.02, strict=True)
    ]
    parts = [Manifold.hull_points(np.concatenate(pair)) for pair in pairwise(sections)]
    parts.append(rod((0, 0, -grip), (0, 0, 0), u(0.025, 0.04), u(0.025, 0.04), pick(rng, 6, 12)))
    reach, bar, style = u(0.12, 0.32), u(0.022, 0.045), rng.integers(4)
    if style == 0:
        parts.append(box((2 * reach, 2 * bar, 2 * bar), bevel=0.01))
    elif style == 1:  # bent towards the point, or towards the pommel
        bend = u(-0.12, 0.12)
        half_guard = curve([(0, 0, 0), (reach * 0.6, 0, bend * 0.4), (reach, 0, bend)], 6)
        parts += [limb(a * [s, 1, 1], b * [s, 1, 1], bar) for a, b in pairwise(half_guard) for s in (1, -1)]
    elif style == 2:
        parts.append(lathe([(wide * u(1.2, 1.8), -0.02), (wide * 1.2, 0.025)], 24))
    else:
        parts += [box((2 * reach, 1.6 * bar, 2 * bar)), *(ball((s * reach, 0, 0), bar * 1.7) for s in (1, -1))]
    if chance(rng, 0.2):  # over the hand
        hand = curve([(0.0, 0, -0.01), (reach * 0.9, 0, -grip * 0.4), (0.02, 0, -grip)], 10)
        parts += [limb(a, b, bar * 0.7) for a, b in pairwise(hand)]
    pommel = u(0.035, 0.07)
    parts.append(pick(rng, ball((0, 0, -grip), pommel), box(2 * pommel * np.array([1, 0.7, 1]), (0, 0, -grip), 0.012)))
    return union(parts)


def mushroom(rng: Rng) -> Manifold:
    """Mushrooms, alone or in a clump: a cap, flat to bell-shaped, full or hollow below, on a leaning stem."""
    u = rng.uniform
    parts = _mushroom(rng, 1.0)
    for k in range(pick(rng, 0, 0, 0, 1, 2)):
        angle = 2 * k + u(0, 1)
        parts.append(union(_mushroom(rng, u(0.35, 0.7))).translate((0.5 * np.cos(angle), 0.5 * np.sin(angle), 0)))
    if len(parts) > 3 and chance(rng, 0.7):
        parts.append(ball((0, 0, 0), (0.6, 0.6, 0.06)))
    return union(parts)


def _mushroom(rng: Rng, scale: float) -> list[Manifold]:
    """Stem and cap."""
    u = rng.uniform
    tall, slim, wide = scale * u(0.4, 1.2), scale * u(0.07, 0.22), scale * u(0.32, 0.7)
    high, lean, blunt = wide * pick(rng, u(0.35, 0.6), u(0.6, 1.0), u(1.0, 1.7)), u(-0.2, 0.2) * tall, u(0.5, 1.1)
    foot, t = slim * u(0.9, 1.7), np.linspace(0, 1, 8)
    stem = lathe(np.stack([slim + (foot - slim) * (1 - t) ** 2, t * (tall + high * 0.3)], 1), 24)
    a = np.linspace(0, np.pi / 2, 14)
    cap = lathe(np.stack([wide * np.maximum(np.cos(a), 0) ** blunt + 0.004, high * np.sin(a)], 1), 40)
    if chance(rng, 0.5):
        cap -= ball((0, 0, 0), (wide * 0.9, wide * 0.9, high * u(0.2, 0.45)), 32)
    if chance(rng, 0.4):
        edge = ball((0, 0, 0), (wide, wide, high * u(0.1, 0.25)), 32)
        cap += edge - ball((0, 0, -high), (wide * 2, wide * 2, high * 0.9), 32) if chance(rng, 0.5) else edge
    parts = [stem, cap.rotate((0, u(-12, 12), 0)).translate((0, 0, tall))]
    if chance(rng, 0.3):
        parts.append(lathe([(slim * u(1.5, 2.2), tall * 0.6), (slim * 0.9, tall * 0.6 + slim * u(0.4, 1))], 24))
    if chance(rng, 0.25):  # warts
        ring_of = ball((wide * 0.62, 0, tall + high * 0.68), wide * 0.1, 12)
        parts += around(ring_of, pick(rng, 4, 5, 6))
    return [part.warp_batch(lambda p: p + np.outer((p[:, 2] / (tall + high)) ** 2, [lean, 0, 0])) for part in parts]


def bed(rng: Rng) -> Manifold:
    """Beds, their heads at -x: a frame on legs, a mattress, pillows, boards of panels or bars; some of two storeys."""
    u = rng.uniform
    long, wide, thick, rise = u(0.9, 1.1), u(0.4, 0.95), u(0.1, 0.22), u(0.12, 0.35)
    storeys, post = (2 if chance(rng, 0.12) else 1), u(0.025, 0.05)
    wide = min(wide, 0.5) if storeys == 2 else wide
    head, foot = u(0.25, 0.7), pick(rng, 0.0, u(0.05, 0.3), u(0.05, 0.3))
    style, bevel, parts = pick(rng, 0, 1, 2), u(0.01, 0.045), []
    for storey in range(storeys):
        z = rise + storey * u(0.8, 1.0)
        parts.append(box((2 * long, 2 * wide, 0.09), (0, 0, z)))
        mattress = (2 * long * 0.97, 2 * wide * 0.96, thick)
        parts.append(box(mattress, (0.01, 0, z + 0.03 + thick / 2), bevel))
        count = 2 if wide > 0.6 else 1
        for y in (np.arange(count) - (count - 1) / 2) * wide * 0.95:
            pillow = np.array([u(0.16, 0.24), min(wide / count, 0.5) * 0.8, u(0.05, 0.09)])
            parts.append(ball((-long * 0.76, y, z + 0.03 + thick + pillow[2] * 0.3), pillow))
        if chance(rng, 0.5):
            cover = (2 * long * u(0.5, 0.7), 2 * wide * 1.01, thick * 1.05)
            parts.append(box(cover, (long - cover[0] / 2, 0, z + 0.05 + thick / 2), 0.03))
        top = z + thick
        for at, tall in ((-long, head), (long, foot)):
            if tall:
                parts += _board(style, at, wide, top, tall, post)
    tallest = top + head
    for at, tall in ((-long, tallest), (long, tallest if storeys == 2 else top + foot)):
        legs = rod((at, wide - post, 0), (at, wide - post, tall if style == 1 or storeys == 2 else rise), post)
        parts += both_sides([legs])
    if storeys == 2:
        side = [(long * 0.5, wide + 0.03, z) for z in np.linspace(0.15, top, 6)]
        parts += [rod(np.array(p) - [0.14, 0, 0], np.array(p) + [0.14, 0, 0], 0.025) for p in side]
        parts += [
            rod((long * 0.5 + s, wide + 0.03, 0), (long * 0.5 + s, wide + 0.03, top), 0.03) for s in (-0.14, 0.14)
        ]
    return union(parts)


def _board(style: int, at: float, wide: float, top: float, tall: float, post: float) -> list[Manifold]:
    """A headboard or footboard: a panel, bars, or an arch."""
    low = top - 0.2
    if style == 0:
        return [box((0.08, 2 * wide, tall + 0.2), (at, 0, low + (tall + 0.2) / 2), 0.015)]
    if style == 1:
        bars = [rod((at, y, low), (at, y, top + tall), post * 0.6) for y in np.linspace(-0.75, 0.75, 6) * wide]
        rails = [rod((at, -wide, z), (at, wide, z), post * 0.8) for z in (low, top + tall * 0.9)]
        return bars + rails
    y = np.linspace(-1, 1, 17)
    outline = [(-wide, 0), *zip(y * wide, 0.2 + tall * (0.6 + 0.4 * np.sqrt(1 - y**2)), strict=True), (wide, 0)]
    return [plate(cross_section(outline), 0.07).rotate((90, 0, 90)).translate((at - 0.035, 0, low))]


def house(rng: Rng) -> Manifold:
    """Houses, their doors towards +x: storeys under a gabled or hipped roof, a wing, a porch, chimneys, windows."""
    u = rng.uniform
    deep, wide, storey = u(0.4, 0.7), u(0.45, 0.8), u(0.38, 0.5)
    tall = storey * pick(rng, 1, 1, 1, 2, 2, 3)
    parts = [box((2 * deep, 2 * wide, tall), (0, 0, tall / 2))]
    pitch, over, across = u(0.35, 1.1), u(0.06, 0.16), chance(rng, 0.5)
    parts.append(_roof(rng, deep, wide, pitch, over, across).translate((0, 0, tall - 0.01)))
    parts[0] -= union(_openings(rng, deep, wide, tall, storey))
    if chance(rng, 0.35):  # a wing that looks forward
        out, broad = u(0.2, 0.45), wide * u(0.4, 0.6)
        side = pick(rng, -1, 1) * (wide - broad)
        wing = box((deep + out, 2 * broad, tall * 0.9), ((deep + out) / 2, side, tall * 0.45))
        top = _roof(rng, (deep + out) / 2, broad, pitch, over, False)
        parts += [wing, top.translate(((deep + out) / 2, side, tall * 0.9 - 0.01))]
    if chance(rng, 0.35):
        porch, high = u(0.2, 0.35), storey * 0.85
        parts.append(box((porch, wide * 1.4, 0.05), (deep + porch / 2, 0, high)))
        parts.append(box((porch, wide * 1.4, 0.05), (deep + porch / 2, 0, 0.025)))
        parts += both_sides([rod((deep + porch * 0.9, wide * 0.62, 0), (deep + porch * 0.9, wide * 0.62, high), 0.03)])
    elif chance(rng, 0.5):
        parts += [box((0.12 * k, 0.36, 0.05), (deep + 0.06 * k, 0, 0.17 - 0.05 * k)) for k in (1, 2, 3)]
    if chance(rng, 0.6):
        at = (u(-0.5, 0.3) * deep, u(0.3, 0.7) * pick(rng, -1, 1) * wide, tall)
        parts.append(box((u(0.1, 0.18), u(0.1, 0.18), 2 * pitch * min(deep, wide)), at))
    if chance(rng, 0.3):
        parts.append(box((2.2 * deep, 2.2 * wide, 0.05), (0, 0, 0)))
    return union(parts)


def _roof(rng: Rng, deep: float, wide: float, pitch: float, over: float, across: bool) -> Manifold:
    """A roof from z = 0; its ridge runs along y where it goes across."""
    span, along = (deep, wide) if across else (wide, deep)
    high, span, along = pitch * span, span + over, along + over
    inset = along * rng.uniform(0.3, 0.8) if chance(rng, 0.25) else 0.0
    corners = np.array([[s * along, r * span, 0] for s in (1, -1) for r in (1, -1)])
    ridge = np.array([[s * (along - inset), 0, high] for s in (1, -1)])
    roof = Manifold.hull_points(np.concatenate([corners, corners + [0, 0, 0.05], ridge]))
    return roof.rotate((0, 0, 90)) if across else roof


def _openings(rng: Rng, deep: float, wide: float, tall: float, storey: float) -> list[Manifold]:
    """A door in front, windows all around: recesses."""
    found = [box((0.12, 0.2, 0.3), (deep, 0, 0.15))]
    for z in np.arange(storey * 0.55, tall, storey):
        for y in np.linspace(-0.65, 0.65, pick(rng, 2, 3, 4)) * wide:
            if abs(y) > 0.2 or z > storey:
                found.append(box((0.1, 0.16, 0.18), (deep, y, z)))
            found.append(box((0.1, 0.16, 0.18), (-deep, y, z)))
        for x in np.linspace(-0.55, 0.55, pick(rng, 1, 2, 3)) * deep:
            found += both_sides([box((0.14, 0.1, 0.18), (x, wide, z))])
    return found
