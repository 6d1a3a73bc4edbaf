"""The manifest of a bundle whose reader knows the arrays by name, dtype and shape: they are those of the references.

It is a msgpack array of five, deflated (RFC 1951) behind a preset dictionary, so that words of pipelines cost a byte or
two each::

    schema     XXH3-64, 8 bytes big endian, of the msgpack [[key, dtype, [length, …]], …] of all arrays
    copies     [[gap, j], …]                               as in a whole manifest; i is the sum of the gaps so far
    pipelines  [text, …]
    chunks     [[pipeline, [array, gap, …], count, payload], …]
    digests    XXH3-64 of each chunk, one after the other

A chunk has no header, which would say what the schema says. It codes several whole arrays, or ``count`` elements of one
from where the chunk before it ended: 0 stands for all that are left.
"""

import zlib
from collections.abc import Iterable
from itertools import accumulate, pairwise
from math import prod
from typing import Annotated

import msgspec
import xxhash

from flowerpress.chunks.manifest import (
    MOST_ENTRIES,
    MOST_MANIFEST,
    ArrayEntry,
    ChunkEntry,
    Copies,
    Index,
    Indices,
    Manifest,
    Number,
    Payload,
    Pipelines,
)
from flowerpress.codecs.dtypes import Buffer
from flowerpress.errors import ChunkError

_DIGEST = 8
_WORDS = (  # part of the format: a change needs another version of the bundle; what is frequent is at the end
    b"huffman | bitpack | zstd(level=3)quantize(bits=8, block=64, seed=0)quantize(relative=0.001)(bound=0.01)"
    b"zfp(tolerance=0.001)delta | sparse(above=0.0) | nonzero | zstddelta | lowrank(rank=8, step=0.0) | entropy"
    b"intdelta | entropyplanes | zstdintdelta | planes | zstd\xa3raw\x92\x94\x00\x01\x01\x01\x01\x01\x01\x01\x02"
    b"\x92\xd92delta | lowrank(step=0.0) | entropydelta | quantize(step=0.0, zone=0.6) | entropy"
)


class _Chunk(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    pipeline: Index
    arrays: Indices
    count: Number
    payload: Payload


class _Manifest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    schema: Annotated[bytes, msgspec.Meta(min_length=_DIGEST, max_length=_DIGEST)]
    copies: Copies
    pipelines: Pipelines
    chunks: Annotated[tuple[_Chunk, ...], msgspec.Meta(max_length=MOST_ENTRIES)]
    digests: Annotated[bytes, msgspec.Meta(max_length=_DIGEST * MOST_ENTRIES)]


def encode(whole: Manifest) -> bytes:
    """Return the bytes of a manifest whose chunks have no headers, the same for equal manifests."""
    sizes = [prod(entry.shape) for entry in whole.arrays]
    chunks = [
        _Chunk(
            chunk.pipeline,
            _gaps(chunk.arrays),
            0 if len(chunk.arrays) > 1 or chunk.stop == sizes[chunk.arrays[0]] else chunk.stop - chunk.start,
            chunk.payload,
        )
        for chunk in whole.chunks
    ]
    copies = tuple(zip(_gaps([i for i, _ in whole.copies]), [j for _, j in whole.copies], strict=True))
    digests = b"".join(chunk.digest for chunk in whole.chunks)
    short = _Manifest(digest(whole.arrays), copies, whole.pipelines, tuple(chunks), digests)
    return deflate(msgspec.msgpack.encode(short))


def decode(data: Buffer, arrays: tuple[ArrayEntry, ...]) -> Manifest:
    """Return the whole manifest of arrays that are like the references ``arrays``; `manifest.check` has to check it.

    Memory is bounded as for a whole manifest. Raises ChunkError unless the references have the schema that the bytes
    name.
    """
    try:
        found = msgspec.msgpack.decode(inflate(data), type=_Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ChunkError(f"bundle manifest: {error}") from error
    if (given := digest(arrays)) != found.schema:
        raise ChunkError(
            f"bundle: its names, dtypes and shapes are those of the references that it was coded against; expected "
            f"references of the schema {found.schema.hex()}, found {_described(arrays, given)}"
        )
    if len(found.digests) != _DIGEST * len(found.chunks):
        raise ChunkError(f"bundle manifest: {len(found.digests)} bytes of digests for {len(found.chunks)} chunks")
    copies = zip(accumulate(gap for gap, _ in found.copies), [j for _, j in found.copies], strict=True)
    return Manifest(arrays, tuple(copies), found.pipelines, _chunks(found, arrays))


def digest(arrays: tuple[ArrayEntry, ...]) -> bytes:
    """Return what stands for the names, dtypes and shapes of arrays, in their order."""
    return xxhash.xxh3_64(msgspec.msgpack.encode(arrays)).digest()


def deflate(plain: bytes) -> bytes:
    """Return the bytes of a manifest as they travel."""
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS, zdict=_WORDS)
    return deflater.compress(plain) + deflater.flush()


def inflate(data: Buffer) -> bytes:
    """Undo `deflate`; ChunkError for anything but one whole stream of at most 6 MiB."""
    inflater = zlib.decompressobj(wbits=-zlib.MAX_WBITS, zdict=_WORDS)
    try:
        plain = inflater.decompress(data, MOST_MANIFEST)
    except zlib.error as error:
        raise ChunkError(f"bundle manifest: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise ChunkError(f"bundle manifest: expected one deflated stream of at most {MOST_MANIFEST} bytes")
    return plain


def _described(arrays: tuple[ArrayEntry, ...], schema: bytes) -> str:
    return f"{len(arrays)} arrays of the schema {schema.hex()}" if arrays else "none"


def _chunks(found: _Manifest, arrays: tuple[ArrayEntry, ...]) -> tuple[ChunkEntry, ...]:
    """Return whole entries: which arrays, and from where to where."""
    if sum(len(chunk.arrays) for chunk in found.chunks) > len(arrays) + len(found.chunks):
        raise ChunkError("bundle manifest: its chunks name more arrays than there are")
    sizes, covered = [prod(entry.shape) for entry in arrays], [0] * len(arrays)
    chunks = []
    for number, chunk in enumerate(found.chunks):
        members = tuple(accumulate(chunk.arrays))
        if members[-1] >= len(arrays):
            raise ChunkError(f"bundle manifest: chunk {number} is of array {members[-1]}, of {len(arrays)}")
        joined = len(members) > 1
        start = 0 if joined else covered[members[0]]
        left = sum(sizes[i] for i in members) - start
        stop = start + (chunk.count or left)
        if not joined:
            covered[members[0]] = stop
        checksum = found.digests[_DIGEST * number : _DIGEST * (number + 1)]
        chunks.append(ChunkEntry(chunk.pipeline, members, start, stop, 0, chunk.payload, checksum))
    return tuple(chunks)


def _gaps(numbers: Iterable[int]) -> tuple[int, ...]:
    """Return the differences of ascending numbers, each to the one before it, the first to 0."""
    return tuple(b - a for a, b in pairwise((0, *numbers)))
