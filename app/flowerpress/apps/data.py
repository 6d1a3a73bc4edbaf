"""Labelled images, or rows of a table, in one part per client and a test set for the server.

``"digits"`` are scikit-learn's 1,797 handwritten digits (8x8, UCI), ``"breast-cancer"`` (569 rows of 30 features) and
``"wine"`` (178 of 13) its tables; they come with the package. Any other name is a Hugging Face image data set, or a
folder of one.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from flowerpress.apps.config import Config
from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    from datasets import Dataset

_FEATURES = "features"  # the column of a table's rows
_LEAST = 10  # samples of a client, where there are as many
_TEST_SHARE = 5  # one image in five is for the server, where the data set has no test split


@dataclass(frozen=True)
class Images:
    """Images of shape (n, channels, height, width) in float32 from 0 to 1, and labels of shape (n,) in int64.

    Tables are images of shape (n, 1, 1, features), standardised to mean 0 and deviation 1 of the training rows.
    """

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
    image_size: int = 0

    @classmethod
    def of(cls, config: Config, parts: int) -> Self:
        """Return how a run deals its data out to so many clients."""
        return cls(
            config.dataset, config.partitioner, config.dirichlet_alpha, config.seed, parts, image_size=config.image_size
        )


@lru_cache(maxsize=4)
def test_images(dataset: str, seed: int, image_size: int) -> Images:
    """Return the images that no client trains on, scaled if ``image_size`` is not 0."""
    return scaled(_images(_load(dataset, seed)[1]), image_size)


@lru_cache(maxsize=4)
def train_images(dataset: str, seed: int, image_size: int) -> Images:
    """Return all images of a data set that are for training, scaled if ``image_size`` is not 0."""
    return scaled(_images(_load(dataset, seed)[0]), image_size)


def scaled(images: Images, side: int) -> Images:
    """Return images of ``side`` by ``side`` pixels (bilinear); 0 leaves them as they are. ConfigError for tables."""
    import torch
    from torch.nn.functional import interpolate

    if not side or images.pixels.shape[2:] == (side, side):
        return images
    if images.pixels.shape[2] == 1:
        raise ConfigError(f"data: expected images to scale to {side}x{side}, found a table; leave image-size at 0")
    pixels = interpolate(torch.from_numpy(images.pixels), (side, side), mode="bilinear", align_corners=False)
    return Images(pixels.numpy(), images.labels, images.classes)


@lru_cache(maxsize=1024)
def client_images(partitioning: Partitioning, part: int) -> Images:
    """Return one client's training images: ConfigError if there is no such part."""
    if not 0 <= part < partitioning.parts:
        raise ConfigError(f"data: expected a partition from 0 to {partitioning.parts - 1}, found {part}")
    return scaled(_images(_partitioner(partitioning).load_partition(part)), partitioning.image_size)


@lru_cache(maxsize=4)
def _partitioner(partitioning: Partitioning) -> Any:  # noqa: ANN401 - flwr-datasets has no types
    from flwr_datasets.partitioner import IidPartitioner

    train, _ = _load(partitioning.dataset, partitioning.seed)
    train = train.shuffle(seed=partitioning.seed)
    if partitioning.partitioner == "iid":
        dealer = IidPartitioner(num_partitions=partitioning.parts)
        dealer.dataset = train
        return dealer
    if partitioning.partitioner == "dirichlet":
        return _dirichlet(train, partitioning)
    raise ConfigError(f"data: expected the partitioner 'dirichlet' or 'iid', found {partitioning.partitioner!r}")


def _dirichlet(train: "Dataset", partitioning: Partitioning) -> Any:  # noqa: ANN401
    """Return what deals the data out unevenly: at least ten samples each, or fewer if that comes out too rarely."""
    from flwr_datasets.partitioner import DirichletPartitioner

    least = min(_LEAST, len(train) // (2 * partitioning.parts))
    while least:
        dealer = DirichletPartitioner(
            num_partitions=partitioning.parts,
            partition_by=_columns(train)[1],
            alpha=partitioning.alpha,
            min_partition_size=least,
            seed=partitioning.seed,
        )
        dealer.dataset = train
        try:
            dealer.load_partition(0)
        except ValueError:  # after ten draws
            least //= 2
        else:
            return dealer
    raise ConfigError(
        f"data: cannot deal {len(train)} samples to {partitioning.parts} clients with alpha {partitioning.alpha:g}: "
        "one of them has none each time; take fewer clients, or a larger alpha"
    )


@lru_cache(maxsize=2)
def _load(name: str, seed: int) -> tuple["Dataset", "Dataset"]:
    """Return (train, test)."""
    if name == "digits":
        return _digits(seed)
    if name in ("breast-cancer", "wine"):
        return _table(name, seed)
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


def _table(name: str, seed: int) -> tuple["Dataset", "Dataset"]:
    """Return the rows of one of scikit-learn's tables, in an order that the seed decides."""
    from datasets import ClassLabel, Dataset
    from sklearn import datasets

    table = {"breast-cancer": datasets.load_breast_cancer, "wine": datasets.load_wine}[name]()
    order = np.random.default_rng(seed).permutation(len(table.target))
    cut = len(order) // _TEST_SHARE
    rows = table.data[order]
    rows = ((rows - rows[cut:].mean(0)) / rows[cut:].std(0)).astype(np.float32)
    whole = Dataset.from_dict({_FEATURES: list(rows), "label": table.target[order]})
    whole = whole.cast_column("label", ClassLabel(num_classes=len(table.target_names))).with_format("numpy")
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

    return find(Image, ("image", "img", _FEATURES)), find(ClassLabel, ("label", "labels", "fine_label"))


def _images(data: "Dataset") -> Images:
    image, label = _columns(data)
    pixels = [np.asarray(x) for x in data[image]]
    if len({x.shape for x in pixels}) > 1:
        raise ConfigError(f"data: expected images of one shape, found {sorted({x.shape for x in pixels})[:3]}")
    stacked = np.stack(pixels).astype(np.float32)
    if image == _FEATURES:
        stacked = stacked[:, None, None]
    else:
        stacked = (stacked[:, None] if stacked.ndim == 3 else stacked.transpose(0, 3, 1, 2)) / np.float32(255)
    feature = data.features[label]
    classes = getattr(feature, "num_classes", None) or int(max(data[label])) + 1
    return Images(np.ascontiguousarray(stacked), np.asarray(data[label], np.int64), classes)
