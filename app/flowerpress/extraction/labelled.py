"""Images in HDF5 files that have labels beside them: the dataset ``train``, say, and ``train-labels``."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowerpress.errors import ChunkError
from flowerpress.extraction.probe import datasets, images

LABELS = "-labels"


def labelled(path: str | Path, partition: str) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Return images of shape (n, c, h, w), their labels of shape (n,), and how many labels there are.

    Integers become numbers from 0 to 1; floats are taken as they are. The number of labels is the attribute ``classes``
    of their dataset, or else one more than the largest.

    Raises
    ------
    FileNotFoundError, KeyError
        If there is no such file, or no such partition, or none with its labels.
    ChunkError
        If the file is damaged, or does not hold images and an integer of 0 or more for each.
    """
    import h5py

    count, _ = images(path, partition)
    name, found = partition + LABELS, datasets(path)
    if name not in found:
        raise KeyError(f"{path}: expected a dataset {name!r} with a label for each image, found {', '.join(found)}")
    said = found[name]
    if said.shape != [count] or np.dtype(said.dtype).kind not in "iu" or said.elsewhere:
        raise ChunkError(f"{path}: {name!r}: expected {count} integers in the file, found {said.dtype}{said.shape}")
    try:
        with h5py.File(path, "r") as file:
            pixels, labels = file[partition][...], file[name][...].astype(np.int64)
            classes = int(file[name].attrs.get("classes", labels.max(initial=-1) + 1))
    except Exception as error:  # HDF5 has many kinds for bytes that it does not like
        raise ChunkError(f"{path}: partition {partition!r}: cannot be read: {error}") from error
    if count and not 0 <= labels.min() <= labels.max() < classes:
        raise ChunkError(
            f"{path}: {name!r}: expected labels from 0 to {classes - 1}, found {labels.min()} to {labels.max()}"
        )
    scale = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 1
    pixels = (pixels[:, None] if pixels.ndim == 3 else pixels).astype(np.float32) / np.float32(scale)
    return np.ascontiguousarray(pixels), labels, classes
