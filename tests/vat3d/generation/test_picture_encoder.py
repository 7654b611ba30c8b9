"""Pictures: cropped to their object wherever it lies, on white where transparent, and refused where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import mobilenet_v2

from setcore.errors import InputError
from vat3d.generation.picture_encoder import FEATURES, FILL, PATCHES, SIZE, load_picture_encoder, read_pictures


def drawn(path, where: tuple[int, int, int, int], size=(90, 170), alpha: bool = False) -> str:
    """A picture of a rectangle: rows and columns from, to."""
    pixels = np.full((*size, 4), (250, 240, 245, 0 if alpha else 255), np.uint8)
    pixels[where[0] : where[1], where[2] : where[3]] = (30, 160, 60, 255)
    image = Image.fromarray(pixels)
    (image if alpha else image.convert("RGB")).save(path)
    return str(path)


@pytest.mark.parametrize("alpha", [True, False])
def test_the_object_fills_its_share_wherever_it_lies(tmp_path, alpha):
    middle = read_pictures([drawn(tmp_path / "a.png", (30, 50, 60, 100), alpha=alpha)])[0][0]
    corner = read_pictures([drawn(tmp_path / "b.png", (0, 20, 130, 170), alpha=alpha)])[0][0]
    np.testing.assert_array_equal(middle, corner)
    green = middle[..., 0] < 140
    assert abs(green.any(0).sum() / SIZE - FILL) <= 1.5 / SIZE
    assert abs(green.any(1).sum() / SIZE - FILL / 2) <= 1.5 / SIZE
    np.testing.assert_array_equal(middle[0, 0], [255] * 3 if alpha else [250, 240, 245])


def test_a_small_object_brings_a_hint(tmp_path):
    paths = [drawn(tmp_path / "a.png", (30, 70, 60, 120)), drawn(tmp_path / "b.png", (30, 40, 60, 70))]
    found, hints = read_pictures(paths)
    assert found.shape == (2, SIZE, SIZE, 3)
    assert len(hints) == 1
    assert "b.png" in hints[0]
    assert "1% of the picture" in hints[0]


def test_what_is_no_picture_of_an_object(tmp_path):
    Image.new("RGB", (40, 30), "navy").save(tmp_path / "plain.png")
    Image.new("RGBA", (40, 30), (1, 2, 3, 0)).save(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (
        ("plain.png", "no object"), ("nothing.png", "no object"), ("text.png", "readable"), ("gone.png", "not exist"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            read_pictures([tmp_path / name])
    with pytest.raises(InputError, match="no picture"):
        read_pictures([])


def test_features_are_those_of_the_whole_network():
    """torchvision's, with the embedded weights in its first layers."""
    encoder, whole = load_picture_encoder(), mobilenet_v2(weights=None).eval()
    whole.features.load_state_dict(encoder.features.state_dict(), strict=False)
    pictures = torch.randint(256, (2, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scaled = (pictures.float() / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = whole.features[:18](scaled.permute(0, 3, 1, 2))
    found = encoder(pictures)
    assert found.shape == (2, PATCHES, FEATURES)
    torch.testing.assert_close(found[:, 4 * 1 + 2], expected[:, :, 1, 2])
