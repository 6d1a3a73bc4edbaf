"""zfp (Lindstrom 2014, doi:10.1109/TVCG.2014.2346458): for smooth latents, and for compatibility with LATN files.

zfp trusts its input: a truncated or forged stream makes it read and write where it should not. Here its 12-byte header
is parsed and checked first, and the stream behind it is decoded headerless, from a zeroed buffer as long as the longest
stream that zfp could want to read, into a shape that the caller knows. Nor is its tolerance a promise: values whose
magnitude is 1e8 times the tolerance come back off by more. Here every lossy stream is decoded again when it is written.
"""

from dataclasses import dataclass
from math import isfinite, prod
from typing import ClassVar

import numpy as np
import zfpy

from flowerpress.codecs.base import ArrayToBytes, Spec, check_float, is_number
from flowerpress.codecs.dtypes import ArrayLike, Buffer, Host, dtype_name, numpy_dtype, to_host
from flowerpress.errors import ChunkError, ConfigError

HEADER = 12
_REVERSIBLE, _ACCURACY, _MIN_EXPONENT = 2176, range(2177, 4095), -1074
# dtype -> (type in the header, zfpy's constant, bits per value, bits that a block may need besides its values)
_TYPES = {
    "int32": (1, zfpy.type_int32, 32, 5),
    "int64": (2, zfpy.type_int64, 64, 6),
    "float32": (3, zfpy.type_float, 32, 15),
    "float64": (4, zfpy.type_double, 64, 19),
}
_MOST_BUFFER = 1 << 33


@dataclass(frozen=True, kw_only=True)
class Zfp(ArrayToBytes):
    """zfp, reversible or with a bound on the error of every value that is checked when encoding.

    float32, float64, int32 and int64 as they are; float16 and bfloat16 widened to float32, which is exact. The array is
    coded as rows of 4 values where its size divides by 4, else flat: native shapes of weights expand.

    Parameters
    ----------
    tolerance : float, optional
        Largest absolute error of any value, above 0. None, the default, is reversible: bit-exact. Arrays with NaN or
        infinities, and those for which zfp cannot hold the bound, are coded reversibly.
    """

    tolerance: float | None = None
    name: ClassVar[str] = "zfp"

    def __post_init__(self) -> None:
        if self.tolerance is not None and not (
            is_number(self.tolerance) and isfinite(self.tolerance) and self.tolerance > 0
        ):
            raise ConfigError(f"zfp: expected a tolerance above 0, or none for reversible, found {self.tolerance!r}")

    @property
    def lossless(self) -> bool:
        return self.tolerance is None

    def refuses(self, spec: Spec) -> str:
        if _wide(spec.dtype) is None:
            return f"zfp codes {', '.join(_TYPES)}, float16 and bfloat16"
        if spec.size == 0:
            return "zfp cannot code an empty array"
        return "" if self.lossless else check_float(spec)

    def encode(self, x: ArrayLike, spec: Spec) -> Buffer:
        return compress(to_host(x), self.tolerance)

    def decode(self, y: Buffer, spec: Spec) -> Host:
        return decompress(y, spec.dtype, spec.size).reshape(spec.shape)


def compress(x: Host, tolerance: float | None = None) -> bytes:
    """Return the zfp stream of ``x``, header included, whose decoded values are within ``tolerance`` of it.

    ``x`` has at least one element; without a tolerance, or where it cannot be held, the stream is reversible.
    """
    name = dtype_name(x)
    wide = (x if name in _TYPES else x.astype(np.float32)).reshape(_view(x.size))
    if tolerance is not None and np.isfinite(wide).all():
        for bound in (tolerance, tolerance / 4, tolerance / 64):
            stream: bytes = zfpy.compress_numpy(wide, tolerance=bound)
            decoded = zfpy.decompress_numpy(stream).astype(x.dtype, copy=False).astype(wide.dtype, copy=False)
            if _error(wide, decoded) <= tolerance:
                return stream
    return zfpy.compress_numpy(wide)  # type: ignore[no-any-return]


