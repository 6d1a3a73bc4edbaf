"""Data that a node has itself, as its configuration names it: no other node sees it."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from flwr.app import Context, RecordDict
from PIL import Image as Pillow

from flowerpress import ConfigError
from flowerpress.apps.config import Config
from flowerpress.apps.data import Images, Partitioning, client_images
from flowerpress.apps.own import images_of
from tests.apps.test_config import DEFAULTS

RNG = np.random.default_rng(0)


def found(node_config: dict[str, Any], **config: Any) -> Images:
    context = Context(1, 1, {"partition-id": 1, "num-partitions": 3, **node_config}, RecordDict(), {})
    return images_of(Config.read({**DEFAULTS, **config}), context)


def test_a_part_of_the_runs_data_set_where_the_node_says_nothing() -> None:
    part = client_images(Partitioning.of(Config.read(DEFAULTS), 3), 1)
    assert np.array_equal(found({}).pixels, part.pixels)


@pytest.mark.parametrize("shape", [(40, 8, 8), (40, 1, 8, 8), (40, 3, 6, 5)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_file(shape: tuple[int, ...], dtype: str, tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, shape).astype(np.uint8) if dtype == "uint8" else RNG.random(shape, np.float32)
    labels = RNG.integers(0, 4, 40)
    with h5py.File(tmp_path / "site.h5", "w") as file:
        file["train"], file["train-labels"] = pixels, labels
        file["train-labels"].attrs["classes"] = 10
    images = found({"dataset": str(tmp_path / "site.h5")})
    expected = pixels / np.float32(255) if dtype == "uint8" else pixels
    assert images.pixels.dtype == np.float32
    assert np.array_equal(images.pixels, expected.reshape(40, -1, *shape[-2:]))
    assert (images.labels.tolist(), images.labels.dtype, images.classes) == (labels.tolist(), np.int64, 10)
    assert found({"dataset": str(tmp_path / "site.h5")}, **{"image-size": 16}).pixels.shape[2:] == (16, 16)


def test_the_number_of_labels_is_one_more_than_the_largest(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "site.hdf5", "w") as file:
        file["train"], file["train-labels"] = np.zeros((3, 4, 4), np.uint8), np.array([0, 5, 2], np.uint8)
    assert found({"dataset": str(tmp_path / "site.hdf5")}).classes == 6


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, "expected a partition among"),
        ({"train": np.zeros((3, 4, 4))}, "expected a dataset 'train-labels'"),
        ({"train": np.zeros((3, 4, 4)), "train-labels": np.zeros(2, int)}, "expected 3 integers in the file"),
        ({"train": np.zeros((3, 4, 4)), "train-labels": np.zeros(3)}, "expected 3 integers in the file"),
        ({"train": np.zeros((3, 4, 4)), "train-labels": np.array([0, -1, 2])}, "expected labels from 0 to 2"),
        ({"train": np.zeros(3), "train-labels": np.zeros(3, int)}, r"expected shape \(n, h, w\)"),
    ],
)
def test_files_that_do_not_fit(written: dict[str, np.ndarray], expected: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "site.h5", "w") as file:
        for name, values in written.items():
            file[name] = values
    with pytest.raises(ValueError, match=expected):
        found({"dataset": str(tmp_path / "site.h5")})


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.h5.*cannot be had"):
        found({"dataset": str(tmp_path / "nowhere.h5")})
    (tmp_path / "text.h5").write_text("no")
    with pytest.raises(ValueError, match="cannot be read"):
        found({"dataset": str(tmp_path / "text.h5")})


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_a_hugging_face_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = Features({"image": Image(), "label": ClassLabel(num_classes=10)})
    pictures = [Pillow.fromarray(RNG.integers(0, 256, (8, 8), dtype=np.uint8)) for _ in range(12)]
    rows = Dataset.from_dict({"image": pictures, "label": [3] * 12}, features=features)
    (tmp_path / "site").mkdir()
    for split, count in (("train", 12), ("test", 2)):
        rows.select(range(count)).to_parquet(tmp_path / "site" / f"{split}.parquet")
    images = found({"dataset": str(tmp_path / "site")})
    assert (images.pixels.shape, images.classes) == ((12, 1, 8, 8), 10)
