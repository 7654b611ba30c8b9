import pytest
import torch
from make_tiny_model import DATA

from setcore import devices
from setcore.errors import InputError
from vat3d import MeshTokenizer
from vat3d.training.config import TrainConfig


def test_auto_is_the_best_device_that_is_there() -> None:
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert devices.find_device().type == devices.find_device("auto").type == best
    assert devices.find_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:99", "warp", "", "xpu"])
def test_a_device_that_is_not_there_is_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"device '{name}' is not there"):
        devices.find_device(name)


def test_products_are_in_bfloat16_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = torch.ones(2, 3), torch.ones(3, 5)
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "has_bfloat16", lambda has=has: has)
        with devices.autocast():
            assert (left @ right).dtype == expected
        for given in ("float32", "bfloat16"):
            with devices.autocast(given):
                assert (left @ right).dtype == getattr(torch, given)


@pytest.mark.parametrize("given", ["float16", "", "AUTO"])
def test_an_unknown_precision_is_refused_by_name(given: str) -> None:
    with pytest.raises(InputError, match=r"auto, float32, bfloat16"):
        MeshTokenizer.from_pretrained(DATA / "tiny", precision=given)
    with pytest.raises(InputError, match=r"auto, float32, bfloat16"):
        TrainConfig(precision=given)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"neon": True}, True),
    ],
)
def test_a_cpu_that_emulates_bfloat16_does_not_have_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    devices.has_bfloat16.cache_clear()
    try:
        assert devices.has_bfloat16() == expected
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
        devices.has_bfloat16.cache_clear()
        assert not devices.has_bfloat16()
    finally:
        devices.has_bfloat16.cache_clear()
