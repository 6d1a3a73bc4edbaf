"""What codecs of tokens share: a hyperprior, and contexts in space and over channels (He et al. 2022).

::

    h (b, L, C) ─► blocks ─► patch tokens (b, C, H, W) ─► f_a ─► y (b, c, H/2, W/2) ─► coded
    h_hat ◄─ blocks ◄─ learned prefix tokens, patch tokens ◄─ f_s ◄─ y_hat

Prefix tokens are not sent: learned constants take their places, and the blocks behind fill them. Any grid of tokens
will do; sides are cut to those of the tokens where halving and doubling rounds up.
"""

from collections.abc import Mapping, Sequence
from itertools import count, takewhile
from math import isqrt, prod
from typing import Any, Self

import torch
from torch import nn

from flowerpress.errors import ChunkError, ConfigError
from flowerpress.latent_codecs.base import CompressionModel, batch_of, in_full, plain, size_of
from flowerpress.latent_codecs.blocks import Block
from flowerpress.latent_codecs.checkerboard import ChannelGroups, groups_of
from flowerpress.latent_codecs.coding import Coder, Decoding, Encoding, Measuring
from flowerpress.latent_codecs.entropy_models import EntropyBottleneck
from flowerpress.latent_codecs.hyperprior import HyperLatentCodecWithCtx
from flowerpress.latent_codecs.layers import conv, deconv
from flowerpress.latent_codecs.streams import Apart, FromApart

MOST_TOKENS = 1 << 18  # in all images of a call; the bytes of `learned` depend on it
_PREFIX = "dino_codec."  # of a codec in the checkpoint of a whole model
_NAMES = {
    "latent_codec.hyper.": "hyper_lc.",
    "latent_codec.y.": "y_lc.",
    "mp12_enc.": "cond_enc.",
    "dec2.": "cond_dec.",
    "vqgan_down.": "f_ctx_down.",
}


