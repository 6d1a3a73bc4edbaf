"""Image classification with a small CNN: what a client trains and a server evaluates. Plain torch, on a GPU if any."""

import torch
from torch import nn
from torch.nn import functional

from flowerpress.apps.data import Images


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


def model_for(images: Images, seed: int) -> Cnn:
    """Return a model for such images, the same for equal seeds; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, channels, height, width = images.pixels.shape
        return Cnn(channels, height, width, images.classes)


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
