"""Values of vertices to GIFTI and MGH files and back."""

import gzip

import nibabel
import numpy as np
import pytest

import braincl
from braincl.data.surfaces import write_surface


def read_surface(path):
    """Values of a file, (vertex,) of one map, (map, vertex) of several."""
    content = path.read_bytes()  # nibabel would leave the file open
    if path.suffix == ".gii":
        rows = np.stack([array.data for array in nibabel.GiftiImage.from_bytes(content).darrays])
    else:
        content = gzip.decompress(content) if path.suffix == ".mgz" else content
        values = np.asarray(nibabel.MGHImage.from_bytes(content).dataobj)
        rows = values.reshape(-1, values.shape[3] if values.ndim == 4 else 1, order="F").T
    return rows[0] if len(rows) == 1 else rows


@pytest.mark.parametrize("suffix", [".func.gii", ".shape.gii", ".mgh", ".mgz"])
@pytest.mark.parametrize("maps", [None, 3])
def test_surfaces_round_trip(tmp_path, suffix, maps):
    values = np.random.default_rng(0).standard_normal((maps, 11) if maps else 11).astype("f4")
    write_surface(values, tmp_path / f"lh.x{suffix}", hemisphere="left")
    np.testing.assert_array_equal(read_surface(tmp_path / f"lh.x{suffix}"), values)
    vertices = np.array([12, 3, 4, 7, 0, 16, 9, 10, 1, 13, 2])
    write_surface(values, tmp_path / f"part{suffix}", vertices=vertices, n_vertices=17)
    whole = read_surface(tmp_path / f"part{suffix}")
    np.testing.assert_array_equal(whole[..., vertices], values)
    assert np.isnan(np.delete(whole, vertices, axis=-1)).all()
    assert whole.shape[-1] == 17


def test_gifti_says_which_hemisphere_and_map(tmp_path):
    write_surface(np.ones((2, 5)), tmp_path / "rh.func.gii", hemisphere="right", names=["faces", "places"])
    image = nibabel.load(tmp_path / "rh.func.gii")
    assert image.meta["AnatomicalStructurePrimary"] == "CortexRight"
    assert [array.meta["Name"] for array in image.darrays] == ["faces", "places"]
    assert nibabel.load(tmp_path / "rh.func.gii").darrays[0].data.dtype == np.float32


@pytest.mark.parametrize(
    ("values", "name", "options", "message"),
    [
        (np.ones(5), "x.nii.gz", {}, "name the surface file"),
        (np.ones(5), "x.func.gii", {"hemisphere": "both"}, "'left' or 'right'"),
        (np.ones((2, 5, 3)), "x.mgh", {}, r"shape \(2, 5, 3\)"),
        (np.ones(5), "x.mgh", {"n_vertices": 7}, "5 values for 7 vertices"),
        (np.ones(5), "x.mgh", {"vertices": np.arange(5)}, "need n_vertices"),
        (np.ones(5), "x.mgh", {"vertices": np.arange(4), "n_vertices": 7}, "one index each"),
        (np.ones(5), "x.mgh", {"vertices": np.arange(3, 8), "n_vertices": 7}, r"lie in 0\.\.6"),
        (np.ones(2), "x.mgh", {"vertices": np.array([3, 3]), "n_vertices": 7}, "different"),
        (np.ones((2, 5)), "x.func.gii", {"names": ["one"]}, "1 names for 2 maps"),
    ],
)
def test_surfaces_that_cannot_be_written(tmp_path, values, name, options, message):
    with pytest.raises(braincl.ResponseError, match=message):
        write_surface(values, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())
