"""Readers that turn the layouts of data sets into response sets, and what is known of each data set.

A new data set is a module here with a `LAYOUT` (which files there are, and where to get them) and a reader
``read_NAME(folder, subject, **options)``, which describes its sessions and leaves averaging, z-scores and noise
ceilings to `braincl.datasets.trials.assemble`; both are entered in the tables below.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

from braincl.datasets import bids, bold5000, generic, laion_fmri, mosaic, nsd
from braincl.datasets.bids import read_bids
from braincl.datasets.bold5000 import read_bold5000
from braincl.datasets.generic import read_folder, read_nifti
from braincl.datasets.laion_fmri import read_laion_fmri
from braincl.datasets.layout import DataSet, Found, Part, check_folder
from braincl.datasets.mosaic import read_mosaic
from braincl.datasets.nsd import export_nsd_pictures, read_nsd
from braincl.datasets.trials import Session, assemble
from braincl.errors import ResponseError

__all__ = [
    "DATASETS",
    "DataSet",
    "Found",
    "Part",
    "Session",
    "assemble",
    "check_folder",
    "export_nsd_pictures",
    "find_dataset",
    "read_bids",
    "read_bold5000",
    "read_dataset",
    "read_laion_fmri",
    "read_mosaic",
    "read_nifti",
    "read_nsd",
]

READERS: dict[str, Callable[..., xr.Dataset]] = {
    "generic": read_folder,
    "nsd": read_nsd,
    "bold5000": read_bold5000,
    "bids": read_bids,
    "mosaic": read_mosaic,
    "laion-fmri": read_laion_fmri,
}
DATASETS: dict[str, DataSet] = {
    module.LAYOUT.name: module.LAYOUT for module in (generic, nsd, bold5000, bids, mosaic, laion_fmri)
}


def find_dataset(name: str) -> DataSet:
    """What is known of a data set.

    Parameters
    ----------
    name : str
        A key of `DATASETS`.

    Returns
    -------
    DataSet

    Raises
    ------
    ResponseError
        There is none of that name; near matches are named.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name.lower(), DATASETS, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known are: {', '.join(DATASETS)}"
        raise ResponseError(f"there is no data set {name!r}; {hint}")
    return DATASETS[name]


def read_dataset(name: str, folder: str | Path, subject: str, **options: Any) -> xr.Dataset:
    """A subject of a data set, by the reader of that data set.

    Parameters
    ----------
    name : str
        A key of `DATASETS`.
    folder : path
    subject : str
    **options
        Those of the data set's reader.

    Returns
    -------
    response set

    Raises
    ------
    ResponseError
        The reader does not know an option, or files are missing or damaged.
    """
    reader = READERS[find_dataset(name).name]
    of_generic = inspect.signature(read_nifti).parameters if name == "generic" else {}
    known = {**inspect.signature(reader).parameters, **of_generic}
    if unknown := [option for option in options if option not in known]:
        raise ResponseError(f"the reader of {name} has no option {', '.join(unknown)}")
    return reader(folder, subject, **options)
