"""Labelled images, in one part per client and a test set for the server.

``"digits"`` are scikit-learn's 1,797 handwritten digits (8x8, UCI), which come with the package. Any other name is a
Hugging Face image data set, or a folder of one.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset

_TEST_SHARE = 5  # one image in five is for the server, where the data set has no test split


@dataclass(frozen=True)
class Images:
    """Images of shape (n, channels, height, width) in float32 from 0 to 1, and labels of shape (n,) in int64."""

    pixels: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    classes: int

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Partitioning:
    """How the training images are dealt out; equal values give equal parts in every process."""

    dataset: str
    partitioner: str
    alpha: float
    seed: int
    parts: int


def test_images(dataset: str, seed: int) -> Images:
    """Return the images that no client trains on."""
    return _images(_load(dataset, seed)[1])


@lru_cache(maxsize=64)
def client_images(partitioning: Partitioning, part: int) -> Images:
    """Return one client's training images: ConfigError if there is no such part."""
    if not 0 <= part < partitioning.parts:
        raise ConfigError(f"data: expected a partition from 0 to {partitioning.parts - 1}, found {part}")
    return _images(_partitioner(partitioning).load_partition(part))


@lru_cache(maxsize=4)
def _partitioner(partitioning: Partitioning) -> Any:  # noqa: ANN401 - flwr-datasets has no types
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner

    train, _ = _load(partitioning.dataset, partitioning.seed)
    if partitioning.partitioner == "iid":
        dealer = IidPartitioner(num_partitions=partitioning.parts)
    elif partitioning.partitioner == "dirichlet":
        dealer = DirichletPartitioner(
            num_partitions=partitioning.parts,
            partition_by=_columns(train)[1],
            alpha=partitioning.alpha,
            min_partition_size=min(10, len(train) // (2 * partitioning.parts)),
            seed=partitioning.seed,
        )
    else:
        raise ConfigError(f"data: expected the partitioner 'dirichlet' or 'iid', found {partitioning.partitioner!r}")
    dealer.dataset = train.shuffle(seed=partitioning.seed)
    return dealer


@lru_cache(maxsize=2)
def _load(name: str, seed: int) -> tuple["Dataset", "Dataset"]:
    """Return (train, test)."""
    if name == "digits":
        return _digits(seed)
    from datasets import load_dataset

    try:
        splits = load_dataset(name)
    except Exception as error:  # the hub, the file system and the readers all have exceptions of their own
        raise ConfigError(f"data: cannot load the data set {name!r}: {error}") from error
    if "test" in splits:
        return splits["train"], splits["test"]
    halves = splits["train"].train_test_split(1 / _TEST_SHARE, seed=seed)
    return halves["train"], halves["test"]


def _digits(seed: int) -> tuple["Dataset", "Dataset"]:
    from datasets import ClassLabel, Dataset
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    images = (digits.images[order] * (255 / 16)).astype(np.uint8)
    whole = Dataset.from_dict({"image": list(images), "label": digits.target[order]})
    whole = whole.cast_column("label", ClassLabel(num_classes=10)).with_format("numpy")
    cut = len(order) // _TEST_SHARE
    return whole.select(range(cut, len(order))), whole.select(range(cut))


def _columns(data: "Dataset") -> tuple[str, str]:
    """Return the names of the image and label columns: by type, else by the usual names."""
    from datasets import ClassLabel, Image

    def find(kind: type, usual: tuple[str, ...]) -> str:
        typed: list[str] = [name for name, feature in data.features.items() if isinstance(feature, kind)]
        found: list[str] = [*typed, *(name for name in usual if name in data.features)]
        if not found:
            raise ConfigError(f"data: expected a column called {' or '.join(usual)}, found {list(data.features)}")
        return found[0]

    return find(Image, ("image", "img")), find(ClassLabel, ("label", "labels", "fine_label"))


def _images(data: "Dataset") -> Images:
    image, label = _columns(data)
    pixels = [np.asarray(x) for x in data[image]]
    if len({x.shape for x in pixels}) > 1:
        raise ConfigError(f"data: expected images of one shape, found {sorted({x.shape for x in pixels})[:3]}")
    stacked = np.stack(pixels).astype(np.float32) / 255
    stacked = stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)
    feature = data.features[label]
    classes = getattr(feature, "num_classes", None) or int(max(data[label])) + 1
    return Images(np.ascontiguousarray(stacked), np.asarray(data[label], np.int64), classes)
