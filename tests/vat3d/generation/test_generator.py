"""The generator: boxes as numbers, what a token may see, drawing, and training that a kill cannot hurt."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from make_tiny_model import DATA
from toy_shapes import COMPONENTS, Toy, accepted

from setcore.checkpoint import load_tensors, save_model
from setcore.errors import InputError
from setcore.training import STATE_FILE, Budget
from vat3d import CodecError, MeshTokenizer
from vat3d.generation.generator import (
    BINS,
    THINNEST,
    GeneratorConfig,
    MeshGenerator,
    ScaleTransformer,
    box_class,
    class_box,
    draw_nucleus,
    running_inputs,
)
from vat3d.generation.train import Shapes, category_names, cross_entropies, shape_tokens, train
from vat3d.training.train import new_network

CONFIG = GeneratorConfig("0badcafe", (1, 3, 10), codes=32, channels=4, width=16, heads=2, hidden=24, layers=2,
                         categories=("chair", "lamp"))  # fmt: skip


class Named(Toy):
    """Toy shapes whose data set says what they are."""

    def __init__(self, count: int = 40) -> None:
        super().__init__(count)
        self.index = [{"source": "procedural", "category": ("Ball", "box")[i % 2]} for i in range(count)]


@pytest.fixture(scope="module")
def tokenizer() -> MeshTokenizer:
    return MeshTokenizer.from_pretrained(DATA / "tiny")


@pytest.fixture
def transformer() -> ScaleTransformer:
    torch.manual_seed(0)
    return ScaleTransformer(CONFIG).eval()


def test_boxes_come_back_within_half_a_step():
    boxes = np.exp(np.random.default_rng(0).uniform(np.log(THINNEST), 0, (500, 3)))
    boxes[:3] = [[1, 1, 1], [1, THINNEST / 2, 1], [0.3, 0.3, 0.3]]
    boxes /= boxes.max(1, keepdims=True)
    numbers = box_class(boxes)
    assert numbers.min() >= 0
    assert numbers.max() < 3 * BINS**2
    back = np.stack([class_box(number) for number in numbers.tolist()])
    assert (back.max(1) == 1).all()
    step = -np.log(THINNEST) / (BINS - 1)
    assert np.abs(np.log(back) - np.log(boxes.clip(THINNEST))).max() <= step / 2 + 1e-9
    np.testing.assert_array_equal(box_class(back)[:, None], numbers[:, None])


def test_a_token_sees_its_own_scale_and_those_before_it(transformer):
    generator = torch.Generator().manual_seed(1)
    category, box = torch.tensor([0, 1]), torch.tensor([5, 700])
    inputs = [torch.randn(2, count, 4, generator=generator) for count in CONFIG.tokens]
    to_box, logits = transformer(category, box, inputs)
    assert logits.shape == (2, 14, 32)
    assert torch.equal(transformer(category, box + 1, inputs)[0], to_box)
    ends = np.cumsum(CONFIG.tokens)
    for scale, (start, end) in enumerate(zip(ends - CONFIG.tokens, ends, strict=True)):
        changed = [part.clone() for part in inputs]
        changed[scale][:, -1] += 1
        moved = (transformer(category, box, changed)[1] - logits).abs().amax((0, 2))
        assert (moved[:start] == 0).all()
        assert (moved[start:] > 0).all()
        torch.testing.assert_close(transformer(category, box, inputs[: scale + 1])[1], logits[:, :end])
    assert ((transformer(category + 1, box, inputs)[1] - logits).abs().amax(2) > 0).all()


def test_inputs_are_the_running_reconstruction_in_units_of_each_scale():
    """Where components come first, they are the coarser scales' codes times the ratio of the gains."""
    quantizer = new_network(COMPONENTS, 0).quantizer
    torch.manual_seed(0)
    axes = torch.linalg.qr(torch.randn(quantizer.basis.shape[1], len(quantizer.basis)))[0].T
    quantizer.basis_step.copy_(axes.abs().amax(1) / 127)
    quantizer.basis.copy_(torch.round(axes / quantizer.basis_step[:, None]))
    quantizer._set_axes()
    with torch.no_grad():
        for spread in quantizer.log_spread:
            spread.uniform_(-1, 1)
    ids = [torch.randint(32, (2, count)) for count in COMPONENTS.scales[:2]]
    with torch.no_grad():
        found = running_inputs(quantizer, ids, 3)
    assert [part.shape[1] for part in found] == list(COMPONENTS.scales[:3])
    assert (found[0] == 0).all()
    known = torch.zeros(2, COMPONENTS.components[-1])
    for scale, chosen in enumerate(ids):
        count = COMPONENTS.components[scale]
        known[:, :count] += quantizer.codebook[chosen].flatten(1) * quantizer.log_spread[scale].exp()
        expected = known[:, : COMPONENTS.components[scale + 1]] / quantizer.log_spread[scale + 1].exp()
        torch.testing.assert_close(found[scale + 1].flatten(1), expected, rtol=0.05, atol=0.05)


