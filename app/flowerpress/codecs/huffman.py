"""Integers as two planes: the upper bits under the Huffman codes of zstd, the lower ones, which are noise, bare.

From about three bits per value on, this is as small as pcodec, and five times as fast. Values whose upper bits do not
fit into a byte are listed apart.
"""

import struct

import numpy as np

from flowerpress.codecs.base import Spec
from flowerpress.codecs.bitpack import pack_bits, unpack_bits
from flowerpress.codecs.both import blockwise
from flowerpress.codecs.dtypes import Buffer, Host
from flowerpress.codecs.zstd import Zstd
from flowerpress.errors import ChunkError

_HEAD = struct.Struct("<II")  # bytes of the upper plane, outliers
_OUTLIER = np.dtype([("index", "<u4"), ("value", "<i8")])
_WIDTHS = (0, 1, 2, 4, 8)  # bits of the lower plane that is written
_ZSTD = Zstd()


def compress(values: Host, sample: Host) -> tuple[int, bytes] | None:
    """Return the bits of the lower plane, and the planes, of flat integers; None if too many are outliers."""
    fewest = _fewest_bits(sample)
    for width in (w for w in _WIDTHS if w >= fewest):
        upper = blockwise(lambda v, w=width: (v >> w).astype(np.int8), values)
        outliers = np.flatnonzero(blockwise(lambda v, u, w=width: v >> w != u, values, upper))
        if outliers.size <= 1 + (values.size >> 12):
            break
    else:
        return None
    frame = bytes(_ZSTD.encode(upper.view(np.uint8).data, Spec("", "uint8", (values.size,))))
    listed = np.empty(outliers.size, _OUTLIER)
    listed["index"], listed["value"] = outliers, values[outliers]
    return width, _HEAD.pack(len(frame), outliers.size) + listed.tobytes() + frame + pack_bits(values, width).tobytes()


def _fewest_bits(sample: Host) -> int:
    """Return how many bits the lower plane needs for the upper one to have 64 symbols, or 0 if it has 128 without.

    A byte holds more, but the Huffman codes of zstd waste 0.03 bit on them.
    """
    magnitudes, few, width = np.maximum(sample, -(sample + 1)), sample.size >> 12, 0
    while np.count_nonzero(magnitudes >> (5 + width if width else 6)) > few:
        width += 1
    return width


def decompress(body: memoryview, width: int, spec: Spec, *, packed: bool) -> Host:
    """Undo `compress`: return the integers of ``spec``, flat and of 2 bytes at least; ChunkError for other planes.

    If the lower plane is not packed it is a zstd frame, too, of a byte per value, as the first files had it.
    """
    if len(body) < _HEAD.size:
        raise ChunkError(f"array {spec.key!r}: expected planes of integers, found {len(body)} bytes")
    length, count = _HEAD.unpack_from(body)
    start = _HEAD.size + count * _OUTLIER.itemsize
    stop = start + length
    if stop > len(body) or (not width and stop != len(body)):
        raise ChunkError(f"array {spec.key!r}: planes of {stop} bytes in {len(body)}")
    outliers = np.frombuffer(body, _OUTLIER, count, _HEAD.size)
    plane = Spec(spec.key, "uint8", (spec.size,))
    values: Host = np.frombuffer(_plane(body[start:stop], plane), np.int8).astype(f"i{max(2, spec.itemsize)}")
    if width:
        rest = np.frombuffer(body[stop:] if packed else _plane(body[stop:], plane), np.uint8)
        lower = unpack_bits(rest, width, spec.size) if packed else rest
        values <<= width
        values |= lower
    limits = np.iinfo(values.dtype)
    found = outliers["value"]
    if count and not (outliers["index"].max() < spec.size and limits.min <= found.min() <= found.max() <= limits.max):
        raise ChunkError(f"array {spec.key!r}: an outlier is not of {values.dtype}[{spec.size}]")
    values[outliers["index"]] = found
    return values


def _plane(frame: memoryview, plane: Spec) -> Buffer:
    data = _ZSTD.decode(frame, plane)
    if len(data) != plane.size:
        raise ChunkError(f"array {plane.key!r}: expected a plane of {plane.size} bytes, found {len(data)}")
    return data
