"""Training the generator: tokens of shapes, what is drawn for a step, losses, and runs that a kill cannot hurt."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from make_tiny_model import DATA
from toy_shapes import Named, Toy, box_distance, ellipsoid_distance, generators

from setcore.checkpoint import load_tensors
from setcore.devices import autocast
from setcore.errors import InputError
from setcore.seeding import derive_seed
from setcore.training import STATE_FILE, Budget
from vat3d import MeshGenerator, MeshTokenizer
from vat3d.generation.boxes import box_class
from vat3d.generation.conditions import name_vectors
from vat3d.generation.network import TokenTransformer, running_reconstruction
from vat3d.generation.picture_encoder import load_picture_encoder
from vat3d.generation.pictures import render_views
from vat3d.generation.shape_tokens import (
    PARTS,
    SCALES,
    NamedMesh,
    Shapes,
    load_shapes,
    moved,
    named_meshes,
    refined_ids,
    round_moves,
    save_shapes,
    shape_tokens,
)
from vat3d.generation.train import fit_recogniser, logits, neighbours, start_from, train, training_loss, validate
from vat3d.generation.training_pictures import picture_features, training_mesh
from vat3d.generation.training_shapes import ShapeDraws, as_they_are, used_names
from vat3d.network.losses import field_loss
from vat3d.procedural.shapes import shape
from vat3d.training.augment import make_batch
from vat3d.training.config import TrainConfig

NAMES = ("chair", "lamp")


def test_names_need_shapes():
    few = Named(12)
    few.index[0]["group"] = "helicopter"
    few.index[1]["group"] = "random 7"
    assert used_names(named_meshes([Named(40), few])["train"]) == NAMES


def test_a_share_of_the_training_meshes_is_held_out_by_name():
    found = {part: len(meshes) for part, meshes in named_meshes([Named(400)]).items()}
    assert (found["train"] + found["models"], found["validation"]) == (392, 8)
    assert 0.03 < found["models"] / 392 < 0.1
    assert [len(meshes) for meshes in named_meshes([Named(12)]).values()] == [3, 1, 8]
    made = Named(12)
    for line in made.index:
        line.update(source="procedural", category="fish")
    assert [len(meshes) for meshes in named_meshes([made]).values()] == [3, 9, 0]
    nameless = Named(40)
    for line in nameless.index:
        line["group"] = "random 7"
    assert len(named_meshes([nameless])["train"]) > 20


@pytest.mark.parametrize("round_", [0, 1, 2, 3])
def test_moved_shapes_keep_their_distances(round_):
    """Of a turned box and ellipsoid: exactly where nothing is stretched, near the surface otherwise."""
    config = TrainConfig(volume=300, near=200, surface=500)
    batch = make_batch(Toy().batch([1, 2]), config, generators(2), augment=False)
    turn = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
    moves = round_moves(turn.expand(2, 3, 3), round_, generators(2, 5))
    found = moved(batch, moves)
    assert found.box.amax(1).tolist() == [1, 1]
    low, high = found.points.amin(1), found.points.amax(1)
    torch.testing.assert_close(low, -high, rtol=0, atol=1e-5)
    torch.testing.assert_close(high, found.box, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.normals.norm(dim=-1), torch.ones(2, 500))
    assert ((found.normals * found.points).sum(-1) > 0).float().mean() > 0.99
    if round_ < 2:
        sign = torch.tensor([1 - 2.0 * round_, 1, 1])
        assert torch.equal(moves.linear, (sign[:, None] * turn).expand(2, 3, 3))
        assert not moves.depth.any()
        torch.testing.assert_close(found.points[0], batch.points[0] @ turn.T * sign, rtol=0, atol=0.02)
        truth = box_distance(found.queries[0], found.box[0])
        torch.testing.assert_close(found.distances[0], truth, rtol=0, atol=0.03)
    else:
        assert (moves.linear[0] != moves.linear[1]).any()
        straight = moved(batch, dataclasses.replace(moves, depth=torch.zeros(2, 3)))
        truth = ellipsoid_distance(straight.queries[1], straight.box[1])
        near = straight.distances[1].abs() < 0.05
        assert (straight.distances[1] - truth)[near].abs().mean() < 0.05


def test_waves_bend_points_and_their_normals():
    """Two neighbours on a plane, once bent, still lie across their normal; a mesh's vertices go the same way."""
    moves = round_moves(torch.eye(3).expand(2, 3, 3), 2, generators(2, 5))
    assert moves.depth.abs().max() > 0.01
    points = torch.rand(2, 40, 3, generator=generators(1)[0]) * 2 - 1
    normal = torch.tensor([0.0, 0.6, 0.8]).expand(2, 40, 3)
    bent, facing = moves.bent(points), moves.bent_normals(points, normal)
    for along in (torch.tensor([1.0, 0, 0]), torch.tensor([0, 0.8, -0.6])):
        step = (moves.map(torch.Tensor.double).bent(points.double() + 1e-5 * along) - bent.double()) / 1e-5
        torch.testing.assert_close((step.float() * facing).sum(-1), torch.zeros(2, 40), rtol=0, atol=0.02)
    assert ((facing * normal).sum(-1) > 0.8).all()
    mesh = named_meshes([Named()])["validation"][0]
    corners = np.array(trimesh.creation.box((2, 1, 0.5)).vertices)
    assert np.ptp(mesh.moved_vertices(corners, 0, 0), axis=0).max() == pytest.approx(2)
    found = mesh.moved_vertices(corners, 3, 0)
    move = mesh.move(3, 0)
    turned = corners @ move.linear[0].double().numpy().T
    turned /= np.abs(turned).max()
    expected = move.map(torch.Tensor.double).bent(torch.from_numpy(turned)[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_refined_tokens_decode_nearer_to_their_shapes(tokenizer):
    network = tokenizer.network
    config = TrainConfig(volume=1024, near=1024, surface=512)
    batch = make_batch(Toy().batch(range(6)), config, generators(6), augment=False)

    def error(ids: torch.Tensor) -> float:
        quantizer = network.quantizer
        planes = network.planes(quantizer.from_vectors(quantizer.codebook[ids]), batch.box)
        logits = network.field(planes, batch.queries, batch.box)
        return float(field_loss(logits, batch.distances, network.config.sharpness).mean())

    assert error(refined_ids(network, batch, 12, 0)) < 0.9 * error(refined_ids(network, batch, 0, 0))
    assert torch.equal(refined_ids(network, batch, 2, 0), refined_ids(network, batch, 2, 0))


def test_tokens_of_shapes_are_those_of_the_codec(tokenizer, tmp_path):
    meshes = named_meshes([Named()])["validation"]
    shapes = shape_tokens(tokenizer.network, meshes, NAMES, 3, 0, 0)
    assert shapes.ids.shape == (24, sum(tokenizer.model.scales[:SCALES]))
    assert [mesh.line["name"] for mesh in meshes] == [f"robosuite/{i}.obj" for i in range(32, 40)]
    assert shapes.names[:, 0].tolist() == [1, 2] * 12
    assert (shapes.names[:, 1:] == 0).all()
    assert shapes.round.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert shapes.mesh.tolist() == list(range(8)) * 3
    halves = Named().batch(range(32, 40))["surface"][..., :3].abs().amax(1).numpy()
    np.testing.assert_array_equal(shapes.box[:16].numpy(), np.tile(box_class(halves), 2))
    assert (shapes.ids[:8] != shapes.ids[16:]).any(1).all()
    with pytest.raises(InputError, match="prepare more"):
        shape_tokens(tokenizer.network, [], NAMES, 1, 0, 0)
    save_shapes(tmp_path, dict.fromkeys(PARTS, shapes), {"names": NAMES})
    stored, facts = load_shapes(tmp_path)
    assert facts == {"names": list(NAMES)}
    assert all(torch.equal(value, vars(stored["models"])[key]) for key, value in vars(shapes).items())


def some_shapes(tokenizer: MeshTokenizer, count: int = 5) -> Shapes:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(32, (count, sum(tokenizer.model.scales[:3])), generator=generator)
    box = torch.randint(768, (count,), generator=generator)
    names = torch.tensor([[1, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 0], [1, 0, 0, 0]])[:count]
    return Shapes(ids, box, names, torch.arange(count), torch.tensor([0, 1, 2, 0, 2])[:count])


def test_what_is_drawn_depends_on_the_number_alone_and_shares_are_right(tokenizer):
    shapes = some_shapes(tokenizer)
    vectors = torch.zeros(3, 512)
    vectors[0, 0] = vectors[1, 1] = 1
    draws = ShapeDraws(shapes, vectors, 32, 0)
    many = draws(range(2000))
    later = draws(range(1990, 2000))
    assert all(torch.equal(a[1990:], b) for a, b in zip((many.held, many.name), (later.held, later.name), strict=True))
    wrong = (many.held != many.shapes.ids).float().mean()
    assert abs(float(wrong) - 0.1 * 31 / 32) < 0.005
    first = many.shapes.mesh.bincount(minlength=5) / 2000  # two shapes share the first name: a root of two less each
    expected = torch.tensor([0.5**0.5, 1, 1, 1, 0.5**0.5])
    torch.testing.assert_close(first, expected / expected.sum(), rtol=0, atol=0.03)
    given = (many.name > 0) | many.words.any(1)
    named = many.shapes.mesh != 2
    assert not given[~named].any()
    assert abs(float(given[named].float().mean()) - 0.88) < 0.03
    own = many.name[many.shapes.mesh == 3]
    assert abs(float((own == 3).float().mean()) - 0.88) < 0.04  # it has no vector, and is never asked for by one
    by_words = (many.name == 0) & many.words.any(1)
    assert abs(float(by_words[many.shapes.mesh == 1].float().mean()) - 0.44) < 0.05


def test_every_second_step_shows_pictures_of_the_shapes_as_they_are_moved(tokenizer):
    shapes, pictures = some_shapes(tokenizer), torch.arange(1.0, 91).view(5, 3, 3, 2, 1).half()
    pictures[3] = 0
    draws = ShapeDraws(shapes, torch.zeros(3, 512), 32, 0, pictures)
    assert draws(range(50), 0).pictures is None
    seen = draws(range(50), 1)
    assert seen.pictures.shape == (50, 2, 1)
    assert set(seen.shapes.mesh.tolist()) == {0, 1, 2, 4}  # of 3 there is no picture
    for row in range(50):
        mesh, round_ = int(seen.shapes.mesh[row]), int(seen.shapes.round[row])
        assert any(torch.equal(seen.pictures[row], view.float()) for view in pictures[mesh, round_])
    assert draws(range(50), 5).pictures.shape == (50, 4, 1)


def test_figures_and_loss_are_those_of_the_probabilities(tokenizer, transformer, config):
    shapes, quantizer = some_shapes(tokenizer), tokenizer.network.quantizer
    told = as_they_are(shapes, torch.from_numpy(name_vectors(config.names)))
    sizes = list(config.tokens)
    counts = [torch.arange(1.0, 33) for _ in sizes]
    with torch.no_grad():
        parts = list(shapes.ids.split(sizes, dim=1))
        running = torch.cat([running_reconstruction(quantizer, parts, scale, 5) for scale in range(3)], dim=1)
        to_box, codes = transformer(told.condition(), shapes.box, shapes.ids, quantizer.codebook, running)
        near = neighbours(quantizer.codebook)
        loss = training_loss(transformer, told, quantizer, near, "float32")
    found = validate(transformer, quantizer, told, counts)
    shares = -torch.log_softmax(codes, -1)
    nats = shares.gather(2, shapes.ids[..., None])[..., 0]
    box = float(-torch.log_softmax(to_box, -1)[torch.arange(5), shapes.box].mean())
    assert found["nats"] == pytest.approx(float(nats.mean()), abs=1e-4)
    assert found["box"] == pytest.approx(box, abs=1e-3)
    assert found["nats_by_scale"] == pytest.approx([float(part.mean()) for part in nats.split(sizes, dim=1)], abs=1e-3)
    unigram = -((shapes.ids + 1) / (33 * 16)).log()
    assert found["unigram"] == pytest.approx(float(unigram.mean()), abs=1e-4)
    soft = float((near[shapes.ids] * shares).sum(-1).mean())
    count = sum(sizes)
    assert float(loss) == pytest.approx((box + count * (float(nats.mean()) + soft) / 2) / (1 + count), abs=1e-4)


def test_codes_that_lie_near_each_other_share():
    codebook = torch.tensor([[0.0, 0], [0.1, 0], [1, 0], [0, 2]])
    near = neighbours(codebook)
    torch.testing.assert_close(near.sum(1), torch.ones(4))
    assert near[0].argsort(descending=True).tolist() == [0, 1, 2, 3]
    squares = torch.cdist(codebook, codebook) ** 2
    torch.testing.assert_close(near, torch.softmax(-squares / (0.5 * squares.sum() / 12), -1))


def test_pictures_are_of_the_turned_meshes_of_the_cache(tmp_path):
    mesh = trimesh.creation.box((1, 2, 3))
    (tmp_path / "unpacked" / "quaternius" / "pack").mkdir(parents=True)
    mesh.export(tmp_path / "unpacked" / "quaternius" / "pack" / "Table_1.ply")
    line = {"name": "quaternius/pack/Table_1", "source": "quaternius", "category": "pack", "group": "table"}
    vertices, faces = training_mesh(line, tmp_path)
    assert (sorted(np.ptp(vertices, axis=0).round(6)), faces.shape) == ([1, 2, 3], (12, 3))
    data = Named(2)
    data.index = [line, {**line, "name": "quaternius/pack/Table_2"}]
    meshes = [NamedMesh(data, row, ()) for row in range(2)]
    found = picture_features(meshes, tmp_path, 3, 2, 0)
    assert found.shape == (2, 3, 2, 16, 320)
    assert (found[1] == 0).all()
    assert (found[0] != 0).any(-1).all()
    assert len({tuple(part.flatten().tolist()) for part in found[0].flatten(0, 1)}) == 6
    alone = render_views(vertices, faces, 2, 112, derive_seed(0, "pictures", line["name"], 0))  # no turn for this one
    with autocast("auto", torch.device("cpu")):
        expected = load_picture_encoder()(torch.from_numpy(alone)).float()
    torch.testing.assert_close(found[0, 0].float(), expected, rtol=0.05, atol=0.02)
    procedural = {"name": "procedural/3-5", "source": "procedural", "category": "chair", "group": "3-5"}
    assert training_mesh(procedural, tmp_path) is not None
    assert training_mesh({**procedural, "name": "procedural/odd"}, tmp_path) is None
    sword = {**procedural, "name": "procedural/sword-0-2"}
    vertices, faces, _ = shape(derive_seed(0, "shape", 2), "sword")
    found = training_mesh(sword, tmp_path)
    assert found is not None
    assert np.array_equal(found[0], vertices)
    assert np.array_equal(found[1], faces)


def test_the_recogniser_learns_which_pictures_go_by_which_name(config):
    """From features about one centre for each name; one mesh has no pictures, one no name."""
    network = TokenTransformer(config)
    generator = torch.Generator().manual_seed(0)
    names = torch.tensor([1, 1, 1, 1, 1, 2, 2, 3, 0, 3])
    centres = torch.randn(4, 320, generator=generator)
    pictures = centres[names][:, None, None, None] + torch.randn(10, 2, 1, 16, 320, generator=generator)
    pictures[9] = 0
    before = [parameter.clone() for parameter in network.parameters()]
    fit_recogniser(network, pictures.half(), names, 0)
    fresh = centres[1:] + torch.randn(3, 320, generator=generator) / 4
    assert [network.recognised(seen.expand(1, 16, -1)) for seen in fresh] == [1, 2, 3]
    moved = {name for (name, now), old in zip(network.named_parameters(), before, strict=True) if not now.equal(old)}
    assert {name.partition(".")[0] for name in moved} == {"recognise"}
    assert not any(parameter.requires_grad for parameter in network.recognise.parameters())


def run(out: Path, tokenizer: MeshTokenizer, *, resume: bool = False) -> dict:
    return train([Named()], out, tokenizer, Budget(steps=9), resume=resume, progress=False)


def test_killed_and_resumed_equals_uninterrupted(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("vat3d.generation.train.REPORT_EVERY", 4)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    figures = run(whole, tokenizer)
    for part in ("models", "validation"):
        assert 0 < figures[part]["nats"] < 1.1 * figures[part]["uniform"]
    steps = iter([*[None] * 6, KeyboardInterrupt])

    def dying(*args):
        if next(steps, None) is KeyboardInterrupt:
            raise KeyboardInterrupt
        return logits(*args)

    with monkeypatch.context() as patch:
        patch.setattr("vat3d.generation.train.logits", dying)
        with pytest.raises(KeyboardInterrupt):
            run(killed, tokenizer)
    with pytest.raises(InputError, match="--resume"):
        run(killed, tokenizer)
    run(killed, tokenizer, resume=True)
    for name in (STATE_FILE, "model.safetensors"):
        one, other = load_tensors(whole / name), load_tensors(killed / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name
    loaded = MeshGenerator.from_pretrained(whole, DATA / "tiny")
    assert loaded.categories == NAMES
    mesh = loaded.tokenizer.decode(loaded.sample(1, "lamp")[0], 32)
    assert isinstance(mesh, trimesh.Trimesh)


def test_a_run_may_begin_with_the_weights_of_another(transformer, config):
    """Names that both know keep their vectors, whatever their places; what has another shape begins anew."""
    torch.manual_seed(9)
    other = TokenTransformer(dataclasses.replace(config, names=("bed", "lamp", "chair", "car"), picture=0))
    before = other.name.weight.clone()
    start_from(other, transformer)
    assert torch.equal(other.place, transformer.place)
    assert torch.equal(other.to_code.free.weight, transformer.to_code.free.weight)
    assert torch.equal(other.name.weight[[2, 3]], transformer.name.weight[[2, 1]])
    assert torch.equal(other.name.weight[[0, 1, 4]], before[[0, 1, 4]])
