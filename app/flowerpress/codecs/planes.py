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
        x: Host = np.empty(spec.size, numpy_dtype(spec.dtype))
        if spec.size:
            rows = x.view(np.uint8).reshape(-1, spec.itemsize)
            for i, plane in enumerate(np.frombuffer(y, np.uint8).reshape(spec.itemsize, -1)):
                rows[:, i] = plane  # plane by plane is 3x faster than one transposed copy
        if _rotates(spec):
            _rotate_right(bits(x))
        return x.reshape(spec.shape)


def _rotates(spec: Spec) -> bool:
    return is_float(spec.dtype) and spec.itemsize > 1


def _rotate_left(x: A) -> A:
    """Rotate signed integers left by one bit, numpy and torch alike."""
    return (x << 1) | ((x >> (8 * x.dtype.itemsize - 1)) & 1)  # type: ignore[return-value]


def _rotate_right(x: Host) -> None:
    """Undo `_rotate_left`, in place."""
    unsigned = x.view(f"u{x.itemsize}")
    sign = unsigned << (8 * x.itemsize - 1)
    unsigned >>= 1
    unsigned |= sign
