"""A part of a checkpoint that is small enough to measure codecs with."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flowerpress.codecs.base import Spec
from flowerpress.codecs.dtypes import ArrayLike, Host, dtype_name, to_host
from flowerpress.errors import ConfigError

_PIECES = 8  # that a sample has at least


@dataclass(frozen=True)
class Sample:
    """Arrays to measure with, references of those that have one, and the bytes of the checkpoint that they are from."""

    arrays: Mapping[str, Host]
    bases: Mapping[str, Host]
    of: int

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, uncompressed."""
        return sum(x.nbytes for x in self.arrays.values())


def sampled(arrays: Mapping[str, ArrayLike], bases: Mapping[str, ArrayLike], most: int, seed: int = 0) -> Sample:
    """Return all arrays, or of a checkpoint of more than ``most`` bytes as many as make that, chosen at random.

    Of an array that would be more than an eighth of that, the first rows are taken. Raises ConfigError if there is
    nothing to measure, or if there are bases, but none of the dtype and shape of its array.
    """
    specs = [Spec.of(x, key) for key, x in arrays.items()]
    total = sum(spec.nbytes for spec in specs)
    if not total:
        raise ConfigError("expected a checkpoint with arrays to measure, found none with elements in it")
    rows = dict.fromkeys(arrays) if total <= most else _rows(specs, most, seed)
    fitting = {spec.key for spec in specs if spec.key in bases and _alike(bases[spec.key], spec)}
    if bases and not fitting:
        raise ConfigError("expected a base with arrays of the checkpoint's names, dtypes and shapes, found none")
    taken = [spec.key for spec in specs if spec.key in rows]
    return Sample(
        {key: _first(arrays[key], rows[key]) for key in taken},
        {key: _first(bases[key], rows[key]) for key in taken if key in fitting},
        total,
    )


def _rows(specs: list[Spec], most: int, seed: int) -> dict[str, int | None]:
    """Return which arrays to take, and how many of their rows; None for all."""
    found: dict[str, int | None] = {}
    left = most
    for i in np.random.default_rng(seed).permutation(len(specs)):
        spec, rows, nbytes = specs[i], None, specs[i].nbytes
        if nbytes > most // _PIECES:
            row = nbytes // (spec.shape or (1,))[0]
            rows = max(1, most // _PIECES // row)
            nbytes = rows * row
        if nbytes <= left or not found:
            found[spec.key], left = rows, left - nbytes
    return found


def _first(x: ArrayLike, rows: int | None) -> Host:
    return to_host(x) if rows is None or not x.shape else to_host(x[:rows])


def _alike(x: ArrayLike, spec: Spec) -> bool:
    return (dtype_name(x), tuple(x.shape)) == (spec.dtype, spec.shape)
