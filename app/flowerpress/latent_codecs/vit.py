"""Codecs of the tokens of a vision transformer, alone or given feature maps that both ends have."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from flowerpress.latent_codecs.coding import Coder
from flowerpress.latent_codecs.layers import conv
from flowerpress.latent_codecs.tokens import TokenCodec, hyper_analysis, hyper_synthesis


class VitUnionLatentCodec(TokenCodec):
    """Tokens of a vision transformer.

    Parameters
    ----------
    h_dim : int
        Channels of a token.
    y_dim, z_dim : int
        Channels of the latents and of the hyper latents.
    groups : int or sequence of int
        Channels of every group of latents, or of each; they add up to ``y_dim``.
    num_prefix_tokens : int
        How many tokens are before the patches; they are not sent.
    rates : int
        Rows of two tables of scales of the latents, which make a codec of variable rate: 65 of the released ones.
    exact : bool
        See `CompressionModel`.
    **kwargs
        Not used.

    Raises
    ------
    ConfigError
        For groups that do not add up.
    """

    def __init__(
        self,
        h_dim: int = 384,
        y_dim: int = 256,
        z_dim: int = 192,
        groups: int | Sequence[int] = 16,
        num_prefix_tokens: int = 1,
        *,
        rates: int = 0,
        exact: bool = True,
        **kwargs: Any,  # noqa: ANN401 - the seed's
    ) -> None:
        del kwargs
        super().__init__(h_dim, y_dim, z_dim, groups, num_prefix_tokens, rates=rates, exact=exact)

    def forward(
        self,
        h: torch.Tensor,
        token_res: tuple[int, int],
        qp: int | None = None,
        **kwargs: Any,  # noqa: ANN401 - the seed's
    ) -> dict[str, Any]:
        """Return ``{"h_hat": (b, L, h_dim), "likelihoods": {"y", "z"}}`` for tokens (b, L, h_dim) of a grid (H, W).

        A codec of variable rate needs ``qp``, the row of its tables.
        """
        del kwargs
        return _without_shared(self._forward(h, None, token_res, qp))

    def compress(
        self,
        h: torch.Tensor,
        token_res: tuple[int, int],
        qp: int | None = None,
        **kwargs: Any,  # noqa: ANN401 - the seed's
    ) -> dict[str, Any]:
        """Turn tokens into streams.

        Returns
        -------
        dict
            ``"strings"``: ``{"y": lists of b streams, two for each group, "z": [b streams]}``; ``"pstate"``: the grid,
            shapes that follow from it, a checksum for each of the b items, and ``qp``, if there is one.
        """
        del kwargs
        return self._compress(h, None, token_res, qp)

    def decompress(self, strings: Mapping[str, Any], pstate: Mapping[str, Any], **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return ``{"h_hat"}`` of what `compress` gave, or of some of its items.

        Raises
        ------
        ChunkError
            For streams or side information that are damaged, of other weights, or of a codec with another ``exact``.
        """
        del kwargs
        return _without_shared(self._decompress(strings, pstate, None))


