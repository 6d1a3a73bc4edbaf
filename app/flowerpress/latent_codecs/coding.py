"""The three ways through a latent codec: measuring it while it is trained, encoding, and decoding.

A codec is written once, as a walk over its latents, and gives what it meets to one of these. Encoder and decoder cannot
go different ways then. ::

    codec.walk(coder, y, …)     at each part of y: coder.gaussian(model, y, scales, means) ──► y_hat
        Measuring               likelihoods, and values with a gradient
        Encoding                symbols go to streams; y_hat is what the decoder will have
        Decoding                symbols come from streams; there is no y

What they take and give is float64 on the grid of `flowerpress.latent_codecs.twins` where coding is exact, else float32.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
import xxhash
from torch import nn

from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs.entropy_models import EntropyBottleneck, GaussianConditional, rounded_beside
from flowerpress.latent_codecs.rans import Ints
from flowerpress.latent_codecs.streams import Reader, Writer, numbers
from flowerpress.latent_codecs.twins import on_grid, twin

_UNITS = 1 << 16  # of the grid, in 1


class Coder(ABC):
    """What a walk over latents talks to."""

    @abstractmethod
    def net(self, module: nn.Module) -> nn.Module:
        """Return what is to be run of a network: itself, or its twin."""

    def cast(self, x: torch.Tensor) -> torch.Tensor:
        """Return values as these networks take them."""
        return x

    @abstractmethod
    def bottleneck(self, model: EntropyBottleneck, z: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
        """Code feature maps of ``shape``, (b, channels, h, w), and return what the decoder has of them."""

    @abstractmethod
    def gaussian(
        self, model: GaussianConditional, y: torch.Tensor | None, scales: torch.Tensor, means: torch.Tensor
    ) -> torch.Tensor:
        """Code values in the shape of their scales and means, and return what the decoder has of them."""


class Measuring(Coder):
    """Runs the networks as they are.

    Parameters
    ----------
    straight : bool
        Whether hyper latents are rounded, with a gradient, or have noise while training ("ste" or "noise").

    Attributes
    ----------
    likelihoods : list of tensors
        Those of each part, in the order of the walk.
    """

    def __init__(self, *, straight: bool) -> None:
        self.straight, self.likelihoods = straight, list[torch.Tensor]()

    def net(self, module: nn.Module) -> nn.Module:
        return module

    def bottleneck(self, model: EntropyBottleneck, z: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
        noisy, likelihood = model(z)
        self.likelihoods.append(likelihood)
        return rounded_beside(_given(z), model.medians[:, None, None]) if self.straight else noisy

    def gaussian(
        self, model: GaussianConditional, y: torch.Tensor | None, scales: torch.Tensor, means: torch.Tensor
    ) -> torch.Tensor:
        _, likelihood = model(y, scales, means)
        self.likelihoods.append(likelihood)
        return rounded_beside(_given(y), means)


class _Coding(Coder):
    """What encoding and decoding share: the arithmetic, and the checksums of what both must have."""

    _error: type[ValueError] = ConfigError  # for what networks make of latents, if that is no number

    def __init__(self, *, exact: bool) -> None:
        self._exact, self._digests = exact, list[xxhash.xxh3_64]()

    def net(self, module: nn.Module) -> nn.Module:
        return twin(module) if self._exact else module

    def cast(self, x: torch.Tensor) -> torch.Tensor:
        return x.double() if self._exact else x.float()

    def checksums(self) -> list[str]:
        """Return, for each item of the batch, 16 hexadecimal digits of what encoder and decoder must agree on."""
        return [digest.hexdigest() for digest in self._digests]

    def _centre(self, model: EntropyBottleneck) -> torch.Tensor:
        medians = model.medians[:, None, None]
        return on_grid(medians) if self._exact else medians

    def _rows(self, model: GaussianConditional, scales: torch.Tensor, means: torch.Tensor) -> Ints:
        if not (bool(scales.isfinite().all()) and bool(means.isfinite().all())):
            raise self._error("expected finite scales and means, found NaN or infinity")
        return numbers(model.build_indexes(scales))

    def _agreed(self, symbols: Ints, centre: torch.Tensor, like: torch.Tensor | torch.Size) -> torch.Tensor:
        """Return symbols beside their centres, and note them: to the bit where coding is exact."""
        shape = like if isinstance(like, torch.Size) else like.shape
        values = torch.from_numpy(symbols).reshape(shape).to(centre.device, centre.dtype) + centre
        noted = numbers(values * _UNITS) if self._exact else symbols
        self._digests = self._digests or [xxhash.xxh3_64() for _ in noted]
        for digest, item in zip(self._digests, noted, strict=True):
            digest.update(np.ascontiguousarray(item, "<i8").data)
        return values


class Encoding(_Coding):
    """Gives the symbols of latents to a writer."""

    def __init__(self, writer: Writer, *, exact: bool) -> None:
        super().__init__(exact=exact)
        self._writer = writer

    def bottleneck(self, model: EntropyBottleneck, z: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
        centre = self._centre(model)
        symbols = numbers((_given(z) - centre).round())
        self._writer.put(symbols, numbers(model.channel_of(shape)), model.tables)
        return self._agreed(symbols, centre, shape)

    def gaussian(
        self, model: GaussianConditional, y: torch.Tensor | None, scales: torch.Tensor, means: torch.Tensor
    ) -> torch.Tensor:
        rows, symbols = self._rows(model, scales, means), numbers((_given(y) - means).round())
        self._writer.put(symbols, rows, model.tables)
        return self._agreed(symbols, means, means)


class Decoding(_Coding):
    """Takes the symbols of latents from a reader."""

    _error = ChunkError

    def __init__(self, reader: Reader, *, exact: bool) -> None:
        super().__init__(exact=exact)
        self._reader = reader

    def bottleneck(self, model: EntropyBottleneck, z: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
        symbols = self._reader.get(numbers(model.channel_of(shape)), model.tables)
        return self._agreed(symbols, self._centre(model), shape)

    def gaussian(
        self, model: GaussianConditional, y: torch.Tensor | None, scales: torch.Tensor, means: torch.Tensor
    ) -> torch.Tensor:
        rows = self._rows(model, scales, means)
        return self._agreed(self._reader.get(rows, model.tables), means, means)

    def check(self, checksums: object) -> None:
        """Raise ChunkError if an item is none of those whose checksums these are; None means that nobody knows."""
        known = {str(c) for c in checksums} if isinstance(checksums, Sequence) else set()
        if checksums is not None and not known.issuperset(self.checksums()):
            raise ChunkError(
                f"expected latents with the checksums {sorted(known)[:3]}, found {self.checksums()[:3]}: "
                "the streams are damaged, or of other weights, or another context"
            )


def _given(latents: torch.Tensor | None) -> torch.Tensor:
    """Return latents, which only a decoder has not; TypeError for none."""
    if latents is None:
        raise TypeError("expected latents to code, found none")
    return latents
