import dataclasses

import pytest
import torch
from toy_shapes import CODEC, TRAIN, Toy, generators

from setcore.errors import InputError
from vat3d.mesh.canonical import HALF_DOMAIN
from vat3d.network.codec_network import box_distance
from vat3d.network.config import CodecConfig
from vat3d.network.losses import field_loss, gaussian_kl
from vat3d.network.surface_encoder import splat
from vat3d.network.triplane import cell_features, patchify, plane_cells, stretch_box, to_planes, unpatchify
from vat3d.training.augment import deform, make_batch
from vat3d.training.config import PRESETS
from vat3d.training.train import new_network


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_patches_round_trip() -> None:
    grid = points(2, 3, 6, 6, 5)
    tokens = patchify(grid)
    assert tokens.shape == (2, 27, 20)
    assert torch.equal(unpatchify(tokens, 3), grid)
    # the first token holds the first 2 x 2 cells of the first plane
    assert torch.equal(tokens[0, 0], grid[0, 0, :2, :2].reshape(-1))


def test_every_cell_knows_its_own_place() -> None:
    features = cell_features(7)
    assert features.shape[0] == 147
    assert len(torch.unique(features, dim=0)) == 147


def test_plane_cells_hold_their_points() -> None:
    uv = to_planes(points(2, 50, 3))[..., :2] * HALF_DOMAIN
    cell, offset = plane_cells(uv, 9)
    row, column = cell // 9 % 9, cell % 9
    rebuilt = (torch.stack([row, column], -1) + 0.5 + offset) / 9 * 2 - 1
    torch.testing.assert_close(rebuilt * HALF_DOMAIN, uv)
    assert offset.abs().max() <= 0.5 + 1e-5


def test_splat_depends_neither_on_order_nor_much_on_count() -> None:
    where, normals = points(2, 300, 3), points(2, 300, 3, seed=1)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(2))
    drawn = splat(where, normals, 8)
    torch.testing.assert_close(splat(where[:, order], normals[:, order], 8), drawn, atol=1e-5, rtol=1e-5)
    twice = splat(where.repeat(1, 2, 1), normals.repeat(1, 2, 1), 8)
    torch.testing.assert_close(twice, drawn, atol=1e-5, rtol=1e-5)


def test_encoder_ignores_the_order_of_points() -> None:
    network = new_network(CODEC, 0).eval()
    where, normals, box = (
        points(2, 200, 3),
        points(2, 200, 3, seed=1),
        torch.tensor([[1.0, 0.6, 0.4], [0.7, 1.0, 0.05]]),
    )
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    mean, log_variance = network.encode(where, normals, box)
    assert mean.shape == log_variance.shape == (2, 3, 8, 8, 4)
    again, _ = network.encode(where[:, order], normals[:, order], box)
    torch.testing.assert_close(again, mean, atol=1e-4, rtol=1e-4)


def test_field_reads_the_right_place_of_each_plane() -> None:
    """A plane that holds its own row coordinate gives every query its own coordinate."""
    network = new_network(CODEC, 0)
    centres = (torch.arange(32) + 0.5) / 32 * 2 - 1
    planes = torch.zeros(1, 3, 32, 32, CODEC.features)
    planes[..., 0] = centres[:, None] * HALF_DOMAIN
    planes[..., 1] = centres[None] * HALF_DOMAIN
    sampled = []
    network.field.planes.register_forward_hook(lambda module, inputs, output: sampled.append(inputs[0]))
    box = torch.tensor([[1.0, 0.5, 0.25]])
    where = points(1, 40, 3) * box[:, None] * 0.95
    network.field([planes], where, box)
    features = sampled[0].view(1, 40, 3, -1)
    stretched = where / stretch_box(box)[:, None]
    for plane, (first, second) in enumerate(((0, 1), (1, 2), (2, 0))):
        torch.testing.assert_close(features[:, :, plane, 0], stretched[..., first], atol=1e-5, rtol=0)
        torch.testing.assert_close(features[:, :, plane, 1], stretched[..., second], atol=1e-5, rtol=0)


def test_outside_the_box_is_outside() -> None:
    network = new_network(CODEC, 0)
    box = torch.tensor([[1.0, 0.5, 0.3]])
    where = points(1, 500, 3) * 1.05
    planes = network.planes(torch.zeros(1, 3, 8, 8, 4), box)
    distance = network.signed_distance(planes, where, box)
    assert (distance >= box_distance(where, box)).all()
    assert (distance[(where.abs() > box[:, None]).any(-1)] > 0).all()


def test_field_loss_is_least_at_the_scaled_distance() -> None:
    distance = torch.linspace(-0.1, 0.1, 21)[None]
    logits = (-distance / 0.02).requires_grad_()
    loss = field_loss(logits, distance, 0.02, 0.5)
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-6, rtol=0)
    assert torch.autograd.grad(loss.sum(), logits)[0].abs().max() < 1e-6
    assert gaussian_kl(torch.zeros(3, 2), torch.zeros(3, 2)) == 0


def test_deformed_samples_stay_on_the_surface_and_in_the_frame() -> None:
    """Surface points that are also queries at distance 0 move alike; the result fills the frame; normals stay right."""
    sphere = torch.nn.functional.normalize(points(6, 4000, 3), dim=-1)
    moved, normals, queries, distances, box = deform(sphere, sphere, sphere, torch.zeros(6, 4000), generators(6, 5))
    torch.testing.assert_close(moved, queries)
    assert (distances == 0).all()
    torch.testing.assert_close(moved.abs().amax(1), box, atol=1e-5, rtol=0)
    torch.testing.assert_close(box.amax(1), torch.ones(6), atol=1e-5, rtol=0)
    # outward normals of a smooth closed surface: a step along them leads away from every neighbouring sample
    for shape, normal in zip(moved, normals, strict=True):
        step = 0.02 * normal[:200]
        ahead = torch.cdist(shape[:200] + step, shape).amin(1)
        torch.testing.assert_close(ahead, torch.full((200,), 0.02), atol=0.02, rtol=0)
        assert ((shape[:200] + step).norm(dim=1) > (shape[:200] - step).norm(dim=1)).float().mean() > 0.95


def test_volume_samples_come_from_the_box() -> None:
    toy, config = Toy(), dataclasses.replace(TRAIN, volume=64)
    batch = make_batch(toy.batch([1, 2]), config, generators(2), augment=False)
    volume = batch.queries[:, :64]
    assert (volume.abs() <= HALF_DOMAIN * stretch_box(batch.box)[:, None]).all()
    assert batch.queries.shape == (2, 64 + TRAIN.near, 3)


def test_what_is_drawn_for_a_shape_does_not_depend_on_the_others() -> None:
    toy, drawn = Toy(), generators(3)
    whole = make_batch(toy.batch([4, 1, 2]), TRAIN, drawn)
    alone = make_batch(toy.batch([1]), TRAIN, generators(3)[1:2])
    for name in ("points", "normals", "box", "queries", "distances"):
        torch.testing.assert_close(getattr(alone, name)[0], getattr(whole, name)[1], msg=name)


def test_network_weights_depend_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = new_network(CODEC, 1), new_network(CODEC, 1), new_network(CODEC, 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(one.quantizer.codebook, same.quantizer.codebook)
    assert not torch.equal(one.quantizer.codebook, other.quantizer.codebook)


def test_configs_are_checked_and_presets_valid() -> None:
    assert set(PRESETS) == {"small", "default", "paper"}
    for changes in ({"plane": 60}, {"sides": ()}, {"sides": (32,)}, {"codes": 1}):
        with pytest.raises(InputError):
            CodecConfig(**changes)
