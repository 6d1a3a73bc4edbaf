"""Images in HDF5 files, one dataset per partition, as torch reads them (seed 002).

A file is opened by each process that reads it, when it first does, so that loaders may fork or spawn. What it has is
found out beforehand, see `probe`; a read that hangs or crashes ends the loader's worker, not its caller.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from flowerpress.errors import ChunkError, ConfigError
from flowerpress.extraction.probe import DEADLINE, images

if TYPE_CHECKING:
    import h5py

_Some: TypeAlias = Collection[int] | NDArray[Any]
Indices: TypeAlias = _Some | Mapping[str, _Some | None] | None  # of images, or those of each partition
Item: TypeAlias = tuple[NDArray[np.float32], None]


class HDF5RGBDataset(Dataset[Item]):
    """The images of a partition, each as float32 of shape (3, size, size); grey ones three times.

    Parameters
    ----------
    file_path : str or Path
        An HDF5 file.
    partition : str
        The name of a dataset of square images, of shape (n, size, size), (n, 1, size, size) or (n, 3, size, size),
        of any real dtype.
    allowed_indices : set, list or array of int, or a mapping of those by partition, optional
        Which images there are, in the order given, a set in ascending order. All by default, and in partitions that a
        mapping has not.

    Raises
    ------
    FileNotFoundError, KeyError
        If there is no such file, or no such partition.
    ChunkError
        If the file is damaged, or the partition does not hold images.
    ConfigError
        For images that are not square, or indices of images that do not exist.
    """

    def __init__(
        self,
        file_path: str | Path,
        partition: str,
        allowed_indices: Indices = None,
    ) -> None:
        self.file_path, self.partition = str(file_path), partition
        count, (height, width) = images(file_path, partition)
        if height != width:
            raise ConfigError(
                f"{file_path}: partition {partition!r}: expected square images, found {height}x{width}; crop them"
            )
        self.allowed_indices = _chosen(allowed_indices, partition, count)
        self._file: h5py.File | None = None
        self._owner = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.allowed_indices)

    def __getitem__(self, index: int) -> Item:
        """Return an image, and None: there are no metadata. ChunkError if it cannot be read."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return several images, in as few reads as their order allows."""
        rows = self.allowed_indices[np.asarray(indices, np.int64)]
        return [(image, None) for image in self._read(rows)]

    def close(self) -> None:
        """Close the file in this process; it is opened again when somebody reads."""
        if self._file is not None and self._owner == os.getpid():
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.close()

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return images of shape (n, 3, size, size)."""
        try:
            stored = self._opened()[self.partition]
            cuts = np.flatnonzero(np.diff(rows) != 1) + 1
            found = np.concatenate([stored[run[0] : run[-1] + 1] for run in np.split(rows, cuts)])
        except Exception as error:  # HDF5 has many kinds for bytes that it does not like
            raise ChunkError(f"{self.file_path}: partition {self.partition!r}: cannot be read: {error}") from error
        found = found.astype(np.float32, copy=False)
        found = found[:, None] if found.ndim == 3 else found
        return found if found.shape[1] == 3 else np.repeat(found, 3, axis=1)

    def _opened(self) -> "h5py.File":
        import h5py

        if self._file is None or self._owner != os.getpid():
            self._file, self._owner = h5py.File(self.file_path, "r"), os.getpid()
        return self._file


def build_loader(
    data_file: str | Path,
    dataset: str,
    batch_size: int = 1,
    num_workers: int = 1,
    allowed_indices: Indices = None,
) -> tuple[HDF5RGBDataset, "DataLoader[Any]"]:
    """Return the images of a partition, and a loader of batches, in order, the last one as short as it is.

    Parameters
    ----------
    data_file : str or Path
        An HDF5 file.
    dataset : str
        The partition.
    batch_size : int
        Images per batch.
    num_workers : int
        Processes that read; with 0 this one does, and a damaged file may hang it.
    allowed_indices : set, list or array of int, or a mapping of those by partition, optional
        Which images there are; see `HDF5RGBDataset`.

    Returns
    -------
    dataset : HDF5RGBDataset
        The images.
    loader : torch.utils.data.DataLoader
        Of tensors of shape (n, 3, size, size), float32, and arrays of n None. Memory is pinned where there is a GPU.

    Raises
    ------
    FileNotFoundError, KeyError, ChunkError, ConfigError
        As `HDF5RGBDataset`; ConfigError for other numbers, too.
    """
    if batch_size < 1 or num_workers < 0:
        raise ConfigError(f"expected batches of 1 or more and 0 workers or more, found {batch_size} and {num_workers}")
    found = HDF5RGBDataset(data_file, dataset, allowed_indices)
    loader = DataLoader(
        found,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_together,
        timeout=DEADLINE if num_workers else 0,
        pin_memory=torch.cuda.is_available(),
    )
    return found, loader


def _together(items: Sequence[Item]) -> tuple[torch.Tensor, NDArray[np.object_]]:
    """Return a batch of items."""
    metadata = np.empty(len(items), object)
    return torch.from_numpy(np.stack([image for image, _ in items])), metadata


def _chosen(indices: Indices, partition: str, count: int) -> NDArray[np.int64]:
    """Return the indices of a partition's images as an array; ConfigError unless they are some of its own."""
    if isinstance(indices, Mapping):
        indices = indices.get(partition)
    if indices is None:
        return np.arange(count)
    found = np.asarray(sorted(indices) if isinstance(indices, set | frozenset) else indices)
    if found.size == 0:
        return np.empty(0, np.int64)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise ConfigError(f"allowed_indices: expected integers in one axis, found {found.dtype}{list(found.shape)}")
    if found.min() < 0 or found.max() >= count:
        raise ConfigError(
            f"allowed_indices: expected 0 to {count - 1}, which {partition!r} has, found {found.min()} to {found.max()}"
        )
    return found.astype(np.int64)
