"""A bundle read lazily: the manifest first, and each array, or slice, when it is asked for. ::

    "FPB" version:u8 │ chunk │ chunk │ … │ manifest │ manifest length:u32 digest:u64
                       ▲ header (zstd) + payload      ▲ where to start reading

Version 2 is for messages: the reader has the names, dtypes and shapes from its references, and chunks have no headers.

Nothing in it is believed: digests, lengths and limits are checked before a byte is decoded, and before memory is taken.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xxhash

from flowerpress.chunks import manifest, schema
from flowerpress.chunks.encode import RAW, cut, spread
from flowerpress.chunks.header import FLAGS, OWN, unpress_header
from flowerpress.chunks.manifest import ArrayEntry, ChunkEntry
from flowerpress.chunks.pack import BY_SCHEMA, HEAD, TAIL, tail
from flowerpress.chunks.parts import JOIN
from flowerpress.codecs.base import Pipeline, Spec, check_base
from flowerpress.codecs.dtypes import ArrayLike, Buffer, Host, all_finite, dtype_name, numpy_dtype
from flowerpress.codecs.raw import check_length
from flowerpress.errors import ChunkError

if TYPE_CHECKING:
    import mmap

_MOST_KEPT = 4  # joined chunks


class Source(Protocol):
    """Where the bytes of a bundle are: in memory, or in a file."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Buffer:
        """Return bytes ``start`` to ``stop``."""
        ...


class Memory:
    """The bytes of a message, or a mapped file; reading shares them."""

    def __init__(self, data: "Buffer | mmap.mmap") -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> Buffer:
        return memoryview(self.data)[start:stop]


