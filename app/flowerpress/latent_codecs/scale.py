"""Planes of features by a scale hyperprior (Ballé et al. 2018, arXiv:1802.01436). ::

x ─► g_a ─► y ────────────► Q ─► y_hat ─► g_s ─► x_hat
            └─► h_a ─► z ─► Q ─► z_hat ─► h_s ─► scales of y, whose means are 0
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs.base import CompressionModel, batch_of, in_full, size_of
from flowerpress.latent_codecs.coding import Coder, Decoding, Encoding
from flowerpress.latent_codecs.entropy_models import EntropyBottleneck, GaussianConditional
from flowerpress.latent_codecs.hyperprior import MOST_POSITIONS, Strings
from flowerpress.latent_codecs.layers import GDN, conv, deconv
from flowerpress.latent_codecs.streams import Apart, FromApart


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
        x = functional.pad(x, margins(size)) if pad and x.ndim == 4 else x
        streams = Apart()
        coder = Encoding(streams, exact=self.exact)
        shape = self.encode(coder, x)
        pstate = {
            "size": size if pad else None,
            "bounds": None if bounds is None else (low, high),
            "checksums": coder.checksums(),
        }
        return {"strings": streams.strings[::-1], "shape": tuple(shape[2:]), "pstate": pstate}

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
        items = batch_of(strings, 2)
        size = size_of(shape, "the size of z", MOST_POSITIONS, items)
        coder = Decoding(FromApart([strings[1], strings[0]]), exact=self.exact)
        y_hat = self.decode(coder, items, size)
        state = dict(pstate or {})
        coder.check(state.get("checksums"))
        x_hat = self.synthesised(y_hat)
        if state.get("size") is not None:
            x_hat = middle(x_hat, size_of(state["size"], "the size of a plane", MOST_POSITIONS << 12))
        if state.get("bounds") is not None:
            low, high = _bounds(state["bounds"], ChunkError)
            x_hat = x_hat * (high - low) + low
        return {"x_hat": x_hat}

    @in_full
    def encode(self, coder: Encoding, x: torch.Tensor) -> torch.Size:
        """Give the latents of planes to a coder; return the shape of z."""
        self._check(x)
        y = torch.cat([coder.net(self.g_a)(coder.cast(item)) for item in torch.split(x, 1)])
        z: torch.Tensor = coder.net(self.h_a)(y.abs())
        self._walk(coder, y, z, z.shape)
        return z.shape

    @in_full
    def decode(self, coder: Decoding, items: int, size: tuple[int, int]) -> torch.Tensor:
        """Take the latents of so many planes from a coder, of z of this height and width."""
        return self._walk(coder, None, None, torch.Size((items, len(self.entropy_bottleneck.medians), *size)))

    @torch.no_grad()
    def synthesised(self, y_hat: torch.Tensor) -> torch.Tensor:
        """Return the planes, of values from 0 to 1, that latents stand for."""
        planes: torch.Tensor = self.g_s(y_hat.to(next(self.g_s.parameters()).dtype))
        return planes.clamp(0, 1)

    def _walk(self, coder: Coder, y: torch.Tensor | None, z: torch.Tensor | None, shape: torch.Size) -> torch.Tensor:
        scales = coder.net(self.h_s)(coder.bottleneck(self.entropy_bottleneck, z, shape))
        return coder.gaussian(self.gaussian_conditional, y, scales, torch.zeros_like(scales))

    def _check(self, x: torch.Tensor) -> None:
        fits = x.ndim == 4 and x.shape[1] == 1 and len(x) and all(n and n % 64 == 0 for n in x.shape[2:])
        if not fits:
            raise ConfigError(f"expected planes (b, 1, h, w) of sides that 64 divides, or pad, found {list(x.shape)}")
        if x.numel() > MOST_POSITIONS << 12:
            raise ConfigError(f"expected up to {MOST_POSITIONS << 12} values in a call, found {x.numel()}: use several")


def margins(size: Sequence[int]) -> tuple[int, int, int, int]:
    """Return how much is missing to multiples of 64 on the left and right, above and below."""
    (top, bottom), (left, right) = ((-n % 64 // 2, -n % 64 - -n % 64 // 2) for n in size)
    return left, right, top, bottom


def middle(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    left, right, top, bottom = margins(size)
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
