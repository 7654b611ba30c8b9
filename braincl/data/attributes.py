"""What NetCDF can hold: attributes, coordinates and names of a set brought into such a form, or refused."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.indexes import PandasMultiIndex

from braincl.errors import ResponseError

RESERVED = ("CLASS", "DIMENSION_LIST", "NAME", "REFERENCE_LIST")  # HDF5 keeps them for itself
TIMES = datetime.date | datetime.time | datetime.timedelta | np.datetime64 | np.timedelta64


def storable(dataset: xr.Dataset) -> xr.Dataset:
    """A set as NetCDF can hold it.

    Of attributes, None is left out, truth values become 0 and 1, paths and times text, mappings and mixed lists JSON. A
    MultiIndex becomes the coordinates that it is made of. Bytes of file names that are not UTF-8 are spelt out.

    Parameters
    ----------
    dataset : Dataset

    Returns
    -------
    Dataset
        Values that need no change are shared, not copied.

    Raises
    ------
    ResponseError
        Naming the attribute, coordinate or variable that holds something else.
    """
    stored = without_multi_index(dataset)
    for name, variable in stored.variables.items():
        if "/" in str(name):
            raise ResponseError(f"{name!r} cannot be stored as NetCDF; rename it so that it holds no '/'")
        values = variable.data
        if getattr(variable.dtype, "kind", "O") in "OUT":  # no kind: pandas' own, such as categories
            values = _texts(np.asarray(variable.values), f"{name!r}")
        fresh = xr.Variable(variable.dims, values, _attributes(variable.attrs, f" of {name!r}"))
        stored = stored.assign_coords({name: fresh}) if name in stored.coords else stored.assign({name: fresh})
    stored.attrs = _attributes(dataset.attrs, "")
    return stored


def without_multi_index(dataset: xr.Dataset) -> xr.Dataset:
    """A set in which each MultiIndex is replaced by the coordinates that it is made of.

    Parameters
    ----------
    dataset : Dataset

    Returns
    -------
    Dataset
    """
    indexes = dataset.xindexes.values()
    return dataset.reset_index(list({i.dim for i in indexes if isinstance(i, PandasMultiIndex)}))


def _attributes(attributes: Mapping[Any, Any], where: str) -> dict[str, Any]:
    made = {}
    for name, value in attributes.items():
        if not isinstance(name, str) or not name or name in RESERVED:
            raise ResponseError(f"attribute {name!r}{where} cannot be stored as NetCDF; give it another name")
        if value is not None:
            made[name] = _attribute(value, f"attribute {name!r}{where}")
    return made


def _attribute(value: Any, what: str) -> Any:
    if isinstance(value, str | bytes | Path | TIMES):
        return _text(value, what)
    if isinstance(value, xr.Dataset | xr.DataArray):
        raise ResponseError(f"{what} is a {type(value).__name__}; make it a variable, or take its .values")
    if not isinstance(value, Mapping):
        try:
            array = np.asarray(value)
        except ValueError:  # lists of different lengths
            array = np.asarray(None)
        if array.dtype.kind in "iufc":
            return value
        if array.dtype.kind == "b":
            return array.astype(np.int8)[()]
        if array.dtype.kind in "UTO" and array.ndim == 1 and all(isinstance(item, str) for item in value):
            return [_text(item, what) for item in value]
    try:
        return _text(json.dumps(value, default=_plain), what)
    except (TypeError, ValueError) as error:
        raise ResponseError(
            f"{what} is a {type(value).__name__}, which NetCDF cannot hold; attributes are text, numbers, and lists "
            "and mappings of these"
        ) from error


def _plain(value: Any) -> Any:
    """What JSON does not know by itself."""
    if isinstance(value, Path | TIMES):
        return str(value)
    if isinstance(value, np.ndarray | np.generic):
        return (value.astype(str) if value.dtype.kind in "Mm" else value).tolist()
    raise TypeError


def _text(value: Any, what: str) -> str:
    text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
    if "\0" in text:
        raise ResponseError(f"{what} holds text with a character of code 0, which NetCDF cannot; take it out")
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _texts(values: NDArray[Any], what: str) -> NDArray[Any]:
    """Text, or numbers that came as objects; None and NaN among text are empty."""
    items = values.ravel().tolist()
    if items and all(isinstance(item, bool | int | float) for item in items):
        return np.array(items).reshape(values.shape)
    items = [None if item != item else item for item in items]
    if odd := [item for item in items if not (item is None or isinstance(item, str | Path))]:
        raise ResponseError(
            f"{what} holds objects, such as a {type(odd[0]).__name__}; NetCDF holds text or numbers there"
        )
    texts = ["" if item is None else _text(item, what) for item in items]
    return np.array(texts, dtype=str).reshape(values.shape)
