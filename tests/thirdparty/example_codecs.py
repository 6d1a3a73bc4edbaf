"""Two codecs of somebody else's: `Signs` makes bytes of an array, `Xor` makes an array of one and its reference."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from flowerpress.codecs.base import ArrayToArray, ArrayToBytes, Spec, base_of, check_base, check_float, check_some
from flowerpress.codecs.dtypes import ArrayLike, Buffer, Host, all_finite, bits, numpy_dtype, to_host
from flowerpress.errors import ChunkError, ConfigError


@dataclass(frozen=True, kw_only=True)
class Signs(ArrayToBytes):
    """One bit per value, its sign, and one magnitude for the array: their mean (Bernstein et al. 2018, signSGD).

    The bytes are the magnitude, in the dtype of the array, then the bits, eight to a byte, the first in the highest.

    Parameters
    ----------
    scale : float
        What the mean is multiplied by; below 1 for updates of which much is noise.

    >>> spec = Spec("w", "float32", (3,))
    >>> Signs().decode(Signs().encode(np.array([1, -2, 3], "float32"), spec), spec)
    array([ 2., -2.,  2.], dtype=float32)
    """

    scale: float = 1.0
    name: ClassVar[str] = "signs"

    def __post_init__(self) -> None:
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not 0 < self.scale < 1e6:
            raise ConfigError(f"signs: expected a scale above 0, found {self.scale!r}")

    @property
    def lossless(self) -> bool:
        return False

    @property
    def elementwise(self) -> bool:
        return False  # half of an array has another mean: it must not be cut, or joined with others

    def refuses(self, spec: Spec) -> str:
        return check_float(spec) or check_some(spec)

    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        x = to_host(x).reshape(-1)
        with np.errstate(over="ignore"):
            mean = np.abs(x, dtype=np.float64).mean() * self.scale
            magnitude = np.asarray([mean]).astype(numpy_dtype(spec.dtype))
        if not all_finite(x) or not all_finite(magnitude):
            raise ConfigError(f"array {spec.key!r}: signs needs finite values")
        return magnitude.tobytes() + np.packbits(x < 0).tobytes()

    def decode(self, y: Buffer, spec: Spec) -> Host:
        expected = spec.itemsize + -(-spec.size // 8)
        if len(y) != expected:
            raise ChunkError(f"array {spec.key!r}: expected {expected} bytes of signs, found {len(y)}")
        (magnitude,) = np.frombuffer(y, numpy_dtype(spec.dtype), 1)
        if not np.isfinite(magnitude) or magnitude < 0:
            raise ChunkError(f"array {spec.key!r}: expected a magnitude of 0 or more, found {magnitude}")
        negative = np.unpackbits(np.frombuffer(y, np.uint8, offset=spec.itemsize), count=spec.size)
        return np.where(negative, -magnitude, magnitude).astype(numpy_dtype(spec.dtype)).reshape(spec.shape)


@dataclass(frozen=True, kw_only=True)
class Xor(ArrayToArray):
    """The bits of an array that differ from its reference's, as integers of the same size; every bit comes back.

    >>> base = np.array([1.0, 2.0], "float32")
    >>> Xor().encode(base, Spec.of(base, "w", base))
    array([0, 0], dtype=int32)
    """

    name: ClassVar[str] = "xor"

    def refuses(self, spec: Spec) -> str:
        return check_base(spec) or ("" if spec.itemsize in (1, 2, 4, 8) else "it takes elements of 1, 2, 4 or 8 bytes")

    def after(self, spec: Spec) -> Spec:
        return replace(spec, dtype=f"int{8 * spec.itemsize}", base=None)

    def encode(self, x: ArrayLike, spec: Spec) -> ArrayLike:
        return bits(x) ^ bits(base_of(spec, x))  # numpy or torch, on the host or on a GPU: ^ is the same in both

    def decode(self, y: Host, spec: Spec) -> Host:
        return (y ^ bits(base_of(spec, y))).view(numpy_dtype(spec.dtype))
