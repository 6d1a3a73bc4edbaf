"""Model files, read and written: bundles, safetensors, npz, state dicts of torch, and the checkpoints of a run."""

import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flowerpress.chunks.bundle import Bundle
from flowerpress.chunks.pack import pack, save
from flowerpress.codecs.dtypes import ArrayLike, dtype_name, is_extended, to_host, to_tensor
from flowerpress.errors import ChunkError, ConfigError, FlowerpressError

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, ArrayLike]


def arrays_of_file(path: Path) -> Arrays:
    """Return the arrays in a file, by its suffix, in its order; of a folder of checkpoints, those of the last model.

    Suffixes are ``.fpb`` (a bundle), ``.safetensors``, ``.npz``, and ``.pt`` or ``.pth`` (a state dict that torch
    saved, of which nothing but tensors is read).

    Raises
    ------
    ConfigError
        If there is no such file, or it is of another kind.
    ChunkError
        If it cannot be read, or holds more than arrays; chunks of a bundle are only checked when they are read.
    """
    if not (path.is_file() or (path / "rounds").is_dir()):
        raise ConfigError(f"{path}: there is no such file, and no folder of checkpoints")
    if path.is_file():
        check_suffix(path)
    try:
        return _FORMATS[path.suffix][0](path) if path.is_file() else _last_model(path)
    except FlowerpressError:
        raise
    except Exception as error:  # each library has its own for files that are damaged
        raise ChunkError(f"{path}: cannot be read: {error}") from error


def check_suffix(path: Path) -> None:
    """Raise ConfigError for a file of a kind that is not known here."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")


def check_folder(path: Path) -> None:
    """Raise ConfigError for a file in a folder that is not there."""
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")


def check_target(path: Path) -> None:
    """Raise ConfigError for a file that `arrays_to_file` cannot write, as far as that is known before."""
    check_suffix(path)
    check_folder(path)


def arrays_to_file(arrays: Arrays, path: Path) -> None:
    """Write arrays to a file of the kind that its suffix says, whole or not at all.

    npz knows no bfloat16 and no float8, safetensors no complex128, and it sorts arrays. Raises ConfigError for what a
    format cannot hold, and for other suffixes.
    """
    check_target(path)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        _FORMATS[path.suffix][1](arrays, unfinished)
        unfinished.replace(path)
    except UnicodeEncodeError as error:
        raise ConfigError(f"{path}: expected names that UTF-8 can hold, found {error.object!r}; rename it") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _last_model(folder: Path) -> Arrays:
    from flowerpress.arrays.store import Checkpoints

    found = Checkpoints(folder).load()
    if found is None:
        raise ConfigError(f"{folder}: there are no checkpoints yet")
    return found.model


def _to_bundle(arrays: Arrays, path: Path) -> None:
    save(path, pack(dict(arrays)))


def _of_safetensors(path: Path) -> Arrays:
    from safetensors.torch import load_file  # the numpy module knows no float8

    return load_file(path)


def _to_safetensors(arrays: Arrays, path: Path) -> None:
    from safetensors.torch import save_file

    try:
        save_file(_tensors(arrays), path)
    except KeyError as error:  # of its table of dtypes
        raise ConfigError(f"{path}: safetensors cannot hold {error}; write .fpb or .npz") from error


def _of_npz(path: Path) -> Arrays:
    with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
        # by whole names, if they end so: the array "a.npy" is asked for as "a.npy.npy", lest it be "a"
        return {key: arrays[name if (name := f"{key}.npy") in arrays else key] for key in arrays}


def _to_npz(arrays: Arrays, path: Path) -> None:
    found = {key: to_host(x) for key, x in arrays.items()}
    if strange := [f"{key!r} is {x.dtype}" for key, x in found.items() if is_extended(dtype_name(x))]:
        raise ConfigError(f"{path}: npz cannot hold all arrays: {', '.join(strange)}; write .safetensors")
    if cut := [key for key in found if "\0" in key]:
        raise ConfigError(f"{path}: npz cannot hold names with a zero byte: {cut}; rename them")
    with zipfile.ZipFile(path, "w") as archive:  # np.savez has names of its own: file, allow_pickle
        for key, x in found.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, x, allow_pickle=False)


def _of_torch(path: Path) -> Arrays:
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(found, Mapping):
        raise ChunkError(f"{path}: expected a state dict, found {type(found).__name__}")
    for key, x in found.items():
        if not (isinstance(key, str) and isinstance(x, torch.Tensor)):
            raise ChunkError(
                f"{path}: expected tensors by name, found {type(x).__name__} at {key!r}; save its state dict"
            )
    return found


def _to_torch(arrays: Arrays, path: Path) -> None:
    import torch

    torch.save(_tensors(arrays), path)


def _tensors(arrays: Arrays) -> dict[str, "torch.Tensor"]:
    """Return tensors of their own memory."""
    return {key: to_tensor(to_host(x)).clone() for key, x in arrays.items()}


_Format = tuple[Callable[[Path], Arrays], Callable[[Arrays, Path], None]]
_FORMATS: dict[str, _Format] = {
    ".fpb": (Bundle.open, _to_bundle),
    ".safetensors": (_of_safetensors, _to_safetensors),
    ".npz": (_of_npz, _to_npz),
    ".pt": (_of_torch, _to_torch),
    ".pth": (_of_torch, _to_torch),
}
SUFFIXES = tuple(_FORMATS)  # a bundle's is the first
