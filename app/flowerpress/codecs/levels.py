"""Levels: the scale of each row and column of an array of integers, and the class of each value that they make.

The rows of a matrix are its first axis, the columns all others together; a vector is one row. A level is a mean
magnitude in half or whole octaves, 0 for a line of zeros. What travels of an array is one level, one per row, or one
per row and per column, whichever promises the fewest bits.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt

from flowerpress.codecs import ans
from flowerpress.codecs.dtypes import Host

Levels = npt.NDArray[np.uint8]
ONE, ROWS, BOTH = range(3)
MOST, MIDDLE = 127, 64  # column levels are relative: at 64 a column is like the whole array
_OCTAVES = 12  # level 1 is a mean of 2**-12
_LOST = 0.03  # bits per value by which a code is too long if its scale is rounded to an octave
_CHANCE = 0.7  # bits per line that its mean saves by chance: half a nat


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows and columns of an array of ``shape``."""
    return (shape[0], prod(shape[1:])) if len(shape) > 1 else (1, prod(shape))


@dataclass(frozen=True)
class Lines:
    """The levels that travel for a matrix of ``shape``: one row level in mode ONE, no column level but in mode BOTH."""

    shape: tuple[int, int]
    mode: int
    rows: Levels
    columns: Levels

    def classes(self) -> Levels:
        """Return the class of each value, flat: the sum of its levels, 0 where the value must be 0."""
        rows, columns = self.rows[:, None], self.columns[None]
        if self.mode == BOTH:
            found = np.clip(rows.astype(np.int16) + columns - MIDDLE, 1, MOST).astype(np.uint8)
            rows = found * ((rows > 0) & (columns > 0))
        return np.broadcast_to(rows, self.shape).reshape(-1)


class Scales:
    """The mean magnitudes of a matrix, of its rows and of its columns, and what codes by them would take.

    If these are some rows of a matrix of ``height`` rows, they are charged their share of the column levels.
    """

    def __init__(self, magnitudes: Host, height: int | None = None) -> None:
        self.shape, self.size = magnitudes.shape, magnitudes.size
        self.mean = float(magnitudes.mean()) if self.size else 0.0
        self.share = self.shape[0] / (height or self.shape[0] or 1)
        self.one_bits = self.size * float(entropy(self.mean))
        if self.shape[0] > 1 and self.mean > 0:
            self.rows, self.columns = magnitudes.mean(1), magnitudes.mean(0)
            (rows, counts), (columns, weights) = _rounded(self.rows), _rounded(self.columns)
            self.row_bits = self.shape[1] * float(counts @ entropy(rows))
            self.both_bits = float(counts @ entropy(rows[:, None] * columns / self.mean) @ weights)

    def choose(self, resolution: int) -> tuple[float, Lines]:
        """Return the lines that promise the fewest bits at so many levels per octave, and those bits."""
        none = np.empty(0, np.uint8)
        options = [(self.one_bits, Lines(self.shape, ONE, _level(np.array([self.mean]), resolution), none))]
        if self.shape[0] > 1 and self.mean > 0:
            rows, relative = _level(self.rows, resolution), _octaves(self.columns / self.mean, resolution) + MIDDLE
            columns = np.where(self.columns > 0, np.clip(relative, 1, MOST), 0).astype(np.uint8)
            lost = (_LOST / resolution**2 * self.size + _CHANCE * rows.size) * self.mean / (1 + self.mean)
            bits = self.row_bits + _cost(rows) + lost
            options.append((bits, Lines(self.shape, ROWS, rows, none)))
            bits = self.both_bits + _cost(rows) + self.share * _cost(columns) + 2 * lost
            options.append((bits, Lines(self.shape, BOTH, rows, columns)))
        return min(options, key=lambda option: option[0])


def entropy(mean: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the bits per value of geometric magnitudes of such a mean, with signs."""
    m = np.maximum(np.asarray(mean, np.float64), 1e-9)
    return np.asarray(np.log2(1 + m) + m * np.log2(1 + 1 / m) + m / (1 + m))


def _level(means: Host, resolution: int) -> Levels:
    found = 1 + np.clip(_octaves(means, resolution) + resolution * _OCTAVES, 0, MOST - 1)
    return np.where(means > 0, found, 0).astype(np.uint8)


def _octaves(means: Host, resolution: int) -> Host:
    """Return logarithms, rounded to ``resolution`` steps per octave."""
    return np.asarray(np.rint(resolution * np.log2(np.maximum(means, 1e-9))))


def _rounded(means: Host) -> tuple[Host, Host]:
    """Return means rounded to a quarter of an octave, 0 as it is, and how many lines have each."""
    levels, counts = np.unique(np.rint(4 * np.log2(np.maximum(means, 1e-9))), return_counts=True)
    return np.where(levels > -100, np.exp2(levels / 4), 0), counts


def _cost(levels: Levels) -> float:
    """Return about how many bits levels take, with their table."""
    return ans.bits(np.bincount(levels)) + 8
