"""The 12-byte header of a LATN chunk, as raiiaf 1.1.0 writes it.

::

    0   4s   "LATN"
    4   4s   flags: "F16\\0" or "F32\\0" before a zfp stream or plain values, "FPB\\0" before anything else of ours
    8   u32  bytes of the array uncompressed, little endian
"""

import struct
from functools import lru_cache

import zstandard

from flowerpress.codecs.dtypes import Buffer
from flowerpress.codecs.zstd import decompress
from flowerpress.errors import LatentError

TYPE = b"LATN"
FLAGS = {b"F16\0": "float16", b"F32\0": "float32"}
OWN = b"FPB\0"
SIZE = 12
_STRUCT = struct.Struct("<4s4sI")
_MOST_BYTES = (1 << 32) - 1
_MOST_FRAME = 64


def pack_header(flags: bytes, nbytes: int) -> bytes:
    """Return the header of a chunk whose array has ``nbytes`` bytes; LatentError if 32 bits cannot hold them."""
    if nbytes > _MOST_BYTES:
        raise LatentError(f"LATN chunk: expected at most {_MOST_BYTES} bytes, found {nbytes}; cut the array")
    return _STRUCT.pack(TYPE, flags, nbytes)


@lru_cache(maxsize=1024)  # making a compressor costs as much as coding 2 KB with zfp
def press_header(flags: bytes, nbytes: int) -> bytes:
    """Return the same header as the zstd frame that begins a compressed chunk."""
    return zstandard.ZstdCompressor(level=3).compress(pack_header(flags, nbytes))


def parse_header(header: Buffer) -> tuple[bytes, int]:
    """Return (flags, uncompressed bytes) of a plain header; LatentError if it is not one."""
    if len(header) != SIZE:
        raise LatentError(f"LATN header: expected {SIZE} bytes, found {len(header)}")
    kind, flags, nbytes = _STRUCT.unpack(header)
    if kind != TYPE:
        raise LatentError(f"LATN header: expected the type {TYPE!r}, found {kind!r}")
    return flags, nbytes


def unpress_header(frame: Buffer) -> tuple[bytes, int]:
    """Return (flags, uncompressed bytes) from a zstd frame; LatentError if it does not hold a header."""
    if len(frame) > _MOST_FRAME:
        raise LatentError(f"LATN header: expected a zstd frame of at most {_MOST_FRAME} bytes, found {len(frame)}")
    return _unpress_header(bytes(frame))


@lru_cache(maxsize=1024)
def _unpress_header(frame: bytes) -> tuple[bytes, int]:
    try:
        return parse_header(decompress(frame, SIZE, checksum=False))
    except LatentError:
        raise
    except ValueError as error:
        raise LatentError(f"LATN header: {error}") from error
