"""Readers that turn the layouts of data sets into response sets, and what is known of each data set."""

from __future__ import annotations

from braincl.datasets.bold5000 import read_bold5000
from braincl.datasets.generic import read_nifti
from braincl.datasets.layout import DataSet, Found, Part, check_folder
from braincl.datasets.nsd import export_nsd_pictures, read_nsd
from braincl.datasets.trials import Session, assemble

__all__ = [
    "DataSet",
    "Found",
    "Part",
    "Session",
    "assemble",
    "check_folder",
    "export_nsd_pictures",
    "read_bold5000",
    "read_nifti",
    "read_nsd",
]
