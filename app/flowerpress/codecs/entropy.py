"""Integers to about as many bits as their entropy: pcodec, or Huffman codes where those are as small, and faster.

pcodec (Loncaric et al. 2025, arXiv:2502.06112) bins the values and codes the bins with tANS: within 0.03 bit of the
entropy of quantised weights, at any rate. From about 3 bits on, the Huffman codes of zstd come as near: the upper bits
of all values as one byte plane, the rest, which is noise, as another; four times as fast.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pcodec import ChunkConfig, standalone

from flowerpress.codecs.base import ArrayToBytes, Spec
from flowerpress.codecs.both import blockwise
from flowerpress.codecs.dtypes import ArrayLike, Buffer, Host, numpy_dtype, to_host
from flowerpress.codecs.zstd import Zstd
from flowerpress.errors import ChunkError

_STORED, _PCODEC, _PLANES = range(3)
_HEAD = struct.Struct("<BB")  # method; bytes per value, or bits of the lower plane
_PLANE_HEAD = struct.Struct("<II")  # bytes of the upper plane, outliers
_OUTLIER = np.dtype([("index", "<u4"), ("value", "<i8")])
_SLACK = 0.1  # bits over the entropy at which Huffman codes are taken without trying pcodec
_CONFIG = ChunkConfig(compression_level=8)
_ZSTD = Zstd()


@dataclass(frozen=True, kw_only=True)
class Entropy(ArrayToBytes):
    """Entropy coding of signed integers of any size; small ones best.

    >>> q = np.repeat(np.arange(-2, 3, dtype="int32"), 1000)
    >>> len(Entropy().encode(q, Spec.of(q))) < 100
    True
    """

    name: ClassVar[str] = "entropy"

    def refuses(self, spec: Spec) -> str:
        if spec.dtype not in ("int8", "int16", "int32", "int64"):
            return "it codes signed integers; put quantize or intdelta before it"
        return "" if spec.size else "it needs at least one element"

    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        values = to_host(x).reshape(-1)
        low, high = int(values.min()), int(values.max())
        narrow = next(n for n in (2, 4, 8) if -(1 << 8 * n - 1) <= low and high < 1 << 8 * n - 1)
        values = values.astype(f"i{narrow}", copy=False)
        planes = _to_planes(values)
        if planes is not None and len(planes) * 8 <= (_entropy(values) + _SLACK) * values.size + 512:
            return planes
        coded = _HEAD.pack(_PCODEC, narrow) + standalone.simple_compress(values, _CONFIG)
        stored = _HEAD.pack(_STORED, narrow) + values.tobytes()
        return min((c for c in (planes, coded, stored) if c is not None), key=len)

    def decode(self, y: Buffer, spec: Spec) -> Host:
        if len(y) < _HEAD.size:
            raise ChunkError(f"array {spec.key!r}: expected entropy-coded integers, found {len(y)} bytes")
        method, width = _HEAD.unpack_from(y)
        body, wanted = memoryview(y)[_HEAD.size :], numpy_dtype(spec.dtype)
        if method == _PLANES and width <= 8:
            return _from_planes(body, width, spec).reshape(spec.shape)
        if method not in (_PCODEC, _STORED) or width not in (2, 4, 8) or width > max(wanted.itemsize, 2):
            raise ChunkError(f"array {spec.key!r}: expected a method of entropy coding, found {method}, {width}")
        values = _from_pcodec(body, width, spec) if method == _PCODEC else _from_stored(body, width, spec)
        if wanted.itemsize == 1 and (values != values.astype(wanted)).any():
            raise ChunkError(f"array {spec.key!r}: entropy-coded values do not fit into {spec.dtype}")
        return values.astype(wanted, copy=False).reshape(spec.shape)


def _to_planes(values: Host) -> bytes | None:
    """Return upper bits and lower bits as two zstd planes, and a few outliers; None if outliers are many."""
    for shift in range(_first_shift(_sample(values)), 9):
        shifted = values >> shift
        upper = shifted.astype(np.int8)
        outliers = np.flatnonzero(upper != shifted)
        if outliers.size <= 1 + (values.size >> 12):
            break
    else:
        return None
    spec = Spec("", "uint8", (values.size,))
    frame = bytes(_ZSTD.encode(upper.view(np.uint8).data, spec))
    lower = (values & ((1 << shift) - 1)).astype(np.uint8)
    listed = np.empty(outliers.size, _OUTLIER)
    listed["index"], listed["value"] = outliers, values[outliers]
    head = _HEAD.pack(_PLANES, shift) + _PLANE_HEAD.pack(len(frame), outliers.size)
    return head + listed.tobytes() + frame + (bytes(_ZSTD.encode(lower.data, spec)) if shift else b"")


def _first_shift(sample: Host) -> int:
    """Return how many bits the lower plane needs at least for all but a few of the values."""
    many = sample.size - 1 - (sample.size >> 12)
    largest = np.partition(np.maximum(sample, -(sample + 1)), many)[many]
    return max(0, int(largest).bit_length() - 7)


def _from_planes(body: memoryview, shift: int, spec: Spec) -> Host:
    if len(body) < _PLANE_HEAD.size:
        raise ChunkError(f"array {spec.key!r}: expected planes of integers, found {len(body)} bytes")
    length, count = _PLANE_HEAD.unpack_from(body)
    start = _PLANE_HEAD.size + count * _OUTLIER.itemsize
    if start + length > len(body) or (not shift and start + length != len(body)):
        raise ChunkError(f"array {spec.key!r}: planes of {start + length} bytes in {len(body)}")
    plane = Spec(spec.key, "uint8", (spec.size,))
    outliers = np.frombuffer(body, _OUTLIER, count, _PLANE_HEAD.size)
    wanted = numpy_dtype(spec.dtype)
    if shift and wanted.itemsize == 1:
        raise ChunkError(f"array {spec.key!r}: entropy-coded values do not fit into {spec.dtype}")
    upper = np.frombuffer(_decoded(body[start : start + length], plane), np.int8)
    if shift:
        lower = np.frombuffer(_decoded(body[start + length :], plane), np.uint8)
        values: Host = blockwise(lambda u, v: (u.astype(wanted) << shift) | v.astype(wanted), upper, lower)
    else:
        values = upper.astype(wanted)
    limits = np.iinfo(spec.dtype)
    if count and (outliers["index"].max() >= spec.size or not _within(outliers["value"], limits.min, limits.max)):
        raise ChunkError(f"array {spec.key!r}: an outlier is not of {spec.dtype}[{spec.size}]")
    values[outliers["index"]] = outliers["value"]
    return values


def _within(values: npt.NDArray[np.int64], low: int, high: int) -> bool:
    return bool(values.min() >= low and values.max() <= high)


def _decoded(frame: memoryview, plane: Spec) -> Buffer:
    data = _ZSTD.decode(frame, plane)
    if len(data) != plane.size:
        raise ChunkError(f"array {plane.key!r}: expected a plane of {plane.size} bytes, found {len(data)}")
    return data


def _from_pcodec(body: memoryview, width: int, spec: Spec) -> Host:
    values = np.empty(spec.size, f"i{width}")
    try:
        progress = standalone.simple_decompress_into(bytes(body), values)
    except BaseException as error:  # pcodec's panics are no Exceptions
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise ChunkError(f"array {spec.key!r}: pcodec cannot decode it: {error}") from error
    if progress.n_processed != spec.size or not progress.finished:
        raise ChunkError(f"array {spec.key!r}: expected {spec.size} values, found another number")
    return values


def _from_stored(body: memoryview, width: int, spec: Spec) -> Host:
    if len(body) != spec.size * width:
        raise ChunkError(f"array {spec.key!r}: expected {spec.size * width} bytes of integers, found {len(body)}")
    return np.frombuffer(bytearray(body), f"<i{width}")


def _entropy(values: Host) -> float:
    """Return the zero-order entropy in bits per value, of a sample and of what 16 bits hold."""
    sample = _sample(values)
    counts = np.bincount(sample.clip(-(1 << 15), (1 << 15) - 1).astype(np.int16).view(np.uint16))
    shares = counts[counts > 0] / sample.size
    missed = (shares.size - 1) / (2 * sample.size * np.log(2))  # what a sample falls short by (Miller and Madow 1955)
    return float(missed - (shares * np.log2(shares)).sum())


def _sample(values: Host) -> Host:
    return values[:: max(1, values.size >> 16)]
