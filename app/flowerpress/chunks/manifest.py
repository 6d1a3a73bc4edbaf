"""What a bundle says of itself: its arrays, its pipelines, and which chunk holds what.

The manifest is a msgpack array of four arrays, compressed with zstd where that is shorter::

    arrays     [[key, dtype, [length, …]], …]                  in the order of the record
    copies     [[i, j], …]                                     array i has the values of array j and no chunk, j < i
    pipelines  [text, …]
    chunks     [[pipeline, [array, …], start, stop, header, payload, digest], …]

A chunk codes elements ``start`` to ``stop`` of its arrays, joined flat: whole arrays, or a slice of a single one.
``header`` and ``payload`` are the bytes of its two parts, ``digest`` the XXH3-64 of both, 8 bytes big endian. Chunks
lie one after the other, so that offsets cannot overlap.
"""

from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Annotated, TypeAlias

import msgspec
import zstandard

from flowerpress.codecs.base import Pipeline, Spec
from flowerpress.codecs.dtypes import Buffer
from flowerpress.codecs.text import parse
from flowerpress.codecs.zstd import decompress
from flowerpress.errors import ChunkError, ConfigError

MOST_CHUNK = 64 << 20  # bytes of the arrays in one chunk
MOST_ENTRIES = 1 << 16
MOST_MANIFEST = 6 << 20  # bytes, not compressed
_FRAME = b"\x28\xb5\x2f\xfd"

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]
Index: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=MOST_ENTRIES)]
Indices: TypeAlias = Annotated[tuple[Index, ...], msgspec.Meta(min_length=1, max_length=MOST_ENTRIES)]
Payload: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
Copies: TypeAlias = Annotated[tuple[tuple[Index, Index], ...], msgspec.Meta(max_length=MOST_ENTRIES)]
_Key = Annotated[str, msgspec.Meta(max_length=1024)]
_Text = Annotated[str, msgspec.Meta(max_length=2048)]
Pipelines: TypeAlias = Annotated[tuple[_Text, ...], msgspec.Meta(max_length=256)]


class ArrayEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Name, dtype and shape of one array."""

    key: _Key
    dtype: _Key
    shape: Annotated[tuple[Number, ...], msgspec.Meta(max_length=32)]

    @property
    def spec(self) -> Spec:
        """The array as codecs know it."""
        return Spec(self.key, self.dtype, self.shape)


class ChunkEntry(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What one chunk holds, how it was coded, and how long it is."""

    pipeline: Index
    arrays: Indices
    start: Number
    stop: Number
    header: Annotated[int, msgspec.Meta(ge=0, lt=128)]
    payload: Payload
    digest: Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]

    @property
    def size(self) -> int:
        """Bytes of the chunk in the bundle."""
        return self.header + self.payload


class Manifest(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """The whole manifest, as it travels."""

    arrays: Annotated[tuple[ArrayEntry, ...], msgspec.Meta(max_length=MOST_ENTRIES)]
    copies: Copies
    pipelines: Pipelines
    chunks: Annotated[tuple[ChunkEntry, ...], msgspec.Meta(max_length=MOST_ENTRIES)]

    def encode(self) -> bytes:
        """Return the bytes of the manifest, the same for equal manifests."""
        plain = msgspec.msgpack.encode(self)
        pressed = zstandard.ZstdCompressor(level=9, write_checksum=True).compress(plain)
        return min(pressed, plain, key=len)


@dataclass(frozen=True)
class Layout:
    """A manifest that was checked: everything a reader needs, by index.

    Attributes
    ----------
    specs : tuple of Spec
        The arrays, in the order of the record.
    pipelines : tuple of Pipeline
        As named by the chunks.
    chunks : tuple of ChunkEntry
        In the order of the file.
    offsets : tuple of int
        Where each chunk begins, counted from the first.
    holders : tuple of tuple of int
        For each array the chunks that hold it, in order; a copy has those of its original, an empty array none.
    places : tuple of int
        For each array the element of its (joined) chunk at which it begins.
    copies : frozenset of int
        The arrays that take no bytes.
    """

    specs: tuple[Spec, ...]
    pipelines: tuple[Pipeline, ...]
    chunks: tuple[ChunkEntry, ...]
    offsets: tuple[int, ...]
    holders: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]
    copies: frozenset[int]

    def elements(self, chunk: ChunkEntry) -> Spec:
        """Return the spec of what a chunk codes: its array, a slice of it, or several arrays joined."""
        joined = Spec.join([self.specs[i] for i in chunk.arrays])
        return joined.cut(chunk.start, chunk.stop)

    def differences(self) -> tuple[Spec, ...]:
        """Return the arrays that cannot be decoded without a reference."""
        chunks = (chunk for chunk in self.chunks if self.pipelines[chunk.pipeline].refuses(self.elements(chunk)))
        return tuple(self.specs[i] for i in sorted({i for chunk in chunks for i in chunk.arrays}))


