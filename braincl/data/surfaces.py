"""Values on a cortical surface as GIFTI or MGH files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braincl.data.scatter import scatter
from braincl.errors import ResponseError
from setcore.files import atomic_path

SURFACE_SUFFIXES = (".gii", ".mgh", ".mgz")
HEMISPHERES = {"left": "CortexLeft", "right": "CortexRight"}


def write_surface(
    values: Any,
    path: str | Path,
    *,
    hemisphere: str | None = None,
    vertices: Any = None,
    n_vertices: int | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Write values of vertices as GIFTI (``.func.gii``, ``.shape.gii``) or MGH (``.mgh``, ``.mgz``), atomically.

    Parameters
    ----------
    values : array of shape (vertex,) or (map, vertex)
    path : path; its suffix chooses the format
    hemisphere : {"left", "right"}, optional
        Stored in GIFTI files, where viewers look for it; MGH files have it in their name (lh., rh.) alone.
    vertices : int array of shape (vertex,), optional
        Where the values lie on the surface, for data of a part of it. NaN elsewhere.
    n_vertices : int, optional
        Vertices of the whole surface; needed with `vertices`. fsaverage5 has 10242 a hemisphere.
    names : sequence of str, optional
        Of the maps; stored in GIFTI files.

    Raises
    ------
    ResponseError
        The suffix, hemisphere or shapes cannot be used.

    Examples
    --------
    >>> import nibabel
    >>> import numpy as np
    >>> import braincl
    >>> braincl.write_surface(np.arange(7.0), "lh.map.func.gii", hemisphere="left")
    >>> nibabel.load("lh.map.func.gii").agg_data().tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    """
    nibabel: Any = import_module("nibabel")
    path = Path(path)
    if path.suffix not in SURFACE_SUFFIXES:
        raise ResponseError(f"{path}: name the surface file .func.gii, .shape.gii, .mgh or .mgz")
    if hemisphere is not None and hemisphere not in HEMISPHERES:
        raise ResponseError(f"hemisphere is {hemisphere!r}; it must be 'left' or 'right'")
    rows = np.atleast_2d(np.asarray(values, dtype=np.float32))
    if rows.ndim != 2 or rows.size == 0:
        raise ResponseError(f"values have shape {np.shape(values)}; expected (vertex,) or (map, vertex)")
    if names is not None and len(names) != len(rows):
        raise ResponseError(f"{len(names)} names for {len(rows)} maps")
    if vertices is not None:
        rows = _spread(rows, np.asarray(vertices), n_vertices)
    elif n_vertices is not None and rows.shape[1] != n_vertices:
        raise ResponseError(f"{rows.shape[1]} values for {n_vertices} vertices; say which with `vertices`")
    image: Any
    if path.suffix == ".gii":
        gifti = nibabel.gifti
        arrays = [
            gifti.GiftiDataArray(row, "NIFTI_INTENT_NONE", "NIFTI_TYPE_FLOAT32", meta={"Name": name})
            for row, name in zip(rows, names or [f"map {number}" for number in range(len(rows))], strict=True)
        ]
        side = {"AnatomicalStructurePrimary": HEMISPHERES[hemisphere]} if hemisphere else {}
        image = gifti.GiftiImage(meta=gifti.GiftiMetaData(side), darrays=arrays)
    else:
        frames = rows.T[:, None, None, :] if len(rows) > 1 else rows[0][:, None, None]
        image = nibabel.MGHImage(np.ascontiguousarray(frames), np.eye(4))
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)


def _spread(rows: NDArray[np.float32], vertices: NDArray[Any], n_vertices: int | None) -> NDArray[np.float32]:
    if n_vertices is None:
        raise ResponseError("values of a part of the surface need n_vertices, the number of vertices of the whole")
    if vertices.shape != rows.shape[1:] or vertices.dtype.kind not in "iu":
        raise ResponseError(f"vertices have shape {vertices.shape} for values of {rows.shape[1]}; give one index each")
    if vertices.min() < 0 or vertices.max() >= n_vertices or len(np.unique(vertices)) < len(vertices):
        raise ResponseError(f"vertices must be different and lie in 0..{n_vertices - 1}")
    return scatter(rows, np.s_[:, vertices], (len(rows), n_vertices), fill=np.nan)