class TokenCodec(CompressionModel):
    """A codec of tokens; one with a context adds what looks at that."""

    _ctx_dim = 0

    def __init__(
        self, h_dim: int, y_dim: int, z_dim: int, groups: int | Sequence[int], prefix: int, *, rates: int, exact: bool
    ) -> None:
        super().__init__(exact=exact)
        self.num_prefix_tokens, self._h_dim, self._rates = prefix, h_dim, rates
        if rates:
            self.q_scale_enc, self.q_scale_dec = (nn.Parameter(torch.ones(rates, y_dim, 1, 1)) for _ in range(2))
        self.post_reg_tokens = nn.Parameter(torch.zeros(prefix, h_dim))
        self.pre_vit_blocks = nn.Sequential(Block(h_dim), Block(h_dim))
        self.post_vit_blocks = nn.Sequential(Block(h_dim), Block(h_dim))
        self._add_context_nets()
        self.f_a = nn.Sequential(conv(h_dim, y_dim, 3, 1), nn.ReLU(), conv(y_dim, y_dim))
        self.f_s = nn.Sequential(deconv(y_dim, y_dim), nn.ReLU(), deconv(y_dim, h_dim, 3, 1))
        self.y_lc = ChannelGroups(groups_of(y_dim, groups), 2 * z_dim, z_dim)
        self.hyper_lc = HyperLatentCodecWithCtx(EntropyBottleneck(z_dim), *self._hyper_nets(y_dim, z_dim), "ste")

    def _add_context_nets(self) -> None:
        """Make what looks at a context beside the tokens."""

    def _hyper_nets(self, y_dim: int, z_dim: int) -> tuple[nn.Module, nn.Module]:
        return hyper_analysis(y_dim, z_dim), hyper_synthesis(z_dim)

    def _entered(self, coder: Coder, x: torch.Tensor, ctx: torch.Tensor | None) -> torch.Tensor:
        """Return what is coded of the patches (b, h_dim, H, W)."""
        del coder, ctx
        return x

    def _seen(self, coder: Coder, ctx: torch.Tensor | None) -> torch.Tensor | None:
        """Return the context as the hyper latents' branch sees it."""
        del coder, ctx
        return None

    def _left(self, shared: torch.Tensor, ctx: torch.Tensor | None) -> torch.Tensor:
        """Return the patches (b, h_dim, H, W) of what was coded."""
        del ctx
        return shared

    def _forward(
        self, h: torch.Tensor, ctx: torch.Tensor | None, token_res: tuple[int, int], qp: int | None
    ) -> dict[str, Any]:
        self.check(h, token_res, ctx)
        coder = Measuring(straight=True)
        y = self._analysed(coder, h, ctx, token_res, self._rate(qp))
        seen = self._seen(coder, ctx)
        z = self.hyper_lc.analysed(coder, y, seen)
        y_hat = self._walk(coder, y, z, z.shape, seen, half(token_res))
        likelihoods = {"y": self.y_lc.joined(coder.likelihoods[1:], y), "z": coder.likelihoods[0]}
        return {**self.synthesised(y_hat, ctx, token_res, qp), "likelihoods": likelihoods}

    def _compress(
        self, h: torch.Tensor, ctx: torch.Tensor | None, token_res: tuple[int, int], qp: int | None
    ) -> dict[str, Any]:
        streams = Apart()
        coder = Encoding(streams, exact=self.exact)
        z_shape = self.encode(coder, h, ctx, token_res, qp)
        size = half(token_res)
        pstate = {
            "y_shape": self.y_lc.shape(size),
            "z_shape": tuple(z_shape[2:]),
            "y_pad": size,
            "token_res": (int(token_res[0]), int(token_res[1])),
            "exact": self.exact,
            "checksums": coder.checksums(),
            **({} if qp is None else {"qp": qp}),
        }
        return {"strings": {"y": streams.strings[1:], "z": streams.strings[:1]}, "pstate": pstate}

    @torch.no_grad()
    def _decompress(self, strings: object, pstate: object, ctx: torch.Tensor | None) -> dict[str, Any]:
        lists = _lists(strings)
        items = batch_of(lists, 1 + self.y_lc.lists)
        token_res = self._resolution(pstate, items)
        coder = Decoding(FromApart(lists), exact=self.exact)
        y_hat = self.decode(coder, items, ctx, token_res)
        checksums = pstate.get("checksums")  # type: ignore[attr-defined]
        if self.exact and checksums is None:
            raise ChunkError("expected checksums beside the streams; those of other software need exact=False")
        coder.check(checksums)
        try:
            return self.synthesised(y_hat, ctx, token_res, pstate.get("qp"))  # type: ignore[attr-defined]
        except ConfigError as error:
            raise ChunkError(str(error)) from error

    @in_full
    def encode(
        self,
        coder: Encoding,
        h: torch.Tensor,
        ctx: torch.Tensor | None,
        token_res: tuple[int, int],
        qp: int | None = None,
    ) -> torch.Size:
        """Give the latents of tokens (b, L, h_dim) to a coder; return the shape of z."""
        self.check(h, token_res, ctx)
        y = self._analysed(coder, coder.cast(h), ctx, token_res, self._rate(qp))
        seen = self._seen(coder, ctx)
        z = self.hyper_lc.analysed(coder, y, seen)
        self._walk(coder, y, z, z.shape, seen, half(token_res))
        return z.shape

    @in_full
    def decode(self, coder: Decoding, items: int, ctx: torch.Tensor | None, token_res: tuple[int, int]) -> torch.Tensor:
        """Take the latents of so many items from a coder."""
        self._check_context(ctx, items, token_res)
        size = half(token_res)
        z_shape = self.hyper_lc.shape(items, half(half(size)))
        return self._walk(coder, None, None, z_shape, self._seen(coder, ctx), size)

    def _analysed(
        self, coder: Coder, h: torch.Tensor, ctx: torch.Tensor | None, token_res: tuple[int, int], rate: int | None
    ) -> torch.Tensor:
        patches = coder.net(self.pre_vit_blocks)(h)[:, self.num_prefix_tokens :]
        image = patches.transpose(1, 2).unflatten(2, tuple(token_res))
        y: torch.Tensor = coder.net(self.f_a)(self._entered(coder, image, ctx))
        return y if rate is None else y * coder.cast(self.q_scale_enc[rate])

    def _walk(
        self,
        coder: Coder,
        y: torch.Tensor | None,
        z: torch.Tensor | None,
        z_shape: torch.Size,
        seen: torch.Tensor | None,
        size: tuple[int, int],
    ) -> torch.Tensor:
        params = self.hyper_lc.walk(coder, z, z_shape, seen)
        return self.y_lc.walk(coder, y, params[:, :, : size[0], : size[1]])

    def synthesised(
        self, y_hat: torch.Tensor, ctx: torch.Tensor | None, token_res: tuple[int, int], qp: int | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the tokens, and the shared feature map, that latents stand for."""
        rate, y_hat = self._rate(qp), y_hat.to(self.post_reg_tokens.dtype)
        y_hat = y_hat if rate is None else y_hat * self.q_scale_dec[rate]
        shared = self.f_s(y_hat)[:, :, : token_res[0], : token_res[1]]
        patches = self._left(shared, ctx).flatten(2).transpose(1, 2)
        prefix = self.post_reg_tokens.to(patches.dtype).expand(len(patches), -1, -1)
        return {"h_hat": self.post_vit_blocks(torch.cat([prefix, patches], 1)), "h_hat_share": shared}

    def _rate(self, qp: object) -> int | None:
        """Return the row of the scale tables, None without these; ConfigError unless ``qp`` is one where there are."""
        if qp is None and not self._rates:
            return None
        if type(qp) is not int or not 0 <= qp < self._rates:
            wanted = f"qp from 0 to {self._rates - 1}" if self._rates else "no qp: the codec has one rate"
            raise ConfigError(f"expected {wanted}, found {qp!r}")
        return qp

    def square(self, tokens: int) -> tuple[int, int]:
        """Return the grid of so many tokens if it is a square; what is none, `check` finds out."""
        side = isqrt(max(0, tokens - self.num_prefix_tokens))
        return side, side

    def check(self, h: torch.Tensor, token_res: tuple[int, int], ctx: torch.Tensor | None = None) -> None:
        """Raise ConfigError if these are no tokens of a grid, or if they do not fit their context."""
        res = tuple(token_res)
        tokens = self.num_prefix_tokens + prod(res)
        if len(res) != 2 or min(res) < 1 or h.ndim != 3 or not len(h) or tuple(h.shape[1:]) != (tokens, self._h_dim):
            wanted = f"(b, {self.num_prefix_tokens} + {' * '.join(map(str, res))}, {self._h_dim})"
            raise ConfigError(f"expected tokens {wanted}, found {list(h.shape)}")
        if len(h) * prod(res) > MOST_TOKENS:
            raise ConfigError(f"expected up to {MOST_TOKENS} tokens in a call, found {len(h) * prod(res)}: use several")
        self._check_context(ctx, len(h), token_res)

    def _check_context(self, ctx: torch.Tensor | None, items: int, token_res: tuple[int, int]) -> None:
        wanted, found = (items, self._ctx_dim, *token_res), None if ctx is None else tuple(ctx.shape)
        if self._ctx_dim and found != wanted:
            raise ConfigError(f"expected a context of shape {wanted}, found {found}")

    def _resolution(self, pstate: object, items: int) -> tuple[int, int]:
        """Return the grid of tokens; ChunkError if the side information contradicts itself, or is of another coder."""
        if not isinstance(pstate, Mapping):
            raise ChunkError(f"expected side information as a mapping, found {type(pstate).__name__}")
        found = size_of(pstate.get("token_res"), "token_res", MOST_TOKENS, items)
        size = half(found)
        known = {"y_shape": self.y_lc.shape(size), "z_shape": half(half(size)), "y_pad": size, "exact": self.exact}
        for name, value in known.items():
            if name in pstate and plain(pstate[name]) != plain(value):
                raise ChunkError(f"expected {name} {value!r} of {found[0]} x {found[1]} tokens, found {pstate[name]!r}")
        return found

    @classmethod
    def from_state_dict(cls, state_dict: Mapping[str, Any]) -> Self:
        """Return a model of the sizes in a state dict, with its weights; ConfigError for another's."""
        found = _renamed(state_dict)
        try:
            prefix, h_dim = found["post_reg_tokens"].shape
            keys = (f"y_lc.latent_codec.y{k}.context_prediction.weight" for k in count())
            groups = [found[key].shape[1] for key in takewhile(found.__contains__, keys)]
            more = {"ctx_dim": found["f_ctx_down.weight"].shape[1]} if "f_ctx_down.weight" in found else {}
            more |= {"rates": len(found["q_scale_enc"])} if "q_scale_enc" in found else {}
            z_dim = len(found["hyper_lc.entropy_bottleneck.quantiles"])
            model = cls(h_dim, sum(groups), z_dim, groups=groups, num_prefix_tokens=prefix, **more)  # type: ignore[call-arg]
            model.load_state_dict(found)
        except (KeyError, RuntimeError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"expected the weights of a {cls.__name__}: {error}") from error
        return model

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401 - torch's
        """Load weights: of a codec, or of a whole model that has one, under the names of any version."""
        return super().load_state_dict(_renamed(state_dict), strict, assign)


def hyper_analysis(channels: int, z_dim: int) -> nn.Sequential:
    """Return the network from (b, channels, h, w) to z, (b, z_dim, h / 4, w / 4), rounded up."""
    return nn.Sequential(conv(channels, z_dim, 3, 1), nn.ReLU(), conv(z_dim, z_dim), nn.ReLU(), conv(z_dim, z_dim))


def hyper_synthesis(z_dim: int) -> nn.Sequential:
    """Return the network from z to parameters (b, 2 z_dim, 4 h, 4 w)."""
    wide = z_dim * 3 // 2
    return nn.Sequential(deconv(z_dim, z_dim), nn.ReLU(), deconv(z_dim, wide), nn.ReLU(), deconv(wide, 2 * z_dim, 3, 1))


def _renamed(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights under the names that they have here: without a whole model's prefix, and its other weights."""
    found = state_dict["state_dict"] if isinstance(state_dict.get("state_dict"), Mapping) else state_dict
    inside = {key.removeprefix(_PREFIX): x for key, x in found.items() if key.startswith(_PREFIX)} or dict(found)
    return {_name(key): x for key, x in inside.items()}


def _name(key: str) -> str:
    old = next((old for old in _NAMES if key.startswith(old)), "")
    return _NAMES.get(old, "") + key.removeprefix(old)


def half(size: tuple[int, int]) -> tuple[int, int]:
    """Return half of both sides, rounded up."""
    return -(-int(size[0]) // 2), -(-int(size[1]) // 2)


def _lists(strings: object) -> list[Any]:
    """Return the lists of streams in the order in which they were coded; ChunkError if these are none."""
    if not (isinstance(strings, Mapping) and all(isinstance(strings.get(name), list | tuple) for name in ("y", "z"))):
        raise ChunkError("expected streams as lists 'y' and 'z'")
    return [*strings["z"], *strings["y"]]
