"""A frozen network in bfloat16 with low-rank adapters (LoRA, Hu et al. 2021), for the digits of scikit-learn."""

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord
from sklearn.datasets import load_digits
from torch import nn

WIDTH = 128


class Adapted(nn.Module):
    """A frozen layer, and what is learnt beside it."""

    def __init__(self, frozen: nn.Linear, rank: int):
        super().__init__()
        self.frozen = frozen.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.randn(rank, frozen.in_features) / frozen.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, x):
        return self.frozen(x) + x @ self.lora_a.T @ self.lora_b.T


def make_model(rank: int) -> nn.Module:
    """Return the network that everybody has; random features from a seed stand for pretrained ones."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layers = [nn.Linear(64, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 10)]
        first, second, third = (Adapted(layer, rank) for layer in layers)
        return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third).to(torch.bfloat16)


def to_record(model: nn.Module, dtype: str) -> ArrayRecord:
    """Return the adapters, which is what is sent, in the dtype of that name."""
    adapters = {name: x for name, x in model.state_dict().items() if "lora" in name}
    return ArrayRecord({name: x.to(getattr(torch, dtype)) for name, x in adapters.items()})


def load_record(model: nn.Module, record: ArrayRecord) -> None:
    """Put the adapters where they belong; the model keeps its dtype, and the rest of its weights."""
    model.load_state_dict(record.to_torch_state_dict(), strict=False)


def load_data(partition_id: int, num_partitions: int):
    """Return a node's images and labels; the last fifth of all is the server's."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.bfloat16), torch.tensor(digits.target)
    cut = len(labels) * 4 // 5
    return images[:cut][partition_id::num_partitions], labels[:cut][partition_id::num_partitions]


def load_test_data():
    digits = load_digits()
    cut = len(digits.target) * 4 // 5
    return torch.tensor(digits.data[cut:] / 16, dtype=torch.bfloat16), torch.tensor(digits.target[cut:])


def train(model: nn.Module, data, epochs: int, lr: float) -> float:
    """Train the adapters; return the last loss."""
    images, labels = data
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    loss = torch.zeros(())
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[batch]).float(), labels[batch])
            loss.backward()
            optimizer.step()
    return loss.item()


@torch.no_grad()
def accuracy(model: nn.Module, data) -> float:
    images, labels = data
    return (model(images).argmax(1) == labels).float().mean().item()
