"""A convolutional network for the digits of scikit-learn that stays near the models of two rounds."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(12 * 6 * 6, 10)

    def forward(self, x):
        return self.head(self.body(x))


def load_data(partition_id: int, num_partitions: int):
    """Return training images and labels, then those for tests: the second node has twice what the first has, and on."""
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    share = len(labels) / (num_partitions * (num_partitions + 1) / 2)
    start = int(share * partition_id * (partition_id + 1) / 2)
    stop = int(start + share * (partition_id + 1))
    images, labels = images[start:stop], labels[start:stop]
    return images[:-80], labels[:-80], images[-80:], labels[-80:]


def train(net: nn.Module, images, labels, lr: float, anchors: list[dict[str, torch.Tensor]], proximal: float):
    """Train for an epoch, drawn to the anchors; return the loss of each batch."""
    net.train()
    losses = []
    for batch in torch.randperm(len(labels)).split(16):
        net.zero_grad()
        loss = F.cross_entropy(net(images[batch]), labels[batch])
        loss.backward()
        with torch.no_grad():
            for name, parameter in net.named_parameters():
                pull = sum((parameter - anchor[name] for anchor in anchors), torch.zeros_like(parameter))
                parameter -= lr * (parameter.grad + proximal * pull)
        losses.append(loss.item())
    return losses


@torch.no_grad()
def accuracy_by_class(net: nn.Module, images, labels) -> list[float]:
    net.eval()
    right = (net(images).argmax(1) == labels).float()
    return [right[labels == label].mean().nan_to_num(0.0).item() for label in range(10)]
