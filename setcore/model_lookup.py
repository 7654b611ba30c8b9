"""Where a pretrained model lies: a folder, or the name of one that comes with a package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from setcore.checkpoint import WEIGHTS_FILE
from setcore.errors import InputError


def embedded_models(weights: str | Path, file: str = WEIGHTS_FILE) -> dict[str, Path]:
    """The model folders that a package brings along.

    Parameters
    ----------
    weights : path
        The package's folder of model folders.
    file : str
        What makes a folder a model folder.

    Returns
    -------
    dict of str to Path
        By name, in order.
    """
    return {path.parent.name: path.parent for path in sorted(Path(weights).glob(f"*/{file}"))}


def find_model_folder(
    path_or_name: str | Path | None,
    embedded: Mapping[str, Path],
    default: str,
    error: type[InputError] = InputError,
) -> Path:
    """The folder of a model.

    Parameters
    ----------
    path_or_name : path or str, optional
        A folder, or a name of `embedded`. A folder that exists goes before an embedded model of the same name. None:
        the default.
    embedded : mapping of str to Path
        Folders by name, as from `embedded_models`; a model may have several names, such as an id.
    default : str
        Name of the model that is meant by None.
    error : type of InputError
        What is raised.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        Of the type `error`: it is neither.
    """
    name = default if path_or_name is None else str(path_or_name)
    if path_or_name is not None and Path(path_or_name).is_dir():
        return Path(path_or_name)
    if name in embedded:
        return embedded[name]
    names = ", ".join(embedded) or "none"
    raise error(f"{name} is neither a model folder nor an embedded model; embedded are: {names}")
