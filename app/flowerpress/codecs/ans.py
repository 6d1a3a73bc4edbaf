"""Asymmetric numeral systems: symbols to within a hundredth of their entropy, under tables of a few bytes.

Duda 2013 (arXiv:1311.2540), as implemented by constriction (Bamler 2022, arXiv:2201.01741). A table has one byte per
symbol: its frequency as a small float of four bits mantissa, so that both ends compute with the same whole numbers.
"""

import constriction
import numpy as np
import numpy.typing as npt

from flowerpress.codecs.dtypes import Buffer, Host
from flowerpress.errors import ChunkError

Symbols = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float64]
_MOST = 31 << 14  # the largest small float: exponent 15, mantissa 31
_Stack = constriction.stream.stack.AnsCoder
_Model = constriction.stream.model.Categorical


def bits(counts: Host) -> float:
    """Return how many bits symbols that occur so often take at their entropy, all together."""
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum())


def table(counts: Host) -> bytes:
    """Return the table of symbols 0, 1, … that occur so often; it ends with the last that occurs."""
    counts = np.trim_zeros(counts, "b").astype(np.float64)
    scaled = np.ceil(counts * min(1.0, _MOST / counts.max(initial=1)))
    exponents = np.maximum(np.frexp(scaled)[1] - 4, 0)
    mantissas = np.minimum(np.rint(np.ldexp(scaled, -np.maximum(exponents - 1, 0))), 31).astype(np.int64)
    return bytes(np.where(exponents > 0, (exponents - 1) * 16 + mantissas, mantissas).astype(np.uint8))


def weights(table: Buffer) -> Weights:
    """Return the frequencies that a table stands for, in no unit."""
    found = np.frombuffer(table, np.uint8).astype(np.int64)
    shift = np.maximum((found >> 4) - 1, 0)
    return np.asarray((found - (shift << 4)) << shift, np.float64)


def compress(blocks: list[tuple[Host, Weights]]) -> bytes:
    """Return the words that stand for blocks of symbols, each under its weights."""
    coder = _Stack()
    for symbols, weighted in reversed(blocks):  # what is pushed last is popped first
        if np.count_nonzero(weighted) > 1:
            coder.encode_reverse(np.ascontiguousarray(symbols, np.int32), _Model(weighted, perfect=False))
    return coder.get_compressed().astype("<u4").tobytes()  # type: ignore[no-any-return]


class Reader:
    """The words of `compress`, read block by block. Memory is what the caller asks for; any words give some symbols."""

    def __init__(self, words: Buffer) -> None:
        if len(words) % 4:
            raise ChunkError(f"entropy: expected words of 4 bytes, found {len(words)} bytes")
        try:
            self._coder = _Stack(np.frombuffer(words, "<u4").astype(np.uint32))
        except ValueError as error:
            raise ChunkError(f"entropy: these words are not of the coder: {error}") from error

    def take(self, weighted: Weights, count: int) -> Symbols:
        """Return the next ``count`` symbols."""
        used = np.flatnonzero(weighted)
        if used.size < 2 or not count:
            if not used.size and count:
                raise ChunkError("entropy: expected a table, found none")
            return np.full(count, used[0] if used.size else 0, np.int32)
        return self._coder.decode(_Model(weighted, perfect=False), count)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Refuse words that nothing asked for."""
        if not self._coder.is_empty():
            raise ChunkError("entropy: the words go on behind the last symbol")
