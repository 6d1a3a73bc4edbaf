"""A file of latents: an HDF5 dataset per partition, written batch by batch."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from flowerpress.errors import ChunkError
from flowerpress.extraction.inference import Latents
from flowerpress.extraction.probe import datasets

_CHUNK = 1 << 20  # bytes of a chunk of the file, at most, unless one row has more


class Written:
    """A new file, whose datasets come one after the other.

    Attributes
    ----------
    rows : dict of str to int
        Latents of each dataset so far.
    """

    def __init__(self, path: Path) -> None:
        import h5py

        self.rows: dict[str, int] = {}
        self._file = h5py.File(path, "w")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None and not self.rows:
            raise ChunkError("expected partitions with images, found none")

    @staticmethod
    def read(path: Path, name: str, start: int, rows: int) -> Iterator[Latents]:
        """Yield the latents of a dataset from one on, so many at a time."""
        import h5py

        with h5py.File(path, "r") as file:
            for at in range(start, len(file[name]), rows):
                yield file[name][at : at + rows]

    def add(self, name: str, parts: Iterable[Latents], *, empty: tuple[int, ...]) -> None:
        """Write a dataset, float32, of batches of shape (n, …); of shape ``empty`` if there are none."""
        self.rows[name] = 0
        for part in parts:
            if not self.rows[name]:
                rest, rows = part.shape[1:], max(1, min(len(part), _CHUNK // max(1, part[0].nbytes)))
                chunks = (rows, *(max(1, size) for size in rest))
                self._file.create_dataset(name, (0, *rest), part.dtype, maxshape=(None, *rest), chunks=chunks)
            dataset, start = self._file[name], self.rows[name]
            dataset.resize(start + len(part), axis=0)
            dataset[start:] = part
            self.rows[name] += len(part)
        if name not in self._file:
            self._file.create_dataset(name, empty, "float32")


def rows(path: Path, name: str) -> int:
    """Return how many latents a dataset of a file has; -1 if there is no such file, or dataset, or it is damaged."""
    try:
        found = datasets(path).get(name)
    except (OSError, ChunkError):
        return -1
    return found.shape[0] if found and found.shape else -1