def decompress(stream: Buffer, dtype: str, size: int) -> Host:
    """Decode a zfp stream with header into ``size`` values of ``dtype``, flat and writable.

    Raises ChunkError if the header is not that of ``size`` values in reversible or accuracy mode, or if the stream is
    shorter or longer than any such stream. Bytes that fit decode to *some* values: only a digest tells whose.
    """
    wide = _wide(dtype)
    if wide is None:
        raise ChunkError(f"zfp does not code {dtype}")
    shape, mode = _parse_header(stream, wide, size)
    blocks, most = _extent(shape, wide)
    body = len(stream) - HEADER
    if not blocks <= body * 8 <= most * 8:
        raise ChunkError(f"zfp stream of {size} values: expected {blocks // 8} to {most} bytes, found {body}")
    tolerance = -1.0 if mode == _REVERSIBLE else 2.0 ** (mode - _ACCURACY[0] + _MIN_EXPONENT)
    try:
        padded = np.zeros(most + 16, np.uint8)
        padded[:body] = np.frombuffer(stream, np.uint8, offset=HEADER)
        # zfpy has no public way to decode without a header
        x = zfpy._decompress(padded.data, _TYPES[wide][1], shape, tolerance=tolerance)
        return x.reshape(-1).astype(numpy_dtype(dtype), copy=False)  # type: ignore[no-any-return]
    except (MemoryError, ValueError, RuntimeError) as error:
        raise ChunkError(f"zfp stream of {size} values cannot be decoded: {error}") from error


def _wide(dtype: str) -> str | None:
    """Return the type in which zfp codes ``dtype`` exactly, or None."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype if dtype in _TYPES else None


def _view(size: int) -> tuple[int, ...]:
    """Return the shape under which zfp sees ``size`` values: rows of 4 (at most 2**24, a limit of its header)."""
    return (size // 4, 4) if size % 4 == 0 and size // 4 <= 1 << 24 else (size,)


def _error(x: Host, y: Host) -> float:
    """Return no less than the largest absolute difference: rounding it took off at most one part in 2**24."""
    difference = x - y
    return max(float(difference.max()), -float(difference.min())) * (1 + 2.0**-22)


def _parse_header(stream: Buffer, dtype: str, size: int) -> tuple[tuple[int, ...], int]:
    """Return (shape, mode) from zfp's own header: 32 bits of magic, 52 of type and shape, 12 of mode."""
    if len(stream) < HEADER or bytes(stream[:4]) != b"zfp\x05":
        raise ChunkError("zfp stream: expected the header of zfp codec version 5")
    header = int.from_bytes(stream[4:HEADER], "little")
    kind, axes = (header & 3) + 1, (header >> 2 & 3) + 1
    width = 48 // axes
    lengths = [(header >> 4 + i * width & (1 << width) - 1) + 1 for i in range(axes)]
    mode = header >> 52
    if kind != _TYPES[dtype][0] or prod(lengths) != size:
        raise ChunkError(f"zfp header: expected {size} values of {dtype}, found type {kind}, shape {lengths[::-1]}")
    if mode != _REVERSIBLE and mode not in _ACCURACY:
        raise ChunkError(f"zfp header: expected reversible or accuracy mode, found mode {mode}")
    return tuple(reversed(lengths)), mode


def _extent(shape: tuple[int, ...], dtype: str) -> tuple[int, int]:
    """Return the number of 4**d blocks and the bytes that zfp reads at most for them."""
    blocks = prod(-(-n // 4) for n in shape)
    values = 4 ** len(shape)
    _, _, precision, extra = _TYPES[dtype]
    most = (blocks * (extra + values - 1 + values * precision) + 148 + 63) // 64 * 8
    if most > _MOST_BUFFER:
        raise ChunkError(f"zfp header: shape {shape} needs a buffer of {most} bytes, over {_MOST_BUFFER}")
    return blocks, most
