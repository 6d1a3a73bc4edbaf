"""Codecs with a hyperprior: a few latents of latents say how wide the distributions of the others are.

Ballé et al. 2018, arXiv:1802.01436. ::

    x ─► g_a ─► y ─────────► Q ─► y_hat ─► g_s ─► x_hat
                └─► h_a ─► z ─► Q ─► z_hat ─► h_s ─► scales, means of y
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeAlias, cast

import torch
from torch import nn
from torch.nn import functional

from flowerpress.codecs.dtypes import Buffer
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs.base import CompressionModel, LatentCodec, batch_of, size_of
from flowerpress.latent_codecs.checkerboard import parameter_net
from flowerpress.latent_codecs.coding import Coder, Decoding, Encoding, Measuring
from flowerpress.latent_codecs.entropy_models import EntropyBottleneck, GaussianConditional
from flowerpress.latent_codecs.layers import GDN, conv, deconv
from flowerpress.latent_codecs.streams import Apart, FromApart

Strings: TypeAlias = Sequence[Sequence[Buffer]]
MOST_POSITIONS = 1 << 14  # of hyper latents, in one image


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

    @torch.no_grad()
    def compress(self, y: torch.Tensor, ctx: torch.Tensor | None = None) -> dict[str, Any]:
        """Return ``{"strings": [z_strings], "shape": (h, w) of z, "params"}``."""
        streams = Apart()
        coder = Encoding(streams, exact=self.exact)
        z = self.analysed(coder, y, ctx)
        params = self.walk(coder, z, z.shape, ctx)
        return {"strings": streams.strings, "shape": tuple(z.shape[2:]), "params": params}

    @torch.no_grad()
    def decompress(
        self,
        strings: Strings,
        shape: tuple[int, int],
        ctx: torch.Tensor | None = None,
        **kwargs: Any,  # noqa: ANN401 - the seed's
    ) -> dict[str, Any]:
        """Return ``{"params"}``; ChunkError for streams that are damaged, or no batch of them."""
        del kwargs
        items, size = batch_of(strings, 1), size_of(shape, "the size of z", MOST_POSITIONS)
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


class FeatureScaleHyperprior(CompressionModel):
    """One plane of features, such as `flowerpress.latent_codecs.planes` packs, by a scale hyperprior.

    Parameters
    ----------
    N : int
        Channels of the main network.
    M : int
        Channels of y.
    **kwargs
        For `CompressionModel`.
    """

    def __init__(self, N: int, M: int, **kwargs: Any) -> None:  # noqa: ANN401 - the seed's
        super().__init__(**kwargs)
        self.entropy_bottleneck = EntropyBottleneck(N)
        self.g_a = nn.Sequential(conv(1, N), GDN(N), conv(N, N), GDN(N), conv(N, N), GDN(N), conv(N, M))
        inverse = [GDN(N, inverse=True) for _ in range(3)]
        self.g_s = nn.Sequential(
            deconv(M, N), inverse[0], deconv(N, N), inverse[1], deconv(N, N), inverse[2], deconv(N, 1)
        )
        self.h_a = nn.Sequential(conv(M, N, 3, 1), nn.ReLU(), conv(N, N), nn.ReLU(), conv(N, N))
        self.h_s = nn.Sequential(deconv(N, N), nn.ReLU(), deconv(N, N), nn.ReLU(), conv(N, M, 3, 1), nn.ReLU())
        self.gaussian_conditional = GaussianConditional()

    @property
    def downsampling_factor(self) -> int:
        """What height and width are multiples of: 64."""
        return 64

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, torch.Tensor]) -> Self:
        """Return a model with the sizes and weights of a state dict, in training mode; ConfigError for another's."""
        try:
            N, M = state_dict["g_a.0.weight"].size(0), state_dict["g_a.6.weight"].size(0)
            model = cls(N, M)
            model.load_state_dict(state_dict)
        except (KeyError, RuntimeError, AttributeError) as error:
            raise ConfigError(f"expected the weights of a scale hyperprior: {error}") from error
        return model

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        """Return ``{"x_hat", "likelihoods": {"y", "z"}}`` for planes (b, 1, h, w) of sides that 64 divides."""
        self._check(x)
        y = self.g_a(x)
        z_hat, of_z = self.entropy_bottleneck(self.h_a(y.abs()))
        y_hat, of_y = self.gaussian_conditional(y, self.h_s(z_hat))
        return {"x_hat": self.g_s(y_hat), "likelihoods": {"y": of_y, "z": of_z}}

    @torch.no_grad()
    def compress(
        self, x: torch.Tensor, *, pad: bool = False, bounds: tuple[float, float] | None = None
    ) -> dict[str, Any]:
        """Turn planes into streams.

        Parameters
        ----------
        x : torch.Tensor
            Of shape (b, 1, h, w): sides that 64 divides, unless ``pad``, and values from 0 to 1, unless ``bounds``.
        pad : bool
            Whether planes of other sides are put in the middle of larger ones, of zeros.
        bounds : pair of float, optional
            What becomes 0 and 1; values beyond are lost.

        Returns
        -------
        dict
            ``"strings"``: ``[y_strings, z_strings]``; ``"shape"``: (h, w) of the hyper latents; ``"pstate"``: what
            `decompress` needs to undo ``pad`` and ``bounds``, and checksums.
        """
        low, high = _bounds(bounds) if bounds is not None else (0.0, 1.0)
        size = tuple(x.shape[2:])
        x = (x.clamp(low, high) - low) / (high - low) if bounds is not None else x
        x = functional.pad(x, _margins(size)) if pad and x.ndim == 4 else x
        self._check(x)
        streams = Apart()
        coder = Encoding(streams, exact=self.exact)
        y = torch.cat([coder.net(self.g_a)(coder.cast(item)) for item in torch.split(x, 1)])
        z = coder.net(self.h_a)(y.abs())
        self._walk(coder, y, z, z.shape)
        pstate = {
            "size": size if pad else None,
            "bounds": None if bounds is None else (low, high),
            "checksums": coder.checksums(),
        }
        return {"strings": streams.strings[::-1], "shape": tuple(z.shape[2:]), "pstate": pstate}

    @torch.no_grad()
    def decompress(
        self, strings: Strings, shape: tuple[int, int], pstate: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Turn streams into planes.

        Parameters
        ----------
        strings : list
            ``[y_strings, z_strings]``.
        shape : pair of int
            (h, w) of the hyper latents.
        pstate : dict, optional
            What `compress` gave beside them; without it nothing is cut off, mapped back or checked.

        Returns
        -------
        dict
            ``"x_hat"``: (b, 1, h, w), of values from 0 to 1, or within the bounds.

        Raises
        ------
        ChunkError
            For streams that are damaged, no two lists of them, or of another size.
        """
        items, (height, width) = batch_of(strings, 2), size_of(shape, "the size of z", MOST_POSITIONS)
        coder = Decoding(FromApart([strings[1], strings[0]]), exact=self.exact)
        z_shape = torch.Size((items, len(self.entropy_bottleneck.medians), height, width))
        y_hat = self._walk(coder, None, None, z_shape)
        state = dict(pstate or {})
        coder.check(state.get("checksums"))
        x_hat = self.g_s(y_hat.to(next(self.g_s.parameters()).dtype)).clamp(0, 1)
        if state.get("size") is not None:
            x_hat = _middle(x_hat, size_of(state["size"], "the size of a plane", MOST_POSITIONS << 12))
        if state.get("bounds") is not None:
            low, high = _bounds(state["bounds"], ChunkError)
            x_hat = x_hat * (high - low) + low
        return {"x_hat": x_hat}

    def _walk(self, coder: Coder, y: torch.Tensor | None, z: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
        scales = coder.net(self.h_s)(coder.bottleneck(self.entropy_bottleneck, z, shape))
        return coder.gaussian(self.gaussian_conditional, y, scales, torch.zeros_like(scales))

    def _check(self, x: torch.Tensor) -> None:
        fits = x.ndim == 4 and x.shape[1] == 1 and len(x) and all(n and n % 64 == 0 for n in x.shape[2:])
        if not fits:
            raise ConfigError(f"expected planes (b, 1, h, w) of sides that 64 divides, or pad, found {list(x.shape)}")


def _margins(size: Sequence[int]) -> tuple[int, int, int, int]:
    """Return how much is missing to multiples of 64 on the left and right, above and below."""
    (top, bottom), (left, right) = ((-n % 64 // 2, -n % 64 - -n % 64 // 2) for n in size)
    return left, right, top, bottom


def _middle(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    left, right, top, bottom = _margins(size)
    if (size[0] + top + bottom, size[1] + left + right) != tuple(x.shape[2:]):
        raise ChunkError(f"expected a plane that fits into {list(x.shape[2:])}, found {size}")
    return x[:, :, top : top + size[0], left : left + size[1]]


def _bounds(bounds: object, error: type[ValueError] = ConfigError) -> tuple[float, float]:
    try:
        low, high = (float(b) for b in bounds)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not -1e30 < low < high < 1e30:
        raise error(f"expected bounds that rise, found {bounds!r}")
    return low, high
