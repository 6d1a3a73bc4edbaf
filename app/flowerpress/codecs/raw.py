"""No compression, which is a codec too."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flowerpress.codecs.base import ArrayToBytes, Spec
from flowerpress.codecs.dtypes import ArrayLike, Buffer, Host, numpy_dtype, to_host
from flowerpress.errors import ChunkError


@dataclass(frozen=True, kw_only=True)
class Raw(ArrayToBytes):
    """The elements as they lie in memory: C order, little endian. Encoding shares the memory of the array.

    >>> import numpy as np
    >>> Raw().encode(np.array([1, 2], dtype="int16"), Spec("", "int16", (2,))).tobytes()
    b'\\x01\\x00\\x02\\x00'
    """

    name: ClassVar[str] = "raw"

    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        return as_bytes(to_host(x))

    def decode(self, y: Buffer, spec: Spec) -> Host:
        check_length(y, spec)
        return np.frombuffer(bytearray(y), numpy_dtype(spec.dtype)).reshape(spec.shape)


def as_bytes(x: Host) -> memoryview:
    """Return the bytes of a contiguous array, without a copy."""
    return memoryview(x.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def check_length(y: Buffer, spec: Spec) -> None:
    """Raise ChunkError unless ``y`` is exactly as long as the array itself."""
    if len(y) != spec.nbytes:
        raise ChunkError(f"array {spec.key!r}: expected {spec.nbytes} bytes, found {len(y)}")
