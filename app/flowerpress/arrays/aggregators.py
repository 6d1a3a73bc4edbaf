"""Ready aggregators: chunks joined, reduced one by one, or averaged. Chunks are ndarrays, or tensors on one device."""

from collections.abc import Callable, Generator, Iterable
from functools import reduce
from typing import Any

import numpy as np

from flowerpress.arrays.lazy import NestedSequenceAggregator, SequenceAggregator
from flowerpress.codecs.both import Both
from flowerpress.codecs.dtypes import cast, dtype_name, is_torch, sum_dtype
from flowerpress.errors import ConfigError

Chunks = Generator[Both, None, None]


class ConcatAggregator(SequenceAggregator[Both]):
    """The whole array: chunks joined along their first axis."""

    def __call__(self, tensor_generator: Chunks) -> Both:
        """Return the array. ConfigError if no chunk comes, or chunks do not fit together."""
        return _joined(list(tensor_generator), 0)


class NestedConcatAggregator(NestedSequenceAggregator[Both]):
    """The whole array: chunks of a row joined along their second axis, then rows along the first."""

    def __call__(self, nested_generators_of_tensors: Generator[Chunks, None, None]) -> Both:
        """Return the array. ConfigError if a row has no chunk, or chunks do not fit together."""
        return _joined([_joined(list(row), 1) for row in nested_generators_of_tensors], 0)


class ReduceAggregator(SequenceAggregator[Any]):
    """One value: ``function`` applied to what there is so far and the next chunk, one chunk in memory at a time.

    Parameters
    ----------
    function : callable
        Takes what came of the chunks so far, and a chunk.
    initial : optional
        What to begin with; by default the first chunk.
    """

    def __init__(self, function: Callable[[Any, Any], Any], initial: Any = None) -> None:  # noqa: ANN401
        self.function, self.initial = function, initial

    def __call__(self, tensor_generator: Generator[Any, None, None]) -> Any:  # noqa: ANN401
        """Return the value. ConfigError if no chunk comes and there is nothing to begin with."""
        first = next(tensor_generator, None) if self.initial is None else self.initial
        if first is None:
            raise ConfigError("expected at least one chunk, found none")
        return reduce(self.function, tensor_generator, first)


class MeanAggregator(SequenceAggregator[Both]):
    """The mean over the first axis of the whole array, summed in float64 or complex128, with one chunk in memory."""

    def __call__(self, tensor_generator: Chunks) -> Both:
        """Return the mean, float64 or complex128 in the shape of the other axes. ConfigError if no row comes."""
        total, rows = None, 0
        for chunk in tensor_generator:
            some = cast(chunk, sum_dtype(dtype_name(chunk))).sum(0)
            total, rows = some if total is None else total + some, rows + len(chunk)
        if total is None or not rows:
            raise ConfigError("expected at least one row, found none")
        return total / rows


class Flat(NestedSequenceAggregator[Any]):
    """What an aggregator of one level makes of all chunks, row by row: ``Flat(ReduceAggregator(f))``."""

    def __init__(self, aggregator: SequenceAggregator[Any]) -> None:
        self.aggregator = aggregator

    def __call__(self, nested_generators_of_tensors: Generator[Generator[Any, None, None], None, None]) -> Any:  # noqa: ANN401
        """Return what it makes of them."""
        return self.aggregator(chunk for row in nested_generators_of_tensors for chunk in row)


def _joined(chunks: Iterable[Both], axis: int) -> Both:
    chunks = list(chunks)
    if not chunks:
        raise ConfigError("expected at least one chunk, found none")
    kinds = {(str(x.dtype), *x.shape[:axis], "?", *x.shape[axis + 1 :]) for x in chunks}
    if len(kinds) > 1:
        raise ConfigError(f"expected chunks that differ in axis {axis} alone, found {sorted(map(str, kinds))}")
    if is_torch(chunks[0]):
        import torch

        return torch.cat(chunks, axis)
    return np.concatenate(chunks, axis)
