"""Files that data sets come in, read whole or refused: tables, MATLAB files, label tables, pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from braincl.data.hdf5_check import hdf5_fault
from braincl.data.nifti import read_map
from braincl.data.pictures import read_picture
from braincl.errors import ResponseError


def need_file(path: Path, what: str) -> Path:
    """A path that must be a file.

    Parameters
    ----------
    path : path
    what : str
        What the file is for, for the message.

    Returns
    -------
    Path

    Raises
    ------
    ResponseError
        It is not there.
    """
    if not path.is_file():
        raise ResponseError(f"{path} is missing: {what}")
    return path


def need_folder(path: str | Path) -> Path:
    """A path that must be a folder.

    Parameters
    ----------
    path : path

    Returns
    -------
    Path

    Raises
    ------
    ResponseError
        It is not there.
    """
    if not Path(path).is_dir():
        raise ResponseError(f"{path} is not a folder; name the folder that the data set lies in")
    return Path(path)


def read_table(path: Path, columns: Sequence[str] = (), optional: Sequence[str] = ()) -> list[dict[str, str]]:
    """Rows of a table with a head line: separated by tabs in .tsv, by commas otherwise.

    Parameters
    ----------
    path : path
    columns : sequence of str
        Those that must be there.
    optional : sequence of str
        Others that are known. Heads that differ from known ones in case alone get their spelling.

    Returns
    -------
    list of dict of str to str
        Heads and values without blanks around them.

    Raises
    ------
    ResponseError
        The file cannot be read, a column of `columns` is missing, a head comes twice, or a row is not as long as the
        head.
    """
    need_file(path, "a table")
    known = {name.casefold(): name for name in (*columns, *optional)}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(
                file, delimiter="\t" if path.suffix == ".tsv" else ",", strict=True, skipinitialspace=True
            )
            table = [[cell.strip() for cell in line] for line in lines if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ResponseError(f"{path} is not a readable table ({error})") from error
    head = [known.get(name.casefold(), name) for name in table[0]] if table else []
    if missing := [name for name in columns if name not in head]:
        raise ResponseError(f"{path}: column {', '.join(missing)} is missing; it has {', '.join(head)}")
    if twice := [name for name in head if name and head.count(name) > 1]:
        raise ResponseError(f"{path}: two columns are called {twice[0]!r}; give them different names")
    for number, line in enumerate(table[1:], 2):
        if len(line) != len(head):
            raise ResponseError(f"{path}, line {number}: the row is not as long as the head of {len(head)} columns")
    return [dict(zip(head, line, strict=True)) for line in table[1:]]


def shows_picture(name: str) -> bool:
    """Whether a cell of a table names a picture, or says that there was none.

    Parameters
    ----------
    name : str

    Returns
    -------
    bool
        False for an empty cell and for n/a, NA and NaN, as BIDS, R and pandas write what is missing.
    """
    return name.casefold() not in ("", "n/a", "na", "nan")


def read_lines(path: Path) -> list[str]:
    """Lines of a text file that are not blank.

    Parameters
    ----------
    path : path

    Returns
    -------
    list of str

    Raises
    ------
    ResponseError
        The file is absent or is not text.
    """
    need_file(path, "a list with one line a trial")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ResponseError(f"{path} is not a readable text file ({error})") from error
    return [line.strip() for line in lines if line.strip()]


def read_mat(path: Path, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
    """Arrays of a MATLAB file by name.

    Versions up to 7 are read by SciPy, version 7.3 (HDF5, where axes are stored reversed) by h5py.

    Parameters
    ----------
    path : path
    names : sequence of str, optional
        None: all arrays.

    Returns
    -------
    dict of str to array
        In MATLAB's order of axes.

    Raises
    ------
    ResponseError
        The file is damaged, or a name is missing.
    """
    import h5py
    from scipy.io import loadmat

    need_file(path, "a MATLAB file")
    try:
        try:
            arrays = {name: value for name, value in loadmat(path, variable_names=names).items() if name[:2] != "__"}
        except NotImplementedError:  # how SciPy says that a file is of version 7.3
            if what := hdf5_fault(path, values=False):
                raise ValueError(what) from None
            with h5py.File(path, "r") as file:
                wanted = [n for n in names or file if isinstance(file.get(n), h5py.Dataset)]
                arrays = {name: np.asarray(file[name][()]).T for name in wanted}
    except Exception as error:  # damaged files raise whatever zlib, SciPy or HDF5 stumble over
        raise ResponseError(
            f"{path} is not a readable MATLAB file ({type(error).__name__}: {error}); it may be truncated, fetch it "
            "again"
        ) from error
    if missing := [name for name in names or () if name not in arrays]:
        raise ResponseError(f"{path}: variable {', '.join(missing)} is missing")
    return arrays


@contextmanager
def open_hdf5(path: Path, fault: str, advice: str = "") -> Iterator[Any]:
    """An HDF5 file to read in a ``with`` block.

    Parameters
    ----------
    path : path
    fault, advice : str
        For messages: what the file is not, and what to do.

    Raises
    ------
    ResponseError
        Whatever opening and reading stumble over: ``PATH FAULT (ERROR); ADVICE``. Those that the block raises itself
        pass as they are.
    """
    import h5py

    hint = f"; {advice}" if advice else ""
    if what := hdf5_fault(path, values=False):
        raise ResponseError(f"{path} {fault} ({what}){hint}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except ResponseError:
        raise
    except Exception as error:  # what a damaged file raises inside HDF5 and h5py is not documented
        raise ResponseError(f"{path} {fault} ({type(error).__name__}: {error}){hint}") from error


def _read_label_table(path: Path) -> dict[int, str]:
    """Names by number from a FreeSurfer colour table: lines of a number, a name, and colours that are not needed.

    Raises
    ------
    ResponseError
    """
    names: dict[int, str] = {}
    for line in read_lines(need_file(path, "the names of the labels")):
        parts = line.split()
        if line.startswith("#"):
            continue
        try:
            names[int(parts[0])] = parts[1]
        except (ValueError, IndexError) as error:
            raise ResponseError(f"{path}: line {line!r} is not a number and a name") from error
    return names


def read_labels(volume: Path, table: Path, voxels: xr.Dataset) -> NDArray[Any]:
    """Name of each voxel's label.

    Parameters
    ----------
    volume, table : path
        Labels as a NIfTI image, and their names as a FreeSurfer colour table.
    voxels : Dataset
        The voxel axis, as from `voxel_table`.

    Returns
    -------
    array of str, shape (voxel,)
        Empty where the label is 0 or less.

    Raises
    ------
    ResponseError
        The volume has a label that the table does not name, or is on another grid.
    """
    values = read_map(need_file(volume, "a volume of labels"), voxels)
    names = _read_label_table(table)
    if unknown := sorted({float(value) for value in np.unique(values)} - {float(n) for n in names} - {-1.0, 0.0}):
        raise ResponseError(
            f"{volume} has the label {unknown[0]:g}, which {table} does not name (it names {_ranges(names)}); they "
            "belong to different versions, fetch both again"
        )
    return np.array([names[int(value)] if value > 0 else "" for value in values], dtype=str)


def with_rois(voxels: xr.Dataset, labels: dict[str, NDArray[Any]]) -> xr.Dataset:
    """The voxel axis with the coordinate `roi`: the first name that a voxel has in `labels`, else "other".

    With several atlases each is kept as a coordinate of its own, `roi_ATLAS`, since their areas overlap.

    Parameters
    ----------
    voxels : Dataset
        The voxel axis.
    labels : dict of str to array of str, shape (voxel,)
        Names by atlas; empty where a voxel has none.

    Returns
    -------
    Dataset
    """
    roi = np.full(voxels.sizes["voxel"], "", dtype=str)
    for names in labels.values():
        roi = np.where(roi == "", names, roi)
    voxels = voxels.assign_coords(roi=("voxel", np.where(roi == "", "other", roi)))
    if len(labels) > 1:
        kept: dict[str, Any] = {f"roi_{atlas.replace('-', '_')}": ("voxel", labels[atlas]) for atlas in labels}
        voxels = voxels.assign_coords(kept)
    return voxels


def file_ids(files: Iterable[Path]) -> dict[Path, str]:
    """`image_id` of picture files: the first 16 hex digits of the SHA-1 of the file.

    Parameters
    ----------
    files : iterable of Path

    Returns
    -------
    dict of Path to str

    Raises
    ------
    ImageError
        A picture is missing or cannot be opened.
    """
    return {file: read_picture(file)[0] for file in dict.fromkeys(files)}


def _ranges(numbers: Iterable[int]) -> str:
    known = sorted(numbers)
    return f"{known[0]} to {known[-1]}" if known else "nothing"
