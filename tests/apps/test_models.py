"""The models by name: their sizes, what they take, and that a model is its state."""

import pytest
import torch

from flowerpress import ConfigError
from flowerpress.apps import classify
from flowerpress.apps.data import Images, Partitioning, client_images
from flowerpress.apps.data import test_images as held_out
from flowerpress.apps.models import model_for, model_with


@pytest.mark.parametrize(
    ("name", "dataset", "side", "parameters"),
    [
        ("cnn", "digits", 0, 201_178),
        ("mlp", "digits", 0, 1_293_610),
        ("mlp", "wine", 0, 1_229_803),
        ("mlp", "breast-cancer", 0, 1_247_402),
        ("linear", "wine", 0, 42),
        ("resnet18", "digits", 32, 11_172_810),
    ],
)
def test_models_by_name(name: str, dataset: str, side: int, parameters: int) -> None:
    images = held_out(dataset, 1, side)
    before = torch.get_rng_state()
    model, same, other = (model_for(name, images, seed).eval() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(p.numel() for p in model.parameters()) == parameters
    x = torch.from_numpy(images.pixels[:4])
    y = model(x)
    assert y.shape == (4, images.classes)
    assert torch.equal(same(x), y)
    assert not torch.equal(other(x), y)
    again = model_with(name, images, model.state_dict()).eval()
    assert torch.equal(again(x), y)
    assert list(again.state_dict()) == list(model.state_dict())


def test_mistakes() -> None:
    wine = held_out("wine", 1, 0)
    for name in ("cnn", "resnet18"):
        with pytest.raises(ConfigError, match="tables of features need model='mlp'"):
            model_for(name, wine, 0)
    with pytest.raises(ConfigError, match="expected a model among cnn, mlp, mlp-small, linear, resnet18, found 'vit'"):
        model_for("vit", wine, 0)


@pytest.mark.parametrize("dataset", ["wine", "breast-cancer"])
def test_an_mlp_learns_tables(dataset: str) -> None:
    whole: Images = client_images(Partitioning(dataset, "iid", 1.0, 1, 1), 0)
    model = model_for("mlp", whole, 0)
    classify.train(model, whole, epochs=3, batch_size=16, learning_rate=0.05, seed=0)
    assert classify.evaluate(model, held_out(dataset, 1, 0))[1] > 0.9


def test_a_resnet_trains() -> None:
    images = client_images(Partitioning("digits", "iid", 1.0, 1, 40, image_size=8), 0)
    model = model_for("resnet18", images, 0)
    losses = [classify.train(model, images, epochs=1, batch_size=16, learning_rate=0.02, seed=i) for i in range(4)]
    assert losses[-1] < losses[0]
