"""Classification: how a client trains a model and a server evaluates it. Plain torch, on a GPU if any."""

import torch
from torch import nn
from torch.nn import functional

from flowerpress.apps.data import Images


def device() -> torch.device:
    """Return the device to train on."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def train(model: nn.Module, images: Images, *, epochs: int, batch_size: int, learning_rate: float, seed: int) -> float:
    """Train in place with SGD (momentum 0.9), in an order of batches that ``seed`` decides; return the mean loss.

    A last batch of one image is left out: batch normalisation cannot train on it.
    """
    where = device()
    model.to(where).train()
    x, y = _tensors(images, where)
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)
    losses = []
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(batch_size):  # type: ignore[no-untyped-call]
            if len(batch) < 2:
                continue
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x[batch]), y[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / max(len(losses), 1)


@torch.no_grad()
def evaluate(model: nn.Module, images: Images) -> tuple[float, float]:
    """Return (mean loss, accuracy from 0 to 1)."""
    where = device()
    model.to(where).eval()
    x, y = _tensors(images, where)
    loss, right = 0.0, 0
    for pixels, labels in zip(x.split(512), y.split(512), strict=True):  # type: ignore[no-untyped-call]
        logits = model(pixels)
        loss += functional.cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(1) == labels).sum())
    return loss / len(images), right / len(images)


def _tensors(images: Images, where: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(images.pixels).to(where), torch.from_numpy(images.labels).to(where)
