"""Codecs of latents with a hyperprior: a few latents of the latents say how probable the others are.

Ballé et al. 2018, arXiv:1802.01436, and Minnen et al. 2018, arXiv:1809.02736. ::

    y ────────────────────────► Q ─► y_hat
    └─► h_a ─► z ─► Q ─► z_hat ─► h_s ─► params ─► scales and means of y
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeAlias, cast

import torch
from torch import nn

from flowerpress.codecs.dtypes import Buffer
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs.base import CompressionModel, LatentCodec, batch_of, in_full, size_of
from flowerpress.latent_codecs.checkerboard import parameter_net
from flowerpress.latent_codecs.coding import Coder, Decoding, Encoding, Measuring
from flowerpress.latent_codecs.entropy_models import EntropyBottleneck, GaussianConditional
from flowerpress.latent_codecs.layers import conv, deconv
from flowerpress.latent_codecs.streams import Apart, FromApart

Strings: TypeAlias = Sequence[Sequence[Buffer]]
MOST_POSITIONS = 1 << 14  # of hyper latents, in all images of a call; the bytes of `learned` depend on it


class HyperLatentCodecWithCtx(CompressionModel):
    """The branch of the hyper latents, which sees a context at both ends.

    Parameters
    ----------
    entropy_bottleneck : EntropyBottleneck
        What codes z.
    h_a, h_s : torch.nn.Module
        Called with (y, ctx) and with (z_hat, ctx), or without ctx where there is none. They make z, at whatever
        reduction, and the parameters of y.
    quantizer : str
        ``"noise"``: z_hat has the bottleneck's noise while training; ``"ste"``: it is rounded, with a gradient.
    **kwargs
        For `CompressionModel`.

    Raises
    ------
    ConfigError
        For another quantizer.
    """

    def __init__(
        self,
        entropy_bottleneck: EntropyBottleneck,
        h_a: nn.Module,
        h_s: nn.Module,
        quantizer: str = "noise",
        **kwargs: Any,  # noqa: ANN401 - the seed's
    ) -> None:
        super().__init__(**kwargs)
        if quantizer not in ("noise", "ste"):
            raise ConfigError(f"expected quantizer 'noise' or 'ste', found {quantizer!r}")
        self.entropy_bottleneck, self.h_a, self.h_s, self.quantizer = entropy_bottleneck, h_a, h_s, quantizer

    def analysed(self, coder: Coder, y: torch.Tensor, ctx: torch.Tensor | None = None) -> torch.Tensor:
        """Return z."""
        return coder.net(self.h_a)(*_given(coder, y, ctx))  # type: ignore[no-any-return]

    def walk(
        self, coder: Coder, z: torch.Tensor | None, shape: torch.Size, ctx: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Give z, of this shape, to a coder; return the parameters of y."""
        z_hat = coder.bottleneck(self.entropy_bottleneck, z, shape)
        return coder.net(self.h_s)(*_given(coder, z_hat, ctx))  # type: ignore[no-any-return]

    def shape(self, items: int, size: tuple[int, int]) -> torch.Size:
        """Return the shape of z of so many items."""
        return torch.Size((items, len(self.entropy_bottleneck.medians), *size))

    def forward(self, y: torch.Tensor, ctx: torch.Tensor | None = None) -> dict[str, Any]:
        """Return ``{"likelihoods": {"z"}, "params"}`` for y of shape (b, channels, h, w) and its context."""
        coder = Measuring(straight=self.quantizer == "ste")
        z = self.analysed(coder, y, ctx)
        params = self.walk(coder, z, z.shape, ctx)
        return {"likelihoods": {"z": coder.likelihoods[0]}, "params": params}

    @in_full
    def compress(self, y: torch.Tensor, ctx: torch.Tensor | None = None) -> dict[str, Any]:
        """Return ``{"strings": [z_strings], "shape": (h, w) of z, "params"}``."""
        streams = Apart()
        coder = Encoding(streams, exact=self.exact)
        z = self.analysed(coder, y, ctx)
        params = self.walk(coder, z, z.shape, ctx)
        return {"strings": streams.strings, "shape": tuple(z.shape[2:]), "params": params}

    @in_full
    def decompress(
        self,
        strings: Strings,
        shape: tuple[int, int],
        ctx: torch.Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401 - the seed's
    ) -> dict[str, Any]:
        """Return ``{"params"}``; ChunkError for streams that are damaged, or no batch of them."""
        del kwargs
        items = batch_of(strings, 1)
        size = size_of(shape, "the size of z", MOST_POSITIONS, items)
        coder = Decoding(FromApart(strings), exact=self.exact)
        return {"params": self.walk(coder, None, self.shape(items, size), ctx)}


