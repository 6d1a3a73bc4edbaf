"""A network for the digits of scikit-learn, and steps of SGD with a correction."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


def load_data(partition_id: int, num_partitions: int):
    """Return a node's images and labels: mostly of some digits, which is what SCAFFOLD is for."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    images, labels = images[::2], labels[::2]  # the others are for testing
    own = torch.arange(len(labels)) % num_partitions == partition_id
    own |= labels % num_partitions == partition_id
    return images[own], labels[own]


def load_test_data():
    digits = load_digits()
    return torch.tensor(digits.data[1::2] / 16, dtype=torch.float32), torch.tensor(digits.target[1::2])


def train(model: nn.Module, data, correction: dict[str, torch.Tensor], epochs: int, lr: float) -> tuple[int, float]:
    """Train with ``correction`` added to each gradient; return the number of steps, and the last loss."""
    images, labels = data
    steps, loss = 0, torch.zeros(())
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(32):
            model.zero_grad()
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    parameter -= lr * (parameter.grad + correction[name])
            steps += 1
    return steps, loss.item()


@torch.no_grad()
def accuracy(model: nn.Module, data) -> float:
    images, labels = data
    return (model(images).argmax(1) == labels).float().mean().item()
