"""Training a learned codec: few bits for little error. ::

    loss = rate + weight · (distortion + head_weight · divergence)

rate is in bits per value, distortion the mean squared error of features, and divergence how differently a classifier
decides on them (Kullback-Leibler, in nats; Hinton et al. 2015, arXiv:1503.02531): who knows what features are for needs
fewer bits for that.

The quantiles that tables are made from have a loss and an optimiser of their own (Ballé et al. 2018). `finish` leads
them to their places, which no data have a part in, and makes the tables: a codec codes behind that.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import cos, pi
from typing import TypeAlias

import torch
from torch import nn
from torch.nn import functional

from flowerpress.errors import ConfigError
from flowerpress.latent_codecs.base import CompressionModel
from flowerpress.latent_codecs.tokens import TokenCodec

Head: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
_QUANTILE = ".quantiles"
_NORM = 1.0  # the longest gradient
_AUXILIARY = 0.1  # learning rate of the quantiles
_STEPS, _NEAR = 5_000, 0.02  # most steps to their places, and how near is near enough: in logits, of 21


@dataclass(frozen=True)
class Cost:
    """What coding costs: bits per value, mean squared error, and divergence of decisions, 0 without a head."""

    rate: torch.Tensor
    distortion: torch.Tensor
    divergence: torch.Tensor


@dataclass(frozen=True)
class Aim:
    """What training minimises.

    Parameters
    ----------
    weight : float
        Of the error beside the rate: more keeps features better, in more bits.
    head : callable, optional
        From features to logits (b, classes): what they are for.
    head_weight : float
        Of the divergence of what the head says, beside the mean squared error.
    """

    weight: float = 1.0
    head: Head | None = None
    head_weight: float = 0.0

    def whole(self, cost: Cost) -> torch.Tensor:
        """Return the loss."""
        return cost.rate + self.weight * (cost.distortion + self.head_weight * cost.divergence)

    def cost(self, model: CompressionModel, features: torch.Tensor, grid: tuple[int, int] | None) -> Cost:
        """Return what a batch costs: tokens of shape (b, L, C) of a grid, or planes of shape (b, 1, h, w)."""
        if isinstance(model, TokenCodec) and grid is None:
            raise ConfigError("expected the grid of the tokens, rows and columns")
        out = model(features, grid) if isinstance(model, TokenCodec) else model(features)
        found = out["h_hat"] if "h_hat" in out else out["x_hat"]
        bits = -torch.stack([likelihood.log2().sum() for likelihood in out["likelihoods"].values()]).sum()
        divergence = _divergence(self.head, features, found) if self.head else bits.new_zeros(())
        return Cost(bits / features.numel(), functional.mse_loss(found, features), divergence)


def _divergence(head: Head, features: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        wanted = head(features).softmax(1)
    return functional.kl_div(head(found).log_softmax(1), wanted, reduction="batchmean")


def train(
    model: CompressionModel,
    features: torch.Tensor,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    aim: Aim,
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
    aim : Aim
        What is to be minimised.
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
            loss = aim.whole(aim.cost(model, features[batch].to(where), grid))
            _step(optimizer, loss, others)
            _step(auxiliary, model.aux_loss(), quantiles)
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        on_epoch(epoch, mean)
    return mean


@torch.no_grad()
def measure(model: CompressionModel, features: torch.Tensor, aim: Aim, grid: tuple[int, int] | None = None) -> Cost:
    """Return what features cost, as estimated without coding them."""
    where, found, shares = next(model.parameters()).device, [], []
    model.eval()
    for batch in features.split(64):  # type: ignore[no-untyped-call]
        cost = aim.cost(model, batch.to(where), grid)
        found.append(torch.stack([cost.rate, cost.distortion, cost.divergence]))
        shares.append(len(batch) / len(features))
    return Cost(*(torch.tensor(shares).to(where) @ torch.stack(found)))


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
