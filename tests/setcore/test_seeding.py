"""Random numbers depend on seed and position, and on nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from setcore.seeding import derive_seed, numpy_generator, torch_generator


def test_seed_is_the_stated_hash_and_fits_torch():
    digest = hashlib.sha256(b"7/step/17").digest()
    assert derive_seed(7, "step", 17) == int.from_bytes(digest[:8], "little") >> 1
    assert all(0 <= derive_seed(seed) < 2**63 for seed in range(200))


def test_positions_do_not_collide():
    seeds = {derive_seed(seed, "step", step) for seed in range(20) for step in range(500)}
    assert len(seeds) == 20 * 500
    assert derive_seed(1, 23) != derive_seed(12, 3)


def test_generators_repeat_and_leave_the_global_state_alone():
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is the point
    for generator, draw in (
        (torch_generator, lambda g: torch.randn(5, generator=g)),
        (numpy_generator, np.random.Generator.random),
    ):
        first, again, other = (np.asarray(draw(generator(3, "data", step))) for step in (0, 0, 1))
        assert (first == again).all()
        assert (first != other).all()
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # noqa: NPY002
