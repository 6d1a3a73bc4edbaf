"""How symbols become streams: one for each part and each item of a batch, or one for everything."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from flowerpress.codecs.dtypes import Buffer
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs.rans import Decoder, Encoder, Ints, Tables

if TYPE_CHECKING:
    import torch


class Writer(Protocol):
    """Where symbols go."""

    def put(self, symbols: Ints, indexes: Ints, tables: Tables) -> None:
        """Take symbols of a batch, (b, n), each with the row of its table."""


class Reader(Protocol):
    """Where symbols come from."""

    def get(self, indexes: Ints, tables: Tables) -> Ints:
        """Return symbols of a batch, (b, n), one for each row of a table."""


class Apart:
    """A stream for each part and each item of the batch: what CompressAI's codecs make."""

    def __init__(self) -> None:
        self.strings: list[list[bytes]] = []

    def put(self, symbols: Ints, indexes: Ints, tables: Tables) -> None:
        """Add a list of streams, one for each item."""
        self.strings.append([])
        for item, rows in zip(symbols, indexes, strict=True):
            encoder = Encoder()
            encoder.put(item, rows, tables)
            self.strings[-1].append(encoder.finish())


class FromApart:
    """Streams of parts and items, in the order of the walk."""

    def __init__(self, strings: Sequence[Sequence[Buffer]]) -> None:
        self._left = list(reversed(strings))

    def get(self, indexes: Ints, tables: Tables) -> Ints:
        """Return what the next list of streams holds."""
        strings, found = self._left.pop(), []
        if len(strings) != len(indexes):
            raise ChunkError(f"expected a stream for each of {len(indexes)} items, found {len(strings)}")
        for string, rows in zip(strings, indexes, strict=True):
            decoder = Decoder(string)
            found.append(decoder.get(rows, tables))
            decoder.finish()
        return np.array(found, np.int64).reshape(indexes.shape)


class Together:
    """One stream for everything: 8 bytes for a whole batch, not for each part of each item."""

    def __init__(self) -> None:
        self._encoder = Encoder()

    def put(self, symbols: Ints, indexes: Ints, tables: Tables) -> None:
        """Add symbols behind those before them."""
        self._encoder.put(symbols.ravel(), indexes.ravel(), tables)

    def finish(self) -> bytes:
        """Return the stream."""
        return self._encoder.finish()


class FromTogether:
    """The one stream of everything."""

    def __init__(self, stream: Buffer) -> None:
        self._decoder = Decoder(stream)

    def get(self, indexes: Ints, tables: Tables) -> Ints:
        """Return the next symbols."""
        return self._decoder.get(indexes.ravel(), tables).reshape(indexes.shape)

    def finish(self) -> None:
        """Raise ChunkError if anything is left."""
        self._decoder.finish()


def numbers(x: "torch.Tensor") -> Ints:
    """Return the items of a batch as integers on the host, (b, n); ConfigError for what no 64 bits hold."""
    flat = x.reshape(len(x), -1).cpu().numpy()
    if flat.dtype.kind == "f" and not (np.abs(flat) < 2.0**62).all():
        raise ConfigError("expected latents that are finite, found NaN, infinity or more than 2**62")
    return flat.astype(np.int64)
