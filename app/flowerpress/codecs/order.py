"""The order of values by class, then by position: a stable sort in blocks that stay in a core's cache.

A sort of everything at once gives the same order, and takes three times as long.
"""

import numpy as np

from flowerpress.codecs.dtypes import Host

_BLOCK = 1 << 16  # elements, so that positions fit into 16 bits
_CLASSES = 256


class Order:
    """The order of values whose classes, below 256, are given.

    Attributes
    ----------
    size : int
        How many values.
    ends : ndarray of int
        Where each class ends in the order.

    >>> order = Order(np.array([1, 0, 1, 0], dtype="uint8"))
    >>> order.sort(np.array([10, 20, 30, 40]))
    array([20, 40, 10, 30])
    """

    def __init__(self, classes: Host) -> None:
        self.size = classes.size
        blocks = [classes[start : start + _BLOCK] for start in range(0, self.size, _BLOCK)]
        self._orders = [np.argsort(block, kind="stable").astype(np.uint16) for block in blocks]
        self._counts = [np.bincount(block, minlength=_CLASSES) for block in blocks]
        self.ends: Host = np.sum(self._counts, 0).cumsum()

    def sort(self, values: Host) -> Host:
        """Return flat values in order."""
        found, place = np.empty_like(values), self.ends - np.diff(self.ends, prepend=0)
        for i, (order, counts) in enumerate(zip(self._orders, self._counts, strict=True)):
            block, stops = values[i * _BLOCK : (i + 1) * _BLOCK][order], counts.cumsum()
            for c in np.flatnonzero(counts):
                found[place[c] : place[c] + counts[c]] = block[stops[c] - counts[c] : stops[c]]
            place += counts
        return found

    def restore(self, values: Host) -> Host:
        """Undo `sort`."""
        found, place = np.empty_like(values), self.ends - np.diff(self.ends, prepend=0)
        for i, (order, counts) in enumerate(zip(self._orders, self._counts, strict=True)):
            pieces = [values[place[c] : place[c] + counts[c]] for c in np.flatnonzero(counts)]
            found[i * _BLOCK : (i + 1) * _BLOCK][order] = np.concatenate(pieces)
            place += counts
        return found
