"""Latents in groups of channels, each in two colours of a checkerboard: the context model of ELIC.

He et al. 2022, arXiv:2203.10886. Each part is coded given all before it: half of a group's positions given the groups
before, the other half given their neighbours, too. ::

    group 0:  anchors ─► others      group 1:  anchors ─► others      …
    .a.a.a      given nothing,         given group 0
    a.a.a.      given anchors
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import nn

from flowerpress.errors import ConfigError
from flowerpress.latent_codecs.base import LatentCodec
from flowerpress.latent_codecs.coding import Coder
from flowerpress.latent_codecs.entropy_models import GaussianConditional
from flowerpress.latent_codecs.layers import CheckerboardConv, conv


class Board:
    """Positions of feature maps (b, c, h, w) by colour: anchors, whose row and column add up to an even number."""

    def __init__(self, like: torch.Tensor) -> None:
        self.size = tuple(like.shape[2:])
        rows, columns = (torch.arange(n, device=like.device) for n in self.size)
        odd = ((rows[:, None] + columns[None]) % 2).flatten()
        self.anchors, self.others = (odd == 0).nonzero()[:, 0], (odd == 1).nonzero()[:, 0]

    def take(self, x: torch.Tensor | None, colour: torch.Tensor) -> torch.Tensor | None:
        """Return the values of one colour, row by row, (b, c, n, 1)."""
        return None if x is None else x.flatten(2).index_select(2, colour)[..., None]

    def put(self, parts: Sequence[torch.Tensor], colours: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return feature maps with these values at these colours, and 0 elsewhere."""
        maps = parts[0].new_zeros(*parts[0].shape[:2], self.size[0] * self.size[1])
        for part, colour in zip(parts, colours, strict=True):
            maps = maps.index_copy(2, colour, part[..., 0])
        return maps.reshape(*maps.shape[:2], *self.size)

    def whole(self, anchors: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        """Return feature maps of both colours."""
        return self.put([anchors, others], [self.anchors, self.others])


class Gaussians(nn.Module):
    """Holds the conditional of a group under the name that checkpoints have for it."""

    def __init__(self) -> None:
        super().__init__()
        self.gaussian_conditional = GaussianConditional()


class Group(nn.Module):
    """One group of channels."""

    def __init__(self, channels: int, given: int, least: int) -> None:
        super().__init__()
        self.entropy_parameters = parameter_net(given, 2 * channels, least)
        self.context_prediction = CheckerboardConv(channels, 2 * channels)
        self.y = Gaussians()

    def walk(self, coder: Coder, y: torch.Tensor | None, given: torch.Tensor, board: Board) -> torch.Tensor:
        """Code both colours, given (b, channels, h, w) that all positions have; return what the decoder has."""
        spatial = given.new_zeros(len(given), self.context_prediction.out_channels, *board.size)
        anchors = self._part(coder, y, torch.cat([spatial, given], 1), board, board.anchors)
        spatial = coder.net(self.context_prediction)(board.put([anchors], [board.anchors]))
        others = self._part(coder, y, torch.cat([spatial, given], 1), board, board.others)
        return board.whole(anchors, others)

    def _part(
        self, coder: Coder, y: torch.Tensor | None, given: torch.Tensor, board: Board, colour: torch.Tensor
    ) -> torch.Tensor:
        if not len(colour):  # a single position is an anchor, and no convolution takes nothing
            params = given.new_zeros(len(given), self.context_prediction.out_channels, 0, 1)
        else:
            params = coder.net(self.entropy_parameters)(board.take(given, colour))
        scales, means = params.chunk(2, 1)
        return coder.gaussian(self.y.gaussian_conditional, board.take(y, colour), scales, means)


class ChannelGroups(LatentCodec):
    """All groups, each given those before it and parameters from elsewhere.

    Parameters
    ----------
    groups : sequence of int
        Channels of each.
    params : int
        Channels of the parameters.
    hidden : int
        Channels inside the networks of the context, and the least inside those of the parameters.
    """

    def __init__(self, groups: Sequence[int], params: int, hidden: int) -> None:
        super().__init__()
        self.groups, self.lists = tuple(groups), 2 * len(groups)
        before = accumulate(self.groups[:-1])
        self.channel_context = nn.ModuleDict(
            {
                f"y{k}": _context(have, hidden, 2 * channels)
                for k, (have, channels) in enumerate(zip(before, self.groups[1:], strict=True), 1)
            }
        )
        self.latent_codec = nn.ModuleDict(
            {
                f"y{k}": Group(channels, (4 if k else 2) * channels + params, params)
                for k, channels in enumerate(self.groups)
            }
        )

    def walk(self, coder: Coder, y: torch.Tensor | None, params: torch.Tensor) -> torch.Tensor:
        board, done = Board(params), list[torch.Tensor]()
        parts = [None] * len(self.groups) if y is None else torch.split(y, list(self.groups), 1)
        for k, part in enumerate(parts):
            given = [coder.net(self.channel_context[f"y{k}"])(torch.cat(done, 1))] if k else []
            group = self.latent_codec[f"y{k}"]
            done.append(group.walk(coder, part, torch.cat([*given, params], 1), board))  # type: ignore[operator]
        return torch.cat(done, 1)

    def shape(self, size: tuple[int, int]) -> list[tuple[int, int, int]]:
        return [(channels, *size) for channels in self.groups]

    def joined(self, parts: Sequence[torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        board, left = Board(like), iter(parts)
        return torch.cat([board.whole(next(left), next(left)) for _ in self.groups], 1)


def groups_of(channels: int, groups: int | Sequence[int]) -> tuple[int, ...]:
    """Return the channels of each group: ``groups`` is those of every one, or a sequence that adds up to all.

    Raises ConfigError if it is neither.

    >>> groups_of(48, 16), groups_of(48, [8, 40])
    ((16, 16, 16), (8, 40))
    """
    fits = type(groups) is int and groups > 0 and channels % groups == 0
    found = (groups,) * (channels // groups) if fits else () if isinstance(groups, int) else tuple(map(int, groups))  # type: ignore[operator]
    if not found or min(found) < 1 or sum(found) != channels:
        raise ConfigError(f"expected groups that add up to {channels} channels, or one's size, found {groups!r}")
    return found


def _context(channels: int, hidden: int, out: int) -> nn.Sequential:
    first, second, third = conv(channels, hidden, 5, 1), conv(hidden, hidden, 5, 1), conv(hidden, out, 5, 1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)


def parameter_net(channels: int, out: int, least: int) -> nn.Sequential:
    """Return three 1x1 convolutions whose widths lie evenly between, the inner ones ``least`` or more."""
    first, second = (max(least, channels + (out - channels) * i // 3) for i in (1, 2))
    convs = nn.Conv2d(channels, first, 1), nn.Conv2d(first, second, 1), nn.Conv2d(second, out, 1)
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])
