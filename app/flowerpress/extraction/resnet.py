"""The residual networks of SupContrast (He et al., 2015, arXiv:1512.03385; Khosla et al., 2020, arXiv:2004.11362).

They are those for small images: a first convolution of 3x3 with stride 1, and no pooling behind it. Names of parameters
are those of published checkpoints.
"""

import torch
from torch import nn
from torch.nn import functional


class Basic(nn.Module):
    """Two convolutions of 3x3, of ResNet-18 and 34: (n, channels, h, w) to (n, width, h / stride, w / stride)."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(channels, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output for a batch of feature maps."""
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1, of ResNet-50 and 101: (n, channels, h, w) to (n, 4 width, h / stride, w / stride)."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(channels, 4 * width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output for a batch of feature maps."""
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        return functional.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


BLOCKS: dict[str, tuple[type[Basic | Bottleneck], tuple[int, ...]]] = {
    "resnet18": (Basic, (2, 2, 2, 2)),
    "resnet34": (Basic, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
}


class ResNet(nn.Module):
    """Images of shape (n, 3, h, w) to features of shape (n, features): 512, or 2048 from ResNet-50 on."""

    def __init__(self, name: str) -> None:
        super().__init__()
        block, depths = BLOCKS[name]
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        channels = 64
        for i, depth in enumerate(depths):
            width, blocks = 64 << i, []
            for j in range(depth):
                blocks.append(block(channels, width, 2 if i and not j else 1))
                channels = width * block.expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.features = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the means of the last feature maps."""
        x = functional.relu(self.bn1(self.conv1(x)))
        for i in range(1, 5):
            x = getattr(self, f"layer{i}")(x)
        return x.mean((2, 3))


class SupConResNet(nn.Module):
    """An encoder and a head of two layers, whose outputs have length 1.

    Parameters
    ----------
    name : str
        ``"resnet18"``, ``"resnet34"``, ``"resnet50"`` or ``"resnet101"``.
    feat_dim : int
        Length of a latent vector.
    """

    def __init__(self, name: str = "resnet50", feat_dim: int = 128) -> None:
        super().__init__()
        self.encoder = ResNet(name)
        width = self.encoder.features
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, feat_dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return latents of shape (n, feat_dim) for images of shape (n, 3, h, w)."""
        return functional.normalize(self.head(self.encoder(x)), dim=1)


def _shortcut(channels: int, out: int, stride: int) -> nn.Sequential:
    """Return what makes a block's input fit its output: nothing where it does already."""
    if stride == 1 and channels == out:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
