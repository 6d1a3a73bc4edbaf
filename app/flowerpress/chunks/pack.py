"""Arrays into a bundle: choose pipelines, encode the chunks, write the manifest."""

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import xxhash

from flowerpress.chunks import schema
from flowerpress.chunks.encode import Encoded, Job
from flowerpress.chunks.header import FLAGS, OWN, press_header
from flowerpress.chunks.manifest import MOST_ENTRIES, ArrayEntry, ChunkEntry, Manifest
from flowerpress.chunks.parts import Part, divide
from flowerpress.chunks.settle import settle
from flowerpress.codecs.base import Codec, Pipeline, Spec, check_base
from flowerpress.codecs.dtypes import ArrayLike, Buffer, is_torch, local, to_host
from flowerpress.codecs.policy import as_policy
from flowerpress.codecs.raw import as_bytes
from flowerpress.codecs.zfp import Zfp
from flowerpress.errors import ConfigError

HEAD = b"FPB\x01"  # the magic, and the version
BY_SCHEMA = b"FPB\x02"
TAIL = 12  # manifest length u32, digest of everything but the chunks u64
_FLAGS = {dtype: flags for flags, dtype in FLAGS.items()}
A = TypeVar("A", bound=ArrayLike)
T = TypeVar("T")
R = TypeVar("R")


def pack(
    arrays: MutableMapping[str, A],
    codec: str | Codec | Callable[[Spec], Pipeline] = "zstd",
    *,
    bases: Mapping[str, ArrayLike] | None = None,
    by_schema: bool = False,
    keep_input: bool = True,
    workers: int | None = None,
) -> bytes:
    """Return the bundle of ``arrays``: the same bytes for equal input, whatever the number of workers.

    Parameters
    ----------
    arrays : mapping of str to ndarray or tensor
        Any dtype of `codecs.dtypes`, any shape. Tensors are transformed on their device.
    codec : str, Codec, Policy or callable
        What codes each array. A chunk that its pipeline does not shrink is stored as it is, and values that a pipeline
        cannot take, such as infinities in a float difference, are coded losslessly.
    bases : mapping of str to ndarray or tensor, optional
        References that the reader holds, by name, for codecs that code differences; those of another dtype or shape
        than their array are left aside.
    by_schema : bool
        Leave out what the references tell a reader who cannot decode without them anyway: names, dtypes and shapes, if
        theirs are the same in the same order. Such a bundle does not describe itself: it is for a message whose reader
        knows which references to open it with.
    keep_input : bool
        If False, arrays are removed from the mapping as soon as they are encoded.
    workers : int, optional
        Threads; all cores by default.

    Raises
    ------
    ConfigError
        For an array, name or shape that cannot be coded, or more than 65,536 of them; nothing is removed then.
    """
    policy = as_policy(codec)
    specs = tuple(_with_base(Spec.of(x, key), bases or {}) for key, x in arrays.items())
    entries = tuple(map(_entry, specs))
    chosen = [policy(spec) for spec in specs]
    copies = _copies(arrays, specs, chosen)
    pipelines = {i: _accepted(chosen[i], spec) for i, spec in enumerate(specs) if i not in copies}
    if max(len(specs), len(divide([(i, specs[i], pipeline) for i, pipeline in pipelines.items()]))) > MOST_ENTRIES:
        raise ConfigError(f"bundle: expected at most {MOST_ENTRIES} arrays and chunks, found {len(specs)}")
    job = Job(arrays, specs, workers)
    known = by_schema and list(bases or ()) == list(arrays) and all(spec.base is not None for spec in specs)
    assemble = partial(_assemble, entries, copies, known=known)
    if all(pipeline.settled for pipeline in pipelines.values()):
        chunks = job.encode(pipelines, keep_input=keep_input)
    else:
        chunks = settle(job, pipelines, lambda found: len(assemble(found)))
    if not keep_input:
        arrays.clear()
    return assemble(chunks)


