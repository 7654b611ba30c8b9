"""Families of organic procedural shapes: smooth unions of bones and blobs, mostly mirror-symmetric and upright."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from vat3d.procedural.notes import note
from vat3d.procedural.parts import Blend, Rng, chance, pick, rotation, tube, union


def quadruped(rng: Rng) -> Manifold:
    """From dachshund to giraffe: spine, neck, head with snout and ears, four jointed legs, tail."""
    u = rng.uniform
    body = Blend(u(0.02, 0.06))
    length, girth, leg = u(0.8, 1.4), u(0.13, 0.32), u(0.2, 0.95)
    height = leg + girth * 0.6
    spine = np.array(
        [[-length / 2, 0, height], [0, 0, height + u(-0.08, 0.08)], [length / 2, 0, height + u(-0.05, 0.15)]]
    )
    body.chain(spine, [girth * u(0.8, 1.1), girth * u(0.8, 1.15), girth * u(0.85, 1.1)])
    neck, slope = u(0.1, 0.75), u(0.1, 1.4)
    head = spine[2] + [neck * np.cos(slope) + girth * 0.5, 0, neck * np.sin(slope) + girth * 0.3]
    skull = girth * u(0.45, 0.85)
    body.bone(spine[2] + [girth * 0.3, 0, 0], head, girth * u(0.5, 0.75), skull * 0.75)
    body.blob(head, skull * np.array([u(1, 1.4), u(0.8, 1), u(0.8, 1.1)]))
    snout = u(0.05, 0.45)
    body.bone(head, head + [skull * 0.6 + snout, 0, -u(0, 0.8) * snout], skull * u(0.5, 0.7), skull * u(0.25, 0.55))
    if chance(rng, 0.15):  # trunk
        tip = head + [skull + u(0.1, 0.3), 0, -u(0.3, 0.9) * height]
        body.chain([head, (head + tip) / 2 + [0.15, 0, 0], tip], [skull * 0.4, skull * 0.3, skull * 0.18])
    start = len(body)
    ear = u(0.04, 0.3)
    out = np.array([-u(0, 0.5), u(0.3, 1), u(0.3, 1.2)])
    body.blob(head + [0, skull * 0.6, skull * 0.6] + ear * 0.4 * out, ear * np.array([0.35, 0.5, 1.0]))
    if chance(rng, 0.3):  # horns
        horn = head + [0, skull * 0.4, skull * 0.8]
        grow = u(0.15, 0.5)
        body.chain(
            [horn, horn + grow * np.array([-0.2, 0.5, 0.6]), horn + grow * np.array([u(-1, 0.6), u(0, 0.8), 1.1])],
            [0.045, 0.035, 0.02],
        )
    thick, spread = leg * u(0.09, 0.16) + u(0.02, 0.06), girth * u(0.4, 0.75)
    for x, bend in ((spine[0, 0] + girth * 0.2, u(-0.2, 0.25)), (spine[2, 0] - girth * 0.1, u(-0.2, 0.1))):
        swing = u(-0.25, 0.25) * leg
        hip = np.array([x, spread, height - girth * 0.2])
        knee = np.array([x + bend * leg + swing / 2, spread * u(0.9, 1.3), leg * u(0.4, 0.55)])
        foot = np.array([x + swing, spread * u(0.9, 1.2), thick * 0.6])
        body.chain([hip, knee, foot], [thick * u(1.2, 2), thick, thick * u(0.6, 0.9)])
        body.bone(foot, foot + [thick * u(0.3, 1.6), 0, -0.1 * thick], thick * u(0.7, 1))
    body.mirror(start)
    tail, base = u(0.1, 0.9), spine[0] + [-girth * 0.7, 0, girth * 0.2]
    body.chain(
        [base, base + [-0.5 * tail, 0, u(-0.5, 0.4) * tail], base + [-u(0.2, 1) * tail, 0, u(-0.9, 1) * tail]],
        [girth * u(0.15, 0.5), girth * 0.2, u(0.02, 0.09)],
    )
    return body.solid()


def humanoid(rng: Rng) -> Manifold:
    """People, robots and dolls: standing, walking, sitting, arms anywhere."""
    u = rng.uniform
    body = Blend(u(0.012, 0.035))
    legs, torso, wide, fat = u(0.35, 0.55), u(0.28, 0.4), u(0.1, 0.17), u(0.7, 1.5)
    sitting = chance(rng, 0.2)
    hip = np.array([0, 0, 0.26 if sitting else legs])
    chest = hip + [u(-0.06, 0.08), 0, torso]
    body.blob(hip + [0, 0, 0.02], [0.075 * fat, wide * u(0.75, 1), 0.08])
    body.blob(hip * 0.5 + chest * 0.5, [0.07 * fat, wide * u(0.65, 0.95), torso * 0.4])
    body.blob(chest - [0, 0, 0.05], [0.08 * fat, wide * u(0.9, 1.15), 0.1])
    head = chest + [u(-0.01, 0.04), 0, u(0.13, 0.2)]
    size = u(0.07, 0.14)
    body.bone(chest, head, 0.035 * fat + 0.015, 0.04)
    body.blob(head + [0, 0, size * 0.3], size * np.array([u(0.8, 1), u(0.7, 0.9), u(0.95, 1.2)]))
    if chance(rng, 0.3):  # hat
        body.blob(head + [0, 0, size * 1.1], size * np.array([u(1, 1.8), u(1, 1.8), 0.25]))
        body.bone(head + [0, 0, size], head + [0, 0, size * u(1.2, 2)], size * 0.6)
    if chance(rng, 0.2):  # skirt or coat
        body.bone(hip + [0, 0, 0.05], hip * [1, 1, u(0.2, 0.7)], wide * 0.7, wide * u(1, 1.6))
    symmetric = chance(rng, 0.5)
    pose = rng.bit_generator.state
    for side in (1, -1):
        if symmetric:
            rng.bit_generator.state = pose
        mirror = np.array([1, side, 1])
        shoulder = chest + mirror * [0, wide * 1.05, -0.02]
        lift, forward, bend = u(-1.4, 1.3), u(-0.6, 0.9), u(0, 1.6)
        upper, lower = torso * u(0.5, 0.65), torso * u(0.5, 0.65)
        elbow = shoulder + mirror * upper * np.array([forward * 0.5, max(np.cos(lift), 0.12), np.sin(lift)])
        hand = elbow + mirror * lower * np.array([np.sin(bend), 0.5 * np.cos(lift), np.sin(lift) * np.cos(bend) * 0.8])
        arm = u(0.025, 0.04) * (0.6 + 0.4 * fat)
        body.chain([shoulder, elbow, hand], [arm * 1.3, arm, arm * 0.8])
        body.blob(hand, arm * np.array([1.5, 1.0, 1.5]))
        stance, step, thigh = u(0.3, 1.1), u(-0.18, 0.18) * (not symmetric), u(0.05, 0.08) * (0.6 + 0.4 * fat)
        start = hip + mirror * [0, wide * 0.5, -0.02]
        if sitting:
            knee = start + mirror * [u(0.2, 0.28), u(0, 0.1), u(-0.02, 0.05)]
            foot = knee * [1, 1, 0] + [u(-0.1, 0.1), 0, 0.03]
        else:
            foot = np.array([step, side * wide * stance, 0.03])
            knee = (start + foot) / 2 + [u(0, 0.06), 0, 0]
        body.chain([start, knee, foot], [thigh, thigh * 0.75, thigh * 0.5])
        body.bone(foot, foot + [u(0.07, 0.13), 0, -0.005], thigh * 0.5, thigh * 0.4)
    return body.solid()


def bird(rng: Rng) -> Manifold:
    """Standing or flying birds, penguins, bats."""
    u = rng.uniform
    body = Blend(u(0.015, 0.035))
    tilt, long, fat = u(-0.2, 1.2), u(0.3, 0.55), u(0.12, 0.22)
    back, front = np.array([-long * np.cos(tilt), 0, -long * np.sin(tilt)]) * 0.5, np.zeros(3)
    front = -back
    body.bone(back, front, fat * u(0.5, 0.9), fat)
    neck = u(0.02, 0.4)
    head = front + [neck * u(0.2, 0.8) + 0.08, 0, neck + 0.06]
    size = u(0.07, 0.13)
    body.bone(front, head, fat * u(0.35, 0.6), size * 0.7)
    body.blob(head, size)
    beak = u(0.06, 0.3)
    body.bone(head, head + [size + beak, 0, -beak * u(0, 0.5)], size * 0.4, 0.015)
    tail = u(0.1, 0.5)
    body.blob(
        back + [-tail * 0.6, 0, -tail * u(-0.2, 0.4)], [tail * 0.7, u(0.05, 0.2), 0.025], rotation("y", u(-40, 20))
    )
    start = len(body)
    flying = chance(rng, 0.5)
    note(rng, "flying bird" if flying else "")
    if flying:  # wings spread
        span, chord = u(0.5, 1.1), u(0.1, 0.2)
        mid = front * 0.4 + [0, span * 0.5, u(-0.05, 0.3)]
        tip = mid + [-u(0, 0.35), span * 0.5, u(-0.3, 0.25)]
        root = front * 0.3
        for a, b, c in ((root, mid, chord), (mid, tip, chord * 0.7)):
            along = (b - a) / np.linalg.norm(b - a)
            across = np.cross(along, [0.3, 0, 1])
            across /= np.linalg.norm(across)
            turn = np.stack([across, along, np.cross(across, along)], 1)
            body.blob((a + b) / 2, [c, float(np.linalg.norm(b - a)) * 0.65, 0.022], turn)
    else:
        body.blob(
            [-0.08, fat * 0.95, 0], [long * u(0.6, 0.9), 0.035, fat * 0.7], rotation("y", np.degrees(-tilt) * 0.8)
        )
    if chance(rng, 0.75):
        leg = u(0.1, 0.5)
        hip = np.array([u(-0.08, 0.08), fat * 0.45, back[2] * 0.3 - fat * 0.4])
        foot = hip + [u(-0.05, 0.1), 0, -leg]
        body.chain([hip, hip + [0.02, 0, -leg * 0.5], foot], [0.05, 0.03, 0.024])
        body.bone(foot, foot + [0.1, 0.02, 0], 0.024)
    body.mirror(start)
    return body.solid()


def fish(rng: Rng) -> Manifold:
    """Fish, sharks, whales, dolphins: a tapered body with fins."""
    u = rng.uniform
    body = Blend(u(0.012, 0.03))
    tall, wide = u(0.14, 0.4), u(0.08, 0.2)
    x = np.linspace(-1, 0.9, 8)
    belly = np.interp(x, [-1, -0.7, u(-0.1, 0.4), 0.9], [0.12, u(0.2, 0.5), 1, u(0.2, 0.6)])
    bend = u(-0.15, 0.15) * (x - 0.2) ** 2
    for xi, b, y in zip(x, belly, bend, strict=True):
        body.blob([xi, y, 0], [0.26, wide * b, tall * b])
    flat = u(0.02, 0.035)
    fork, tail = u(0.15, 0.5), np.array([-1.1, bend[0], 0])
    horizontal = chance(rng, 0.3)
    for sign in (1, -1):
        tip = tail + (np.array([-0.25, sign * fork, 0]) if horizontal else np.array([-0.25, 0, sign * fork]))
        axis = tip - tail
        along = axis / np.linalg.norm(axis)
        normal = np.array([0, 0, 1.0]) if horizontal else np.array([0, 1.0, 0])
        turn = np.stack([along, np.cross(normal, along), normal], 1)
        body.blob((tail + tip) / 2, [float(np.linalg.norm(axis)) * 0.6, 0.1, flat], turn)
    for where, size in ((u(-0.3, 0.3), u(0.1, 0.4)), (u(-0.75, -0.4), u(0, 0.2))):
        if size > 0.06:
            body.blob([where, 0, tall * 0.85], [size * u(0.6, 1.4), flat, size], rotation("y", u(-40, 0)))
    start = len(body)
    fin = u(0.12, 0.45)
    body.blob([u(0.1, 0.5), wide + fin * 0.3, -tall * u(0, 0.5)], [fin * 0.4, fin, flat], rotation("x", u(-50, 20)))
    if chance(rng, 0.5):
        body.blob([u(-0.5, 0), wide * 0.6, -tall * 0.6], [fin * 0.35, flat, fin * 0.5], rotation("y", u(-30, 30)))
    body.mirror(start)
    return body.solid()


def insect(rng: Rng) -> Manifold:
    """Insects, spiders, scorpions, crabs: segments, six to ten jointed legs, feelers, sometimes wings."""
    u = rng.uniform
    body = Blend(u(0.012, 0.025))
    segments = pick(rng, 2, 3, 3, 4)
    x, at = 0.5, []
    for k in range(segments):
        size = u(0.1, 0.2) * (1.4 if k == segments - 1 else 1)
        long = size * u(0.9, 1.8)
        x -= long * 0.8
        body.blob([x, 0, u(-0.02, 0.04)], [long, size, size * u(0.6, 1)])
        at.append((x, size))
        x -= long * 0.7
    start = len(body)
    legs, reach, knee = pick(rng, 3, 3, 4, 4, 5), u(0.4, 0.9), u(0.02, 0.4)
    note(rng, {3: "insect", 4: "spider"}.get(legs, ""))
    root, size = at[min(1, segments - 1)]
    for k in range(legs):
        angle = np.radians(np.linspace(u(35, 60), u(115, 150), legs)[k])
        out = np.array([np.cos(angle), np.sin(angle), 0])
        hip = np.array([root, 0, 0]) + out * size * 0.8
        body.chain(
            [hip, hip + out * reach * 0.45 + [0, 0, knee], hip + out * reach + [0, 0, -u(0.15, 0.3)]],
            [0.04, 0.032, 0.022],
        )
    front, size = at[0]
    if chance(rng, 0.7):
        feeler = u(0.15, 0.6)
        head = np.array([front + size, size * 0.4, 0.05])
        body.chain(
            [head, head + feeler * np.array([0.5, 0.3, 0.5]), head + feeler * np.array([1, 0.6, u(0, 0.7)])],
            [0.028, 0.022, 0.02],
        )
    if chance(rng, 0.35):
        for tilt in (u(-10, 25), u(20, 60)):
            span = u(0.4, 0.8)
            turn = rotation("z", tilt) @ rotation("x", u(-5, 30))
            body.blob(np.array([root, 0, 0.1]) + turn @ [0, span * 0.9, 0], [span * 0.35, span, 0.022], turn)
    body.mirror(start)
    return body.solid()


def tree(rng: Rng) -> Manifold:
    """Trees, bushes and corals: forking branches, bare or with leafy blobs; firs as stacked cones."""
    u = rng.uniform
    body = Blend(u(0.015, 0.03))
    depth, spread, leafy = pick(rng, 2, 3, 3), u(0.35, 0.95), chance(rng, 0.6)

    def grow(at: np.ndarray, direction: np.ndarray, length: float, radius: float, level: int) -> None:
        bow = at + direction * length * 0.5 + rng.normal(0, 0.06, 3) * length
        tip = at + direction * length + rng.normal(0, 0.05, 3) * length
        body.chain([at, bow, tip], [radius, radius * 0.85, max(radius * 0.7, 0.018)])
        if level == 0:
            if leafy:
                body.blob(tip, u(0.12, 0.28) * np.array([1, 1, u(0.6, 1.1)]))
            return
        for _ in range(pick(rng, 2, 3, 3, 4)):
            turned = direction + rng.normal(0, spread, 3) + [0, 0, 0.15]
            grow(
                tip,
                turned / np.linalg.norm(turned),
                length * u(0.55, 0.85),
                max(radius * u(0.5, 0.75), 0.02),
                level - 1,
            )

    fir = chance(rng, 0.25)
    note(rng, "pine tree" if fir else "leafy tree" if leafy else "bare tree")
    if fir:
        layers = pick(rng, 3, 4, 5)
        body.bone([0, 0, 0], [0, 0, 0.4], u(0.04, 0.09))
        for k in range(layers):
            z, wide = 0.3 + k * 0.9 / layers, u(0.35, 0.5) * (1 - k / (layers + 0.5))
            body.blob([0, 0, z], [wide, wide, u(0.05, 0.1)])
            body.bone([0, 0, z], [0, 0, z + 0.8 / layers], wide * 0.6, wide * 0.15)
        return body.solid()
    grow(np.zeros(3), np.array([0, 0, 1.0]), u(0.4, 0.7), u(0.04, 0.1), depth if not leafy else 2)
    return body.solid()


def radial_creature(rng: Rng) -> Manifold:
    """Starfish, octopus, jellyfish, hands, corals, cacti: arms from a centre."""
    u = rng.uniform
    body = Blend(u(0.015, 0.04))
    arms, thick, droop = int(rng.integers(3, 11)), u(0.05, 0.13), u(-0.8, 0.6)
    body.blob([0, 0, 0], [u(0.15, 0.35), u(0.15, 0.35), u(0.12, 0.45)])
    hand = chance(rng, 0.25)
    note(rng, "" if hand else "octopus" if droop < -0.3 else "starfish")
    curl = u(-0.6, 0.6)
    for k in range(arms):
        angle = 2 * np.pi * k / arms if not hand else np.radians(np.linspace(-60, 80, arms)[k])
        out, side = np.array([np.cos(angle), np.sin(angle), 0]), np.array([-np.sin(angle), np.cos(angle), 0])
        reach = u(0.5, 1) if hand else 0.8
        path = [0.1 * out, reach * 0.5 * out + [0, 0, droop * 0.3], reach * out + curl * side * 0.4 + [0, 0, droop]]
        body.chain(curve_through(path), np.linspace(thick, thick * u(0.3, 0.8), 7))
    if hand:
        body.bone([0, 0, 0], [-u(0.4, 0.8), 0, 0], u(0.12, 0.2))
    return body.solid()


def curve_through(points: list[np.ndarray]) -> np.ndarray:
    """Seven points of a smooth curve."""
    from vat3d.procedural.parts import curve

    return curve(points, 7)


def snake(rng: Rng) -> Manifold:
    """Snakes, worms, eels, croissants: a thick curve, smooth or coiled."""
    u = rng.uniform
    n = 60
    t = np.linspace(0, 1, n)
    if chance(rng, 0.4):
        turns, rise = u(0.6, 3), u(0.1, 0.9)
        wide = np.linspace(u(0.3, 0.7), u(0.1, 0.7), n)
        path = np.stack([wide * np.cos(2 * np.pi * turns * t), wide * np.sin(2 * np.pi * turns * t), rise * t], 1)
    else:
        path = np.stack([2 * t, u(0.05, 0.35) * np.sin(2 * np.pi * u(0.5, 2.5) * t), 0.2 * u(-1, 1) * np.sin(3 * t)], 1)
    thick = u(0.03, 0.14) * np.interp(t, [0, u(0.1, 0.4), 1], [u(0.3, 1.2), 1, u(0.1, 1)])
    parts = [tube(path, thick, sides=16)]
    for end, radius in ((path[0], thick[0]), (path[-1], thick[-1])):
        blob = Blend(0.01)
        blob.blob(end, radius * np.array([1.2, 1.2, 1.05]))
        parts.append(blob.solid())
    return union(parts)


def head(rng: Rng) -> Manifold:
    """Heads and busts: skull, jaw, nose, brows, ears, neck, sometimes shoulders."""
    u = rng.uniform
    body = Blend(u(0.03, 0.06))
    body.blob([0, 0, 0.3], [u(0.42, 0.52), u(0.34, 0.42), u(0.42, 0.52)])
    body.blob([u(0.08, 0.2), 0, -0.05], [u(0.28, 0.36), u(0.24, 0.32), u(0.3, 0.42)])
    nose = u(0.06, 0.18)
    body.bone([0.42, 0, 0.25], [0.42 + nose, 0, u(0, 0.1)], 0.05, u(0.05, 0.09))
    body.blob([0.4, 0, -0.18], [0.1, 0.12, 0.04])
    start = len(body)
    body.blob([0.38, 0.16, 0.3], [0.1, 0.12, 0.05])
    body.blob([-0.02, 0.4, 0.12], [u(0.06, 0.14), 0.05, u(0.1, 0.3)])
    body.mirror(start)
    body.bone([-0.05, 0, -0.1], [-0.1, 0, -u(0.5, 0.8)], u(0.17, 0.26), u(0.2, 0.3))
    if chance(rng, 0.5):
        wide = u(0.4, 0.75)
        body.bone([-0.1, -wide, -0.85], [-0.1, wide, -0.85], u(0.15, 0.25))
        body.blob([-0.05, 0, -1.0], [0.28, wide * 0.9, 0.3])
    if chance(rng, 0.4):  # hair
        body.blob([-0.12, 0, 0.35], [u(0.45, 0.6), u(0.42, 0.55), u(0.45, 0.7)])
    return body.solid()


def blobs(rng: Rng) -> Manifold:
    """Potatoes, rocks, clouds, fruit, soft toys: ellipsoids melted together, half of them mirror-symmetric."""
    u = rng.uniform
    body = Blend(u(0.02, 0.12))
    for _ in range(int(rng.integers(2, 9))):
        turn = rotation("z", u(0, 360)) @ rotation("x", u(0, 360))
        body.blob(rng.normal(0, 0.3, 3) * [1, 1, u(0.3, 1)], u(0.1, 0.4, 3), turn)
    body.bone(rng.normal(0, 0.2, 3), rng.normal(0, 0.3, 3), u(0.1, 0.25))
    if chance(rng, 0.5):
        body.mirror()
    return body.solid()


def teddy(rng: Rng) -> Manifold:
    """Soft toys and cartoon figures: fat, short-limbed, big-headed, often with round ears."""
    u = rng.uniform
    body = Blend(u(0.015, 0.03))
    belly, skull = u(0.22, 0.34), u(0.18, 0.32)
    body.blob([0, 0, belly], [belly * u(0.75, 1), belly * u(0.8, 1), belly * u(0.9, 1.2)])
    top = np.array([0, 0, belly * 1.9 + skull * 0.7])
    body.blob(top, skull * np.array([u(0.8, 1), u(0.9, 1.15), u(0.8, 1)]))
    body.blob(top + [skull * 0.8, 0, -skull * 0.2], skull * u(0.25, 0.5))
    start = len(body)
    ear = skull * u(0.2, 0.55)
    body.blob(top + [0, skull * 0.8, skull * 0.7], ear * np.array([0.5, 0.8, u(0.8, 2.2)]))
    arm = np.array([u(0, 0.3), u(0.2, 0.4), u(-0.25, 0.25)])
    shoulder = np.array([0, belly * 0.7, belly * 1.5])
    body.bone(shoulder, shoulder + arm, u(0.06, 0.1))
    foot = np.array([u(0, 0.45), belly * u(0.6, 0.9), -u(0, 0.2) + 0.08])
    body.bone([0, belly * 0.5, belly * 0.5], foot, u(0.08, 0.12))
    body.blob(foot, [0.13, 0.09, 0.1])
    body.mirror(start)
    return body.solid()
