"""What a client trains and a server evaluates, by name. Plain torch. ::

"cnn"       two convolutions       0.2 M parameters on 8x8 digits   images
"mlp"       two hidden layers      1.3 M                            images, flattened, and tables
"mlp-small" the same, narrow       0.01 M                           tables
"linear"    one layer                                               tables, and latents of an encoder: a linear probe
"resnet18"  He et al., 2015       11.2 M                            images, best of 32x32
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from flowerpress.apps.data import Images
from flowerpress.errors import ConfigError


class Cnn(nn.Module):
    """Two convolutions with batch normalisation, and two linear layers: 0.2 M parameters on 8x8 digits.

    Parameters
    ----------
    channels, height, width : int
        Of the images.
    classes : int
        Number of labels.
    """

    def __init__(self, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(64)
        self.pool = nn.AdaptiveAvgPool2d((min(height // 2, 8), min(width // 2, 8)))
        self.fc1 = nn.Linear(64 * min(height // 2, 8) * min(width // 2, 8), 176)
        self.fc2 = nn.Linear(176, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (n, classes) for images of shape (n, channels, height, width)."""
        x = functional.relu(self.norm1(self.conv1(x)))
        x = self.pool(functional.relu(self.norm2(self.conv2(x))))
        return self.fc2(functional.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]


class Mlp(nn.Sequential):
    """Two hidden layers of 1,100 units, without normalisation: 1.3 M parameters on 8x8 digits.

    Takes anything of shape (n, …) whose rows have ``features`` values, and returns logits of shape (n, classes).
    """

    def __init__(self, features: int, classes: int, hidden: int = 1100) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(features, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )


class Block(nn.Module):
    """A basic block of a ResNet: two 3x3 convolutions beside a shortcut, which is projected where shapes differ."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        same = stride == 1 and inner == outer
        projection = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))
        self.shortcut = nn.Sequential() if same else projection

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of shape (n, outer, height / stride, width / stride)."""
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        return functional.relu(y + self.shortcut(x))


class ResNet18(nn.Sequential):
    """ResNet-18 for small images: it begins with a 3x3 convolution and does not pool; 11.2 M parameters.

    Takes images of shape (n, channels, height, width), and returns logits of shape (n, classes).
    """

    def __init__(self, channels: int, classes: int) -> None:
        widths = (64, 64, 64, 128, 128, 256, 256, 512, 512)
        blocks = [Block(a, b, 1 if a == b else 2) for a, b in pairwise(widths)]
        super().__init__(
            nn.Conv2d(channels, 64, 3, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(512, classes),
        )


def _cnn(channels: int, height: int, width: int, classes: int) -> nn.Module:
    return Cnn(channels, height, width, classes)


def _mlp(channels: int, height: int, width: int, classes: int) -> nn.Module:
    return Mlp(channels * height * width, classes)


def _small_mlp(channels: int, height: int, width: int, classes: int) -> nn.Module:
    return Mlp(channels * height * width, classes, hidden=64)


def _linear(channels: int, height: int, width: int, classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))


def _resnet18(channels: int, height: int, width: int, classes: int) -> nn.Module:
    return ResNet18(channels, classes)


_MODELS: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "cnn": _cnn,
    "mlp": _mlp,
    "mlp-small": _small_mlp,
    "linear": _linear,
    "resnet18": _resnet18,
}


def model_for(name: str, images: Images, seed: int) -> nn.Module:
    """Return a model for such images, the same for equal seeds; the global random state is left as it was.

    ConfigError for an unknown name, and for a model of images where there are tables.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(name, images)


def model_with(name: str, images: Images, state: dict[str, torch.Tensor]) -> nn.Module:
    """Return a model for such images with these parameters and buffers, without making initial ones first."""
    with torch.device("meta"):
        model = _build(name, images)
    model.to_empty(device="cpu").load_state_dict(state)
    return model


def _build(name: str, images: Images) -> nn.Module:
    if name not in _MODELS:
        raise ConfigError(f"run config: expected a model among {', '.join(_MODELS)}, found {name!r}")
    channels, height, width = images.pixels.shape[1:]
    if name in ("cnn", "resnet18") and min(height, width) < 2:
        found = f"{height}x{width}; tables of features need model='mlp' or 'linear'"
        raise ConfigError(f"run config: expected images of 2x2 or more for model={name!r}, found {found}")
    return _MODELS[name](channels, height, width, images.classes)
