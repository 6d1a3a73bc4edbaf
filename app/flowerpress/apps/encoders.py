"""Encoders that are made of the app's own models: what a client trains, without its last layers."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from flowerpress.apps.models import Cnn


class Digits(Cnn):
    """The CNN of 0.2 M parameters for images of 8x8 pixels, up to its 176 features.

    Names of parameters are those of the model that the classification task saves. Of three equal channels, which is
    what grey images become in `flowerpress.extraction.hdf5`, it sees one.
    """

    def __init__(self) -> None:
        super().__init__(channels=1, height=8, width=8, classes=1)
        self.fc2 = nn.Identity()  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of shape (n, 176) for images of shape (n, 3, 8, 8)."""
        return super().forward(x[:, :1]).relu()


def digits(opt: Any) -> nn.Module:  # noqa: ANN401 - options, which it does not need
    """Return the encoder of digits; see `flowerpress.extraction.models.model_for`."""
    return Digits()


class DigitsMaps(Cnn):
    """The same CNN up to its last feature maps, 16 tokens of 64 channels, in rows.

    Attributes
    ----------
    head : method
        What is behind them in the classifier.
    """

    def __init__(self) -> None:
        super().__init__(channels=1, height=8, width=8, classes=10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return tokens of shape (n, 16, 64) for images of shape (n, 3, 8, 8)."""
        x = functional.relu(self.norm1(self.conv1(x[:, :1])))
        return self.pool(functional.relu(self.norm2(self.conv2(x)))).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]

    def head(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (n, 10) for tokens."""
        return self.fc2(functional.relu(self.fc1(tokens.transpose(1, 2).flatten(1))))  # type: ignore[no-any-return]


def digits_maps(opt: Any) -> nn.Module:  # noqa: ANN401 - options, which it does not need
    """Return the encoder of digits up to its feature maps; see `flowerpress.extraction.models.model_for`."""
    return DigitsMaps()
