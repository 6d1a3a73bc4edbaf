"""Attacks made by hand: bombs, and sizes that must be refused before anything is allocated."""

import zlib

import msgspec
import numpy as np
import xxhash
import zstandard

from flowerpress.chunks import schema
from flowerpress.chunks.manifest import ArrayEntry
from flowerpress.chunks.pack import BY_SCHEMA, HEAD, tail

KNOWN = {"x": np.zeros(1 << 20, np.uint8), "y": np.zeros(3, np.uint8)}


def zeros_frame(size: int) -> bytes:
    """Return a frame of zeros, without ever holding them: this process's memory is what is measured."""
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj(size=size)
    return b"".join([*(stream.compress(bytes(1 << 20)) for _ in range(size >> 20)), stream.flush()])


def sealed(manifest: bytes, body: bytes = b"") -> bytes:
    return HEAD + body + manifest + tail(manifest)


def crafted() -> list[bytes]:
    """Bundles that describe themselves."""
    bomb = zeros_frame(1 << 30)
    digest, nothing = xxhash.xxh3_64(bomb).digest(), xxhash.xxh3_64(b"").digest()
    encode = msgspec.msgpack.encode
    million = b"\xdd" + (10**6).to_bytes(4, "big")
    arrays = [["x", "uint8", [100]]]
    manifests: list[tuple[object, bytes]] = [
        ([[["x", "uint8", [1 << 30]]], [], ["zstd"], [[0, [0], 0, 1 << 30, 0, len(bomb), digest]]], bomb),
        ([[["x", "uint8", [1 << 26]]], [], ["zstd"], [[0, [0], 0, 1 << 26, 0, len(bomb), digest]]], bomb),
        ([arrays, [], ["zstd"], [[0, [0], 0, 100, 0, len(bomb), digest]]], bomb),
        ([[["x", "uint8", [2**47]]], [], ["raw"], [[0, [0], 0, 2**47, 0, 0, nothing]]], b""),
        ([[["x", "float64", [2**20] * 32]], [], ["raw"], []], b""),
        ([arrays, [], ["[" * 2000], []], b""),
        ([arrays, [], ["zstd | " * 200 + "zstd"], []], b""),
        ([arrays, [[0, 0]] * 65536, ["raw"], []], b""),
        ([[["e", "uint8", [0]]], [], ["raw"], [[0, [0] * 65535, 0, 0, 0, 0, nothing]] * 30], b""),
    ]
    return [
        *(sealed(encode(manifest), body) for manifest, body in manifests),
        sealed(
            b"\x94"
            + encode(arrays)
            + b"\x90"
            + encode(["raw"])
            + million
            + encode([0, [0], 0, 1, 0, 0, nothing]) * 10**6
        ),
        sealed(b"\x94" + million + encode(["x", "uint8", [0]]) * 10**6 + b"\x90\x90\x90"),
        sealed(bomb),
        sealed(zeros_frame(64 << 20)),
        sealed(b"\xdd\xff\xff\xff\xff" * 10),
        b"FPB\x03" + bytes(64),
    ]


def crafted_by_schema() -> list[bytes]:
    """Bundles whose arrays are named by the schema of `KNOWN`."""
    known = schema.digest(tuple(ArrayEntry(key, x.dtype.name, x.shape) for key, x in KNOWN.items()))
    bomb, encode = zeros_frame(1 << 30), msgspec.msgpack.encode
    digest, nothing = xxhash.xxh3_64(bomb).digest(), xxhash.xxh3_64(b"").digest()
    million = b"\xdd" + (10**6).to_bytes(4, "big")
    manifests: list[tuple[object, bytes]] = [
        ([known, [], ["zstd"], [[0, [0], 0, len(bomb)]], digest], bomb),
        ([known, [], ["raw"], [[0, [0], 1 << 47, 0]], nothing], b""),
        ([known, [], ["raw"], [[0, [0] + [1] * 65535, 0, 0]] * 30, nothing * 30], b""),
        ([known, [], ["raw"], [[0, [0], 1, 0]] * 65536, nothing * 65536], b""),
        ([known, [], ["raw"], [[0, [65535] * 4, 0, 0]], nothing], b""),
        ([known, [[65535, 0]] * 65536, ["raw"], [], b""], b""),
        ([known, [], ["raw"] * 10**5, [], b""], b""),
        ([known, [], [], [], bytes(5 << 20)], b""),
    ]
    streams = [
        *((schema.deflate(encode(manifest)), body) for manifest, body in manifests),
        (
            schema.deflate(b"\x95" + encode(known) + b"\x90\x90" + million + encode([0, [0], 0, 0]) * 10**6 + b"\xa0"),
            b"",
        ),
        (schema.deflate(bytes(6 << 20)), b""),
        (schema.deflate(b"\xdd\xff\xff\xff\xff" * 10), b""),
        (deflated_zeros(1 << 30), b""),
    ]
    return [BY_SCHEMA + body + stream + tail(stream, BY_SCHEMA) for stream, body in streams]


def deflated_zeros(size: int) -> bytes:
    """Return a stream of zeros, without ever holding them."""
    stream = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    return b"".join([*(stream.compress(bytes(1 << 20)) for _ in range(size >> 20)), stream.flush()])
