"""Integers in as few bits as the largest of each array needs: no entropy code, so as fast as memory, on any device.

What quantisers to a few bits per value want on a fast link: 4 bits and a scale per block travel as little more than 4
bits. The widths divide a byte, so that packing is a few whole-array shifts: byte k holds value k, value k + n, value
k + 2n, … of n bytes, the first in its lowest bits.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flowerpress.codecs import both
from flowerpress.codecs.base import ArrayToBytes, Spec, bounds, check_integers, check_some
from flowerpress.codecs.both import Both
from flowerpress.codecs.dtypes import ArrayLike, Buffer, Host, cast, numpy_dtype, to_host, view
from flowerpress.errors import ChunkError

_WIDTHS = (0, 1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, kw_only=True)
class BitPack(ArrayToBytes):
    """Signed integers, less the smallest of their array, in 0, 1, 2, 4, 8, 16, 32 or 64 bits each.

    Each of several arrays in one chunk, such as the scales of a quantiser, has a width and a smallest value of its own:
    9 bytes of head.

    >>> q = np.arange(-7, 8, dtype="int32").repeat(1000)
    >>> len(BitPack().encode(q, Spec.of(q)))
    7509
    """

    name: ClassVar[str] = "bitpack"

    def refuses(self, spec: Spec) -> str:
        return check_integers(spec) or check_some(spec)

    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        flat: Both = x.reshape(-1)
        parts = []
        for start, stop in bounds(spec.parts):
            piece = flat[start:stop]
            low = int(piece.min()) if stop > start else 0
            width = _width((int(piece.max()) if stop > start else 0) - low)
            head = np.frombuffer(width.to_bytes(1, "little") + low.to_bytes(8, "little", signed=True), np.uint8)
            parts += [head, to_host(pack_bits(piece - low, width))]  # wraps around, and back
        return np.concatenate(parts).data

    def decode(self, y: Buffer, spec: Spec) -> Host:
        data, wanted, start = np.frombuffer(y, np.uint8), numpy_dtype(spec.dtype), 0
        out: Host = np.empty(spec.size, wanted)
        limits = np.iinfo(wanted)
        for first, last in bounds(spec.parts):
            head = data[start : start + 9].tobytes()
            width, low = head[0] if head else -1, int.from_bytes(head[1:], "little", signed=True)
            stop = start + 9 + _bytes(last - first, width) if width in _WIDTHS else data.size + 1
            if stop > data.size or width > 8 * wanted.itemsize or not limits.min <= low <= limits.max:
                raise ChunkError(f"array {spec.key!r}: expected {last - first} packed integers, found width {width}")
            out[first:last] = unpack_bits(data[start + 9 : stop], width, last - first).astype(wanted)
            out[first:last] += wanted.type(low)
            start = stop
        if start != data.size:
            raise ChunkError(f"array {spec.key!r}: {data.size - start} bytes behind the packed integers")
        return out.reshape(spec.shape)


def _width(spread: int) -> int:
    return next(width for width in _WIDTHS if spread < 1 << width)


def _bytes(size: int, width: int) -> int:
    return -(-size // (8 // width)) if 0 < width < 8 else size * width // 8


def pack_bits(x: Both, width: int) -> Both:
    """Return the lower ``width`` bits, one of the widths above, of flat integers as bytes, where they live."""
    if not width or not x.shape[0]:
        return cast(x[:0], "uint8")
    if width >= 8:
        return view(cast(x, f"int{width}"), "uint8")
    lower = both.blockwise(lambda v: cast(v & ((1 << width) - 1), "uint8"), x)
    rows = both.blocks(lower, _bytes(x.shape[0], width))
    packed = rows[0]
    for i in range(1, rows.shape[0]):
        packed = packed | (rows[i] << (i * width))
    return packed


def unpack_bits(data: Host, width: int, size: int) -> Host:
    """Undo `pack_bits`: return unsigned integers from exactly as many bytes as they take; ChunkError for any others."""
    if width not in _WIDTHS or data.size != _bytes(size, width):
        raise ChunkError(f"packed integers: expected {size} of {width} bits, found {data.size} bytes")
    if not width:
        return np.zeros(size, np.uint8)
    if width >= 8:
        return data.view(f"u{width // 8}")
    rows = [(data >> (i * width)) & ((1 << width) - 1) for i in range(8 // width)]
    return np.concatenate(rows)[:size]