def decode(data: Buffer) -> Manifest:
    """Return what the bytes of a manifest say, which `check` has still to check; ChunkError if they are none.

    Memory is bounded by limits that are checked before anything is built: 6 MiB of manifest, 65,536 arrays and chunks.
    """
    try:
        plain = decompress(data, MOST_MANIFEST) if data[:4] == _FRAME else data
        return msgspec.msgpack.decode(plain, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ChunkError(f"bundle manifest: {error}") from error


def check(manifest: Manifest, space: int) -> Layout:
    """Return the layout of a manifest whose chunks take ``space`` bytes.

    Raises ChunkError unless every element of every array is coded exactly once, in chunks that fill the space.
    """
    try:
        specs = tuple(entry.spec for entry in manifest.arrays)
        pipelines = tuple(map(parse, manifest.pipelines))
    except ConfigError as error:
        raise ChunkError(f"bundle manifest names what is not known here: {error}") from error
    ends = list(accumulate((chunk.size for chunk in manifest.chunks), initial=0))
    if ends[-1] != space:
        raise ChunkError(f"bundle manifest: chunks of {ends[-1]} bytes, but the bundle has {space} for them")
    for spec in specs:
        if spec.itemsize * prod(n or 1 for n in spec.shape) >= 1 << 63:  # numpy counts so for empty arrays, too
            raise ChunkError(f"bundle manifest: array {spec.key!r}: no array is of shape {list(spec.shape)}")
    if len({spec.key for spec in specs}) != len(specs):
        raise ChunkError("bundle manifest: two arrays have the same key")
    holders, places = _holders(manifest, specs)
    copies = frozenset(i for i, _ in manifest.copies)
    layout = Layout(specs, pipelines, manifest.chunks, tuple(ends[:-1]), holders, places, copies)
    for chunk in layout.chunks:
        _check_chunk(chunk, layout)
    return layout


def _holders(manifest: Manifest, specs: tuple[Spec, ...]) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]:
    """Find the chunks of each array and its place in them; check that they cover it from first element to last."""
    holders: list[list[int]] = [[] for _ in specs]
    covered, places = [0] * len(specs), [0] * len(specs)
    for number, chunk in enumerate(manifest.chunks):
        joined, place = len(chunk.arrays) > 1, 0
        for i in chunk.arrays:
            if i >= len(specs) or not specs[i].size or covered[i] != (0 if joined else chunk.start):
                raise ChunkError(f"bundle manifest: chunk {number} does not follow what is there of array {i}")
            covered[i] = specs[i].size if joined else chunk.stop
            places[i] = place
            place += specs[i].size
            holders[i].append(number)
    copied = set()
    for i, j in manifest.copies:
        if not j < i < len(specs) or i in copied or j in copied or holders[i]:
            raise ChunkError(f"bundle manifest: array {i} cannot be a copy of array {j}")
        if (specs[i].dtype, specs[i].shape) != (specs[j].dtype, specs[j].shape):
            raise ChunkError(f"bundle manifest: array {i} is not of the dtype and shape of array {j}")
        copied.add(i)
        holders[i], covered[i], places[i] = holders[j], covered[j], places[j]
    for i, spec in enumerate(specs):
        if covered[i] != spec.size:
            raise ChunkError(f"bundle manifest: {covered[i]} of {spec.size} elements of array {i} are there")
    return tuple(map(tuple, holders)), tuple(places)


def _check_chunk(chunk: ChunkEntry, layout: Layout) -> None:
    specs = [layout.specs[i] for i in chunk.arrays]
    most = sum(spec.size for spec in specs)
    if not chunk.start < chunk.stop <= most or (len(specs) > 1 and chunk.stop - chunk.start != most):
        raise ChunkError(f"bundle manifest: elements {chunk.start} to {chunk.stop} of {most} in one chunk")
    if chunk.pipeline >= len(layout.pipelines) or len({spec.dtype for spec in specs}) > 1:
        raise ChunkError("bundle manifest: a chunk of two dtypes, or of a pipeline that is not listed")
    spec = layout.elements(chunk)
    if spec.nbytes > MOST_CHUNK or chunk.payload > spec.most_bytes:
        raise ChunkError(f"bundle manifest: {chunk.payload} bytes for {spec.nbytes}, expected at most {MOST_CHUNK}")
