"""Nothing that CUDA would refuse, and the copies between host and device: an exact list of places."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import trimesh
from make_tiny_model import DATA
from standin_device import Notes, standin_device
from toy_shapes import COMPONENTS, TRAIN, Named, Toy

from setcore.training import Budget, TrainingLoop
from vat3d.generation.generator import MeshGenerator
from vat3d.generation.network import GeneratorConfig, TokenTransformer
from vat3d.generation.train import train as train_generator
from vat3d.tokenizer import MeshTokenizer
from vat3d.training.refined_pool import TuningConfig
from vat3d.training.train import train
from vat3d.training.tune import tune

CONFIG = dataclasses.replace(
    TRAIN, device="meta", quantise_from=0.0, report_every=100, save_every=100, revive_every=2, basis_shapes=60
)
BATCH = ("in", "setcore.parallel.prefetch.prefetch")
"""What goes into a step."""
EXPORT = {
    ("in", "vat3d.training.train.averaged_network"),
    ("in", "vat3d.training.export.encoded_latents"),
    ("in", "vat3d.training.export.priced_ids"),
    ("out", "vat3d.training.export.priced_ids"),
    ("out", "vat3d.training.export.write_release"),
}
CHECKPOINT = {("out", "setcore.training.TrainingLoop._read_figures"), ("out", "setcore.checkpoint.save_tensors")}
DECODING = {  # a stream goes in; grid points go in and their distances come out: meshes are extracted on the CPU
    ("in", "vat3d.codec.decode.StreamDecoder.signed_distance"),
    ("in", "vat3d.codec.decode.StreamDecoder.signed_distance.distance"),
    ("out", "vat3d.codec.decode.StreamDecoder.signed_distance.distance"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model")
    config = dataclasses.replace(TRAIN, quantise_from=0.5, learning_rate=3e-3, report_every=1000, basis_shapes=120)
    train([Toy()], out, COMPONENTS, config, Budget(steps=80), progress=False)
    return out


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Notes]:
    """Notes whose phases are "start", "step" from the first step on, and "end" from the first look at figures on."""
    used, read = TrainingLoop._used, TrainingLoop._read_figures
    with standin_device() as noted:

        def begin(loop: TrainingLoop) -> float:
            noted.phase = "step"
            return used(loop)

        def end(loop: TrainingLoop) -> None:
            noted.phase = "end"
            read(loop)

        monkeypatch.setattr(TrainingLoop, "_used", begin)
        monkeypatch.setattr(TrainingLoop, "_read_figures", end)
        yield noted


def test_training_a_tokenizer(notes: Notes, tmp_path: Path) -> None:
    train([Toy(), Toy(24)], tmp_path, COMPONENTS, CONFIG, Budget(steps=3), progress=False)
    place = "vat3d.network.quantizer.ScaleQuantizer"
    once = {("in", f"{place}.initialise"), ("out", f"{place}.initialise")}  # where the quantiser joins
    seldom = {("waits", f"{place}.revive")}  # every `revive_every` steps
    assert notes.found["start"] == {("in", "vat3d.training.train._train")}
    assert notes.found["step"] == {BATCH} | once | seldom
    assert notes.found["end"] == CHECKPOINT | EXPORT


def test_tuning_a_tokenizer(notes: Notes, model: Path, tmp_path: Path) -> None:
    config = TuningConfig(training=CONFIG, groups=2, visits=3, stored=300, fewest=4, encoder_every=2)
    tune(model, [Toy()], tmp_path, config, Budget(steps=7), progress=False)
    assert notes.found["start"] == {("in", "vat3d.training.tune.tune"), ("in", "vat3d.training.tune._tune")}
    assert notes.found["step"] == {BATCH}
    assert notes.found["end"] == CHECKPOINT | EXPORT


def test_training_a_generator(notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vat3d.generation.train.BATCH", 4)
    tokenizer = MeshTokenizer.from_pretrained(DATA / "tiny", "float32", "meta")
    train_generator([Named()], tmp_path, tokenizer, Budget(steps=3), progress=False, device="meta")
    tokens = "vat3d.generation.shape_tokens.shape_tokens"
    assert notes.found["start"] == {
        ("in", "vat3d.tokenizer.MeshTokenizer.__init__"), ("in", tokens), ("out", tokens),
        ("in", "vat3d.generation.train.train"), ("in", "vat3d.generation.train._train"),
    }  # fmt: skip
    assert notes.found["step"] == {BATCH}
    assert notes.found["end"] == CHECKPOINT | {("out", "vat3d.generation.train.validate")}


def test_encoding_decoding_and_generating(notes: Notes, model: Path) -> None:
    tokenizer = MeshTokenizer.from_pretrained(model, "float32", "meta")
    assert notes.found.pop("start") == {("in", "vat3d.tokenizer.MeshTokenizer.__init__")}
    search = "vat3d.codec.token_search.TokenSearch"
    notes.phase = "encode"
    stream = tokenizer.encode(trimesh.creation.box((2.0, 1.2, 0.8)), 400, "normal")
    assert stream.residual_step is not None
    assert notes.found.pop("encode") == DECODING | {
        ("in", "vat3d.codec.encode._encode"),  # the mesh's samples
        ("in", f"{search}.coded"), ("in", f"{search}._bits"),  # ids, and what the entropy coder takes for each code
        ("in", f"{search}.choose_price"), ("out", f"{search}.choose_price"),
        ("out", f"{search}.choose_price.quantised"),
        ("out", f"{search}.evaluate"),
        ("out", "vat3d.codec.refine_tokens._Refinement.move_tokens"),  # where tokens are looked at, every 25 steps
        ("out", "vat3d.codec.refine_residual._Price.at"),  # where a residual's bits are counted, every 5 steps
        ("out", "vat3d.codec.refine_residual._trimmed"),
        ("in", "vat3d.codec.refine_residual.refine_residual"), ("out", "vat3d.codec.refine_residual.refine_residual"),
    }  # fmt: skip
    notes.phase = "decode"
    mesh = tokenizer.decode(stream.to_bytes(), 32)
    assert mesh.is_watertight
    assert notes.found.pop("decode") == DECODING
    config = GeneratorConfig(
        tokenizer.model.model_id,
        tokenizer.model.scales[:3],
        codes=32,
        channels=4,
        width=16,
        heads=2,
        hidden=24,
        layers=2,
    )
    notes.phase = "generate"
    streams = MeshGenerator(TokenTransformer(config).eval(), tokenizer).sample(2, seed=1)
    assert [part.size for part in streams[1].ids] == list(tokenizer.model.scales[:3])
    generator = "vat3d.generation.generator.MeshGenerator"
    assert notes.found == {
        "generate": {
            ("in", f"{generator}.__init__"), ("in", f"{generator}._ask"), ("in", "vat3d.generation.draw.draw_shapes"),
            ("out", f"{generator}._draw"), *DECODING,
        }
    }  # fmt: skip


def test_the_stand_in_refuses_what_cuda_would() -> None:
    with standin_device() as noted:
        here, there = torch.ones(3), torch.ones(3, device="meta")
        assert (there + there).sum().item() == 6
        assert noted.of("refused") == set()
        (here + there).sum()
        torch.rand(3, generator=torch.Generator(), device="meta")
        there.numpy()
        here[there.long() - 1]
        assert len(noted.found["start"]) == 2  # all from this one place, out and refused
        assert noted.of("refused") == {"?"}
