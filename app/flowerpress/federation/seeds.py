"""Model files that both ends add to their stores, so that the first send of such a model is free."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from flowerpress.chunks.bundle import Bundle
from flowerpress.codecs.dtypes import ArrayLike
from flowerpress.errors import ChunkError, ConfigError, FlowerpressError

Arrays = Mapping[str, ArrayLike]


def arrays_of_file(path: Path) -> Arrays:
    """Return the arrays in a bundle, a ``.safetensors`` or an ``.npz`` file, in the order of the file.

    Raises
    ------
    ConfigError
        If there is no such file, or it is of another kind; pickles are, because reading one can run what is in it.
    ChunkError
        If it cannot be read; the chunks of a bundle are only checked when its arrays are read.
    """
    if path.suffix in _PICKLES:
        raise ConfigError(f"{path}: {path.suffix} files are pickles, which are not read; convert it to .safetensors")
    if path.suffix not in _READERS:
        raise ConfigError(f"{path}: expected a file that ends in {', '.join(_READERS)}")
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    try:
        return _READERS[path.suffix](path)
    except FlowerpressError:
        raise
    except Exception as error:  # each library has its own for files that are damaged
        raise ChunkError(f"{path}: cannot be read: {error}") from error


def _safetensors(path: Path) -> Arrays:
    try:
        from safetensors.torch import load_file  # the numpy reader knows no float8
    except ImportError as error:
        raise ConfigError(f"{path}: safetensors is not installed; pip install safetensors") from error
    return load_file(path)


def _npz(path: Path) -> Arrays:
    with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as arrays:
        return dict(arrays)


_READERS: dict[str, Callable[[Path], Arrays]] = {".fpb": Bundle.open, ".safetensors": _safetensors, ".npz": _npz}
_PICKLES = (".pt", ".pth", ".bin", ".ckpt")
