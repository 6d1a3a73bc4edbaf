"""Which elements go into which chunk: large arrays are cut, small ones are joined."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import lcm, prod
from operator import attrgetter

from flowerpress.chunks.manifest import MOST_CHUNK
from flowerpress.codecs.base import Pipeline, Spec

SLICE = 4 << 20  # bytes that stay in a core's cache, and chunks enough for all cores
JOIN = 1 << 20


@dataclass(frozen=True)
class Part:
    """What one chunk will hold: elements ``start`` to ``stop`` of some arrays, joined flat, and their pipeline."""

    pipeline: Pipeline
    spec: Spec
    arrays: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class _Choice:
    number: int
    spec: Spec
    pipeline: Pipeline
    kind: tuple[str, str, bool]  # what joined arrays have in common


def divide(specs: Sequence[tuple[int, Spec, Pipeline]]) -> list[Part]:
    """Return the chunks for numbered arrays and their pipelines; it depends on nothing else.

    Arrays of 1 MiB and more are cut into even slices of at most 4 MiB, or 64 MiB if their pipeline is not elementwise,
    between rows where rows are shorter than that; smaller ones that their pipeline can join, of one dtype and pipeline,
    all with a reference or all without, are joined into chunks of at most 1 MiB. Empty arrays need no chunk.
    """
    distinct = {id(pipeline): pipeline for _, _, pipeline in specs}
    texts = {i: str(pipeline) for i, pipeline in distinct.items()}
    choices = [
        _Choice(number, spec, pipeline, (spec.dtype, texts[id(pipeline)], spec.base is None))
        for number, spec, pipeline in specs
        if spec.size
    ]
    small = [c for c in choices if c.pipeline.joinable and c.spec.nbytes < JOIN]
    small.sort(key=attrgetter("kind"))
    alone = [c for c in choices if not (c.pipeline.joinable and c.spec.nbytes < JOIN)]
    parts = [part for choice in alone for part in _cut(choice)]
    for _, group in groupby(small, key=attrgetter("kind")):
        parts += [_join(members) for members in _fill(group)]
    return parts


def _cut(choice: _Choice) -> Iterator[Part]:
    spec = choice.spec
    most = (SLICE if choice.pipeline.elementwise else MOST_CHUNK) // spec.itemsize
    unit = lcm(4, prod(spec.shape[1:]))  # rows, and by fours, as zfp takes values
    unit = unit if unit <= most else 4
    units = -(-spec.size // unit)
    count = 1 if spec.size <= most else -(-units // (most // unit))
    step = -(-units // count) * unit
    for start in range(0, spec.size, step):
        stop = min(start + step, spec.size)
        yield Part(choice.pipeline, spec.cut(start, stop), (choice.number,), start, stop)


def _fill(group: Iterator[_Choice]) -> Iterator[list[_Choice]]:
    members: list[_Choice] = []
    nbytes = 0
    for choice in group:
        if members and nbytes + choice.spec.nbytes > JOIN:
            yield members
            members, nbytes = [], 0
        members.append(choice)
        nbytes += choice.spec.nbytes
    yield members


def _join(members: list[_Choice]) -> Part:
    spec = Spec.join([choice.spec for choice in members])
    return Part(members[0].pipeline, spec, tuple(choice.number for choice in members), 0, spec.size)
