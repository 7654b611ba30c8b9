import pytest
import torch
from make_tiny_model import DATA

from setcore.errors import InputError
from vat3d import MeshTokenizer
from vat3d.network import precision
from vat3d.training.config import TrainConfig


def test_products_are_in_bfloat16_only_where_the_cpu_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = torch.ones(2, 3), torch.ones(3, 5)
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(precision, "has_bfloat16", lambda has=has: has)
        with precision.autocast():
            assert (left @ right).dtype == expected
        for given in ("float32", "bfloat16"):
            with precision.autocast(given):
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
    precision.has_bfloat16.cache_clear()
    try:
        assert precision.has_bfloat16() == expected
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
        precision.has_bfloat16.cache_clear()
        assert not precision.has_bfloat16()
    finally:
        precision.has_bfloat16.cache_clear()
