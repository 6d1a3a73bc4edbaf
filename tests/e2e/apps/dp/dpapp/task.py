"""A network for the digits of scikit-learn: no batch normalisation, whose statistics nobody would clip."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(64, 128)
        self.norm = nn.LayerNorm(128)
        self.out = nn.Linear(128, 10)

    def forward(self, x):
        return self.out(F.relu(self.norm(self.hidden(x))))


def load_data(partition_id: int, num_partitions: int):
    """Return the training and test batches of one node."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
    images, labels = images[partition_id::num_partitions], labels[partition_id::num_partitions]
    cut = len(labels) * 4 // 5
    train = DataLoader(TensorDataset(images[:cut], labels[:cut]), batch_size=32, shuffle=True)
    return train, DataLoader(TensorDataset(images[cut:], labels[cut:]), batch_size=64)


def train(net: Net, batches: DataLoader, epochs: int) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net.train()
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()


@torch.no_grad()
def test(net: Net, batches: DataLoader) -> float:
    """Return the accuracy."""
    net.eval()
    return sum((net(x).argmax(1) == y).sum().item() for x, y in batches) / len(batches.dataset)
