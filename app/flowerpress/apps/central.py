"""A learned codec, trained on one machine on features that are in a file."""

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flowerpress.apps.gathered import ZARR
from flowerpress.arrays.files import arrays_to_file, check_target
from flowerpress.errors import ConfigError
from flowerpress.latent_codecs.weights import MODELS, SCALE, VIT, install

if TYPE_CHECKING:
    import torch

    from flowerpress.latent_codecs.base import CompressionModel

_LATENTS = "latents"


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a codec is trained; see `flowerpress.latent_codecs.training.train`.

    ``channels``, ``hyper_channels`` and ``groups`` are those of y, of z, and of each group of y; ``prefix`` is how many
    tokens are before the patches, ``grid`` the rows and columns of these, a square by default. Raises ConfigError for
    numbers that are not finite.
    """

    model: str
    weight: float
    epochs: int
    batch_size: int
    learning_rate: float
    channels: int
    hyper_channels: int
    groups: int
    prefix: int
    grid: tuple[int, int] | None
    seed: int
    held_out: float

    def __post_init__(self) -> None:
        for name in ("weight", "learning_rate", "held_out"):
            if not isfinite(value := getattr(self, name)):
                raise ConfigError(f"{name.replace('_', '-')}: expected a finite number, found {value}")


@dataclass(frozen=True)
class Trained:
    """What came of it: the digest of the weights, and bits per value and mean squared error of held-out features."""

    digest: str
    rate: float
    distortion: float
    parameters: int


def train_codec(
    source: Path, target: Path, training: Training, on_epoch: Callable[[int, float], None] = lambda epoch, loss: None
) -> Trained:
    """Train a codec on the features in ``source``, write its weights to ``target``, and keep them on this machine.

    Parameters
    ----------
    source : Path
        An ``.npy`` file, a Zarr array, or the folder of a run that gathered latents: tokens of shape (n, L, C), or
        planes of shape (n, h, w) with values from 0 to 1 and sides that 64 divides.
    target : Path
        A file of any kind that `flowerpress.arrays.files` writes, in a folder that is there.

    Raises
    ------
    ConfigError
        For features that the codec cannot take, or none; for another target, before anything is trained.
    """
    import torch

    from flowerpress.apps.classify import device
    from flowerpress.latent_codecs.training import Aim, finish, measure, train

    check_target(target)  # now, and not when the codec is trained
    features = torch.from_numpy(_features(source))
    features = features[:, None] if training.model == SCALE else features  # planes have one channel
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(training.seed))
    cut = max(1, round(training.held_out * len(features)))
    held_out, rest = features[order[:cut]], features[order[cut:]]
    aim = Aim(training.weight)
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        model, grid = _made(features, training)
        model.to(device())
        train(
            model,
            rest,
            epochs=training.epochs,
            batch_size=training.batch_size,
            learning_rate=training.learning_rate,
            aim=aim,
            seed=training.seed,
            grid=grid,
            fall=(0.0, 1.0),
            on_epoch=on_epoch,
        )
    finish(model)
    cost = measure(model, held_out, aim, grid)
    weights = model.cpu().state_dict()
    arrays_to_file(weights, target)
    return Trained(
        install(weights), cost.rate.item(), cost.distortion.item(), sum(p.numel() for p in model.parameters())
    )


def _features(source: Path) -> "np.ndarray[Any, np.dtype[np.float32]]":
    from flowerpress.arrays.places import place_of

    inside = source / ZARR / _LATENTS
    try:
        if source.suffix == ".npy":
            found = np.asarray(np.load(source, allow_pickle=False))
        else:
            found = np.asarray(place_of(inside if inside.is_dir() else source).open()[...])
    except (OSError, ValueError, EOFError) as error:  # of numpy and of Zarr
        wanted = "an .npy file, a Zarr array, or the folder of a run that gathered latents"
        raise ConfigError(f"{source}: expected {wanted}, found none that can be read: {error}") from error
    if found.ndim != 3 or found.dtype.kind != "f" or not np.isfinite(found).all() or len(found) < 2:
        raise ConfigError(f"{source}: expected two or more finite features (n, …, …), found {found.dtype}{found.shape}")
    features: np.ndarray[Any, np.dtype[np.float32]] = found.astype(np.float32)
    return features


def _made(features: "torch.Tensor", training: Training) -> "tuple[CompressionModel, tuple[int, int] | None]":
    """Return a codec for such features, and the grid of their tokens."""
    from flowerpress.latent_codecs.scale import FeatureScaleHyperprior
    from flowerpress.latent_codecs.vit import VitUnionLatentCodec

    channels, of_z = training.channels, training.hyper_channels
    if training.model == SCALE:
        return FeatureScaleHyperprior(of_z, channels), None
    if training.model != VIT:
        raise ConfigError(f"expected a model among {', '.join(MODELS)}, found {training.model!r}")
    codec = VitUnionLatentCodec(features.shape[2], channels, of_z, training.groups, training.prefix)
    return codec, training.grid or codec.square(features.shape[1])
