"""Image embeddings: picture files to ``embedding (image, feature)``, in batches that survive a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from braincl.data.pictures import list_pictures, read_picture
from braincl.data.responses import save_netcdf
from braincl.embedding.backbones import Backbone, ImageEncoder, find_backbone, load_encoder
from braincl.embedding.partial_file import append_batch, finished_batches, partial_file
from braincl.errors import ImageError, ModelError
from setcore.errors import InputError
from setcore.files import check_output

READERS = 4  # threads that decode pictures


def embed_images(
    paths: Sequence[str | Path],
    backbone: str | Backbone,
    weights: str | Path | None = None,
    *,
    batch_size: int = 32,
    device: str | None = None,
    normalize: bool = True,
    out: str | Path | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Embed picture files with an image encoder.

    Parameters
    ----------
    paths : sequence of path
        Picture files, and folders that are searched for them; the order is kept, within a folder by name.
    backbone : str or Backbone
        A name of `braincl.embedding.backbones.BACKBONES`.
    weights : path or str, optional
        A file of weights or ``hf-hub:ORG/NAME``; None: the published weights, from the hub.
    batch_size : int
        Pictures that the encoder takes at once; bounds memory.
    device : str, optional
        "cpu" or "cuda"; None: the GPU where there is one.
    normalize : bool
        Bring each embedding to unit norm, as the published in-context encoders expect.
    out : path, optional
        Write the result there as NetCDF-4, atomically. Finished batches are kept in ``OUT.partial``, and the same call
        after a kill continues from them to the result of an uninterrupted run.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Dataset
        ``embedding (image, feature)`` float32 with ``image_id`` (first 16 hex digits of the SHA-1 of the file) and
        ``image_file``; attributes `backbone`, `architecture`, `weights_sha256`, `preprocessing`, `normalization`.

    Raises
    ------
    ImageError
        A picture cannot be opened, or there is none; before anything is written.
    ModelError
        The backbone or device is unknown, or embeddings come out as NaN, infinite or zero.
    CheckpointError
        The weights cannot be read or are of another architecture.
    InputError
        `out` cannot be written, or ``OUT.partial`` comes from other settings.
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; it must be 1 or more")
    if out is not None:
        check_output(out)
    files = list_pictures(paths)
    place = _device(device)
    encoder = load_encoder(find_backbone(backbone) if isinstance(backbone, str) else backbone, weights)
    encoder.network.to(place)
    with ThreadPoolExecutor(READERS) as readers:
        hashes = readers.map(lambda file: read_picture(file)[0], files)
        ids = list(tqdm(hashes, "check pictures", len(files), disable=not progress, unit="image"))
        attributes = {
            "backbone": encoder.backbone.name,
            "architecture": f"{encoder.backbone.library} {encoder.backbone.model}",
            "weights_sha256": encoder.weights_sha256,
            "preprocessing": f"upright, on white; {encoder.preprocessing}",
            "normalization": "unit norm" if normalize else "none",
        }
        settings = {
            **attributes,
            "batch_size": batch_size,
            "device": place.type,
            "pictures": hashlib.sha256("".join(ids).encode()).hexdigest(),
        }

        def result_of(kept: BinaryIO | None) -> xr.Dataset:
            rows = [] if kept is None else finished_batches(kept, len(files), batch_size)
            done = len(rows) * batch_size
            with tqdm(total=len(files), initial=min(done, len(files)), disable=not progress, unit="image",
                      desc=f"embed {encoder.backbone.name}") as bar:  # fmt: skip
                for start in range(done, len(files), batch_size):
                    part = slice(start, start + batch_size)
                    rows.append(_embed_batch(encoder, place, files[part], ids[part], normalize, readers))
                    if kept is not None:
                        append_batch(kept, rows[-1])
                    bar.update(len(rows[-1]))
            return xr.Dataset(
                {"embedding": (("image", "feature"), np.concatenate(rows))},
                coords={"image_id": ("image", np.array(ids)), "image_file": ("image", np.array(list(map(str, files))))},
                attrs=attributes,
            )

        if out is None:
            return result_of(None)
        with partial_file(Path(out), settings) as kept:
            result = result_of(kept)
            save_netcdf(result, out)
        return result


def _embed_batch(
    encoder: ImageEncoder,
    device: torch.device,
    files: Sequence[Path],
    ids: Sequence[str],
    normalize: bool,
    readers: ThreadPoolExecutor,
) -> NDArray[np.float32]:
    def prepared(file: Path, image_id: str) -> torch.Tensor:
        found, image = read_picture(file)
        if found != image_id:
            raise ImageError(f"{file} was changed while pictures were being embedded; run again")
        return encoder.prepare(image)

    with torch.inference_mode():
        images = torch.stack(list(readers.map(prepared, files, ids)))
        features = encoder.network(images.to(device)).float()
        norms = features.norm(dim=1, keepdim=True)
        if not bool((torch.isfinite(norms) & (norms > 0)).all()):
            at = int((~(torch.isfinite(norms) & (norms > 0)))[:, 0].nonzero()[0])
            raise ModelError(
                f"{encoder.backbone.name} gives {files[at]} an embedding of norm {float(norms[at])}; are the weights "
                "damaged?"
            )
        return np.asarray((features / norms if normalize else features).cpu())


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        raise ModelError(f"device {name!r} is not there ({str(error).splitlines()[0]}); use cpu") from error
    return device
