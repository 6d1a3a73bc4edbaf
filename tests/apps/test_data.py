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
    test = held_out("digits", 1)
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
        held_out("/nowhere/at/all", 1)


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

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    parts = [client_images(Partitioning(folder, "dirichlet", 1.0, 3, 3), i) for i in range(3)]
    test = held_out(folder, 3)
    assert sum(map(len, parts)) == 90
    assert test.pixels.shape == (21, 3, 12, 10)
    assert test.classes == 3
    model = classify.model_for(test, 0)
    for epoch in range(4):
        for images in parts:
            classify.train(model, images, epochs=1, batch_size=8, learning_rate=0.05, seed=epoch)
    assert classify.evaluate(model, test)[1] > 0.9
