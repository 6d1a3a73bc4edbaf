"""Training a learned codec: few bits for little error. ::

    loss = rate + weight · distortion          bits per value, and mean squared error, of a batch

The quantiles that tables are made from have a loss and an optimiser of their own (Ballé et al. 2018). `finish` leads
them to their places, which no data have a part in, and makes the tables: a codec codes behind that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import nn
from torch.nn import functional

from flowerpress.errors import ConfigError
from flowerpress.latent_codecs.base import CompressionModel
from flowerpress.latent_codecs.tokens import TokenCodec

_QUANTILE = ".quantiles"
_NORM = 1.0  # the longest gradient
_AUXILIARY = 0.1  # learning rate of the quantiles
_STEPS, _NEAR = 5_000, 0.02  # most steps to their places, and how near is near enough: in logits, of 21


@dataclass(frozen=True)
class Loss:
    """What coding costs: ``rate`` in bits per value, ``distortion`` as mean squared error, and their weighted sum."""

    rate: torch.Tensor
    distortion: torch.Tensor
    weight: float

    @property
    def whole(self) -> torch.Tensor:
        """What training minimises."""
        return self.rate + self.weight * self.distortion


def loss_of(model: CompressionModel, features: torch.Tensor, weight: float, grid: tuple[int, int] | None) -> Loss:
    """Return what a batch costs: tokens of shape (b, L, C) of a grid, or planes of shape (b, 1, h, w)."""
    if isinstance(model, TokenCodec):
        if grid is None:
            raise ConfigError("expected the grid of the tokens, rows and columns")
        out = model(features, grid)
    else:
        out = model(features)
    found = out["h_hat"] if "h_hat" in out else out["x_hat"]
    bits = -torch.stack([likelihood.log2().sum() for likelihood in out["likelihoods"].values()]).sum()
    return Loss(bits / features.numel(), functional.mse_loss(found, features), weight)


def train(
    model: CompressionModel,
    features: torch.Tensor,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight: float,
    seed: int,
    grid: tuple[int, int] | None = None,
    fall: tuple[float, float] = (0.0, 0.0),
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> float:
    """Train a codec in place, on the device where it is, with Adam; return the mean loss of the last epoch.

    Parameters
    ----------
    model : CompressionModel
        A codec of tokens, or a `FeatureScaleHyperprior`.
    features : torch.Tensor
        All of them, tokens or planes, on any device.
    epochs, batch_size, learning_rate, seed
        The seed decides on the order of batches; noise comes from torch's global generator.
    weight : float
        Of the distortion: more keeps features better, in more bits.
    grid : pair of int, optional
        Rows and columns of the tokens.
    fall : pair of float
        Where on half a cosine from the learning rate to 0 training begins and ends: (0, 1) is all of it, and (0, 0)
        keeps the rate. A round of federated training is a part of it.
    on_epoch : callable
        Called with the epoch, from 0 on, and its mean loss.

    Raises
    ------
    ConfigError
        If there is nothing to train on, or it is not what the codec takes.
    """
    if not len(features):
        raise ConfigError("expected features to train on, found none")
    where = next(model.parameters()).device
    model.train()
    quantiles = [p for name, p in model.named_parameters() if name.endswith(_QUANTILE)]
    others = [p for name, p in model.named_parameters() if not name.endswith(_QUANTILE)]
    optimizer, auxiliary = torch.optim.Adam(others, learning_rate), torch.optim.Adam(quantiles, _AUXILIARY)
    generator, mean = torch.Generator().manual_seed(seed), 0.0
    batches = -(-len(features) // batch_size)
    for epoch in range(epochs):
        losses = []
        for number, batch in enumerate(_shuffled(len(features), batch_size, generator)):
            done = (epoch + number / batches) / epochs
            optimizer.param_groups[0]["lr"] = learning_rate * _fallen(fall[0] + done * (fall[1] - fall[0]))
            loss = loss_of(model, features[batch].to(where), weight, grid).whole
            _step(optimizer, loss, others)
            _step(auxiliary, model.aux_loss(), quantiles)
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        on_epoch(epoch, mean)
    return mean


@torch.no_grad()
def measure(
    model: CompressionModel, features: torch.Tensor, weight: float, grid: tuple[int, int] | None = None
) -> tuple[float, float]:
    """Return (bits per value, mean squared error) of features, as estimated without coding them."""
    where, found = next(model.parameters()).device, []
    model.eval()
    for batch in features.split(64):  # type: ignore[no-untyped-call]
        loss = loss_of(model, batch.to(where), weight, grid)
        found.append((loss.rate.item() * len(batch), loss.distortion.item() * len(batch)))
    rates, distortions = zip(*found, strict=True)
    return sum(rates) / len(features), sum(distortions) / len(features)


@torch.no_grad()
def _narrowed(model: CompressionModel) -> None:
    """Round weights to bfloat16: half of the bytes to send, for less than their noise in training."""
    for name, p in model.named_parameters():
        if not name.endswith(_QUANTILE):
            p.copy_(p.bfloat16())


def finish(model: CompressionModel) -> None:
    """Round the weights to bfloat16, lead the quantiles to their places, and make the tables.

    The codec is ready to code then, and in evaluation mode; its weights take half of the bytes.
    """
    _narrowed(model)
    quantiles = [p for name, p in model.named_parameters() if name.endswith(_QUANTILE)]
    auxiliary = torch.optim.Adam(quantiles, _AUXILIARY)
    values = sum(p.numel() for p in quantiles)
    for _ in range(_STEPS):
        loss = model.aux_loss()
        if loss.item() < _NEAR * values:
            break
        _step(auxiliary, loss, quantiles)
    model.update(force=True)
    model.eval()


def _step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, parameters: list[nn.Parameter]) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(parameters, _NORM)
    optimizer.step()


def _shuffled(n: int, batch_size: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    return iter(torch.randperm(n, generator=generator).split(batch_size))  # type: ignore[no-untyped-call]


def _fallen(place: float) -> float:
    """Return the share of the learning rate at a place from 0 to 1 on half a cosine."""
    return (1 + cos(pi * place)) / 2
