"""Image embeddings: picture files to ``embedding (image, feature)``, in batches that survive a kill."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from PIL import Image

from braincl.data.pictures import list_pictures, read_picture
from braincl.data.responses import save_netcdf
from braincl.data.torch_settings import plain_torch
from braincl.embedding.backbones import Backbone, ImageEncoder, find_backbone, load_encoder
from braincl.embedding.partial_file import append_batch, finished_batches, partial_file
from braincl.errors import ImageError, ModelError
from setcore.devices import find_device
from setcore.errors import InputError
from setcore.files import check_output
from setcore.parallel.jobs import Parallel, in_order, run_tasks
from setcore.progress import progress_bar

READERS = 4  # threads that decode pictures


@plain_torch()
def embed_images(
    paths: Sequence[str | Path],
    backbone: str | Backbone,
    weights: str | Path | None = None,
    *,
    batch_size: int = 32,
    device: str = "auto",
    normalize: bool = True,
    out: str | Path | None = None,
    progress: bool = False,
    broken: dict[str, str] | None = None,
    parallel: Parallel | None = None,
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
    device : str
        As in `setcore.devices.find_device`: "auto" is the best there is.
    normalize : bool
        Bring each embedding to unit norm, as the published in-context encoders expect.
    out : path, optional
        Write the result there as NetCDF-4, atomically. Finished batches are kept in ``OUT.partial``, and the same call
        after a kill continues from them to the result of an uninterrupted run.
    progress : bool
        Show a progress bar on standard error.
    broken : dict, optional
        Receives the pictures that cannot be read, with the reason, and the others are embedded. Without it such
        pictures are an error.
    parallel : Parallel, optional
        Who embeds; whoever it is, the embeddings are the same but for rounding. A share without a picture has
        embeddings of none.

    Returns
    -------
    Dataset
        ``embedding (image, feature)`` float32 with ``image_id`` (first 16 hex digits of the SHA-1 of the file) and
        ``image_file``; attributes `backbone`, `architecture`, `weights_sha256`, `preprocessing`, `normalization`.

    Raises
    ------
    ImageError
        Pictures cannot be opened (all of them are named), or there is none; before anything is written.
    ModelError
        The backbone is unknown, or embeddings come out as NaN, infinite or zero.
    CheckpointError
        The weights cannot be read or are of another architecture.
    InputError
        The device is not there, `out` cannot be written, or ``OUT.partial`` comes from other settings.

    Examples
    --------
    >>> import braincl
    >>> import torch
    >>> from PIL import Image
    >>> from torchvision.models import mobilenet_v2
    >>> Image.new("RGB", (64, 48), "orange").save("picture.png")
    >>> torch.save(mobilenet_v2().state_dict(), "weights.pth")  # random weights: download real ones
    >>> found = braincl.embed_images(["picture.png"], "mobilenet_v2", "weights.pth", device="cpu")
    >>> found["embedding"].shape, found.attrs["backbone"]
    ((1, 1280), 'mobilenet_v2')
    """
    if batch_size < 1:
        raise InputError(f"the batch size is {batch_size}; it must be 1 or more")
    if out is not None:
        check_output(out)
    parallel = parallel or Parallel()
    files = parallel.share(list_pictures(paths))
    place = find_device(device)
    which = find_backbone(backbone) if isinstance(backbone, str) else backbone
    with ExitStack() as at_end:
        at_end.callback(_encoder.cache_clear)
        encoder = _encoder(which, weights, device)
        parallel.check_memory(1 + 1e-9 * sum(tensor.nbytes for tensor in encoder.network.state_dict().values()))
        ids_of = _check_pictures(files, broken, progress)
        files, ids = list(ids_of), list(ids_of.values())
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
        none = [] if files else [_no_embeddings(encoder, place)]
        if parallel.jobs > 1 or parallel.dask is not None:  # others have encoders of their own
            del encoder
            _encoder.cache_clear()

        def result_of(kept: BinaryIO | None) -> xr.Dataset:
            rows = [*none] if kept is None or none else finished_batches(kept, len(files), batch_size)
            done = sum(map(len, rows))
            parts = [slice(start, start + batch_size) for start in range(done, len(files), batch_size)]
            tasks = [
                (which, weights, device, normalize, [file.resolve() for file in files[part]], ids[part])
                for part in parts
            ]
            with progress_bar(total=len(files), initial=done, shown=progress, unit="image",
                      desc=f"embed {which.name}") as bar:  # fmt: skip
                for batch in in_order(run_tasks(_embed_batch, tasks, parallel)):
                    if isinstance(batch, InputError):
                        raise batch
                    rows.append(batch)
                    if kept is not None:
                        append_batch(kept, batch)
                    bar.update(len(batch))
            return xr.Dataset(
                {"embedding": (("image", "feature"), np.concatenate(rows))},
                coords={
                    "image_id": ("image", np.array(ids, dtype=str)),
                    "image_file": ("image", np.array(list(map(str, files)), dtype=str)),
                },
                attrs=attributes,
            )

        if out is None:
            return result_of(None)
        with partial_file(Path(out), settings) as kept:
            result = result_of(kept)
            save_netcdf(result, out)
        return result


