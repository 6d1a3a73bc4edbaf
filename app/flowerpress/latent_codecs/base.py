"""What learned codecs share: models with tables to update, and latent codecs inside of them."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import nn

from flowerpress.codecs.dtypes import Buffer
from flowerpress.errors import ChunkError
from flowerpress.latent_codecs.coding import Coder, Decoding, Encoding, Measuring
from flowerpress.latent_codecs.entropy_models import EntropyBottleneck, EntropyModel
from flowerpress.latent_codecs.streams import Apart, FromApart
from flowerpress.latent_codecs.twins import forget

F = TypeVar("F", bound=Callable[..., Any])


class CompressionModel(nn.Module):
    """A network that ends in streams.

    Parameters
    ----------
    exact : bool
        Whether streams are coded in exact arithmetic, and decode everywhere. Streams of other software, and of
        ``exact=False``, are coded in float32, and decode where nothing differs by a bit from where they were made.
    """

    def __init__(self, *, exact: bool = True) -> None:
        super().__init__()
        self.exact = exact

    def update(self, force: bool = False) -> bool:
        """Make the tables of all entropy models, as is due after training; False if all have some, unless ``force``."""
        forget(self)
        models = [part for part in self.modules() if isinstance(part, EntropyModel)]
        return sum(model.update(force) for model in models) > 0

    def aux_loss(self) -> torch.Tensor:
        """Return the loss of the quantiles that tables are made from; an optimiser of its own minimises it."""
        models = (part for part in self.modules() if isinstance(part, EntropyBottleneck))
        return torch.stack([model.loss() for model in models]).sum()


def in_full(method: F) -> F:
    """Make a method of a module run without gradients, and in full precision whatever autocast is around it."""

    @wraps(method)
    def run(self: nn.Module, *args: object, **kwargs: object) -> object:
        where = next(self.parameters()).device.type
        with torch.no_grad(), torch.autocast(where, enabled=False):
            return method(self, *args, **kwargs)

    return cast("F", run)


class LatentCodec(CompressionModel):
    """A codec of latents y of shape (b, channels, h, w), given parameters that somebody else derives.

    Attributes
    ----------
    lists : int
        How many lists of streams it makes.
    """

    lists: int

    @abstractmethod
    def walk(self, coder: Coder, y: torch.Tensor | None, params: torch.Tensor) -> torch.Tensor:
        """Give all of y to a coder; return what the decoder has of it."""

    @abstractmethod
    def joined(self, parts: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """Return what a coder noted of each part as one tensor of the shape of y; ``like`` has its height and width."""

    @abstractmethod
    def shape(self, size: tuple[int, int]) -> object:
        """Return what `compress` says of the shape of y."""

    def forward(self, y: torch.Tensor, params: torch.Tensor) -> dict[str, Any]:
        """Return ``{"likelihoods": {"y"}, "y_hat"}``."""
        coder = Measuring(straight=True)
        y_hat = self.walk(coder, y, params)
        return {"likelihoods": {"y": self.joined(coder.likelihoods, y)}, "y_hat": y_hat}

    @in_full
    def compress(self, y: torch.Tensor, params: torch.Tensor) -> dict[str, Any]:
        """Return ``{"strings": lists of streams, "shape", "y_hat"}``."""
        streams = Apart()
        y_hat = self.walk(Encoding(streams, exact=self.exact), y, params)
        return {"strings": streams.strings, "shape": self.shape(_size(y)), "y_hat": y_hat.to(y.dtype)}

    @in_full
    def decompress(self, strings: Sequence[Sequence[Buffer]], shape: object, params: torch.Tensor) -> dict[str, Any]:
        """Return ``{"y_hat"}``; ChunkError for streams that are damaged, or of another shape than the parameters'."""
        if batch_of(strings, self.lists) != len(params) or plain(shape) != plain(self.shape(_size(params))):
            raise ChunkError(f"expected streams of shape {self.shape(_size(params))}, found {shape!r}")
        y_hat = self.walk(Decoding(FromApart(strings), exact=self.exact), None, params)
        return {"y_hat": y_hat.to(next(self.parameters()).dtype)}


def _size(x: torch.Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def plain(x: object) -> object:
    """Return nested sequences as lists: JSON makes those of tuples."""
    return list(map(plain, x)) if isinstance(x, list | tuple) else x


def batch_of(strings: object, lists: int) -> int:
    """Return of how many items these are the streams; ChunkError if they are not so many lists of equal length."""
    found = _listed(strings)
    inner = [_listed(streams) for streams in found or ()]
    lengths = {len(streams or ()) for streams in inner}
    if len(inner) != lists or len(lengths) != 1 or lengths == {0}:
        raise ChunkError(f"expected {lists} lists of a stream for each item, found {len(inner)} of {sorted(lengths)}")
    if not all(isinstance(stream, Buffer) for streams in inner for stream in streams or ()):
        raise ChunkError("expected streams as bytes")
    return lengths.pop()


def size_of(shape: object, name: str, most: int, items: int = 1) -> tuple[int, int]:
    """Return a height and a width that came with streams; ChunkError if all items have more than ``most`` positions."""
    sides = _listed(shape) or ()
    if len(sides) != 2 or not all(type(n) is int and n > 0 for n in sides):
        raise ChunkError(f"expected {name} of two numbers above 0, found {shape!r}")
    height, width = sides
    if items * height * width > most:
        raise ChunkError(f"expected {name} of {most} positions at most in all, found {items} of {height} x {width}")
    return height, width


def _listed(x: object) -> Sequence[Any] | None:
    return x if isinstance(x, list | tuple) else None
