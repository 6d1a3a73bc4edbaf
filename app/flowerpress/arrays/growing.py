"""A Zarr array that grows block by block, out of sight until it is whole. ::

    a hidden folder ──► put, put, … ──► whole: it takes its place      in a folder, by renaming; in a store, by
                               └──────► an error: it is gone           copying the metadata behind all chunks

So what is at the place is the old array or the new one, whatever generates the blocks and whenever it fails.
"""

import json
import shutil
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from flowerpress.arrays.places import Place, Where, place_of, settle
from flowerpress.codecs.dtypes import Host
from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    import zarr


_ENDLESS = 1 << 40  # rows, or columns


class Growing:
    """An array that takes its place at the end of a ``with`` block, if that ends well.

    Parameters
    ----------
    where : str, Path, zarr Store or StorePath
        A folder, a URL, or a place in a store.
    overwrite : bool
        Whether a Zarr array or group that is there is replaced; other things never are.

    Raises
    ------
    FileExistsError
        If something is there that is not to be replaced.
    """

    def __init__(self, where: Where, *, overwrite: bool = False) -> None:
        self.place: Place = place_of(where)
        self.overwrite = overwrite
        self.place.check(overwrite=overwrite)
        self._array: Any = None
        self._extent: tuple[int, ...] = ()  # so far, along the axes that grow

    def __enter__(self) -> Self:
        self._folder = self.place.beside()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                if self._array is None:
                    raise ConfigError(f"{self.place}: expected at least one chunk, found none: no dtype, no shape")
                self._bound()
                self.place.take(self._folder, overwrite=self.overwrite)
        finally:
            if kind is not None:
                settle()
            shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def stored(self) -> "zarr.Array[Any]":
        """The array in its place, open for reading and writing."""
        return self.place.open()

    def put(self, block: Host, *at: int) -> tuple[int, ...]:
        """Write a block whose first elements are ``at`` these rows, or rows and columns; return its extent there."""
        extent = block.shape[: len(at)]
        if len(extent) < len(at):
            raise ConfigError(f"a chunk at {at}: expected {len(at)} axes or more, found shape {list(block.shape)}")
        if self._array is None:
            self._array = self._create(block, len(at))
        kind, rest = self._array.dtype, self._array.shape[len(at) :]
        if (block.dtype, block.shape[len(at) :]) != (kind, rest):
            expected = [*"?" * len(at), *rest]
            raise ConfigError(
                f"a chunk at {at}: expected {kind}[{', '.join(map(str, expected))}] like the first, "
                f"found {block.dtype}{list(block.shape)}"
            )
        ends = tuple(start + size for start, size in zip(at, extent, strict=True))
        self._array[tuple(map(slice, at, ends))] = block
        self._extent = tuple(map(max, self._extent or ends, ends))
        return extent

    def _bound(self) -> None:
        """Write the shape that the array has come to: until now it had no end, lest each chunk rewrite the metadata."""
        path = self._folder / "zarr.json"
        metadata = json.loads(path.read_text())
        metadata["shape"][: len(self._extent)] = self._extent
        path.write_text(json.dumps(metadata, indent=2))

    def _create(self, block: Host, axes: int) -> Any:  # noqa: ANN401
        import zarr

        shape = (_ENDLESS,) * axes + block.shape[axes:]
        chunks = tuple(max(1, size) for size in block.shape)
        try:
            return zarr.create_array(
                self._folder,
                shape=shape,
                chunks=chunks,
                dtype=block.dtype,
                config={"write_empty_chunks": True},  # complex -0.0 is 0 to Zarr, and would come back as that
            )
        except ValueError as error:
            raise ConfigError(f"{self.place}: Zarr has no {block.dtype}: {error}; convert it to another one") from error
