import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Pillow

from flowerpress import ConfigError
from flowerpress.apps.data import Partitioning, client_images
from flowerpress.apps.data import test_images as held_out


def digits(partitioner: str = "dirichlet", parts: int = 5, alpha: float = 0.3) -> Partitioning:
    return Partitioning("digits", partitioner, alpha, 1, parts)


@pytest.mark.parametrize("partitioner", ["dirichlet", "iid"])
def test_every_digit_is_dealt_out_once(partitioner: str) -> None:
    parts = [client_images(digits(partitioner), i) for i in range(5)]
    test = held_out("digits", 1, 0)
    assert sum(map(len, parts)) + len(test) == 1797
    assert len(test) == 359
    for images in (*parts, test):
        assert images.pixels.shape == (len(images), 1, 8, 8)
        assert (images.pixels.dtype, images.labels.dtype, images.classes) == (np.float32, np.int64, 10)
        assert images.pixels.min() >= 0
        assert images.pixels.max() <= 1
    rows = [x.tobytes() for images in (*parts, test) for x in images.pixels]
    assert len(rows) == 1797


def test_dirichlet_is_skewed_and_repeatable() -> None:
    counts = np.array([np.bincount(client_images(digits(alpha=0.1), i).labels, minlength=10) for i in range(5)])
    assert (counts.max(0) > 0.6 * counts.sum(0)).sum() >= 3
    client_images.cache_clear()
    again = np.array([np.bincount(client_images(digits(alpha=0.1), i).labels, minlength=10) for i in range(5)])
    assert np.array_equal(counts, again)


def test_mistakes() -> None:
    with pytest.raises(ConfigError, match="expected a partition from 0 to 4"):
        client_images(digits(), 5)
    with pytest.raises(ConfigError, match="'dirichlet' or 'iid'"):
        client_images(digits("other"), 0)
    with pytest.raises(ConfigError, match="cannot load the data set '/nowhere/at/all'"):
        held_out("/nowhere/at/all", 1, 0)


@pytest.mark.parametrize(("name", "rows", "features", "classes"), [("breast-cancer", 569, 30, 2), ("wine", 178, 13, 3)])
def test_tables_are_standardised_by_what_clients_train_on(name: str, rows: int, features: int, classes: int) -> None:
    parts = [client_images(Partitioning(name, "dirichlet", 0.5, 2, 4), i) for i in range(4)]
    test = held_out(name, 2, 0)
    assert sum(map(len, parts)) + len(test) == rows
    for images in (*parts, test):
        assert images.pixels.shape == (len(images), 1, 1, features)
        assert (images.pixels.dtype, images.classes) == (np.float32, classes)
    trained = np.concatenate([images.pixels for images in parts])
    assert np.abs(trained.mean(0)).max() < 1e-5
    assert np.abs(trained.std(0) - 1).max() < 1e-5
    assert np.abs(test.pixels.mean(0)).max() > 1e-3


def test_images_are_scaled() -> None:
    small, large = held_out("digits", 1, 0), held_out("digits", 1, 32)
    assert large.pixels.shape == (359, 1, 32, 32)
    assert np.array_equal(large.labels, small.labels)
    blocks = large.pixels.reshape(359, 1, 8, 4, 8, 4).mean((3, 5))
    assert np.abs(blocks - small.pixels).mean() < 0.1
    assert client_images(Partitioning("digits", "iid", 1.0, 1, 5, image_size=16), 0).pixels.shape[2:] == (16, 16)
    with pytest.raises(ConfigError, match="leave image-size at 0"):
        held_out("wine", 1, 8)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Hugging Face data set folder: parquet files with an image and a label column, train and test."""
    path = tmp_path_factory.mktemp("coloured")
    rng = np.random.default_rng(0)
    features = Features({"img": Image(), "label": ClassLabel(names=["red", "green", "blue"])})
    for split, count in (("train", 90), ("test", 21)):
        labels = [i % 3 for i in range(count)]
        images = []
        for label in labels:
            x = rng.integers(0, 60, (12, 10, 3), dtype=np.uint8)
            x[..., label] += 180
            images.append(Pillow.fromarray(x))
        Dataset.from_dict({"img": images, "label": labels}, features=features).to_parquet(path / f"{split}.parquet")
    return str(path)


@pytest.mark.filterwarnings("ignore")
def test_hugging_face_data_sets(folder: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    from flowerpress.apps import classify
    from flowerpress.apps.models import model_for

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    parts = [client_images(Partitioning(folder, "dirichlet", 1.0, 3, 3), i) for i in range(3)]
    test = held_out(folder, 3, 0)
    assert sum(map(len, parts)) == 90
    assert test.pixels.shape == (21, 3, 12, 10)
    assert test.classes == 3
    model = model_for("cnn", test, 0)
    for epoch in range(4):
        for images in parts:
            classify.train(model, images, epochs=1, batch_size=8, learning_rate=0.05, seed=epoch)
    assert classify.evaluate(model, test)[1] > 0.9
