"""Training samples: what each column means, what is refused, and what identifies a geometry."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from vat3d.data.sampling import HALF_DOMAIN, check_signs, sample_solid
from vat3d.errors import MeshError
from vat3d.mesh.canonical import canonical_mesh, geometry_hash
from vat3d.mesh.solid import Solid

SPHERE = trimesh.creation.icosphere(subdivisions=4)


def canonical(vertices, faces):
    return canonical_mesh(np.asarray(vertices, np.float64), np.asarray(faces, np.int64))


def test_samples_of_a_sphere():
    samples = sample_solid(Solid(canonical(SPHERE.vertices * 5 - 2, SPHERE.faces)), seed=7, points=1500)
    assert {name: (a.shape, a.dtype) for name, a in samples.items()} == {
        "surface": ((1500, 6), np.float16),
        "near": ((1500, 4), np.float16),
        "volume": ((1500, 4), np.float16),
    }
    surface, near, volume = (samples[k].astype(np.float64) for k in ("surface", "near", "volume"))
    np.testing.assert_allclose(np.linalg.norm(surface[:, :3], axis=1), 1, atol=2e-3)
    np.testing.assert_allclose(surface[:, 3:], surface[:, :3], atol=0.06)
    for part in (near, volume):
        np.testing.assert_allclose(part[:, 3], np.linalg.norm(part[:, :3], axis=1) - 1, atol=2e-3)
    assert np.abs(volume[:, :3]).max() <= HALF_DOMAIN
    np.testing.assert_allclose((volume[:, 3] < 0).mean(), np.pi * 4 / 3 / (2 * HALF_DOMAIN) ** 3, atol=0.05)
    tight, wide = near[:750, 3], near[750:, 3]
    np.testing.assert_allclose([tight.std(), wide.std()], [0.01, 0.04], rtol=0.15)


def test_samples_depend_on_the_seed_alone():
    solid = Solid(canonical(SPHERE.vertices, SPHERE.faces))
    first, again, other = (sample_solid(solid, seed, points=64) for seed in (1, 1, 2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
        assert not np.array_equal(values, other[name])


def test_absurd_signs_are_refused():
    good = sample_solid(Solid(canonical(SPHERE.vertices, SPHERE.faces)), seed=0, points=512)
    check_signs(good)
    for name in ("near", "volume"):
        wrong = good | {name: good[name] * np.array([1, 1, 1, -1], np.float16)}
        if name == "near":
            wrong["near"][:, 3] = -1
        with pytest.raises(MeshError, match="inside and outside"):
            check_signs(wrong)


def test_geometry_hash():
    mesh = canonical(SPHERE.vertices, SPHERE.faces)
    order = np.random.default_rng(0).permutation(len(SPHERE.faces))
    assert geometry_hash(mesh) == geometry_hash(canonical(SPHERE.vertices * 4 + 1, SPHERE.faces[order]))
    assert geometry_hash(mesh) != geometry_hash(canonical(SPHERE.vertices * [1, 1, 0.99], SPHERE.faces))
    assert len(geometry_hash(mesh)) == 32
