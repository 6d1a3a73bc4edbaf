"""Range asymmetric numeral systems (Duda 2013, arXiv:1311.2540), in the stream format of CompressAI.

A state of 64 bits swallows the symbols from the last to the first and spills words of 32 bits; who decodes takes them
from the first to the last. Probabilities have 16 bits. A symbol outside its table is escaped: nibbles follow. ::

    stream    state, low word ─ state, high word ─ words as they are needed
    escape    bin of the table ─ how many nibbles ─ nibbles, low ones first

Whoever decodes everything is back at the state that the encoder began with, and has used all words. That notices a
stream that was cut off, or changed, but not in the nibbles of an escape: checksums of what was decoded are for those.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flowerpress.codecs.dtypes import Buffer
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs import rans_fast

PRECISION = 16
_ONE = 1 << PRECISION
_LOW = 1 << 31  # the state never falls below
_NIBBLES = 9  # the most that an escaped 32-bit value needs
_ENDED = "a stream of symbols ends too early"
_TOO_LONG = f"expected escaped symbols of {_NIBBLES} nibbles at most, found a longer one"
_NONE = np.empty(0, np.int64)

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tables:
    """Cumulative frequencies of symbols: one table a row.

    Parameters
    ----------
    cdf : array of shape (n, most)
        Rows that rise from 0 to 65536; what is behind a row's end does not count.
    lengths : array of shape (n,)
        How many entries each row has, 3 or more: its bins and one; the last bin is the escape.
    offsets : array of shape (n,)
        The symbol of each row's first bin.

    Raises
    ------
    ConfigError
        For rows that are no cumulative frequencies.
    """

    cdf: NDArray[np.int32]
    lengths: NDArray[np.int32]
    offsets: NDArray[np.int32]

    def __post_init__(self) -> None:
        fits = self.cdf.ndim == 2 and self.lengths.shape == self.offsets.shape == self.cdf.shape[:1]
        if not (fits and bool((self.lengths <= self.cdf.shape[1]).all()) and all(map(_rises, self._rows))):
            raise ConfigError(f"expected tables that rise from 0 to {_ONE}, found {self.cdf.shape}: run update()")

    @property
    def _rows(self) -> "list[NDArray[np.int32]]":
        return [row[: max(0, length)] for row, length in zip(self.cdf, self.lengths, strict=True)]

    @cached_property
    def lists(self) -> list[list[int]]:
        """The rows as plain integers, each as long as it is."""
        return [row.tolist() for row in self._rows]


def _rises(row: NDArray[np.int32]) -> bool:
    return len(row) >= 3 and row[0] == 0 and row[-1] == _ONE and bool((np.diff(row) > 0).all())


class Encoder:
    """Collects symbols, in the order in which they will be decoded.

    >>> tables = Tables(*(np.array(x, np.int32) for x in ([[0, 30_000, 60_000, 65_536]], [4], [0])))
    >>> encoder, row = Encoder(), np.zeros(3, int)
    >>> encoder.put(np.array([1, 0, -5]), row, tables)
    >>> decoder = Decoder(encoder.finish())
    >>> decoder.get(row, tables), decoder.finish()
    (array([ 1,  0, -5]), None)
    """

    def __init__(self) -> None:
        self._puts: list[tuple[Ints, Ints]] = []

    def put(self, symbols: Ints, indexes: Ints, tables: Tables) -> None:
        """Add symbols, flat, each with the row of its table. ConfigError for one that no 32 bits hold."""
        if symbols.size and not -(1 << 31) <= int(symbols.min()) <= int(symbols.max()) < 1 << 31:
            raise ConfigError("expected symbols of 32 bits, found larger ones: the values are too far from their means")
        value, top = symbols - tables.offsets[indexes], tables.lengths[indexes].astype(np.int64) - 2
        outside = (value < 0) | (value >= top)
        bins = np.where(outside, top, value)
        starts = tables.cdf[indexes, bins].astype(np.int64)
        counts = tables.cdf[indexes, bins + 1] - starts
        if outside.any():
            starts, counts = _with_escapes(starts, counts, value, top, outside)
        self._puts.append((starts, counts))

    def finish(self) -> bytes:
        """Return the stream: 8 bytes at least, and 4 more for each word."""
        starts, counts = (np.concatenate([put[part] for put in self._puts] or [_NONE]) for part in (0, 1))
        words, x = _fast_words(starts, counts) if _is_fast(len(starts)) else _words(starts, counts)
        return x.to_bytes(8, "little") + words[::-1].astype("<u4").tobytes()


def _words(starts: Ints, counts: Ints) -> tuple[rans_fast.Words, int]:
    """Return the words that the state spills, in this order, and the last state."""
    x, words = _LOW, list[int]()
    for start, count in zip(starts[::-1].tolist(), counts[::-1].tolist(), strict=True):
        if count:
            if x >= count << 47:
                words.append(x & 0xFFFFFFFF)
                x >>= 32
            x = (x // count << PRECISION) + x % count + start
        else:
            if x >= 1 << 59:
                words.append(x & 0xFFFFFFFF)
                x >>= 32
            x = x << 4 | start
    return np.array(words, np.uint64), x


def _fast_words(starts: Ints, counts: Ints) -> tuple[rans_fast.Words, int]:
    words = np.empty(len(starts), np.uint64)
    used, x = rans_fast.encode(starts.astype(np.uint64), counts.astype(np.uint64), words)
    return words[:used], int(x)


def _is_fast(symbols: int) -> bool:
    return rans_fast.AVAILABLE and symbols >= rans_fast.MANY


class Decoder:
    """Reads a stream from its beginning; ChunkError for one that is too short, or of a length that no stream has."""

    def __init__(self, stream: Buffer) -> None:
        if len(stream) < 8 or len(stream) % 4:
            raise ChunkError(f"expected a stream of 8 bytes or more, in words of 4, found {len(stream)}")
        self._words = np.frombuffer(stream, "<u4", offset=8)
        self._at, self._x = 0, int.from_bytes(stream[:8], "little")

    def get(self, indexes: Ints, tables: Tables) -> Ints:
        """Return the next symbols, one for each row of ``tables``; ChunkError if the stream ends before."""
        found = self._fast(indexes, tables) if _is_fast(len(indexes)) else self._plain(indexes, tables)
        return found + tables.offsets[indexes]

    def finish(self) -> None:
        """Raise ChunkError if anything is left: the stream was damaged, or these are not its tables."""
        if self._at != len(self._words) or self._x != _LOW:
            raise ChunkError("a stream of symbols does not end where it should: damaged, or of other tables")

    def _plain(self, indexes: Ints, tables: Tables) -> Ints:
        found, x, rows = list[int](), self._x, tables.lists
        try:
            for index in indexes.tolist():
                row, low = rows[index], x & _ONE - 1
                bin_ = bisect_right(row, low) - 1
                start = row[bin_]
                x = self._refilled((row[bin_ + 1] - start) * (x >> PRECISION) + low - start)
                if bin_ == len(row) - 2:
                    bin_, x = self._escaped(bin_, x)
                found.append(bin_)
        except IndexError:
            raise ChunkError(_ENDED) from None
        self._x = x
        return np.array(found, np.int64)

    def _fast(self, indexes: Ints, tables: Tables) -> Ints:
        found = np.empty(len(indexes), np.int64)
        words, x = self._words[self._at :].astype(np.uint64), np.uint64(self._x)
        used, x = rans_fast.decode(words, 0, x, indexes, tables.cdf, tables.lengths, _NIBBLES, found)
        if used < 0:
            raise ChunkError(_ENDED if used == rans_fast.ENDED else _TOO_LONG)
        self._at, self._x = self._at + used, int(x)
        return found

    @cached_property
    def _listed(self) -> list[int]:
        return self._words.tolist()  # type: ignore[no-any-return]

    def _refilled(self, x: int) -> int:
        if x >= _LOW:
            return x
        self._at += 1
        return x << 32 | self._listed[self._at - 1]

    def _escaped(self, top: int, x: int) -> tuple[int, int]:
        """Return the bin, negative or beyond the table, that follows in nibbles, and the state behind it."""
        count, x = x & 15, self._refilled(x >> 4)
        if count > _NIBBLES:
            raise ChunkError(_TOO_LONG)
        raw = 0
        for i in range(count):
            raw |= (x & 15) << 4 * i
            x = self._refilled(x >> 4)
        return (-(raw + 1 >> 1) if raw & 1 else top + (raw >> 1)), x


def _with_escapes(starts: Ints, counts: Ints, value: Ints, top: Ints, outside: NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Insert the nibbles of escaped symbols behind them; their count is 0, which no symbol's is."""
    at = np.flatnonzero(outside)
    value, top = value[at], top[at]
    raw = np.where(value < 0, -2 * value - 1, 2 * (value - top))
    lengths = (np.frexp(raw.astype(np.float64))[1] + 3) // 4  # nibbles up to the highest bit
    places = np.repeat(at + 1, lengths + 1)
    ends = np.cumsum(lengths + 1)
    order = np.arange(len(places)) - np.repeat(ends - lengths - 1, lengths + 1)  # 0 is how many, then the nibbles
    nibbles = np.repeat(raw, lengths + 1) >> 4 * np.maximum(order - 1, 0) & 15
    nibbles = np.where(order == 0, np.repeat(lengths, lengths + 1), nibbles)
    return np.insert(starts, places, nibbles), np.insert(counts, places, 0)
