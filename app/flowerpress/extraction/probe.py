"""What an HDF5 file has, found out by a process that may hang or crash: after some seconds it is stopped.

It runs `look`, stays for the next file, and ends with this one.
"""

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
from importlib.util import find_spec
from math import prod
from pathlib import Path

import msgspec
import numpy as np

from flowerpress.errors import ChunkError, ConfigError

DEADLINE = 30.0  # seconds for a file to say what it has, or for a batch to be read
_LARGEST = 1 << 30  # bytes of one image, or one chunk
_SPARSEST = 1 << 16  # bytes of images for each that is stored
_PROGRAM = Path(__file__).with_name("look.py")


class Images(msgspec.Struct, frozen=True):
    """A dataset of an HDF5 file, as it says itself: ``dtype`` as numpy writes it; ``stored`` in bytes."""

    shape: list[int] | None
    dtype: str
    chunk: list[int] | None
    stored: int
    elsewhere: bool


class _Answer(msgspec.Struct, frozen=True):
    found: dict[str, Images] = {}
    error: str = ""


class _Child:
    """The process, started when it is first asked; it answers one question at a time."""

    def __init__(self) -> None:
        self._lock, self._owner = threading.Lock(), 0
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, path: str, deadline: float) -> _Answer:
        with self._lock:
            process = self._running()
            try:
                return self._asked(process, path, deadline)
            except OSError:  # it is gone
                self._stop(process)
                return _Answer(error="HDF5 crashed")

    def _asked(self, process: subprocess.Popen[bytes], path: str, deadline: float) -> _Answer:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(path).encode() + b"\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(deadline):
                self._stop(process)
                return _Answer(error=f"HDF5 said nothing for {deadline:g} seconds")
        line = process.stdout.readline()
        if not line:
            raise BrokenPipeError
        return msgspec.json.decode(line, type=_Answer)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self._owner = os.getpid()  # a forked process has pipes in common with its parent
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
        return self._process

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.communicate()
        self._process = None

    def close(self) -> None:
        if self._process is not None and self._owner == os.getpid():
            self._stop(self._process)


_child = _Child()
atexit.register(_child.close)


def datasets(path: str | Path, deadline: float | None = None) -> dict[str, Images]:
    """Return the datasets in the first level of an HDF5 file, by name.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ChunkError
        If it is damaged, or HDF5 does not say within ``deadline`` seconds, by default `DEADLINE`.
    ConfigError
        If h5py is not installed.
    """
    if find_spec("h5py") is None:
        raise ConfigError(f"{path}: expected h5py; pip install 'flowerpress[extract]'")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    answer = _child.ask(str(Path(path).resolve()), deadline or DEADLINE)
    if answer.error:
        raise ChunkError(f"{path}: expected an HDF5 file, found one that cannot be read: {answer.error}")
    return answer.found


def images(path: str | Path, partition: str) -> tuple[int, tuple[int, int]]:
    """Return how many images a partition has, and their height and width.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    KeyError
        If it has no such partition.
    ChunkError
        If it is damaged, or the partition does not hold images of shape (h, w), (1, h, w) or (3, h, w), real numbers.
    """
    found = datasets(path)
    if partition not in found:
        raise KeyError(f"{path}: expected a partition among {', '.join(found) or '(none)'}, found {partition!r}")
    dataset = found[partition]
    if problem := _problem(dataset):
        raise ChunkError(f"{path}: partition {partition!r}: {problem}")
    shape = dataset.shape or []
    return shape[0], (shape[-2], shape[-1])


def _problem(dataset: Images) -> str:
    """Return why a dataset cannot be one of images, or ""."""
    shape, kind = dataset.shape, np.dtype(dataset.dtype)
    if shape is None or len(shape) not in (3, 4) or (len(shape) == 4 and shape[1] not in (1, 3)):
        return f"expected shape (n, h, w), (n, 1, h, w) or (n, 3, h, w), found {shape}"
    if kind.kind not in "fiu":
        return f"expected real numbers, found {dataset.dtype}"
    if dataset.elsewhere:
        return "expected images in the file itself, found a reference to another one"
    if 0 in shape[1:]:
        return f"expected images of one pixel or more, found shape {shape}"
    one, nbytes = prod(shape[1:]) * kind.itemsize, prod(shape) * kind.itemsize
    if max(one, prod(dataset.chunk or [0]) * kind.itemsize) > _LARGEST:
        return f"expected images and chunks of at most {_LARGEST} bytes, found shape {shape}, chunks {dataset.chunk}"
    if nbytes > _SPARSEST * (dataset.stored + _SPARSEST):
        return f"{nbytes} bytes of images are declared, and {dataset.stored} are stored"
    return ""
