"""A small transformer over the tiny tokenizer's tokens."""

from __future__ import annotations

import pytest
import torch
from make_tiny_model import DATA

from vat3d import MeshGenerator, MeshTokenizer
from vat3d.generation.network import GeneratorConfig, TokenTransformer


@pytest.fixture(scope="session")
def tokenizer() -> MeshTokenizer:
    return MeshTokenizer.from_pretrained(DATA / "tiny")


@pytest.fixture(scope="session")
def config(tokenizer) -> GeneratorConfig:
    """Three scales, with pictures."""
    scales = tokenizer.model.scales
    return GeneratorConfig(
        tokenizer.model.model_id, scales[:3], codes=32, channels=4, width=16, heads=2,
        hidden=24, layers=2, names=("chair", "lamp", "skull"), picture=320, patches=16,
    )  # fmt: skip


@pytest.fixture(scope="session")
def transformer(config) -> TokenTransformer:
    torch.manual_seed(3)
    return TokenTransformer(config).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def generator(transformer, tokenizer) -> MeshGenerator:
    return MeshGenerator(transformer, tokenizer)
