"""Arrays as learned codecs see them: batches of images of tokens, or of planes."""

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import isfinite, prod
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from flowerpress.codecs.dtypes import Buffer
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs.coding import Decoding, Encoding
from flowerpress.latent_codecs.hyperprior import MOST_POSITIONS
from flowerpress.latent_codecs.scale import FeatureScaleHyperprior, margins, middle
from flowerpress.latent_codecs.tokens import MOST_TOKENS
from flowerpress.latent_codecs.vit import VitUnionLatentCodec

Features = NDArray[np.float32]
_BOUNDS = struct.Struct("<2f")


class How(Protocol):
    """What `learned` was told."""

    @property
    def grid(self) -> list[int] | None: ...

    @property
    def bounds(self) -> list[float] | None: ...

    @property
    def qp(self) -> int | None: ...


class Frame(ABC):
    """A codec, and how arrays of any number of images go through it."""

    @abstractmethod
    def images(self, features: torch.Tensor, how: How) -> tuple[torch.Tensor, bytes]:
        """Return the images of an array, one behind the other, and what their decoder must know; or ConfigError."""

    @abstractmethod
    def encode(self, coder: Encoding, images: torch.Tensor, how: How) -> None:
        """Give images to a coder."""

    @abstractmethod
    def count(self, shape: Sequence[int]) -> int:
        """Return how many images are in an array."""

    @abstractmethod
    def most(self, shape: Sequence[int]) -> int:
        """Return how many images of an array of this shape may go through the codec at once."""

    @abstractmethod
    def sides(self, data: Buffer) -> tuple[tuple[float, ...], Buffer]:
        """Return what the decoder must know, and the rest; ChunkError for too few bytes."""

    @abstractmethod
    def decode(self, coder: Decoding, items: int, shape: Sequence[int], how: How) -> Features:
        """Take images of an array of this shape from a coder; ConfigError for a shape that none can have."""

    def features(self, images: Features, side: tuple[float, ...]) -> Features:
        """Return the values of an array."""
        del side
        return images


class Tokens(Frame):
    """Tokens of shape (b, L, C)."""

    def __init__(self, codec: VitUnionLatentCodec) -> None:
        self.codec = codec

    def images(self, features: torch.Tensor, how: How) -> tuple[torch.Tensor, bytes]:
        self.codec.check(features[:1], self._grid(tuple(features.shape), how.grid))
        return features, b""

    def encode(self, coder: Encoding, images: torch.Tensor, how: How) -> None:
        self.codec.encode(coder, images, None, self._grid(tuple(images.shape), how.grid), how.qp)

    def count(self, shape: Sequence[int]) -> int:
        return shape[0]

    def most(self, shape: Sequence[int]) -> int:
        return MOST_TOKENS // max(1, shape[1])

    def sides(self, data: Buffer) -> tuple[tuple[float, ...], Buffer]:
        return (), data

    def decode(self, coder: Decoding, items: int, shape: Sequence[int], how: How) -> Features:
        found = self._grid(shape, how.grid)
        self.codec.check(torch.empty(1, *shape[1:], device="meta"), found)
        y_hat = self.codec.decode(coder, items, None, found)
        with torch.no_grad():
            return self.codec.synthesised(y_hat, None, found, how.qp)["h_hat"].float().cpu().numpy()

    def _grid(self, shape: Sequence[int], grid: list[int] | None) -> tuple[int, int]:
        return (grid[0], grid[1]) if grid else self.codec.square(shape[1])


class Planes(Frame):
    """Planes, which are the last two axes, of values between two bounds."""

    def __init__(self, codec: FeatureScaleHyperprior) -> None:
        self.codec = codec

    def images(self, features: torch.Tensor, how: How) -> tuple[torch.Tensor, bytes]:
        if not bool(features.isfinite().all()):
            raise ConfigError("expected finite values, found NaN or infinity")
        side = _BOUNDS.pack(*(how.bounds or (float(features.min()), float(features.max()))))
        low, high = _BOUNDS.unpack(side)
        planes = features.reshape(-1, 1, *features.shape[-2:])
        planes = (planes.clamp(low, high) - low) / ((high - low) or 1.0)
        return functional.pad(planes, margins(planes.shape[2:])), side

    def encode(self, coder: Encoding, images: torch.Tensor, how: How) -> None:
        self.codec.encode(coder, images)

    def count(self, shape: Sequence[int]) -> int:
        return prod(shape[:-2])

    def most(self, shape: Sequence[int]) -> int:
        return MOST_POSITIONS // (-(-shape[-2] // 64) * -(-shape[-1] // 64))

    def sides(self, data: Buffer) -> tuple[tuple[float, ...], Buffer]:
        if len(data) < _BOUNDS.size:
            raise ChunkError(f"expected the bounds of planes, found {len(data)} bytes")
        low, high = _BOUNDS.unpack_from(data)
        if not (isfinite(low) and isfinite(high) and low <= high):
            raise ChunkError(f"expected bounds of planes that rise, found {low} and {high}")
        return (low, high), data[_BOUNDS.size :]

    def decode(self, coder: Decoding, items: int, shape: Sequence[int], how: How) -> Features:
        height, width = shape[-2:]
        y_hat = self.codec.decode(coder, items, (-(-height // 64), -(-width // 64)))
        return middle(self.codec.synthesised(y_hat), (height, width)).float().cpu().numpy()

    def features(self, images: Features, side: tuple[float, ...]) -> Features:
        low, high = np.float32(side[0]), np.float32(side[1])
        return images * (high - low) + low
