"""Contexts: integers grouped by the scale of their row and column, each group with an entropy code of its own.

In an update of a model some neurons moved and most did not; one code for all wastes a quarter of the bits, or more.
Rows and columns of zeros cost their level and nothing else. ::

    values ──► levels of rows and columns ──► class of each value ──► groups of neighbouring classes
                                                                       ├── small values: ANS, one table each
                                                                       └── large values: pcodec
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from flowerpress.codecs import ans, pco
from flowerpress.codecs.base import bounds
from flowerpress.codecs.dtypes import Host
from flowerpress.codecs.levels import BOTH, MOST, ONE, Levels, Lines, Scales, entropy, matrix
from flowerpress.codecs.order import Order
from flowerpress.errors import ChunkError

Shape = tuple[int, ...]
_HEAD = struct.Struct("<BI")  # groups, bytes of the ANS words
_TABLE = struct.Struct("<BB")  # lowest level but 0, bytes of the table
_GROUP = struct.Struct("<BB")  # last class, bytes of the table; 0 for pcodec
_PCO = struct.Struct("<BI")  # bytes per value, bytes of the stream
_SMALL = 32  # groups of magnitudes below it have tables
_PCO_BYTES = 100  # about what pcodec adds to the entropy of a group


def compress(values: Host, shapes: Sequence[Shape], least: float) -> bytes | None:
    """Return the encoding of flat integers that are arrays of ``shapes``, one after another.

    None if the levels promise to save less than the share ``least`` of the bits; that costs little time to find out.
    """
    every = max(1, values.size >> 18)
    some = [_Member(m, every) for m in _split(values, shapes)]
    mean = sum(member.size * member.scales.mean for member in some) / values.size
    chosen = [[member.scales.choose(resolution) for member in some] for resolution in (1, 2)]
    bits = [sum(m.weight * b for m, (b, _) in zip(some, found, strict=True)) for found in chosen]
    best = int(np.argmin(bits))
    if bits[best] > (1 - least) * float(entropy(mean)) * values.size:
        return None
    lines = [found for _, found in chosen[best]]
    if every > 1:
        lines = [Scales(m).choose(best + 1)[1] for m in _split(_magnitudes(values), shapes)]
    return _write(Order(np.concatenate([one.classes() for one in lines])), values, lines)


class _Member:
    """The scales of one array, or of some rows of it if it is large."""

    def __init__(self, values: Host, every: int) -> None:
        some = values[::every] if len(values) > every else values[:1, ::every]
        self.scales, self.size = Scales(_magnitudes(some), len(values)), values.size
        self.weight = self.size / max(1, some.size)  # of its bits, for those of the whole


def _magnitudes(values: Host) -> Host:
    """Return magnitudes, that of the smallest integer included."""
    found: Host = np.abs(np.ascontiguousarray(values))
    return found.view(f"u{found.itemsize}")


def _split(flat: Host, shapes: Sequence[Shape]) -> Iterator[Host]:
    for (start, stop), shape in zip(bounds(shapes), shapes, strict=True):
        yield flat[start:stop].reshape(matrix(shape))


def _write(order: Order, values: Host, lines: list[Lines]) -> bytes:
    values = order.sort(values)
    tables, blocks = zip(*(_level_block(levels) for levels in _levels(lines)), strict=True)
    heads, coded, streams = [], list(blocks), []
    groups = _groups(_magnitudes(values), order.ends)
    for group in groups:
        piece = values[group.start : group.stop]
        if group.is_small:
            table = ans.table(group.histogram)
            heads.append(_GROUP.pack(group.last, len(table)) + table)
            coded.append((piece.astype(np.int32) + (len(table) - 1), _mirrored(table)))
        else:
            streams.append(pco.compress(piece))
            heads.append(_GROUP.pack(group.last, 0) + _PCO.pack(piece.itemsize, len(streams[-1])))
    words = ans.compress(coded)
    return b"".join([_HEAD.pack(len(groups), len(words)), *tables, *heads, words, *streams])


def _levels(lines: Sequence[Lines]) -> tuple[Levels, Levels, Levels]:
    """Return all modes, all row levels and all column levels."""
    modes = np.array([one.mode for one in lines], np.uint8)
    return modes, np.concatenate([one.rows for one in lines]), np.concatenate([one.columns for one in lines])


def _level_block(levels: Levels) -> tuple[bytes, tuple[Host, ans.Weights]]:
    lowest = int(levels[levels > 0].min(initial=MOST))
    symbols = np.maximum(levels.astype(np.int32) - (lowest - 1), 0)
    table = ans.table(np.bincount(symbols))
    return _TABLE.pack(lowest, len(table)) + table, (symbols, ans.weights(table))


def _mirrored(table: bytes | memoryview) -> ans.Weights:
    """Return the weights of signed values from a table of their magnitudes."""
    found = ans.weights(table)
    return np.concatenate([found[:0:-1], 2 * found[:1], found[1:]])


@dataclass(frozen=True)
class _Group:
    """Values ``start`` to ``stop`` in the order of classes, up to class ``last``."""

    start: int
    stop: int
    last: int
    histogram: npt.NDArray[np.int64]  # of magnitudes; the last bin counts all that no table holds
    total: float

    @property
    def is_small(self) -> bool:
        return not self.histogram[-1]

    @cached_property
    def bits(self) -> float:
        """About how many bits it takes, with its head."""
        size = self.stop - self.start
        if not self.is_small:
            return size * float(entropy(self.total / size)) + 8 * _PCO_BYTES
        signs, table = size - int(self.histogram[0]), np.count_nonzero(self.histogram)
        return ans.bits(self.histogram) + signs + 8 * (_GROUP.size + table)

    def join(self, other: "_Group") -> "_Group":
        histogram, total = self.histogram + other.histogram, self.total + other.total
        return _Group(self.start, other.stop, other.last, histogram, total)


def _groups(magnitudes: Host, ends: Host) -> list[_Group]:
    """Return groups of neighbouring classes, which end there: classes are joined as long as that saves bits."""
    groups = []
    for last in range(1, MOST + 1):
        start, stop = int(ends[last - 1]), int(ends[last])
        if start < stop:
            piece = magnitudes[start:stop]
            histogram = np.bincount(np.minimum(piece, _SMALL).astype(np.int64), minlength=_SMALL + 1)
            groups.append(_Group(start, stop, last, histogram, float(piece.sum(dtype=np.float64))))
    joined = [a.join(b) for a, b in pairwise(groups)]
    while joined:
        saved = [a.bits + b.bits - both.bits for (a, b), both in zip(pairwise(groups), joined, strict=True)]
        best = int(np.argmax(saved))
        if saved[best] <= 0:
            break
        groups[best : best + 2] = [joined[best]]
        joined[max(0, best - 1) : best + 2] = [a.join(b) for a, b in pairwise(groups[max(0, best - 1) : best + 2])]
    return groups


def decompress(body: memoryview, shapes: Sequence[Shape], itemsize: int) -> Host:
    """Undo `compress`: return flat integers of 2, 4 or 8 bytes. ChunkError for bytes that it did not write."""
    source = _Source(body)
    count, length = source.struct(_HEAD)
    tables = [_read_table(source) for _ in range(3)]
    heads = [_read_head(source) for _ in range(count)]
    words = ans.Reader(source.take(length))
    order = Order(np.concatenate([one.classes() for one in _read_lines(words, tables, shapes)]))
    values = np.zeros(order.size, f"i{itemsize}")
    start = int(order.ends[0])
    for last, table, width, size in heads:
        stop = int(order.ends[last])
        if stop <= start or width > itemsize:
            raise ChunkError("entropy: expected groups of classes in order, found another one")
        if table:
            values[start:stop] = words.take(_mirrored(table), stop - start) - (len(table) - 1)
        else:
            values[start:stop] = pco.decompress(source.take(size), stop - start, width)
        start = stop
    words.close()
    if start != order.size or source.left:
        raise ChunkError(f"entropy: expected {order.size} values in groups, found {start}, and {source.left} bytes")
    return order.restore(values)


def _read_table(source: "_Source") -> tuple[int, memoryview]:
    lowest, length = source.struct(_TABLE)
    return lowest, source.take(length)


def _read_head(source: "_Source") -> tuple[int, memoryview, int, int]:
    """Return the last class of a group, its table, or bytes per value and bytes of its pcodec stream."""
    last, length = source.struct(_GROUP)
    table = source.take(length)
    width, size = (0, 0) if length else source.struct(_PCO)
    if not length and width not in (2, 4, 8):
        raise ChunkError(f"entropy: expected 2, 4 or 8 bytes per value, found {width}")
    return last, table, width, size


def _read_lines(words: ans.Reader, tables: list[tuple[int, memoryview]], shapes: Sequence[Shape]) -> Iterator[Lines]:
    def levels(number: int, count: int) -> Levels:
        lowest, table = tables[number]
        symbols = words.take(ans.weights(table), count)
        found = np.where(symbols > 0, symbols + (lowest - 1), 0)
        if found.max(initial=0) > MOST:
            raise ChunkError(f"entropy: expected levels up to {MOST}, found {found.max()}")
        return found.astype(np.uint8)

    matrices = list(map(matrix, shapes))
    modes = levels(0, len(matrices))
    if modes.max(initial=0) > BOTH:
        raise ChunkError(f"entropy: expected modes of levels up to {BOTH}, found {modes.max()}")
    heights = [1 if mode == ONE else rows for mode, (rows, _) in zip(modes, matrices, strict=True)]
    widths = [columns if mode == BOTH else 0 for mode, (_, columns) in zip(modes, matrices, strict=True)]
    rows = np.split(levels(1, sum(heights)), np.cumsum(heights)[:-1])
    columns = np.split(levels(2, sum(widths)), np.cumsum(widths)[:-1])
    return (Lines(*one) for one in zip(matrices, map(int, modes), rows, columns, strict=True))


class _Source:
    """Bytes that are read in order."""

    def __init__(self, body: memoryview) -> None:
        self.body, self.start = body, 0

    @property
    def left(self) -> int:
        return len(self.body) - self.start

    def take(self, count: int) -> memoryview:
        if count > self.left:
            raise ChunkError(f"entropy: expected {count} more bytes, found {self.left}")
        self.start += count
        return self.body[self.start - count : self.start]

    def struct(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))
