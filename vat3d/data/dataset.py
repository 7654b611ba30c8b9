"""A prepared data set on disk, read through memory maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from setcore.files import read_lines
from vat3d.data.split import listed_split
from vat3d.errors import DatasetError

KINDS = ("surface", "near", "volume")


def shard_path(folder: Path, shard: int) -> Path:
    """File of one shard.

    Parameters
    ----------
    folder : path
    shard : int

    Returns
    -------
    path
    """
    return folder / f"shard-{shard:05d}.safetensors"


class Dataset:
    """Reads a data set folder, also one that is still being written (then the shards that are there).

    Parameters
    ----------
    folder : path

    Attributes
    ----------
    index : list of dict
        The lines of `index.jsonl` whose shards exist.

    Raises
    ------
    DatasetError
        The folder is no data set, its files contradict each other, or it holds meshes that `vat3d.data.split` lists
        for the test or for another split.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / "dataset.json").is_file():
            raise DatasetError(f"{folder} is not a data set: dataset.json is missing; make one with `vat3d prepare`")
        lines = read_lines(self.folder / "index.jsonl")
        self._shards: dict[int, Any] = {}
        rows: dict[int, int] = {}
        for shard in sorted({line["shard"] for line in lines}):
            path = shard_path(self.folder, shard)
            if path.is_file():
                try:
                    self._shards[shard] = safe_open(path, "pt")
                    rows[shard] = self._shards[shard].get_slice(KINDS[0]).get_shape()[0]
                except SafetensorError as error:
                    raise DatasetError(f"{path} is damaged ({error}); prepare it again") from error
        self.index = [line for line in lines if line["row"] < rows.get(line["shard"], 0)]
        if not self.index:
            raise DatasetError(f"{folder} holds no meshes yet")
        self._check_split()

    def __len__(self) -> int:
        return len(self.index)

    def _check_split(self) -> None:
        for line in self.index:
            listed = listed_split(line["geometry"], line["source"], line["category"])
            if listed not in (None, line["split"]):
                raise DatasetError(
                    f"{self.folder} holds {line['name']} for {line['split']}, which the split of all meshes lists for "
                    f"{listed}; prepare it again"
                )

    def split(self, name: str, *, closed_only: bool = False) -> NDArray[np.int64]:
        """Indices of the meshes of one split.

        Parameters
        ----------
        name : {"train", "validation"}
        closed_only : bool

        Returns
        -------
        int array of shape (n,)

        Raises
        ------
        DatasetError
            There is no such split.
        """
        if name not in ("train", "validation"):
            raise DatasetError(f"there is no split {name!r}; choose 'train' or 'validation'")
        chosen = [i for i, m in enumerate(self.index) if m["split"] == name and (m["closed"] or not closed_only)]
        return np.array(chosen, np.int64)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> dict[str, Tensor]:
        """Samples of some meshes.

        Parameters
        ----------
        indices : sequence of int

        Returns
        -------
        dict of float16 tensors
            `surface` (b, 8192, 6), `near` (b, 8192, 4), `volume` (b, 8192, 4).
        """
        lines = [self.index[int(i)] for i in indices]
        return {
            kind: torch.stack([self._shards[line["shard"]].get_slice(kind)[line["row"]] for line in lines])
            for kind in KINDS
        }