def _given(coder: Coder, x: torch.Tensor, ctx: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    return (coder.cast(x),) if ctx is None else (coder.cast(x), coder.cast(ctx))


class GaussianLatentCodec(LatentCodec):
    """Latents y as Gaussians, whose scales and means a network makes of the parameters.

    Parameters
    ----------
    entropy_parameters : torch.nn.Module
        From (b, params, h, w) to (b, 2 channels, h, w): scales, then means.
    """

    lists = 1

    def __init__(self, entropy_parameters: nn.Module, *, exact: bool = True) -> None:
        super().__init__(exact=exact)
        self.gaussian_conditional, self.entropy_parameters = GaussianConditional(), entropy_parameters

    def walk(self, coder: Coder, y: torch.Tensor | None, params: torch.Tensor) -> torch.Tensor:
        scales, means = coder.net(self.entropy_parameters)(coder.cast(params)).chunk(2, 1)
        return coder.gaussian(self.gaussian_conditional, y, scales, means)

    def shape(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def joined(self, parts: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        del like
        return parts[0]


class MissingCodec(ConfigError, KeyError):
    """A codec that a mapping should have under a name, and has not."""

    __str__ = Exception.__str__  # KeyError's shows quotes


class HyperpriorLatentCodecWithCtx(CompressionModel):
    """A codec of y, and the branch that says how probable its values are.

    Parameters
    ----------
    latent_codec : mapping
        ``"hyper"``: what has the interface of `HyperLatentCodecWithCtx`; ``"y"``: what takes y and its parameters, such
        as `GaussianLatentCodec` or `flowerpress.latent_codecs.checkerboard.ChannelGroups`.
    **kwargs
        For `CompressionModel`.

    Raises
    ------
    MissingCodec
        If either is missing: a ConfigError and a KeyError.
    """

    def __init__(self, latent_codec: Mapping[str, nn.Module], **kwargs: Any) -> None:  # noqa: ANN401 - the seed's
        super().__init__(**kwargs)
        for name in ("y", "hyper"):
            if name not in latent_codec:
                raise MissingCodec(f"expected latent codecs 'y' and 'hyper', found {sorted(latent_codec)}")
            self.add_module(name, latent_codec[name])

    @classmethod
    def default(cls, N: int, M: int, **kwargs: Any) -> Self:  # noqa: ANN401 - the paper's names
        """Return the codec as it is drawn: a bottleneck for z of N channels, Gaussians for y of M, no context.

        Any context will do: these networks do not look at it.
        """
        h_a = nn.Sequential(conv(M, N, 3, 1), nn.ReLU(), conv(N, N), nn.ReLU(), conv(N, N))
        h_s = nn.Sequential(deconv(N, M), nn.ReLU(), deconv(M, M * 3 // 2), nn.ReLU(), conv(M * 3 // 2, 2 * M, 3, 1))
        hyper = HyperLatentCodecWithCtx(EntropyBottleneck(N), _Blind(h_a), _Blind(h_s), **kwargs)
        return cls({"y": GaussianLatentCodec(parameter_net(2 * M, 2 * M, 2 * M), **kwargs), "hyper": hyper}, **kwargs)

    def __getitem__(self, key: str) -> nn.Module:
        """Return the codec ``"y"`` or ``"hyper"``; MissingCodec for another name."""
        if key not in ("y", "hyper"):
            raise MissingCodec(f"expected 'y' or 'hyper', found {key!r}")
        return cast("nn.Module", getattr(self, key))

    def forward(self, y: torch.Tensor, ctx: torch.Tensor | None = None) -> dict[str, Any]:
        """Return ``{"likelihoods": {"y", "z"}, "y_hat"}`` for y of shape (b, channels, h, w) and its context."""
        hyper = self["hyper"](y, ctx)
        found = self["y"](y, hyper["params"])
        likelihoods = {"y": found["likelihoods"]["y"], "z": hyper["likelihoods"]["z"]}
        return {"likelihoods": likelihoods, "y_hat": found["y_hat"]}

    def compress(self, y: torch.Tensor, ctx: torch.Tensor | None = None) -> dict[str, Any]:
        """Return ``{"strings": [*y_strings, z_strings], "shape": {"y", "hyper"}, "y_hat"}``."""
        hyper = self["hyper"].compress(y, ctx)  # type: ignore[operator]
        found = self["y"].compress(y, hyper["params"])  # type: ignore[operator]
        shape = {"y": found["shape"], "hyper": hyper["shape"]}
        return {"strings": [*found["strings"], *hyper["strings"]], "shape": shape, "y_hat": found["y_hat"]}

    def decompress(
        self,
        strings: Strings,
        shape: Mapping[str, Any],
        ctx: torch.Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401 - the seed's
    ) -> dict[str, Any]:
        """Return ``{"y_hat"}``; ChunkError for streams that are damaged, or lists of different lengths."""
        del kwargs
        if not (isinstance(shape, Mapping) and {"y", "hyper"} <= shape.keys()):
            raise ChunkError(f"expected the shapes 'y' and 'hyper', found {shape!r}")
        batch_of(strings, len(strings))
        hyper = self["hyper"].decompress(strings[-1:], shape["hyper"], ctx)  # type: ignore[operator]
        found = self["y"].decompress(strings[:-1], shape["y"], hyper["params"])  # type: ignore[operator]
        return {"y_hat": found["y_hat"]}


class _Blind(nn.Module):
    """A network that is given a context, and does not look."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, ctx: torch.Tensor | None = None) -> torch.Tensor:
        """Return what the network makes of ``x``."""
        del ctx
        return self.net(x)  # type: ignore[no-any-return]
