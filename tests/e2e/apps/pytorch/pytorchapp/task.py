"""A CNN, the digits that come with scikit-learn, training and testing."""

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

HELD_OUT = 297  # images that only the server tests on


class Net(nn.Module):
    """Two convolutions with batch normalisation, and two layers on top."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.fc1 = nn.Linear(32 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def _digits():
    digits = load_digits()
    order = np.random.default_rng(42).permutation(len(digits.target))
    images = torch.tensor(digits.images[order] / 16, dtype=torch.float32).unsqueeze(1)
    return images, torch.tensor(digits.target[order])


def load_data(partition_id, num_partitions):
    """Return the training and validation batches of one partition."""
    images, labels = (x[HELD_OUT:][partition_id::num_partitions] for x in _digits())
    cut = len(labels) * 4 // 5
    train = DataLoader(TensorDataset(images[:cut], labels[:cut]), batch_size=32, shuffle=True)
    return train, DataLoader(TensorDataset(images[cut:], labels[cut:]), batch_size=32)


def load_held_out():
    """Return the batches that the server tests on."""
    images, labels = (x[:HELD_OUT] for x in _digits())
    return DataLoader(TensorDataset(images, labels), batch_size=128)


def train(net, loader, epochs, lr, device):
    """Train for some epochs, and return the mean loss of the batches."""
    net.to(device).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)
    total = 0.0
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(net(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / (epochs * len(loader))


def test(net, loader, device):
    """Return the mean loss and the accuracy."""
    net.to(device).eval()
    loss, correct, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in loader:
            outputs, labels = net(images.to(device)), labels.to(device)
            loss += F.cross_entropy(outputs, labels, reduction="sum").item()
            correct += (outputs.argmax(1) == labels).sum().item()
            count += len(labels)
    return loss / count, correct / count
