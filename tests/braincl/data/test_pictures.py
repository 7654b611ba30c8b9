"""Picture files: which are found, and what is read of them."""

import warnings

import numpy as np
import pytest
from PIL import Image

import braincl
from braincl.data.pictures import list_pictures, picture_suffixes, read_picture
from braincl.errors import ImageError


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(7):
        Image.new("RGB", (5, 4), (number, 0, 0)).save(folder / f"{number}.png")
    return folder


def test_transparency_is_on_white_and_depth_and_orientation_are_kept(tmp_path):
    pixels = np.zeros((5, 8, 4), np.uint8)
    pixels[:, :3] = (200, 10, 30, 255)
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    found = np.asarray(read_picture(tmp_path / "rgba.png")[1])
    assert (found[:, :3] == (200, 10, 30)).all()
    assert (found[:, 3:] == 255).all()

    grey = np.linspace(0, 65535, 40).astype(np.uint16).reshape(5, 8)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    found = np.asarray(read_picture(tmp_path / "deep.png")[1])
    np.testing.assert_array_equal(found, np.repeat((grey / 257).round().astype(np.uint8)[..., None], 3, axis=2))

    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.new("RGB", (9, 4), "red").save(tmp_path / "turned.jpg", exif=exif)
    assert read_picture(tmp_path / "turned.jpg")[1].size == (4, 9)
    palette = Image.new("P", (6, 3))
    palette.save(tmp_path / "palette.gif", transparency=0)
    assert (np.asarray(read_picture(tmp_path / "palette.gif")[1]) == 255).all()


def test_pictures_are_listed_once_and_in_order(pictures):
    (pictures / "notes.txt").write_text("no picture")
    (pictures / "deeper").mkdir()
    (pictures / "0.png").rename(pictures / "deeper" / "0.PNG")
    found = list_pictures([pictures / "5.png", pictures])
    assert [path.name for path in found] == ["5.png", "1.png", "2.png", "3.png", "4.png", "6.png", "0.PNG"]


def test_folders_are_searched_for_what_pillow_reads_hidden_ones_left_out_and_links_followed(pictures, tmp_path):
    for name in ("10.jfif", "7.jpe", "8.webp", "9.pgm"):
        Image.new("L", (5, 4)).save(pictures / name)
    if ".avif" in picture_suffixes():
        Image.new("RGB", (5, 4)).save(pictures / "11.avif")
    (pictures / ".thumbnails").mkdir()
    Image.new("L", (5, 4)).save(pictures / ".thumbnails" / "1.png")
    Image.new("L", (5, 4)).save(pictures / ".2.png")
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "set").symlink_to(pictures)
    (pictures / "back").symlink_to(tmp_path / "shown")
    found = list_pictures([tmp_path / "shown"])
    assert [int(path.stem) for path in found] == list(range(11 + (".avif" in picture_suffixes())))
    assert all(read_picture(path)[1].size == (5, 4) for path in found)


def test_paths_without_pictures(tmp_path):
    (tmp_path / "empty").mkdir()
    for paths in ([], [tmp_path / "empty"], [tmp_path / "absent.png"]):
        with pytest.raises(braincl.ImageError, match=r"no pictures|does not exist"):
            list_pictures(paths)


def test_more_pixels_than_pillow_allows_are_refused(tmp_path, monkeypatch):
    Image.new("L", (40, 50)).save(tmp_path / "bomb.png")
    for limit, named in ((1999, "40 x 50 pixels"), (900, "bomb")):  # from twice the limit on Pillow itself refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with pytest.raises(ImageError, match=rf"bomb\.png cannot be read.*{named}"):
                read_picture(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    read_picture(tmp_path / "bomb.png")
