"""A GPU computes what the CPU computes; run by `tools/gpu_check.sh`, and with ``--device cpu`` to try it out."""

from __future__ import annotations

import numpy as np
import pytest

from braincl import InContextEncoder, RidgeCV
from setcore.devices import find_device
from setcore.errors import InputError
from vat3d import MeshGenerator, MeshTokenizer, evaluate
from vat3d.demo import MESH

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def device(request: pytest.FixtureRequest) -> str:
    name = request.config.getoption("--device")
    try:
        find_device(name)
    except InputError as error:
        pytest.skip(str(error))
    return name


@pytest.fixture(scope="module")
def subject() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures and responses of 100 training pictures, and 30 other pictures."""
    rng = np.random.default_rng(0)
    features = 96
    X = rng.standard_normal((130, features), dtype=np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    Y = X @ rng.standard_normal((features, 400), dtype=np.float32)
    return X[:100], (Y + rng.standard_normal(Y.shape, dtype=np.float32))[:100], X[100:]


@pytest.mark.parametrize("kind", [InContextEncoder.from_pretrained, RidgeCV], ids=["in context", "ridge"])
def test_predictions_and_their_uncertainty(device: str, subject, kind) -> None:
    X, Y, others = subject
    there, here = kind(device=device).fit(X, Y), kind(device="cpu").fit(X, Y)
    np.testing.assert_allclose(there.predict(others), here.predict(others), atol=2e-3 * Y.std())
    if kind is not RidgeCV:
        spread = [fitted.predict(others, return_std=True)[1] for fitted in (there, here)]
        np.testing.assert_allclose(*spread, rtol=1e-2)


def test_a_file_decodes_to_the_same_surface(device: str) -> None:
    there, here = (MeshTokenizer.from_pretrained(device=name) for name in (device, "cpu"))
    stream = here.encode(MESH, 512, "fast")
    found = evaluate(here.decode(stream), there.decode(stream))
    assert found["f_score@0.005"] > 0.999
    assert found["watertight"]


def test_a_file_is_as_good_as_one_from_the_cpu(device: str) -> None:
    scores = []
    for name in (device, "cpu"):
        tokenizer = MeshTokenizer.from_pretrained(precision="float32", device=name)
        stream = tokenizer.encode(MESH, 512, "fast")
        assert len(stream.to_bytes()) <= 512
        scores.append(evaluate(MESH, tokenizer.decode(stream))["f_score@0.02"])
    assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_what_is_generated_decodes_watertight(device: str) -> None:
    generator = MeshGenerator.from_pretrained(device=device)
    mesh = generator.tokenizer.decode(generator.sample(1, seed=0)[0])
    assert mesh.is_watertight
