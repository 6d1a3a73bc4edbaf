"""Encoders by name, with the weights of a checkpoint. ::

    {"opt": options, "model": state dict, "optimizer": …, "epoch": …}      as Nenya saves it, or
    {"state_dict": …} or a state dict alone

Of a checkpoint only tensors and plain values are read, never code: the options, which it holds as an object, come back
as a shell of that.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from flowerpress.errors import ChunkError, ConfigError
from flowerpress.extraction.options import Params

if TYPE_CHECKING:
    from torch import Tensor, nn

_HOMES = ("nenya.params", "nenya.io", "ulmo.io", "ulmo.ssl.my_util", "my_util", Params.__module__)  # of Params
_SHOWN = 200  # characters of a list of names


def model_for(opt: object) -> "nn.Module":
    """Return the encoder that options name, with random weights; anything with their attributes will do.

    ``opt.ssl_model`` is ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"`` (see
    `flowerpress.extraction.resnet.SupConResNet`), or ``"package.module:factory"``, a function that takes the options
    and returns a module.

    Raises
    ------
    ConfigError
        For another name, or a factory that cannot be imported or returns no module.
    """
    from flowerpress.extraction.resnet import BLOCKS, SupConResNet

    name = getattr(opt, "ssl_model", None)
    if name in BLOCKS:
        return SupConResNet(name, getattr(opt, "feat_dim", None) or 128)
    if not isinstance(name, str) or ":" not in name:
        known = ", ".join(BLOCKS)
        raise ConfigError(f"options: expected ssl_model among {known}, or 'package.module:factory', found {name!r}")
    return _made(name, opt)


def load_weights(model: "nn.Module", path: str | Path, *, remove_module: bool = True) -> "nn.Module":
    """Load the weights of a checkpoint into a model, and return it.

    Parameters
    ----------
    model : torch.nn.Module
        The model; its tensors stay on their device.
    path : str or Path
        A file that ``torch.save`` wrote.
    remove_module : bool
        Whether names lose what ``DataParallel`` puts in front: ``module.x`` is ``x``, ``encoder.module.x`` is
        ``encoder.x``.

    Raises
    ------
    OSError
        If the file cannot be read.
    ChunkError
        If it is no checkpoint, or holds more than tensors and plain values.
    ConfigError
        If the weights are of another model.
    """
    state = _state_of(path)
    if remove_module:
        state = {_without_module(key): x for key, x in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        words = "; ".join(shorten(line, _SHOWN, placeholder=" …") for line in str(error).splitlines()[1:])
        raise ConfigError(f"{path}: the weights are of another model: {words}") from error
    return model


def _without_module(key: str) -> str:
    """Return a name without what DataParallel puts in front.

    >>> [_without_module(key) for key in ("module.head.0", "encoder.module.conv1", "module.encoder.module.bn1")]
    ['head.0', 'encoder.conv1', 'encoder.bn1']
    >>> _without_module("submodule.conv"), _without_module("encoder.submodule.conv")
    ('submodule.conv', 'encoder.submodule.conv')
    """
    key = key.removeprefix("module.")
    return "encoder." + key.removeprefix("encoder.module.") if key.startswith("encoder.module.") else key


def _state_of(path: str | Path) -> Mapping[str, "Tensor"]:
    import torch

    shells: list[Any] = [(_Shell, f"{module}.Params") for module in _HOMES]
    try:
        with Path(path).open("rb") as file, torch.serialization.safe_globals(shells):
            found = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch has many kinds for bytes that it does not like
        words = str(error).split("\n", 1)[0]
        raise ChunkError(f"{path}: expected a checkpoint of tensors and plain values: {words}") from error
    for name in ("model", "state_dict"):
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if not (isinstance(found, Mapping) and found and all(isinstance(x, torch.Tensor) for x in found.values())):
        raise ChunkError(f"{path}: expected a state dict, alone or as 'model' or 'state_dict', found none")
    return found


class _Shell:
    """What a checkpoint's options become when they are read: their values, and none of their code."""


def _made(name: str, opt: object) -> "nn.Module":
    import torch

    module, _, function = name.partition(":")
    try:
        factory = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"options: ssl_model {name!r} cannot be imported: {error}") from error
    made = factory(opt)
    if not isinstance(made, torch.nn.Module):
        raise ConfigError(f"options: expected {name!r} to return a torch module, found {type(made).__name__}")
    return made