class VitUnionLatentCodecWithCtx(TokenCodec):
    """Tokens of a vision transformer, given feature maps that both ends have, to the bit.

    Parameters
    ----------
    ctx_dim : int
        Channels of the context.
    h_dim, y_dim, z_dim, groups, num_prefix_tokens, rates, exact, **kwargs
        As of `VitUnionLatentCodec`.
    """

    def __init__(
        self,
        h_dim: int = 384,
        y_dim: int = 256,
        z_dim: int = 192,
        ctx_dim: int = 256,
        groups: int | Sequence[int] = 16,
        num_prefix_tokens: int = 1,
        *,
        rates: int = 0,
        exact: bool = True,
        **kwargs: Any,  # noqa: ANN401 - the seed's
    ) -> None:
        del kwargs
        self._ctx_dim = ctx_dim
        super().__init__(h_dim, y_dim, z_dim, groups, num_prefix_tokens, rates=rates, exact=exact)

    def forward(
        self, h: torch.Tensor, ctx: torch.Tensor, token_res: tuple[int, int], qp: int | None = None
    ) -> dict[str, Any]:
        """Return ``{"h_hat", "h_hat_share", "likelihoods": {"y", "z"}}``.

        ``h`` is (b, L, h_dim), ``ctx`` (b, ctx_dim, H, W), ``token_res`` (H, W); the shared feature map is
        (b, h_dim, H, W), and made without the context.
        """
        return self._forward(h, ctx, token_res, qp)

    def compress(
        self, h: torch.Tensor, ctx: torch.Tensor, token_res: tuple[int, int], qp: int | None = None
    ) -> dict[str, Any]:
        """Turn tokens into streams, as `VitUnionLatentCodec.compress` does."""
        return self._compress(h, ctx, token_res, qp)

    def decompress(
        self,
        strings: Mapping[str, Any],
        pstate: Mapping[str, Any],
        ctx: torch.Tensor,
        **kwargs: Any,  # noqa: ANN401 - the seed's
    ) -> dict[str, Any]:
        """Return ``{"h_hat", "h_hat_share"}``; errors are those of `VitUnionLatentCodec.decompress`."""
        del kwargs
        return self._decompress(strings, pstate, ctx)

    def _add_context_nets(self) -> None:
        h_dim, ctx_dim = self._h_dim, self._ctx_dim
        self.cond_enc = nn.Sequential(conv(h_dim + ctx_dim, h_dim, 3, 1), nn.ReLU(), conv(h_dim, h_dim, 3, 1))
        self.cond_dec = nn.Sequential(conv(h_dim + ctx_dim, h_dim, 3, 1), nn.ReLU(), conv(h_dim, h_dim, 3, 1))
        self.f_ctx_down = conv(ctx_dim, ctx_dim, 3, 2)

    def _hyper_nets(self, y_dim: int, z_dim: int) -> tuple[nn.Module, nn.Module]:
        return HyperAnalysisWithCtx(y_dim, z_dim, self._ctx_dim), HyperSynthesisWithCtx(z_dim, self._ctx_dim)

    def _entered(self, coder: Coder, x: torch.Tensor, ctx: torch.Tensor | None) -> torch.Tensor:
        return coder.net(self.cond_enc)(torch.cat([x, coder.cast(ctx)], 1))  # type: ignore[arg-type, no-any-return]

    def _seen(self, coder: Coder, ctx: torch.Tensor | None) -> torch.Tensor | None:
        return coder.net(self.f_ctx_down)(coder.cast(ctx))  # type: ignore[arg-type, no-any-return]

    def _left(self, shared: torch.Tensor, ctx: torch.Tensor | None) -> torch.Tensor:
        return self.cond_dec(torch.cat([shared, cast("torch.Tensor", ctx).to(shared.dtype)], 1))  # type: ignore[no-any-return]


class HyperAnalysisWithCtx(nn.Module):
    """From y and a context of its size to z."""

    def __init__(self, y_dim: int, z_dim: int, ctx_dim: int) -> None:
        super().__init__()
        self.h_a = hyper_analysis(y_dim + ctx_dim, z_dim)

    def forward(self, y: torch.Tensor, ctx: torch.Tensor) -> torch.Tensor:
        """Return z."""
        return self.h_a(torch.cat([y, ctx], 1))  # type: ignore[no-any-return]


class HyperSynthesisWithCtx(nn.Module):
    """From z and a context of the size of y to parameters of that size."""

    def __init__(self, z_dim: int, ctx_dim: int) -> None:
        super().__init__()
        self.h_s = hyper_synthesis(z_dim)
        wide = 2 * z_dim
        self.fusion = nn.Sequential(conv(wide + ctx_dim, wide, 3, 1), nn.ReLU(), conv(wide, wide, 3, 1))

    def forward(self, z_hat: torch.Tensor, ctx: torch.Tensor) -> torch.Tensor:
        """Return the parameters."""
        params = self.h_s(z_hat)[:, :, : ctx.shape[2], : ctx.shape[3]]
        return self.fusion(torch.cat([params, ctx], 1))  # type: ignore[no-any-return]


def _without_shared(found: dict[str, Any]) -> dict[str, Any]:
    return {name: x for name, x in found.items() if name != "h_hat_share"}
