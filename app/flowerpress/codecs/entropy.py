"""Integers to about as many bits as their entropy, by whichever of four methods makes the fewest bytes.

========  =========================================================================
stored    as they are, in as few bytes per value as the largest needs
pcodec    any integers; within 0.03 bit of the entropy
huffman   from about 3 bits per value on as small as pcodec, and four times as fast
contexts  codes by row and column: updates of models, and less than 1 bit per value
========  =========================================================================

To bound the time, contexts are only tried where they promise much, and what follows only if nothing so far is near the
entropy of the values taken one by one.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flowerpress.codecs import ans, contexts, huffman, pco
from flowerpress.codecs.base import ArrayToBytes, Spec, check_integers, check_some
from flowerpress.codecs.dtypes import ArrayLike, Buffer, Host, cast, numpy_dtype, to_host
from flowerpress.errors import ChunkError

_STORED, _PCODEC, _HUFFMAN, _CONTEXTS, _PACKED = range(5)  # PACKED is HUFFMAN with a lower plane
_HEAD = struct.Struct("<BB")  # method; bytes per value, or bits of the lower plane
_SLACK = 0.08  # bits per value over the entropy that are near enough
_PROMISE = 0.05  # share of the bits that contexts must promise to save
_FEW = 2.0  # mean magnitude below which they are tried in any case: about three bits per value


@dataclass(frozen=True, kw_only=True)
class Entropy(ArrayToBytes):
    """Entropy coding of signed integers of any size; small ones best.

    >>> q = np.zeros(100_000, dtype="int32")
    >>> q[::50] = 1
    >>> len(Entropy().encode(q, Spec.of(q))) < 2_100
    True
    """

    name: ClassVar[str] = "entropy"

    def refuses(self, spec: Spec) -> str:
        return check_integers(spec) or check_some(spec)

    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        low, high = int(x.min()), int(x.max())
        narrow = next(n for n in (2, 4, 8) if -(1 << 8 * n - 1) <= low and high < 1 << 8 * n - 1)
        values = to_host(cast(x.reshape(-1), f"int{8 * narrow}"))  # no more than that leaves a device
        sample = values[:: max(1, values.size >> 16) | 1]  # an odd stride meets all columns
        promise = -1.0 if np.abs(sample).mean() < _FEW else _PROMISE
        enough = 64 + (_entropy(sample) + _SLACK) * values.size / 8
        coded = list[bytes]()
        if (found := contexts.compress(values, spec.parts, promise)) is not None:
            coded.append(_HEAD.pack(_CONTEXTS, 0) + found)
        if not _near(coded, enough) and (planes := huffman.compress(values, sample)) is not None:
            coded.append(_HEAD.pack(_PACKED if planes[0] else _HUFFMAN, planes[0]) + planes[1])
        if not _near(coded, enough):
            coded.append(_HEAD.pack(_PCODEC, narrow) + pco.compress(values))
        best = min(coded, key=len)
        return best if len(best) < values.nbytes else _HEAD.pack(_STORED, narrow) + values.tobytes()

    def decode(self, y: Buffer, spec: Spec) -> Host:
        if len(y) < _HEAD.size:
            raise ChunkError(f"array {spec.key!r}: expected entropy-coded integers, found {len(y)} bytes")
        method, width = _HEAD.unpack_from(y)
        values, wanted = _decoded(memoryview(y)[_HEAD.size :], method, width, spec), numpy_dtype(spec.dtype)
        if wanted.itemsize < values.itemsize and (values != values.astype(wanted)).any():
            raise ChunkError(f"array {spec.key!r}: entropy-coded values do not fit into {spec.dtype}")
        return values.astype(wanted, copy=False).reshape(spec.shape)


def _decoded(body: memoryview, method: int, width: int, spec: Spec) -> Host:
    """Return flat integers by the method that coded them, of the size that is wanted, or another."""
    if method in (_HUFFMAN, _PACKED) and width <= 8:
        return huffman.decompress(body, width, spec, packed=method == _PACKED)
    if method == _CONTEXTS and width == 0:
        return contexts.decompress(body, spec.parts, max(2, spec.itemsize))
    if method not in (_PCODEC, _STORED) or width not in (2, 4, 8) or width > max(spec.itemsize, 2):
        raise ChunkError(f"array {spec.key!r}: expected a method of entropy coding, found {method}, {width}")
    return pco.decompress(body, spec.size, width) if method == _PCODEC else _from_stored(body, width, spec)


def _near(coded: list[bytes], enough: float) -> bool:
    return any(len(y) <= enough for y in coded)


def _from_stored(body: memoryview, width: int, spec: Spec) -> Host:
    if len(body) != spec.size * width:
        raise ChunkError(f"array {spec.key!r}: expected {spec.size * width} bytes of integers, found {len(body)}")
    return np.frombuffer(bytearray(body), f"<i{width}")


def _entropy(sample: Host) -> float:
    """Return the zero-order entropy in bits per value of what 16 bits hold."""
    counts = np.bincount(sample.clip(-(1 << 15), (1 << 15) - 1).astype(np.int16).view(np.uint16))
    missed = (np.count_nonzero(counts) - 1) / (2 * np.log(2))  # what a sample falls short by (Miller and Madow 1955)
    return float(missed + ans.bits(counts)) / sample.size
