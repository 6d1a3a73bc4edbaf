"""A real update of a ResNet-18 (He et al. 2016, arXiv:1512.03385): a few local steps of one client on the digits."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        same = stride == 1 and width == out
        shortcut = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.downsample = nn.Identity() if same else shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.downsample(x)).relu()


def resnet18(classes: int = 10) -> nn.Module:
    """Return the network for images of one channel: 11.2 M parameters."""
    stem = [nn.Conv2d(1, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    blocks = [
        Block(width, out, stride)
        for before, after, first in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
        for width, out, stride in ((before, after, first), (after, after, 1))
    ]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def update(steps: int = 12, batch: int = 32) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the state dicts before and after some steps of SGD at 0.05, the counters of the norms included."""
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].repeat_interleave(2, 2)
    labels, model = torch.tensor(digits.target), resnet18()
    before = {key: x.numpy().copy() for key, x in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for chosen in torch.randperm(len(labels))[: steps * batch].split(batch):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[chosen].repeat_interleave(2, 3)), labels[chosen]).backward()
        optimizer.step()
    return before, {key: x.numpy().copy() for key, x in model.state_dict().items()}