def test_draws_follow_the_nucleus():
    shares = torch.tensor([0.1, 0.4, 0.15, 0.35])
    generator = torch.Generator().manual_seed(0)
    drawn = draw_nucleus(shares.log().expand(2, 20_000, 4), 1.0, generator)
    assert drawn.shape == (2, 20_000)
    torch.testing.assert_close(torch.bincount(drawn.flatten()) / 40_000, shares, rtol=0, atol=0.01)
    drawn = draw_nucleus(shares.log().expand(20_000, 4), 0.7, generator)  # .4 and .35 reach it
    torch.testing.assert_close(
        torch.bincount(drawn, minlength=4) / 20_000, torch.tensor([0, 0.4, 0, 0.35]) / 0.75, rtol=0, atol=0.015
    )
    assert (draw_nucleus(shares.log().expand(50, 4), 1e-6, generator) == 1).all()


@pytest.fixture
def generator(tokenizer) -> MeshGenerator:
    torch.manual_seed(3)
    scales = tokenizer.model.scales[:4]
    config = dataclasses.replace(CONFIG, codec=tokenizer.model.model_id, tokens=scales)
    return MeshGenerator(ScaleTransformer(config).eval(), tokenizer)


def test_samples_are_files_of_watertight_meshes(generator, tokenizer):
    streams = generator.sample(3, "lamp", seed=4, guidance=2.0)
    assert [tuple(part.size for part in stream.ids) for stream in streams] == [tokenizer.model.scales[:4]] * 3
    for stream in streams:
        mesh = tokenizer.decode(stream.to_bytes(), 32)
        assert accepted(mesh.vertices, mesh.faces)
        assert (np.abs(mesh.vertices).max(0) <= stream.frame.aspect * stream.frame.half_side + 0.02).all()


def test_the_seed_decides_and_the_category_counts(generator):
    def drawn(*args, **kwargs):
        return [stream.to_bytes() for stream in generator.sample(*args, **kwargs)]

    assert drawn(2, seed=1) == drawn(2, seed=1)
    assert drawn(2, seed=1) != drawn(2, seed=2)
    assert drawn(2, "chair", seed=1) != drawn(2, "lamp", seed=1)
    assert len(set(drawn(4, seed=1))) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "sofa"}, "choose one of chair, lamp"),
        ({"count": 0}, "count"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"temperature": float("nan")}, "temperature"),
    ],
)
def test_what_cannot_be_drawn(generator, arguments, message):
    with pytest.raises(InputError, match=message):
        generator.sample(**arguments)


def test_another_tokenizer_is_refused(tokenizer, transformer):
    with pytest.raises(CodecError, match=tokenizer.model.model_id):
        MeshGenerator(transformer, tokenizer)


