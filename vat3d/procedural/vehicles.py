"""Families of procedural vehicles: cars, lorries, tanks, aircraft, ships, rockets, cycles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from manifold3d import Manifold

from vat3d.procedural.notes import note
from vat3d.procedural.parts import (
    Rng,
    around,
    ball,
    both_sides,
    box,
    chance,
    cross_section,
    lathe,
    limb,
    pick,
    plate,
    profile_curve,
    ring,
    rod,
    superquadric,
    union,
)


def wheel_at(x: float, y: float, radius: float, width: float) -> Manifold:
    """A wheel on the ground, its axle along y."""
    return rod((x, y - width / 2, radius), (x, y + width / 2, radius), radius, segments=28)


def car(rng: Rng) -> Manifold:
    """Cars, vans, pick-ups, buses, jeeps: a bent side profile, narrowed at the roof, on wheels."""
    u = rng.uniform
    long, wide, belt, roof, r = u(0.8, 1.2), u(0.3, 0.48), u(0.28, 0.42), u(0.5, 0.95), u(0.12, 0.2)
    hood, trunk = u(0.0, 0.75), u(0.0, 0.7)
    front, back = long * (1 - hood), -long * (1 - trunk)
    floor = r * u(0.6, 1.1)
    side = [(-long, floor), (long, floor), (long, belt * u(0.75, 1)), (front, belt), (front - u(0, 0.3) * long, roof)]
    side += [(back + u(0, 0.3) * long, roof * u(0.9, 1)), (back, belt), (-long, belt * u(0.8, 1))]
    body = plate(cross_section(side), 2 * wide).rotate((90, 0, 0)).translate((0, wide, 0)).refine_to_length(0.15)
    taper = u(0.6, 1.0)

    def narrow(points: np.ndarray) -> np.ndarray:
        points = points.copy()
        above = np.clip((points[:, 2] - belt) / max(roof - belt, 1e-3), 0, 1)
        points[:, 1] *= (1 - (1 - taper) * above) * (1 - 0.12 * (points[:, 0] / long) ** 4)
        return points

    parts = [body.warp_batch(narrow)]
    axles = [long * u(0.5, 0.7), -long * u(0.5, 0.7)]
    if chance(rng, 0.15):
        axles.append(-long * 0.3)
    for x in axles:
        parts += both_sides([wheel_at(x, wide * u(0.85, 1.0), r, 0.12)])
    if chance(rng, 0.5):
        parts.append(box((0.08, 2 * wide, 0.07), (long, 0, floor + 0.06)))
        parts.append(box((0.08, 2 * wide, 0.07), (-long, 0, floor + 0.06)))
    if chance(rng, 0.3):
        parts += both_sides([box((0.06, 0.14, 0.06), (front * 0.7, wide, belt + 0.05))])
    return union(parts)


def truck(rng: Rng) -> Manifold:
    """Lorries, tractors, fire engines, trains, carts: a cab, a load and many wheels."""
    u = rng.uniform
    long, wide, r, chassis = u(0.8, 1.3), u(0.25, 0.4), u(0.12, 0.2), u(0.06, 0.12)
    parts = [box((2 * long, 1.6 * wide, chassis), (0, 0, r * 1.6))]
    cab, tall, deck = u(0.25, 0.5), u(0.45, 0.8), r * 1.6
    parts.append(box((cab, 2 * wide, tall), (long - cab / 2, 0, deck + tall / 2), u(0, 0.06)))
    load = rng.integers(4)
    rest, middle = 2 * long - cab - 0.05, -cab / 2 - 0.02
    if load == 0:
        parts.append(box((rest, 2 * wide, u(0.4, 0.9)), (middle, 0, deck + 0.35)))
    elif load == 1:
        parts.append(rod((-long, 0, deck + 0.3), (-long + rest, 0, deck + 0.3), u(0.22, 0.35), segments=32))
    elif load == 2:
        bed = box((rest, 2 * wide, 0.3), (middle, 0, deck + 0.15)) - box(
            (rest - 0.08, 2 * wide - 0.08, 0.4), (middle, 0, deck + 0.25)
        )
        parts.append(bed)
    else:
        arm = [
            np.array([0, 0, deck]),
            np.array([-u(0, 0.5), 0, deck + u(0.5, 0.9)]),
            np.array([-u(0.6, 1.3), 0, deck + u(0.1, 1.2)]),
        ]
        parts += [limb(a, b, 0.06) for a, b in pairwise(arm)]
        parts.append(box((0.25, 0.3, 0.2), arm[2]))
    for x in np.linspace(-long * 0.85, long * 0.75, int(rng.integers(2, 6))):
        parts += both_sides([wheel_at(x, wide * 0.85, r, 0.13)])
    if chance(rng, 0.3):
        parts.append(
            rod((long * 0.9, wide * 0.5, deck + tall * 0.8), (long * 0.9, wide * 0.5, deck + tall * 1.4), 0.05, 0.06)
        )
    return union(parts)


def tank(rng: Rng) -> Manifold:
    """Tanks, bulldozers: tracks, hull, turret and gun."""
    u = rng.uniform
    long, wide, tall = u(0.6, 0.9), u(0.28, 0.4), u(0.1, 0.18)
    track = union([rod((x, 0, 0), (x, 0.2, 0), tall, segments=24) for x in (-long * 0.85, long * 0.85)]).hull()
    hull = cross_section(
        [(-long, 0), (long * 0.9, 0), (long * u(0.95, 1.2), tall), (long * 0.6, 2 * tall), (-long * 0.95, 2 * tall)]
    )
    parts = both_sides([track.translate((0, wide, 0))])
    parts.append(plate(hull, 2 * wide + 0.02).rotate((90, 0, 0)).translate((0, wide + 0.01, 0)))
    if chance(rng, 0.8):
        turret = lathe([(u(0.22, 0.35), 0), (u(0.15, 0.3), u(0.14, 0.25))], pick(rng, 6, 8, 32)).scale(
            (u(1, 1.5), 1, 1)
        )
        at = (u(-0.3, 0.2), 0, 2 * tall)
        parts += [
            turret.translate(at),
            rod(np.array(at) + [0, 0, 0.09], np.array(at) + [u(0.6, 1.3), 0, 0.09 + u(0, 0.15)], 0.04, 0.032),
        ]
    else:
        parts += [
            box((0.5, 0.4, 0.35), (-0.2, 0, 2 * tall + 0.15)),
            box((0.06, 2.6 * wide, 0.3), (long * 1.25, 0, 0.02)),
        ]
    return union(parts)


def wing(root: np.ndarray, tip: np.ndarray, chord: float, end_chord: float, thick: float) -> Manifold:
    """A flat wing from root to tip, thicker at the root."""
    corners = []
    for at, c, t in ((root, chord, thick), (tip, end_chord, thick * 0.5)):
        span = (tip - root) / np.linalg.norm(tip - root)
        up = np.cross([1.0, 0, 0], span)
        corners += [
            at + [c * 0.5, 0, 0],
            at - [c * 0.5, 0, 0],
            at + up * t / 2 + [c * 0.15, 0, 0],
            at - up * t / 2 + [c * 0.15, 0, 0],
        ]
    return Manifold.hull_points(np.array(corners))


def plane(rng: Rng) -> Manifold:
    """Airliners, jets, biplanes, gliders, space ships: a fuselage with swept wings, tail, engines."""
    u = rng.uniform
    slim, tail = u(0.06, 0.14), u(0.1, 0.6)
    x = np.array([-1, -0.6, 0.1, 0.7, 1.0])
    r = slim * np.array([u(0.2, 0.5), u(0.7, 0.95), 1, u(0.75, 1), u(0.1, 0.4)])
    parts = [lathe(profile_curve(np.stack([r, x], 1), 24), 28).rotate((0, 90, 0)).scale((1, 1, u(0.9, 1.3)))]
    span, sweep, rise, chord = u(0.4, 1.3), u(-0.1, 0.7), u(-0.1, 0.2), u(0.15, 0.45)
    at, thick = np.array([u(-0.25, 0.3), 0, u(-0.8, 0.8) * slim]), u(0.035, 0.06)
    tip = at + [-sweep, span, rise]
    one = [wing(at, tip, chord, chord * u(0.2, 0.9), thick)]
    if chance(rng, 0.2):  # biplane
        lift = np.array([0.03, 0, u(0.2, 0.35)])
        one += [
            wing(at + lift, tip + lift, chord, chord * 0.8, thick),
            limb(tip * [1, 0.7, 1], tip * [1, 0.7, 1] + lift, 0.018),
        ]
        parts.append(limb(at, at + lift, 0.03))
    back = np.array([-0.85, 0, u(0, 1) * slim])
    if chance(rng, 0.75):
        one.append(wing(back, back + [-u(0, 0.25), u(0.2, 0.45), u(0, 0.15)], 0.2, 0.12, 0.035))
    fin = [wing(np.array([-0.85, 0, 0]), np.array([-0.85 - u(0, 0.25), 0.001, tail * 0.6 + slim]), 0.28, 0.14, 0.035)]
    if chance(rng, 0.2):
        fin = both_sides([wing(back, back + [-0.15, 0.15, tail * 0.6 + 0.1], 0.25, 0.15, 0.035)])
    engines = pick(rng, 0, 0, 1, 2)
    for k in range(engines):
        hub = at + (tip - at) * (0.3 + 0.3 * k) + [chord * 0.3, 0, -0.06]
        one.append(rod(hub - [0.15, 0, 0], hub + [0.12, 0, 0], u(0.03, 0.045), u(0.04, 0.065)))
    if chance(rng, 0.3):
        parts += [
            blade.rotate((0, 90, 0)).translate((1.0, 0, 0))
            for blade in around(box((0.05, 0.35, 0.03), (0, 0.17, 0)), pick(rng, 2, 3, 4))
        ]
    if chance(rng, 0.5):
        parts.append(ball((u(0.3, 0.7), 0, slim * 0.8), (u(0.1, 0.2), slim * 0.6, slim * 0.7)))
    return union(parts + both_sides(one) + fin)


def helicopter(rng: Rng) -> Manifold:
    """Helicopters, drones, blimps, balloons."""
    u = rng.uniform
    style = rng.integers(3)
    note(rng, ("helicopter", "drone", "blimp")[style])
    if style == 0:
        cabin = np.array([u(0.3, 0.45), u(0.18, 0.26), u(0.2, 0.28)])
        parts = [
            ball((0, 0, 0), cabin),
            rod((-cabin[0] * 0.6, 0, cabin[2] * 0.2), (-1.1, 0, cabin[2] * 0.5), 0.09, 0.035),
        ]
        parts += [rod((0, 0, cabin[2] * 0.8), (0, 0, cabin[2] + 0.12), 0.04)]
        rotor = box((u(0.7, 1.0), u(0.05, 0.09), 0.03), (0.4, 0, cabin[2] + 0.12))
        parts += around(rotor, pick(rng, 2, 3, 4, 5))
        parts += [
            wing(np.array([-1.05, 0, 0.05]), np.array([-1.2, 0.001, 0.45]), 0.2, 0.1, 0.04),
            box((0.04, 0.03, 0.35), (-1.15, 0.06, 0.25)),
        ]
        skid = limb((-0.3, 0.2, -cabin[2] - 0.12), (0.35, 0.2, -cabin[2] - 0.12), 0.022)
        strut = limb((0.1, 0.1, -cabin[2] * 0.8), (0.1, 0.2, -cabin[2] - 0.12), 0.02)
        return union(parts + both_sides([skid, strut, strut.translate((-0.25, 0, 0))]))
    if style == 1:
        arms, reach = pick(rng, 4, 6, 8), u(0.5, 0.8)
        arm = [
            limb((0, 0, 0), (reach, 0, 0.03), 0.035),
            rod((reach, 0, -0.05), (reach, 0, 0.09), 0.06),
            rod((reach, 0, 0.08), (reach, 0, 0.11), u(0.15, 0.25)),
        ]
        body = superquadric((0.25, 0.2, 0.09), u(0.3, 1), u(0.3, 1))
        return union([body, *(copy for part in arm for copy in around(part, arms))])
    long, fat = u(0.7, 1.0), u(0.25, 0.6)
    parts = [ball((0, 0, 0), (long, fat, fat), 32), box((0.4, 0.16, 0.14), (0.1, 0, -fat - 0.03), 0.03)]
    parts += [limb((x, 0, -fat * 0.7), (x, 0, -fat - 0.02), 0.03) for x in (0.0, 0.2)]
    fin = wing(np.array([-long * 0.85, 0, 0]), np.array([-long * 1.05, fat * 0.95, 0]), 0.35, 0.2, 0.04)
    return union(parts + [fin.rotate((a, 0, 0)) for a in (0, 90, 180, 270)])


def ship(rng: Rng) -> Manifold:
    """Boats, sailing ships, submarines, liners: a warped hull with cabins, masts, funnels, sails."""
    u = rng.uniform
    wide, deep, rake = u(0.12, 0.35), u(0.12, 0.25), u(0.0, 0.25)
    hull = box((2, 2 * wide, deep), (0, 0, 0)).refine_to_length(0.09)
    blunt, keel = u(1.5, 4), u(0.3, 1.0)

    def bend(points: np.ndarray) -> np.ndarray:
        points = points.copy()
        x, down = points[:, 0], 0.5 - points[:, 2] / deep
        points[:, 1] *= np.maximum(1 - np.abs(np.where(x > 0, x, 0.75 * x)) ** blunt, 0.03) * (1 - keel * 0.8 * down**2)
        points[:, 2] += rake * x**2 * (1 - 0.7 * down)
        points[:, 0] *= 1 - 0.15 * down
        return points

    parts = [hull.warp_batch(bend)]
    if chance(rng, 0.25):
        parts[0] -= parts[0].scale((0.9, 0.8, 1)).translate((0, 0, deep * 0.35))
        parts += [box((0.08, 1.6 * wide, 0.04), (x, 0, deep * 0.15)) for x in (-0.3, 0.2)]
    top = deep / 2
    for _ in range(pick(rng, 0, 1, 2, 3)):
        size = np.array([u(0.2, 0.8), wide * u(0.8, 1.3), u(0.1, 0.22)])
        parts.append(box(size, (u(-0.5, 0.1), 0, top + size[2] / 2 - 0.03)))
        top += size[2] * 0.8
    if chance(rng, 0.4):
        parts += [
            rod((x, 0, top * 0.5), (x - 0.05, 0, top + u(0.2, 0.35)), 0.07, 0.06)
            for x in np.linspace(-0.4, 0.1, pick(rng, 1, 2, 3))
        ]
    if chance(rng, 0.45):
        for x in np.linspace(-0.45, 0.5, pick(rng, 1, 2, 3)):
            mast = u(0.7, 1.3)
            parts.append(rod((x, 0, 0), (x, 0, mast), 0.03, 0.02))
            if chance(rng, 0.7):
                note(rng, "sailboat")
                sail = cross_section([(0, 0.2), (-u(0.2, 0.5), 0.22), (-u(0, 0.2), mast * 0.95), (0, mast * 0.95)])
                parts.append(
                    plate(sail, 0.03).translate((0, 0, -0.015)).rotate((90, 0, u(-25, 25))).translate((x, 0, 0))
                )
            else:
                parts += [box((0.03, w, 0.03), (x, 0, z * mast)) for w, z in ((0.5, 0.6), (0.35, 0.85))]
    return union(parts)


def rocket(rng: Rng) -> Manifold:
    """Rockets, missiles, pencils, bullets, torpedoes, flying saucers: lathes with fins."""
    u = rng.uniform
    if chance(rng, 0.2):
        note(rng, "flying saucer")
        wide = [(u(0.1, 0.3), 0), (1, u(0.12, 0.2)), (0.95, 0.25), (u(0.3, 0.5), u(0.3, 0.4)), (0.05, u(0.45, 0.7))]
        legs = around(limb((0.5, 0, 0.1), (0.7, 0, -0.25), 0.03), 3) if chance(rng, 0.5) else []
        return union([lathe(profile_curve(wide, 30), 48), *legs])
    r, nose = u(0.08, 0.22), u(0.2, 0.7)
    z = np.linspace(0, 1, 12)
    points = [
        (r * u(0.6, 1.1), 0),
        (r, 0.1),
        (r, u(0.3, 1)),
        *zip(r * np.sqrt(1 - z**2) + 0.004, 1 + nose * z, strict=True),
    ]
    parts = [lathe(points, 32)]
    fins, out = pick(rng, 3, 4), u(0.1, 0.4)
    fin = cross_section([(0, 0), (r + out, -u(0, 0.3)), (r + out * 0.9, u(0, 0.15)), (0, u(0.2, 0.5))])
    parts += around(plate(fin, 0.035).translate((0, 0, -0.017)).rotate((90, 0, 0)), fins)
    if chance(rng, 0.4):
        booster = lathe([(r * 0.6, 0), (r * 0.6, 0.6), (0.01, 0.8)], 20).translate((r * 1.5, 0, -0.05))
        parts += around(booster, pick(rng, 2, 4))
    turn = pick(rng, 0, 0, 90)
    note(rng, "lying rocket" if turn else "rocket")
    return union(parts).rotate((0, turn, 0))


def cycle(rng: Rng) -> Manifold:
    """Bicycles, motorcycles, scooters, wheelchairs: wheels with spokes on a tube frame."""
    u = rng.uniform
    r, gap, tyre, pipe = u(0.25, 0.36), u(0.45, 0.65), u(0.025, 0.07), u(0.02, 0.035)
    wheel = ring(r, tyre, 36, 10) + union(around(rod((0, 0, 0), (r, 0, 0), 0.016, segments=8), pick(rng, 5, 6, 8)))
    wheel = (wheel + rod((0, 0, -0.05), (0, 0, 0.05), 0.04)).rotate((90, 0, 0))
    parts = [wheel.translate((x, 0, r)) for x in (-gap, gap)]
    seat, bars, crank = (
        np.array([-0.2, 0, r + 0.42]),
        np.array([gap * 0.72, 0, r + u(0.35, 0.55)]),
        np.array([-0.05, 0, r]),
    )
    rear, front = np.array([-gap, 0, r]), np.array([gap, 0, r])
    for a, b in ((rear, crank), (crank, seat), (rear, seat), (crank, bars), (seat, bars), (bars, front)):
        parts.append(limb(a, b, pipe))
    parts.append(ball(seat + [0, 0, 0.03], (0.16, 0.07, 0.04)))
    parts.append(limb(bars + [-0.05, -u(0.2, 0.3), 0.06], bars + [-0.05, 0.25, 0.06], pipe))
    parts.append(limb(bars, bars + [-0.05, 0, 0.06], pipe))
    motor = chance(rng, 0.45)
    note(rng, "motorcycle" if motor else "bicycle")
    if motor:
        parts.append(box((0.4, 0.16, 0.25), crank + [0.05, 0, 0.08], 0.03))
        parts.append(ball(crank + [0.15, 0, 0.36], (0.25, 0.1, 0.1)))
        parts += [limb(rear + [0, 0.12, -0.05], crank + [0.1, 0.12, 0], 0.04)]
    return union(parts)
