"""Model folders: `config.json` beside `model.safetensors`, checked against each other before anything is loaded."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from setcore.errors import CheckpointError
from setcore.files import read_json, write_bytes, write_json

Config = TypeVar("Config")
Network = TypeVar("Network", bound=nn.Module)
LARGEST = 1 << 16
"""Of any whole number in a config."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def config_from_dict(config_class: type[Config], values: Any, where: str) -> Config:
    """A frozen config from an object of plain JSON values, nested dataclasses included.

    Parameters
    ----------
    config_class : dataclass
    values : mapping of str to plain JSON values
        Fields that are missing take their defaults.
    where : str
        What the values are, for messages.

    Returns
    -------
    instance of `config_class`

    Raises
    ------
    CheckpointError
        A field is unknown, missing, of another type, or refused by the config's own checks.
    """
    if not isinstance(values, Mapping):
        raise CheckpointError(f"{where}: expected an object with the fields of {config_class.__name__}")
    fields = {field.name: field for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise CheckpointError(
            f"{where}: unknown field {unknown[0]!r}; it was made by another version (before the first release, or "
            "newer than this): train or convert the model again"
        )
    hints = get_type_hints(config_class)
    try:
        return config_class(
            **{name: _from_json(hints[name], value, f"{where}: field {name!r}") for name, value in values.items()}
        )
    except CheckpointError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def _from_json(hint: Any, value: Any, where: str) -> Any:
    """`value` as the field type `hint` wants it: nested configs built, lists as tuples, plain types checked."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    nested = [option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)]
    if nested and value is not None:
        return config_from_dict(nested[0], value, where)
    # JSON does not tell 1.0 from 1, so an int may stand for a float; bool is an int to Python but not to JSON.
    fits = type(value) in options or (type(value) is int and float in options)
    if set(options) <= {int, float, str, bool, types.NoneType} and not fits:
        raise CheckpointError(f"{where} is {value!r}, expected {' or '.join(t.__name__ for t in options)}")
    return _as_tuples(value, where)


def _as_tuples(value: Any, where: str) -> Any:
    if type(value) is int and not 0 <= value <= LARGEST:
        raise CheckpointError(f"{where} holds {value!r}; numbers there are 0 to {LARGEST}")
    return tuple(_as_tuples(part, where) for part in value) if isinstance(value, list) else value


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to one safetensors file, atomically.

    Parameters
    ----------
    path : path
    tensors : mapping of str to tensor
    metadata : mapping of str to str, optional

    Raises
    ------
    CheckpointError
        A tensor is sparse, or holds no data (on the meta device).
    """
    check_dense(tensors, str(path))
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, save(contiguous, dict(metadata) if metadata else None))


