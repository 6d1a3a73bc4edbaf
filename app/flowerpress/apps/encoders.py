"""Encoders that are made of the app's own models: what a client trains, without its last layer."""

from typing import Any

import torch
from torch import nn

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
