"""The generator as users have it: samples, completions, requests, and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import trimesh
from PIL import Image
from toy_shapes import accepted

from setcore.checkpoint import save_model
from setcore.errors import InputError
from vat3d import CodecError, MeshGenerator
from vat3d.bitstream.header import LEVELS
from vat3d.codec.decode import StreamDecoder
from vat3d.generation.draw import DrawOptions
from vat3d.generation.generator import ATTEMPTS
from vat3d.generation.network import TokenTransformer
from vat3d.placement.mirrored_view import MirroredView


@pytest.fixture
def picture(tmp_path) -> str:
    pixels = np.full((90, 120, 3), 255, np.uint8)
    pixels[20:70, 30:60] = (200, 30, 40)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    return str(tmp_path / "picture.png")


def test_samples_are_files_of_watertight_meshes(generator, tokenizer):
    streams = generator.sample(3, "lamp", seed=4)
    assert [tuple(part.size for part in stream.ids) for stream in streams] == [tokenizer.model.scales[:3]] * 3
    for stream in streams:
        mesh = tokenizer.decode(stream.to_bytes(), 32)
        assert accepted(mesh.vertices, mesh.faces)
        assert (np.abs(mesh.vertices).max(0) <= stream.frame.aspect * stream.frame.half_side + 0.02).all()


def faults(generator, stream) -> dict[int, float]:
    """By level, parts beyond the first and the tenths of the longest side that the largest lacks along an axis."""
    decoder = StreamDecoder(generator.tokenizer.network, MirroredView(stream.frame))
    found = {}
    for level in LEVELS[::2]:
        vertices, faces = decoder.surface(decoder.field(stream), level, 64)
        parts = trimesh.Trimesh(vertices, faces).split()
        lacks = 2 * stream.frame.aspect - max(parts, key=lambda part: len(part.faces)).extents
        found[level] = len(parts) - 1 + max(0.0, lacks.max() / 0.2)
    return found


def test_samples_decode_at_the_lowest_level_at_which_they_are_whole(generator):
    for stream in generator.sample(3, "lamp", seed=4):
        found = faults(generator, stream)
        whole = [level for level, fault in found.items() if fault < 1]
        assert set(stream.levels) == {whole[0] if whole else min(found, key=found.get)}


def test_the_seed_decides_and_what_is_asked_for_counts(generator, picture):
    def drawn(*args, **kwargs):
        return [stream.to_bytes() for stream in generator.sample(*args, **kwargs)]

    assert drawn(2, seed=1) == drawn(2, seed=1)
    assert drawn(3, seed=1)[:2] == drawn(2, seed=1)
    requests = (
        {}, {"seed": 2}, {"category": "chair"}, {"category": "lamp"}, {"text": "an old sailing ship"},
        {"image": picture}, {"image": [picture, picture]}, {"image": picture, "text": "an old sailing ship"},
    )  # fmt: skip
    assert len({drawn(1, **{"seed": 1, **request})[0] for request in requests}) == len(requests)


def test_the_likeliest_of_several_is_kept(generator):
    several = generator.sample(2, "chair", seed=3, best_of=4)
    for number, stream in enumerate(several):
        others = generator.sample(number + 1, "chair", seed=3, best_of=1)
        assert stream.report["likelihood"] >= others[number].report["likelihood"] - 1e-5


def test_what_is_in_pieces_is_drawn_anew_and_the_first_of_the_most_whole_is_kept(generator, monkeypatch):
    looked_at = []
    at_level = MeshGenerator._at_level

    def noted(self, stream):
        looked_at.append(at_level(self, stream))
        return looked_at[-1]

    monkeypatch.setattr(MeshGenerator, "_at_level", noted)
    tried = 0
    for stream in generator.sample(3, "chair", seed=3):
        attempts = [looked_at.pop(0)]
        while attempts[-1][0] >= 1 and len(attempts) < ATTEMPTS:
            attempts.append(looked_at.pop(0))
        tried += len(attempts)
        fewest = min(found for found, _ in attempts)
        first = next(each for found, each in attempts if found == fewest)
        assert stream.report["likelihood"] == first.report["likelihood"]
        assert faults(generator, stream)[stream.levels[0]] == pytest.approx(fewest)
    assert not looked_at
    assert tried > 3


def test_many_are_drawn_in_portions(generator, monkeypatch):
    whole = [stream.to_bytes() for stream in generator.sample(3, "chair", seed=5, best_of=2)]
    monkeypatch.setattr("vat3d.generation.generator.ROWS", 5)
    assert [stream.to_bytes() for stream in generator.sample(3, "chair", seed=5, best_of=2)] == whole


def test_a_request_says_how_it_was_understood(generator, picture):
    def asked(**request):
        return generator.sample(1, **request)[0].report["asked"]

    assert asked() == "anything"
    assert asked(category=" Chair ") == "the name 'chair'"
    assert asked(text="some old chair") == "the name 'chair'"
    assert asked(text=np.arange(512.0)) == "a text vector"
    assert asked(text="a purple motorcycle", image=picture) == "'motorcycle' of the name bank and 1 picture"
    assert asked(category="lamp", image=picture) == "the name 'lamp' and 1 picture"


def test_pictures_alone_are_taken_for_a_name(generator, picture):
    """The same shape, then, as by that name with the picture."""
    streams = generator.sample(2, image=[picture, picture], seed=3)
    taken = next(name for name in generator.categories if f"taken for {name!r}" in streams[0].report["asked"])
    assert streams[0].report["asked"] == f"2 pictures, taken for {taken!r}"
    named = generator.sample(2, taken, image=[picture, picture], seed=3)
    assert [stream.to_bytes() for stream in streams] == [stream.to_bytes() for stream in named]


def test_completions_keep_the_first_scales_and_the_frame(generator, tokenizer):
    coarse = generator.sample(1, "chair", seed=0)[0]
    found = generator.complete(coarse.to_bytes(), 2, 3, category="chair", seed=5)
    assert len({stream.to_bytes() for stream in found}) == 3
    for stream in found:
        assert all((a == b).all() for a, b in zip(stream.ids[:2], coarse.ids[:2], strict=True))
        assert stream.frame.half_side == coarse.frame.half_side
        np.testing.assert_allclose(stream.frame.aspect, coarse.frame.aspect)
    for scales in (0, 3, -1):
        with pytest.raises(InputError, match="1 to 2 can be kept"):
            generator.complete(coarse, scales)
    with pytest.raises(InputError, match="1 to 1 can be kept"):
        generator.complete(coarse.truncate(1), 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"category": "lamb"}, "lamp"),
        ({"category": "sofa"}, "chair, lamp"),
        ({"category": "chair", "text": "a chair"}, "not both"),
        ({"text": " \n"}, "empty"),
        ({"text": "xyzzy plugh"}, "CLIP weights"),
        ({"text": np.zeros(512)}, "not all 0"),
        ({"text": np.ones(500)}, "512 finite numbers"),
        ({"text": np.full(512, np.nan)}, "512 finite numbers"),
        ({"text": "a chair", "clip": "nowhere.safetensors"}, "nowhere"),
        ({"image": "nowhere.png"}, "does not exist"),
        ({"count": 0}, "count"),
        ({"best_of": 0}, "best_of"),
        ({"options": DrawOptions(temperature=0)}, "temperature"),
        ({"options": DrawOptions(temperature=float("nan"))}, "temperature"),
        ({"options": DrawOptions(top_p=0)}, "top_p"),
        ({"options": DrawOptions(top_p=1.5)}, "top_p"),
        ({"options": DrawOptions(guidance=-0.1)}, "guidance"),
    ],
)
def test_what_cannot_be_drawn(generator, arguments, message):
    with pytest.raises(InputError, match=message):
        generator.sample(**arguments)


def test_a_generator_without_pictures_says_so(config, tokenizer, picture):
    blind = MeshGenerator(TokenTransformer(dataclasses.replace(config, picture=0)), tokenizer)
    with pytest.raises(InputError, match="trained without pictures"):
        blind.sample(image=picture)


def test_another_tokenizer_is_refused(tokenizer, config):
    with pytest.raises(CodecError, match=tokenizer.model.model_id):
        MeshGenerator(TokenTransformer(dataclasses.replace(config, codec="0badcafe")), tokenizer)


def test_a_generator_of_a_tokenizer_that_is_not_here_says_what_to_do(config, tmp_path):
    config = dataclasses.replace(config, codec="f8defc20")
    save_model(tmp_path, config, TokenTransformer(config))
    with pytest.raises(CodecError, match=r"f8defc20.*before the first release, train it again"):
        MeshGenerator.from_pretrained(tmp_path)