def check_dense(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that hold no plain array of numbers.

    Parameters
    ----------
    tensors : mapping of str to tensor
    where : str
        For messages.

    Raises
    ------
    CheckpointError
    """
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            kind = "on the meta device" if tensor.is_meta else "sparse or quantised"
            raise CheckpointError(f"{where}: tensor {name!r} is {kind}; give plain tensors of numbers")


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Parameters
    ----------
    path : path

    Returns
    -------
    dict of str to tensor

    Raises
    ------
    CheckpointError
        The file is absent, truncated or not safetensors (a pickle posing as one is refused without being opened).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}")
    try:
        return load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file ({error}); fetch it again") from error


def read_foreign_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file of weights that others made; what training scripts wrap around them is taken off.

    Nothing in it is run.

    Parameters
    ----------
    path : path
        Safetensors, or .pt, .pth, .bin read with ``weights_only=True``.

    Returns
    -------
    dict of str to tensor
        At least one.

    Raises
    ------
    CheckpointError
        The file is absent, damaged, or holds anything but tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"weights {path} do not exist; name a .safetensors, .pt, .pth or .bin file")
    if path.suffix == ".safetensors":
        return load_tensors(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises on a damaged or foreign file is not documented
        raise CheckpointError(
            f"{path} is not a readable file of plain tensors ({type(error).__name__}); it may be truncated, or hold "
            "code (TorchScript, pickled objects), which is never run: take the .safetensors file of the model"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)} if _named(state) else {}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors by name; it must be a state dict")
    return {name.removeprefix("module."): value for name, value in tensors.items()}


def _named(state: Any) -> bool:
    return isinstance(state, Mapping) and all(isinstance(name, str) for name in state)


def check_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Compare names and shapes of a state with those of a model.

    Parameters
    ----------
    model : nn.Module
    state : mapping of str to tensor
    where : str
        Where the state is from, for messages.

    Raises
    ------
    CheckpointError
        As `check_tensors`.
    """
    check_tensors(model.state_dict(), state, where)


def check_tensors(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    """Compare names and shapes of tensors with those expected.

    Parameters
    ----------
    expected, state : mapping of str to tensor
    where : str
        Where the state is from, for messages.

    Raises
    ------
    CheckpointError
        Naming the first missing, unexpected or misshapen tensor with both shapes, or one that is sparse or on the meta
        device, or holds NaN or infinity.
    """
    if missing := sorted(set(expected) - set(state)):
        raise CheckpointError(f"{where}: tensor {missing[0]!r} is missing ({len(missing)} in all)")
    if extra := sorted(set(state) - set(expected)):
        raise CheckpointError(f"{where}: tensor {extra[0]!r} is not part of this architecture ({len(extra)} in all)")
    for name, tensor in expected.items():
        if tuple(state[name].shape) != tuple(tensor.shape):
            raise CheckpointError(
                f"{where}: tensor {name!r} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
            )
    check_dense(state, where)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{where}: tensor {name!r} holds NaN or infinity; fetch or train the model again")


def build_network(make: Callable[[], Network], state: Mapping[str, Tensor], where: str) -> Network:
    """Make a network and load a state into it, in memory that is in proportion to the state.

    A config may claim any width and any number of layers: the network is given up as soon as a parameter is larger than
    all that the state holds, or there are more of them.

    Parameters
    ----------
    make : callable
        Makes the network.
    state : mapping of str to tensor
    where : str
        Where the state is from, for messages.

    Returns
    -------
    nn.Module
        In evaluation mode.

    Raises
    ------
    CheckpointError
        As `check_tensors`, or the network cannot be made.
    """
    count, largest = 0, max((tensor.numel() for tensor in state.values()), default=0)

    def limit(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += 1
        if count > len(state) or (parameter is not None and parameter.numel() > largest):
            raise CheckpointError(f"{where}: the config claims a larger network than the {len(state)} tensors here")

    hook = register_module_parameter_registration_hook(limit)  # before the parameter is written to
    try:
        network = make()
    except CheckpointError:
        raise
    except (ValueError, RuntimeError, TypeError, ArithmeticError, MemoryError) as error:
        raise CheckpointError(f"{where}: the config fits no network ({' '.join(str(error).split())[:200]})") from error
    finally:
        hook.remove()
    load_state(network, state, where)
    return network.eval()


def load_state(model: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Check a state, then load it into a model.

    Parameters
    ----------
    model : nn.Module
    state : mapping of str to tensor
        Of any precision; the model gets float32.
    where : str
        Where the state is from, for messages.

    Raises
    ------
    CheckpointError
        As `check_tensors`; the model is not changed then.
    """
    check_state(model, state, where)
    model.load_state_dict({name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor
                           for name, tensor in state.items()})  # fmt: skip


def half_precision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating point tensors as fp16, others as they are.

    Parameters
    ----------
    state : mapping of str to tensor

    Returns
    -------
    dict of str to tensor
    """
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def save_model(folder: str | Path, config: Any, model: nn.Module, *, half: bool = False, **extra: Any) -> None:
    """Write `config.json` (``{"config": ..., **extra}``) and `model.safetensors` into a folder.

    Parameters
    ----------
    folder : path
        An existing one.
    config : dataclass
    model : nn.Module
    half : bool
        Store floating point tensors as fp16, the form in which embedded weights are committed.
    **extra
        Plain JSON values to keep beside the config.
    """
    folder = Path(folder)
    state = model.state_dict()
    save_tensors(folder / WEIGHTS_FILE, half_precision(state) if half else state)
    write_json(folder / CONFIG_FILE, {"config": dataclasses.asdict(config), **extra})


def load_config(folder: str | Path, config_class: type[Config]) -> tuple[Config, dict[str, Any]]:
    """The config of a model folder.

    Parameters
    ----------
    folder : path
    config_class : dataclass

    Returns
    -------
    config : instance of `config_class`
    extra : dict
        What else was stored beside it.

    Raises
    ------
    CheckpointError
        It is absent, damaged, or of another class.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} is not a model folder: {CONFIG_FILE} is missing")
    values = read_json(path)
    if not isinstance(values, dict) or "config" not in values:
        raise CheckpointError(f"{path}: field 'config' is missing")
    return config_from_dict(config_class, values.pop("config"), str(path)), values
