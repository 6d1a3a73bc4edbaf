"""Arrays into chunks, on all cores: encode what was planned, and store what nothing shrinks as it is."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from flowerpress.chunks.manifest import MOST_CHUNK
from flowerpress.chunks.parts import JOIN, Part, divide
from flowerpress.codecs.base import Pipeline, Spec
from flowerpress.codecs.dtypes import ArrayLike, Buffer, is_torch, local, to_host
from flowerpress.codecs.policy import lossless_for
from flowerpress.codecs.raw import Raw
from flowerpress.errors import ConfigError

RAW = Pipeline((Raw(),))
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Encoded:
    """A part and its bytes, which lie in one or more buffers."""

    part: Part
    payload: tuple[Buffer, ...]


@dataclass(frozen=True)
class Job:
    """The arrays of a record, in the order of their specs, and the threads to encode them with."""

    arrays: MutableMapping[str, Any]
    specs: tuple[Spec, ...]
    workers: int | None

    def encode(self, pipelines: Mapping[int, Pipeline], *, keep_input: bool = True) -> list[Encoded]:
        """Return the chunks of the arrays with these numbers; without ``keep_input`` each is removed when done."""
        parts = divide([(i, self.specs[i], pipeline) for i, pipeline in pipelines.items()])
        keys, lock = [spec.key for spec in self.specs], Lock()
        waiting = Counter(i for part in parts for i in part.arrays)

        def encode(part: Part) -> list[Encoded]:
            encoded = _encode_values(part, {i: self.arrays[keys[i]] for i in part.arrays}, self.specs)
            if not keep_input:
                with lock:
                    waiting.subtract(part.arrays)
                    for i in part.arrays:
                        if not waiting[i]:
                            del self.arrays[keys[i]]
            return encoded

        encoded = spread(encode, parts, self.workers, sum(part.spec.nbytes for part in parts))
        return _merge_raw([chunk for several in encoded for chunk in several])

    def squared_error(self, pipelines: Mapping[int, Pipeline], unit: float) -> float:
        """Return the sum of the squared errors, over ``unit``, of the arrays with these numbers."""
        parts = divide([(i, self.specs[i], pipeline) for i, pipeline in pipelines.items()])

        def error(part: Part) -> float:
            specs = [self.specs[i] for i in part.arrays]
            x, spec = _given(part, [self.arrays[spec.key] for spec in specs], [spec.base for spec in specs])
            try:
                difference = (to_host(x).astype(np.float64) - part.pipeline.distort(x, spec)) / unit
            except ConfigError:
                return 0.0 if len(part.arrays) == 1 else sum(map(error, _apart(part, self.specs)))
            return float(np.vdot(difference, difference))

        return sum(spread(error, parts, self.workers, sum(part.spec.nbytes for part in parts)))


def spread(function: Callable[[T], R], items: Sequence[T], workers: int | None, nbytes: int) -> list[R]:
    """Map over ``items`` in order, on threads if there are ``nbytes`` enough for it to pay."""
    workers = min(workers or _cores(), len(items))
    if workers < 2 or nbytes < JOIN:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _encode_values(part: Part, values: Mapping[int, ArrayLike], specs: Sequence[Spec]) -> list[Encoded]:
    """Encode a part; arrays with values that its pipeline cannot take, NaN mostly, go alone and losslessly."""
    try:
        return [_encode(part, [values[i] for i in part.arrays], [specs[i].base for i in part.arrays])]
    except ConfigError:
        if len(part.arrays) == 1:
            lossless = replace(part, pipeline=lossless_for(specs[part.arrays[0]]))
            if lossless == part:
                raise
            return [_encode(lossless, [values[part.arrays[0]]], [specs[part.arrays[0]].base])]
    return [chunk for single in _apart(part, specs) for chunk in _encode_values(single, values, specs)]


def _apart(part: Part, specs: Sequence[Spec]) -> list[Part]:
    """Return the parts that joined arrays make one by one."""
    return [Part(part.pipeline, specs[i], (i,), 0, specs[i].size) for i in part.arrays]


def _given(part: Part, arrays: list[ArrayLike], bases: list["ArrayLike | None"]) -> tuple[ArrayLike, Spec]:
    """Return what a part codes, and its spec with the reference."""
    x = cut(arrays, part.start, part.stop).reshape(part.spec.shape)
    given = [base for base in bases if base is not None]
    whole = len(given) == len(bases)
    return x, replace(part.spec, base=cut(given, part.start, part.stop).reshape(part.spec.shape) if whole else None)


def _encode(part: Part, arrays: list[ArrayLike], bases: list["ArrayLike | None"]) -> Encoded:
    x, spec = _given(part, arrays, bases)
    part = replace(part, spec=spec)
    y = part.pipeline.encode(x, spec)
    if len(y) >= part.spec.nbytes and part.pipeline != RAW:
        part, y = replace(part, pipeline=RAW), RAW.encode(x, part.spec)
    return Encoded(part, (bytes(y),))


def cut(arrays: Sequence[ArrayLike], start: int, stop: int) -> ArrayLike:
    """Return elements ``start`` to ``stop`` of arrays joined flat, where they live, or on the host if on several."""
    flat = [local(x).reshape(-1) for x in arrays]
    return (flat[0] if len(flat) == 1 else _concatenate(flat))[start:stop]


def _concatenate(flat: list[ArrayLike]) -> ArrayLike:
    devices = {x.device if is_torch(x) else None for x in flat}
    if len(devices) > 1 or None in devices:
        return np.concatenate([to_host(x) for x in flat])
    import torch

    return torch.cat(flat)  # type: ignore[arg-type]


def _merge_raw(chunks: list[Encoded]) -> list[Encoded]:
    """Join neighbouring slices of an array that nothing shrank, up to the size of a chunk."""
    merged: list[Encoded] = []
    for chunk in chunks:
        last, part = merged[-1] if merged else None, chunk.part
        if (
            last
            and last.part.pipeline == part.pipeline == RAW
            and last.part.arrays == part.arrays
            and last.part.stop == part.start
            and last.part.spec.nbytes + part.spec.nbytes <= MOST_CHUNK
        ):
            spec = replace(part.spec, shape=(part.stop - last.part.start,))
            merged[-1] = Encoded(replace(last.part, spec=spec, stop=part.stop), last.payload + chunk.payload)
        else:
            merged.append(chunk)
    return merged
