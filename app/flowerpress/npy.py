"""Flower's plain form of an array, the ``.npy`` format: read without a copy, and without trust."""

import io
from math import prod
from typing import Any, Protocol

import numpy as np
from numpy.lib import format as npy

from flowerpress.codecs.dtypes import Host, numpy_dtype
from flowerpress.errors import ChunkError, ConfigError

STYPE = "numpy.ndarray"
_MOST_HEADER = 4096


class Plain(Protocol):
    """What Flower's Array is made of."""

    shape: tuple[int, ...]
    stype: str
    data: bytes


def from_npy(data: bytes) -> Host:
    """Return the array in ``data``, read-only and sharing its memory.

    Raises ChunkError unless ``data`` is exactly one ``.npy`` array of a plain element type: no pickles, no archives,
    nothing allocated on the word of the header.
    """
    stream = io.BytesIO(data[: _MOST_HEADER + 16])
    try:
        version = npy.read_magic(stream)
        read: Any = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream, max_header_size=_MOST_HEADER)
        numpy_dtype(dtype.newbyteorder("=").name)
    except (ValueError, KeyError, TypeError, SyntaxError, ConfigError) as error:
        raise ChunkError(f"array data: expected a .npy array of plain numbers: {error}") from error
    expected = stream.tell() + prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(data) != expected:
        raise ChunkError(f"array data: expected {expected} bytes for {dtype}{list(shape)}, found {len(data)}")
    flat = np.frombuffer(data, dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def plain_numpy(array: Plain) -> Host:
    """Return the values of one of Flower's own Arrays, read-only and without a copy; ChunkError if it is damaged."""
    if array.stype != STYPE:
        raise ConfigError(f"array: expected the stype {STYPE!r}, found {array.stype!r}")
    x = from_npy(array.data)
    if x.shape != tuple(array.shape):
        raise ChunkError(f"array: expected the shape {list(array.shape)} in its data, found {list(x.shape)}")
    return x