def test_a_generator_of_a_tokenizer_that_is_not_here_says_what_to_do(transformer, tmp_path):
    config = dataclasses.replace(transformer.config, codec="f8defc20")
    save_model(tmp_path, config, ScaleTransformer(config))
    with pytest.raises(CodecError, match=r"f8defc20.*before the first release, train it again"):
        MeshGenerator.from_pretrained(tmp_path)


def test_categories_need_shapes_and_a_source_that_names_them():
    few = Named(12)
    few.index[0]["category"] = "rare"
    folders = Named(30)
    for line in folders.index:
        line["source"] = "robosuite"
    names = category_names([Named(40), few, folders])
    assert set(names[0]) == {"ball", "box"}
    assert names[1][0] == ""
    assert set(names[2]) == {""}


def test_tokens_of_shapes_are_those_of_the_codec(tokenizer):
    """Mirrored and stretched copies have ids of their own, in the same order of shapes."""
    shapes = shape_tokens(tokenizer.network, [Named()], "validation", ["ball", "box"], 2, 0)
    assert shapes.ids.shape == (16, sum(tokenizer.model.scales[:6]))
    assert shapes.category.tolist() == [1, 2] * 8
    np.testing.assert_array_equal(
        shapes.box[:8].numpy(), box_class(Named().batch(range(32, 40))["surface"][..., :3].abs().amax(1).numpy())
    )
    assert (shapes.ids[:8] != shapes.ids[8:]).any(1).all()


def test_cross_entropy_is_that_of_the_probabilities(tokenizer):
    config = GeneratorConfig(tokenizer.model.model_id, tokenizer.model.scales[:6], 32, 4, 16, 2, 24, 2)
    torch.manual_seed(0)
    network = ScaleTransformer(config)
    shapes = Shapes(torch.randint(32, (5, sum(config.tokens))), torch.randint(768, (5,)), torch.zeros(5).long())
    with torch.no_grad():
        box, scales = cross_entropies(network, tokenizer.network, shapes)
        inputs = running_inputs(tokenizer.network.quantizer, shapes.ids.split(list(config.tokens), dim=1), 6)
        inputs[0] = inputs[0].expand(5, -1, -1)
        to_box, codes = network(shapes.category, shapes.box, inputs)
    expected = -torch.log_softmax(codes, -1).gather(2, shapes.ids[..., None])[..., 0]
    torch.testing.assert_close(torch.cat(scales, 1), expected)
    torch.testing.assert_close(box, -torch.log_softmax(to_box, -1)[torch.arange(5), shapes.box].mean())


def run(out: Path, tokenizer: MeshTokenizer, *, resume: bool = False) -> dict:
    return train([Named()], out, tokenizer, Budget(steps=9), resume=resume, progress=False)


def test_killed_and_resumed_equals_uninterrupted_and_beats_the_unigram(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("vat3d.generation.train.REPORT_EVERY", 4)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    figures = run(whole, tokenizer)
    assert 0 < figures["nats"] < figures["uniform"]
    steps = iter([*[None] * 6, KeyboardInterrupt])

    def dying(*args):
        if next(steps, None) is KeyboardInterrupt:
            raise KeyboardInterrupt
        return cross_entropies(*args)

    with monkeypatch.context() as patch:
        patch.setattr("vat3d.generation.train.cross_entropies", dying)
        with pytest.raises(KeyboardInterrupt):
            run(killed, tokenizer)
    assert not (killed / "model.safetensors").exists()
    with pytest.raises(InputError, match="--resume"):
        run(killed, tokenizer)
    run(killed, tokenizer, resume=True)
    for name in (STATE_FILE, "model.safetensors"):
        one, other = load_tensors(whole / name), load_tensors(killed / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    loaded = MeshGenerator.from_pretrained(whole, DATA / "tiny")
    assert loaded.categories == ("ball", "box")
    mesh = loaded.tokenizer.decode(loaded.sample(1, "box")[0], 32)
    assert isinstance(mesh, trimesh.Trimesh)