def _check_pictures(files: Sequence[Path], broken: dict[str, str] | None, progress: bool) -> dict[Path, str]:
    """Ids of the pictures that can be read; the others go into `broken`, or are an error."""
    with ThreadPoolExecutor(READERS) as readers:
        read = readers.map(_checked, files)
        checked = progress_bar(read, desc="check pictures", total=len(files), shown=progress, unit="image")
        found = dict(zip(files, checked, strict=True))
    bad = {str(file): str(error) for file, error in found.items() if isinstance(error, ImageError)}
    if broken is not None:
        broken.update(bad)
    if bad and (broken is None or len(bad) == len(files)):
        raise ImageError("; ".join(bad.values()))
    return {file: image_id for file, image_id in found.items() if isinstance(image_id, str)}


def _checked(file: Path) -> str | ImageError:
    """Id of a picture that can be read, else why it cannot."""
    try:
        return read_picture(file)[0]
    except ImageError as error:
        return error


def _no_embeddings(encoder: ImageEncoder, place: torch.device) -> NDArray[np.float32]:
    """Embeddings of no picture (0, feature), as wide as that of an empty one."""
    with torch.inference_mode():
        empty = encoder.prepare(Image.new("RGB", (64, 64)))[None].to(place)
        return np.empty((0, encoder.network(empty).shape[1]), np.float32)


@functools.lru_cache(maxsize=1)
def _encoder(backbone: Backbone, weights: str | Path | None, device: str) -> ImageEncoder:
    """An encoder on a device, opened once in each process."""
    encoder = load_encoder(backbone, weights)
    encoder.network.to(find_device(device))
    return encoder


@plain_torch()
def _embed_batch(
    backbone: Backbone,
    weights: str | Path | None,
    device: str,
    normalize: bool,
    files: Sequence[Path],
    ids: Sequence[str],
) -> NDArray[np.float32]:
    encoder = _encoder(backbone, weights, device)

    def prepared(file: Path, image_id: str) -> torch.Tensor:
        found, image = read_picture(file)
        if found != image_id:
            raise ImageError(f"{file} was changed while pictures were being embedded; run again")
        return encoder.prepare(image)

    with ThreadPoolExecutor(READERS) as readers, torch.inference_mode():
        images = torch.stack(list(readers.map(prepared, files, ids)))
        features = encoder.network(images.to(find_device(device))).float()
        norms = features.norm(dim=1, keepdim=True)
        if not bool((torch.isfinite(norms) & (norms > 0)).all()):
            at = int((~(torch.isfinite(norms) & (norms > 0)))[:, 0].nonzero()[0])
            raise ModelError(
                f"{encoder.backbone.name} gives {files[at]} an embedding of norm {float(norms[at])}; are the weights "
                "damaged?"
            )
        return np.asarray((features / norms if normalize else features).cpu())


def merge_embeddings(shares: Sequence[xr.Dataset]) -> xr.Dataset:
    """The embeddings of several files, such as the shares of a job array, as one.

    Parameters
    ----------
    shares : sequence of Dataset
        As `embed_images` makes them.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        They are not embeddings by one encoder.
    """
    first = shares[0]
    for share in shares[1:]:
        if share.attrs != first.attrs or share.sizes.get("feature") != first.sizes.get("feature"):
            raise InputError(
                "the features are not of one encoder, or were prepared in different ways; embed them alike"
            )
    return xr.concat(shares, "image") if len(shares) > 1 else first