class File:
    """A file, opened anew for each read, so that nothing stays open and objects can be pickled."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.size = self.path.stat().st_size
        except OSError as error:
            raise ChunkError(f"bundle: cannot read {self.path}: {error.strerror}") from error

    def __len__(self) -> int:
        return self.size

    def read(self, start: int, stop: int) -> Buffer:
        try:
            with self.path.open("rb") as file:
                file.seek(start)
                data = file.read(stop - start)
        except OSError as error:
            raise ChunkError(f"bundle: cannot read {self.path}: {error.strerror}") from error
        if len(data) != stop - start:
            raise ChunkError(f"bundle: {self.path} became shorter than it was when it was opened")
        return data


@dataclass
class Clock:
    """Seconds spent decoding so far, of all threads together: an object, so that it can outlive its bundle."""

    seconds: float = 0.0


class Bundle(Mapping[str, Host]):
    """The arrays of a bundle by name, decoded anew each time they are read; memory is one array and a few chunks.

    Parameters
    ----------
    source : bytes, Memory, File
        Where the bundle is. `Bundle.open` takes a path.
    bases : mapping of str to ndarray or tensor, optional
        The references that the writer coded differences to. A bundle that was written ``by_schema`` needs them to be
        opened at all, with the names, dtypes and shapes, and in the order, that the writer's had.
    finite : bool
        Refuse, when it is read, an array that holds NaN or infinities.

    Raises
    ------
    ChunkError
        If the bytes are not a bundle of these versions, its manifest is damaged or contradicts itself, or it names the
        schema of other references. Chunks are checked when they are read.

    >>> from flowerpress.chunks.pack import pack
    >>> bundle = Bundle(pack({"w": np.eye(2, dtype="float32")}))
    >>> bundle["w"]
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """

    def __init__(
        self, source: bytes | Source, *, bases: Mapping[str, ArrayLike] | None = None, finite: bool = False
    ) -> None:
        self.finite = finite
        self.bases = bases or {}
        self.source: Source = Memory(source) if isinstance(source, bytes) else source
        size = len(self.source)
        if size < len(HEAD) + TAIL or (head := bytes(self.source.read(0, len(HEAD))))[:3] != HEAD[:3]:
            raise ChunkError(f"bundle: expected {HEAD[:3]!r} and at least {len(HEAD) + TAIL} bytes, found {size}")
        if head not in (HEAD, BY_SCHEMA):
            raise ChunkError(f"bundle: expected version 1 or 2, found {head[3]}; upgrade flowerpress to read it")
        end = bytes(self.source.read(size - TAIL, size))
        start = size - TAIL - int.from_bytes(end[:4], "little")
        if start < len(HEAD):
            raise ChunkError(f"bundle: a manifest of {size - TAIL - start} bytes does not fit into {size}")
        data = self.source.read(start, size - TAIL)
        if tail(data, head) != end:
            raise ChunkError("bundle: the manifest is not the one that was written; the bytes are damaged")
        self._headed = head == HEAD
        found = manifest.decode(data) if self._headed else schema.decode(data, _entries(self.bases))
        self.layout = manifest.check(found, start - len(HEAD))
        self._index = {spec.key: i for i, spec in enumerate(self.layout.specs)}
        self._kept: tuple[tuple[int, Host], ...] = ()  # joined chunks, by number, that are being read
        self._verified = False
        self.clock = Clock()

    @classmethod
    def open(cls, path: str | Path, *, bases: Mapping[str, ArrayLike] | None = None, finite: bool = False) -> "Bundle":
        """Read the bundle in a file; ChunkError if there is none."""
        return cls(File(path), bases=bases, finite=finite)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled, or copied deeply: the bytes themselves, unless they are in a file with a name."""
        source = self.source if isinstance(self.source, File) else Memory(self.to_bytes())
        return {**self.__dict__, "source": source, "_kept": ()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: object) -> bool:  # Mapping's would decode the array
        return key in self._index

    def __getitem__(self, key: str) -> Host:
        return self.read(key)

    def spec(self, key: str) -> Spec:
        """Return what is known of an array without decoding it; KeyError if there is no such array."""
        return self.layout.specs[self._index[key]]

    def exact(self, key: str) -> bool:
        """Tell whether an array is coded losslessly, so that it is, bit by bit, what the writer had."""
        chunks = (self.layout.chunks[number] for number in self.layout.holders[self._index[key]])
        return all(self.layout.pipelines[chunk.pipeline].lossless for chunk in chunks)

    def to_bytes(self) -> bytes:
        """Return the whole bundle; without a copy if it is bytes."""
        data = self.source.data if isinstance(self.source, Memory) else None
        return data if isinstance(data, bytes) else bytes(self.source.read(0, self.nbytes))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole bundle."""
        return len(self.source)

    def encoded_bytes(self, key: str) -> int:
        """Return the bytes that an array takes in its chunks: its share of a joined one, 0 for a copy."""
        i, total = self._index[key], 0
        for number in () if i in self.layout.copies else self.layout.holders[i]:
            chunk, place = self.layout.chunks[number], self.layout.places[i]
            size = chunk.stop - chunk.start
            end = place + min(size, self.layout.specs[i].size)
            total += chunk.size * end // size - chunk.size * place // size
        return total

    def cuts(self, key: str) -> list[int]:
        """Return the elements of an array at which chunks begin; 0 alone for one that lies in a joined chunk."""
        chunks = [self.layout.chunks[number] for number in self.layout.holders[self._index[key]]]
        return sorted(chunk.start if len(chunk.arrays) == 1 else 0 for chunk in chunks)

    def rows(self) -> list[dict[str, Any]]:
        """Describe each array: key, dtype, shape, raw-bytes, bytes, pipeline."""
        rows = []
        for i, spec in enumerate(self.layout.specs):
            numbers = self.layout.holders[i]
            pipelines = dict.fromkeys(str(self.layout.pipelines[self.layout.chunks[n].pipeline]) for n in numbers)
            rows.append(
                {
                    "key": spec.key,
                    "dtype": spec.dtype,
                    "shape": list(spec.shape),
                    "raw-bytes": spec.nbytes,
                    "bytes": self.encoded_bytes(spec.key),
                    "pipeline": "a copy" if i in self.layout.copies else ", ".join(pipelines) or "empty",
                }
            )
        return rows

    def require(self, expected: Mapping[str, Spec]) -> None:
        """Check names, dtypes and shapes against what the receiver expects; ChunkError names the first difference."""
        for key in {**self._index, **expected}:
            here, there = (
                specs.get(key) for specs in (dict(zip(self._index, self.layout.specs, strict=True)), expected)
            )
            if here is None or there is None or (here.dtype, here.shape) != (there.dtype, there.shape):
                raise ChunkError(f"bundle: array {key!r}: expected {there or 'none'}, found {here or 'none'}")

    def read(self, key: str, start: int = 0, stop: int | None = None) -> Host:
        """Return an array, or elements ``start`` to ``stop`` of it in C order, flat, from the chunks that hold them.

        Raises KeyError for a name that is not there, ChunkError for damaged chunks.
        """
        i = self._index[key]
        spec = self.layout.specs[i]
        first, last, _ = slice(start, stop).indices(spec.size)
        out = _empty(spec.dtype, max(last - first, 0))
        for number in self.layout.holders[i]:
            if (found := self._overlap(number, i, first, last)) is not None:
                there, here = found
                out[there] = self._joined(number)[here]
            if self.layout.chunks[number].arrays[-1] == i:  # in order, nobody will ask for this chunk again
                self._kept = tuple(kept for kept in self._kept if kept[0] != number)
        return out.reshape(spec.shape) if (first, last) == (0, spec.size) else out

    def read_all(self, workers: int | None = None) -> dict[str, Host]:
        """Return all arrays, decoded on several threads (all cores by default)."""
        specs = self.layout.specs
        flat = [_empty(spec.dtype, spec.size) for spec in specs]
        members: list[list[int]] = [[] for _ in self.layout.chunks]
        for i, numbers in enumerate(self.layout.holders):
            for number in numbers:
                members[number].append(i)

        def copy(number: int) -> None:
            chunk = self._decode(number)
            for i in members[number]:
                if (found := self._overlap(number, i, 0, specs[i].size)) is not None:
                    there, here = found
                    flat[i][there] = chunk[here]

        spread(copy, range(len(members)), workers, sum(spec.nbytes for spec in specs))
        return {spec.key: x.reshape(spec.shape) for spec, x in zip(specs, flat, strict=True)}

    def verify(self) -> None:
        """Check the digest of every chunk, without decoding; ChunkError for the first that is damaged.

        Chunks in memory are not checked again when they are read.
        """
        for number in range(len(self.layout.chunks)):
            self._chunk(number)
        self._verified = isinstance(self.source, Memory)

    def _overlap(self, number: int, i: int, first: int, last: int) -> tuple[slice, slice] | None:
        """Return what a chunk has of elements ``first`` to ``last`` of array ``i``: where among them, where in it."""
        chunk = self.layout.chunks[number]
        joined = len(chunk.arrays) > 1
        begin, end = (0, self.layout.specs[i].size) if joined else (chunk.start, chunk.stop)
        low, high = max(first, begin), min(last, end)
        place = self.layout.places[i] - begin
        return (slice(low - first, high - first), slice(place + low, place + high)) if low < high else None

    def _joined(self, number: int) -> Host:
        """Decode a chunk; joined ones are kept for the arrays that follow, the last few, as chunks may take turns."""
        for kept, flat in self._kept:
            if kept == number:
                return flat
        flat = self._decode(number)
        if len(self.layout.chunks[number].arrays) > 1:
            small = tuple(kept for kept in self._kept if kept[1].nbytes <= JOIN)
            self._kept = (*small[1 - _MOST_KEPT :], (number, flat))
        return flat

    def _chunk(self, number: int) -> tuple[Buffer, Buffer]:
        """Return header and payload of a chunk whose digest is right."""
        chunk, start = self.layout.chunks[number], len(HEAD) + self.layout.offsets[number]
        data = memoryview(self.source.read(start, start + chunk.size))
        if not self._verified and xxhash.xxh3_64(data).digest() != chunk.digest:
            raise ChunkError(f"bundle: chunk {number} is damaged: its digest is not the one in the manifest")
        return data[: chunk.header], data[chunk.header :]

    def _decode(self, number: int) -> Host:
        """Decode a chunk, flat."""
        chunk = self.layout.chunks[number]
        spec, pipeline = self.layout.elements(chunk), self.layout.pipelines[chunk.pipeline]
        started = time.perf_counter()
        header, payload = self._chunk(number)
        if self._headed:
            _check_header(header, number, spec)
        try:
            flat = self._flat(pipeline, payload, chunk, spec)
        except ChunkError:
            raise
        except Exception as error:  # a codec of someone else's, on bytes of a third
            raise ChunkError(f"bundle: chunk {number}: {pipeline} failed: {error!r}") from error
        if self.finite and not all_finite(flat):
            raise ChunkError(f"bundle: chunk {number}: expected finite values, found NaN or infinities")
        self.clock.seconds += time.perf_counter() - started
        return flat

    def _flat(self, pipeline: Pipeline, payload: Buffer, chunk: ChunkEntry, spec: Spec) -> Host:
        """Return the elements of a chunk; of one that is not coded, without a copy."""
        if pipeline == RAW:
            check_length(payload, spec)
            return np.frombuffer(payload, numpy_dtype(spec.dtype))
        return pipeline.decode(payload, replace(spec, base=self._base(chunk, spec))).reshape(-1)

    def _base(self, chunk: ChunkEntry, spec: Spec) -> "ArrayLike | None":
        """Return the part of the references that a chunk was coded against, or None if one of them is not here.

        Of references in a bundle only that part is read.
        """
        specs = [self.layout.specs[i] for i in chunk.arrays]
        if isinstance(self.bases, Bundle):
            if any(s.key not in self.bases or self.bases.spec(s.key) != s for s in specs):
                return None
            if len(specs) > 1:
                return np.concatenate([self.bases[s.key].reshape(-1) for s in specs])
            return self.bases.read(specs[0].key, chunk.start, chunk.stop).reshape(spec.shape)
        bases = [self.bases[s.key] for s in specs if s.key in self.bases]
        if len(bases) < len(specs) or any(
            check_base(replace(s, base=base)) for s, base in zip(specs, bases, strict=True)
        ):
            return None
        return cut(bases, chunk.start, chunk.stop).reshape(spec.shape)


def _entries(arrays: Mapping[str, ArrayLike]) -> tuple[ArrayEntry, ...]:
    """Return names, dtypes and shapes; those of a bundle without decoding it."""
    if isinstance(arrays, Bundle):
        return tuple(ArrayEntry(spec.key, spec.dtype, spec.shape) for spec in arrays.layout.specs)
    return tuple(ArrayEntry(key, dtype_name(x), tuple(x.shape)) for key, x in arrays.items())


def _check_header(header: Buffer, number: int, spec: Spec) -> None:
    flags, nbytes = unpress_header(header)
    if nbytes != spec.nbytes or flags not in (OWN, *(f for f, dtype in FLAGS.items() if dtype == spec.dtype)):
        raise ChunkError(f"bundle: chunk {number}: expected a header for {spec.nbytes} bytes of {spec.dtype}")


def _empty(dtype: str, size: int) -> Host:
    """Return room for ``size`` values: address space until it is written to."""
    try:
        return np.empty(size, numpy_dtype(dtype))
    except MemoryError as error:
        raise ChunkError(f"bundle: {size} values of {dtype} do not fit into memory") from error
