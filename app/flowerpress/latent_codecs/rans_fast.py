"""The loops of `flowerpress.latent_codecs.rans` once more, compiled by numba: the same bytes, many times as fast.

Used where numba is installed, for more symbols than compiling is worth.
"""

from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
MANY = 1 << 16  # symbols
AVAILABLE = find_spec("numba") is not None
ENDED, ESCAPED = -1, -2  # what can be wrong with a stream

if AVAILABLE:
    from numba import njit, uint64

    _LOW, _WORD, _ONE = uint64(1 << 31), uint64(0xFFFFFFFF), uint64(0xFFFF)

    @njit(cache=True)
    def encode(starts: Words, counts: Words, words: Words) -> tuple[int, np.uint64]:
        """Fill ``words`` in the order in which they are spilled; return how many they are, and the last state."""
        x, used = _LOW, 0
        for i in range(len(starts) - 1, -1, -1):
            start, count = starts[i], counts[i]
            limit = count << uint64(47) if count else uint64(1) << uint64(59)
            if x >= limit:
                words[used] = x & _WORD
                used += 1
                x >>= uint64(32)
            x = ((x // count) << uint64(16)) + x % count + start if count else x << uint64(4) | start
        return used, x

    @njit(cache=True)
    def _refilled(x: np.uint64, words: Words, at: int) -> tuple[np.uint64, int]:
        if x >= _LOW:
            return x, at
        if at >= len(words):
            return x, -1
        return x << uint64(32) | words[at], at + 1

    @njit(cache=True)
    def decode(
        words: Words,
        at: int,
        x: np.uint64,
        indexes: NDArray[np.int64],
        cdf: NDArray[np.int32],
        lengths: NDArray[np.int32],
        most_nibbles: int,
        found: NDArray[np.int64],
    ) -> tuple[int, np.uint64]:
        """Fill ``found`` with bins; return where the next word is, or what is wrong, and the state."""
        for i in range(len(indexes)):
            row, part = indexes[i], np.int64(x & _ONE)
            low, high = 0, lengths[row] - 1
            while high - low > 1:
                middle = (low + high) >> 1
                if cdf[row, middle] <= part:
                    low = middle
                else:
                    high = middle
            start = cdf[row, low]
            x = uint64(cdf[row, low + 1] - start) * (x >> uint64(16)) + uint64(part - start)
            x, at = _refilled(x, words, at)
            bin_ = np.int64(low)
            if at >= 0 and low == lengths[row] - 2:
                count = np.int64(x & uint64(15))
                x, at = _refilled(x >> uint64(4), words, at)
                if count > most_nibbles:
                    return ESCAPED, x
                raw = np.int64(0)
                for n in range(count):
                    if at < 0:
                        break
                    raw |= np.int64(x & uint64(15)) << (4 * n)
                    x, at = _refilled(x >> uint64(4), words, at)
                bin_ = -((raw + 1) >> 1) if raw & 1 else low + (raw >> 1)
            if at < 0:
                return ENDED, x
            found[i] = bin_
        return at, x