def save(path: str | Path, bundle: Buffer) -> None:
    """Write a bundle to ``path``, whole or not at all."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(bundle)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _with_base(spec: Spec, bases: Mapping[str, ArrayLike]) -> Spec:
    spec = replace(spec, base=bases.get(spec.key))
    return replace(spec, base=None) if check_base(spec) else spec


def _entry(spec: Spec) -> ArrayEntry:
    """Return what the manifest says of an array; ConfigError for what no reader would accept."""
    try:
        entry = msgspec.convert([spec.key, spec.dtype, spec.shape], ArrayEntry)
        msgspec.msgpack.encode(entry)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise ConfigError(f"bundle: array {spec.key!r}: its key or shape cannot be stored: {error}") from error
    return entry


def _accepted(pipeline: Pipeline, spec: Spec) -> Pipeline:
    if spec.size and (reason := pipeline.refuses(spec)):
        raise ConfigError(f"bundle: array {spec.key!r}: {pipeline} cannot take it: {reason}")
    return pipeline


def _copies(arrays: Mapping[str, A], specs: Sequence[Spec], pipelines: Sequence[Pipeline]) -> dict[int, int]:
    """Find arrays that an earlier one stands for: of equal contents, and coded exactly or just as they would be.

    Equal are tied weights, which share memory, and on the host what has the same bytes.
    """
    seen: dict[object, list[int]] = {}
    found = {}
    values = list(arrays.values())
    distinct = {id(pipeline): pipeline for pipeline in pipelines}
    lossy = {number: str(pipeline) for number, pipeline in distinct.items() if not pipeline.lossless}
    references = [_reference(p, spec) if id(p) in lossy else None for p, spec in zip(pipelines, specs, strict=True)]
    for i, spec in enumerate(specs):
        if not spec.size:
            continue
        places: list[object] = [exact := (spec.dtype, spec.shape, _sample(values[i]))]
        if text := lossy.get(id(pipelines[i])):
            places.append((exact, text, None if (base := references[i]) is None else _sample(base)))
        alike = (j for place in places for j in seen.get(place, ()) if _equal(values[i], values[j]))
        original = next((j for j in alike if pipelines[j].lossless or _equal(references[i], references[j])), None)
        if original is None:
            seen.setdefault(places[-1], []).append(i)
        else:
            found[i] = original
    return found


def _reference(pipeline: Pipeline, spec: Spec) -> "ArrayLike | None":
    """Return the reference of an array, unless the pipeline would code it without one just the same."""
    return spec.base if not pipeline.settled or pipeline.refuses(replace(spec, base=None)) else None


def _sample(x: ArrayLike) -> object:
    """Return what equal arrays have in common: the place on a device, else a few bytes."""
    y = local(x)
    if is_torch(x) and is_torch(y):  # not the place of y, which may be a copy that is gone when the next is made
        return x.data_ptr(), x.stride(), x.is_conj(), x.is_neg()
    values = as_bytes(to_host(y))
    return values[:64].tobytes() + values[-64:].tobytes()


def _equal(x: "ArrayLike | None", y: "ArrayLike | None") -> bool:
    """Compare arrays with the same sample, or two references: on a device the same place is enough."""
    if x is None or y is None or x is y:
        return x is y
    x, y = local(x), local(y)
    return is_torch(x) or is_torch(y) or np.array_equal(as_bytes(x), as_bytes(y))


def _assemble(arrays: tuple[ArrayEntry, ...], copies: dict[int, int], chunks: list[Encoded], *, known: bool) -> bytes:
    """Return the bundle; without what the reader knows, if it needs references to decode it."""
    short = known and any(_needs_reference(chunk.part) for chunk in chunks)
    head = BY_SCHEMA if short else HEAD
    pipelines = sorted({str(chunk.part.pipeline) for chunk in chunks})
    buffers: list[Buffer] = [head]
    entries = []
    for chunk in chunks:
        part = chunk.part
        header = b"" if short else press_header(_flags(part), part.spec.nbytes)
        digest = xxhash.xxh3_64(header)
        for buffer in chunk.payload:
            digest.update(buffer)
        size = sum(map(len, chunk.payload))
        buffers += [header, *chunk.payload]
        number = pipelines.index(str(part.pipeline))
        entries.append(ChunkEntry(number, part.arrays, part.start, part.stop, len(header), size, digest.digest()))
    whole = Manifest(arrays, tuple(copies.items()), tuple(pipelines), tuple(entries))
    manifest = schema.encode(whole) if short else whole.encode()
    return b"".join([*buffers, manifest, tail(manifest, head)])


def tail(manifest: Buffer, head: bytes = HEAD) -> bytes:
    """Return the 12 bytes that close a bundle: the manifest's length, and the XXH3-64 of head, manifest and length."""
    length = len(manifest).to_bytes(4, "little")
    digest = xxhash.xxh3_64(head)
    digest.update(manifest)
    digest.update(length)
    return length + digest.digest()


def _needs_reference(part: Part) -> bool:
    return part.spec.base is not None and bool(part.pipeline.refuses(replace(part.spec, base=None)))


def _flags(part: Part) -> bytes:
    """Chunks of plain zfp carry raiiaf's flags, which promise a float32 zfp stream; all others carry ours."""
    plain = len(part.pipeline.stages) == 1 and isinstance(part.pipeline.stages[0], Zfp)
    return _FLAGS.get(part.spec.dtype, OWN) if plain else OWN
