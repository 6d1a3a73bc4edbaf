"""Arrays of mostly zeros: where the others are, as gaps or as a bitmap, and what they are.

Gaps between the positions are entropy-coded, so that k of n random positions take about what they must, the logarithm
of the number of ways to choose them; where that is more than a bit per value of the array, a bitmap is shorter.
"""

import struct
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flowerpress.codecs.base import ArrayToBytes, Spec
from flowerpress.codecs.dtypes import ArrayLike, Buffer, Host, bits, numpy_dtype, to_host
from flowerpress.codecs.entropy import Entropy
from flowerpress.codecs.planes import Planes
from flowerpress.errors import ChunkError

_HEAD = struct.Struct("<II")  # values that are not zero; bytes of the gaps, or 0 for a bitmap
_ENTROPY, _PLANES = Entropy(), Planes()


@dataclass(frozen=True, kw_only=True)
class Nonzero(ArrayToBytes):
    """Positions and values of what is not zero, by its bits (negative zero stays); exact for any dtype.

    The values come last, as byte planes: put ``zstd`` behind.

    >>> x = np.zeros(100_000, dtype="float32")
    >>> x[::1000] = 1
    >>> len(Nonzero().encode(x, Spec.of(x))) < 500
    True
    """

    name: ClassVar[str] = "nonzero"

    def refuses(self, spec: Spec) -> str:
        if spec.itemsize > 8:
            return "it takes values of 8 bytes at most"
        return "it counts positions in 32 bits" if spec.size >= 1 << 32 else ""

    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        values = to_host(x).reshape(-1)
        mask = bits(values) != 0
        places = np.flatnonzero(mask)
        kept = values[places]
        gaps = bytes(_ENTROPY.encode(np.diff(places, prepend=-1, append=spec.size) - 1, _gap_spec(places.size)))
        positions = gaps if len(gaps) * 8 < spec.size else np.packbits(mask).tobytes()
        head = _HEAD.pack(places.size, len(gaps) if positions is gaps else 0)
        return b"".join([head, positions, _PLANES.encode(kept, Spec.of(kept))])

    def decode(self, y: Buffer, spec: Spec) -> Host:
        if len(y) < _HEAD.size:
            raise ChunkError(f"array {spec.key!r}: expected positions of values, found {len(y)} bytes")
        count, length = _HEAD.unpack_from(y)
        stop = _HEAD.size + (length or -(-spec.size // 8))
        if count > spec.size or stop > len(y):
            raise ChunkError(f"array {spec.key!r}: {count} values at positions of {stop} bytes, in {len(y)} bytes")
        found = memoryview(y)[_HEAD.size : stop]
        if length:
            places = _places(_ENTROPY.decode(found, _gap_spec(count)), spec)
        else:
            places = np.flatnonzero(np.unpackbits(np.frombuffer(found, np.uint8), count=spec.size))
        if places.size != count:
            raise ChunkError(f"array {spec.key!r}: expected {count} positions, found {places.size}")
        x: Host = np.zeros(spec.size, numpy_dtype(spec.dtype))
        x[places] = _PLANES.decode(memoryview(y)[stop:], Spec(spec.key, spec.dtype, (count,)))
        return x.reshape(spec.shape)


def _gap_spec(count: int) -> Spec:
    """Return the spec of the gaps before each of so many values, and behind the last."""
    return Spec("gaps", "int64", (count + 1,))


def _places(gaps: Host, spec: Spec) -> Host:
    """Return the positions between gaps; ChunkError unless they fill the array."""
    places = (gaps + 1).cumsum() - 1
    if gaps.min() < 0 or gaps.max() > spec.size or places[-1] != spec.size:
        raise ChunkError(f"array {spec.key!r}: expected gaps that fill {spec.size} values, found others")
    return places[:-1]
