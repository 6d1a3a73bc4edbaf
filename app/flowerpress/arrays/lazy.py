"""Lazy chunk sequences (seed 001): arrays that come chunk by chunk, when somebody asks. ::

    generator_factory ──► chunk, chunk, … ──► compute(aggregator) ──► whatever the aggregator makes of them
                                         └──► to_zarr(path_or_url, converter) ──► a Zarr array, one chunk in memory

Nothing is generated before, and every call asks the factory anew. The wording follows pyDVL 0.8, whose aggregators are
given the generator; lengths, which pyDVL has since 0.9, are optional and only feed a progress bar.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flowerpress.arrays.growing import Growing
from flowerpress.arrays.places import Where
from flowerpress.codecs.dtypes import Host
from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    import zarr

Tensor = TypeVar("Tensor")
Item = TypeVar("Item")


class NumpyConverter(ABC, Generic[Tensor]):
    """Turns tensors into ndarrays, which Zarr stores, and back. Ready ones are in `flowerpress.arrays.converters`."""

    @abstractmethod
    def to_numpy(self, x: Tensor) -> Host:
        """Return a tensor as an ndarray of the same shape."""

    @abstractmethod
    def from_numpy(self, x: Host) -> Tensor:
        """Return an ndarray as a tensor of the same shape."""


class SequenceAggregator(ABC, Generic[Tensor]):
    """Combines the chunks of a `LazyChunkSequence`. Ready ones are in `flowerpress.arrays.aggregators`."""

    @abstractmethod
    def __call__(self, tensor_generator: Generator[Tensor, None, None]) -> Any:  # noqa: ANN401 - whatever it makes
        """Return what it makes of the chunks; it may read them one by one, and stop early."""


class ListAggregator(SequenceAggregator[Tensor]):
    """All chunks, in a list."""

    def __call__(self, tensor_generator: Generator[Tensor, None, None]) -> list[Tensor]:
        """Return the chunks in a list."""
        return list(tensor_generator)


class NestedSequenceAggregator(ABC, Generic[Tensor]):
    """Combines the chunks of a `NestedLazyChunkSequence`."""

    @abstractmethod
    def __call__(self, nested_generators_of_tensors: Generator[Generator[Tensor, None, None], None, None]) -> Any:  # noqa: ANN401
        """Return what it makes of the chunks, which come row by row."""


class NestedListAggregator(NestedSequenceAggregator[Tensor]):
    """All chunks, in a list of lists."""

    def __call__(
        self, nested_generators_of_tensors: Generator[Generator[Tensor, None, None], None, None]
    ) -> list[list[Tensor]]:
        """Return a list per row, with its chunks."""
        return [list(row) for row in nested_generators_of_tensors]


class LazyChunkSequence(Generic[Tensor]):
    """An array in chunks along its first axis, generated when somebody asks for them.

    Parameters
    ----------
    generator_factory : callable
        Takes nothing and returns a generator of chunks: tensors of equal dtype and rank, whose shapes may differ in the
        first axis only. It is kept as an attribute.
    len_generator : int, optional
        How many chunks will come: with it, a progress bar is shown.

    >>> import numpy as np
    >>> lazy = LazyChunkSequence(lambda: (np.full((2, 3), i) for i in range(4)))
    >>> lazy.compute(lambda chunks: sum(int(chunk.sum()) for chunk in chunks))
    36
    """

    def __init__(
        self,
        generator_factory: Callable[[], Generator[Tensor, None, None]],
        len_generator: int | None = None,
    ) -> None:
        self.generator_factory = _callable(generator_factory)
        self.len_generator = len_generator

    def compute(self, aggregator: SequenceAggregator[Tensor] | None = None) -> Any:  # noqa: ANN401
        """Generate the chunks, and return what an aggregator, by default `ListAggregator`, makes of them."""
        return (aggregator or ListAggregator())(_shown(self.generator_factory(), self.len_generator))

    def to_zarr(
        self,
        path_or_url: Where,
        converter: NumpyConverter[Tensor],
        return_stored: bool = False,
        overwrite: bool = False,
    ) -> "zarr.Array[Any] | None":
        """Generate the chunks into a Zarr array, which appears when it is whole; one chunk is in memory at a time.

        Parameters
        ----------
        path_or_url : str, Path, zarr Store or StorePath
            Where the array will be: a folder, a URL, or a place in a store.
        converter : NumpyConverter
            Turns chunks into ndarrays.
        return_stored : bool
            Whether to return the array.
        overwrite : bool
            Whether an array that is there already is replaced, at the end. By default that is an error.

        Returns
        -------
        zarr.Array or None
            The array, open for reading and writing, of the dtype of the chunks; its chunks have the shape of the first.

        Raises
        ------
        FileExistsError
            If something is there already, and ``overwrite`` is not set.
        ConfigError
            If chunks do not fit together, or none come. Nothing is left behind then, and what was there stays.
        """
        with Growing(path_or_url, overwrite=overwrite) as array:
            row = 0
            for chunk in _shown(self.generator_factory(), self.len_generator):
                row += array.put(converter.to_numpy(chunk), row)[0]
        return array.stored if return_stored else None


class NestedLazyChunkSequence(Generic[Tensor]):
    """An array in chunks along its first two axes, generated row by row when somebody asks for them.

    Parameters
    ----------
    generator_factory : callable
        Takes nothing and returns a generator of generators: of rows, and of the chunks in each. Chunks of a row have
        equal heights, all rows together equal widths. It is kept as an attribute.
    len_outer_generator : int, optional
        How many rows will come: with it, a progress bar is shown.
    """

    def __init__(
        self,
        generator_factory: Callable[[], Generator[Generator[Tensor, None, None], None, None]],
        len_outer_generator: int | None = None,
    ) -> None:
        self.generator_factory = _callable(generator_factory)
        self.len_outer_generator = len_outer_generator

    def compute(self, aggregator: NestedSequenceAggregator[Tensor] | None = None) -> Any:  # noqa: ANN401
        """Generate the chunks, and return what an aggregator, by default `NestedListAggregator`, makes of them."""
        return (aggregator or NestedListAggregator())(_shown(self.generator_factory(), self.len_outer_generator))

    def to_zarr(
        self,
        path_or_url: Where,
        converter: NumpyConverter[Tensor],
        return_stored: bool = False,
        overwrite: bool = False,
    ) -> "zarr.Array[Any] | None":
        """Generate the chunks into a Zarr array; as `LazyChunkSequence.to_zarr`."""
        with Growing(path_or_url, overwrite=overwrite) as array:
            row, width = 0, -1
            for number, chunks in enumerate(_shown(self.generator_factory(), self.len_outer_generator)):
                height, wide = _put_row(array, map(converter.to_numpy, chunks), row, f"row {number} of chunks")
                if width not in (-1, wide):
                    raise ConfigError(f"row {number} of chunks: expected {width} columns as before, found {wide}")
                row, width = row + height, wide
        return array.stored if return_stored else None


def _put_row(array: Growing, blocks: Iterable[Host], row: int, name: str) -> tuple[int, int]:
    """Put blocks side by side, from a row of the array on; return how many rows and columns they take."""
    column, height = 0, -1
    for block in blocks:
        rows, columns = array.put(block, row, column)
        if height not in (-1, rows):
            raise ConfigError(f"{name}: expected chunks of {height} rows, found one of {rows}")
        column, height = column + columns, rows
    if height < 0:
        raise ConfigError(f"{name}: expected at least one chunk, found none")
    return height, column


def _callable(factory: Callable[[], Item]) -> Callable[[], Item]:
    if not callable(factory):
        raise ConfigError(f"expected a function that returns a generator, found {type(factory).__name__}")
    return factory


def _shown(generator: Generator[Item, None, None], length: int | None) -> Generator[Item, None, None]:
    """Return a generator that shows a progress bar if it is known how long it is."""
    return generator if length is None else _tracked(generator, length)


def _tracked(generator: Iterator[Item], length: int) -> Generator[Item, None, None]:
    from rich.progress import track

    yield from track(generator, "chunks", total=length)
