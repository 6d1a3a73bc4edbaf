"""Byte planes: all first bytes of the elements, then all second bytes, and so on.

The exponents of trained weights take few values and the low bits of their mantissas are noise. Kept together, as they
lie in memory, neither compresses; apart, the exponents shrink to a third and the noise costs nothing. The shuffle of
blosc and HDF5, and the byte grouping of ZipNN (Hershcovitch et al., 2024, arXiv:2411.05239), do the same.
"""

from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from flowerpress.codecs.base import ArrayToBytes, Spec
from flowerpress.codecs.dtypes import (
    ArrayLike,
    Buffer,
    Host,
    bits,
    is_float,
    numpy_dtype,
    to_host,
    view,
)
from flowerpress.codecs.raw import as_bytes, check_length

A = TypeVar("A", bound=ArrayLike)


@dataclass(frozen=True, kw_only=True)
class Planes(ArrayToBytes):
    """Byte planes, least significant byte first; exact for every dtype. Runs on the device where the array lives.

    Floats of 2, 4 and 8 bytes are first rotated left by one bit: the sign, which is noise, joins the mantissa, and the
    exponent of bfloat16 and float32 gets a plane to itself (bfloat16 weights: 1.50x smaller with zstd, not 1.49x).

    >>> import numpy as np
    >>> Planes().encode(np.array([0x0102, 0x0304], dtype="int16"), Spec("", "int16", (2,))).tobytes()
    b'\\x02\\x04\\x01\\x03'
    """

    name: ClassVar[str] = "planes"

    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        x = x.reshape(-1)
        if spec.itemsize == 1 or spec.size == 0:
            return as_bytes(to_host(x))
        if _rotates(spec):
            x = _rotate_left(bits(x))
        rows = view(x, "uint8").reshape(-1, spec.itemsize)
        return as_bytes(to_host(rows.T))

    def decode(self, y: Buffer, spec: Spec) -> Host:
        check_length(y, spec)
        planes, width = np.frombuffer(y, np.uint8).reshape(spec.itemsize, spec.size), min(spec.itemsize, 8)
        words = [_join(planes[i : i + width]) for i in range(0, spec.itemsize, width)]
        x: Host = words[0] if len(words) == 1 else np.stack(words, 1)
        if _rotates(spec):
            _rotate_right(x)
        return x.view(numpy_dtype(spec.dtype)).reshape(spec.shape)


def _join(planes: Host) -> Host:
    """Return unsigned integers from their bytes, the lowest first."""
    x: Host = planes[-1].astype(f"u{len(planes)}")
    for plane in planes[-2::-1]:
        x <<= 8
        x |= plane  # without a temporary: fresh memory costs more than arithmetic
    return x


def _rotates(spec: Spec) -> bool:
    return is_float(spec.dtype) and spec.itemsize > 1


def _rotate_left(x: A) -> A:
    """Rotate signed integers left by one bit, numpy and torch alike."""
    return (x << 1) | ((x >> (8 * x.dtype.itemsize - 1)) & 1)  # type: ignore[return-value]


def _rotate_right(x: Host) -> None:
    """Undo `_rotate_left`, in place, on unsigned integers."""
    sign = x << (8 * x.itemsize - 1)
    x >>= 1
    x |= sign
