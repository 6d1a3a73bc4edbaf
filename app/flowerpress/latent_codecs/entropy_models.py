"""Entropy models: how probable each symbol is, while a codec is trained and when it codes.

====================  ===============================================  ==========================
EntropyBottleneck     a distribution of its own for each channel       tables by channel
GaussianConditional   a Gaussian, whose mean and scale are given       tables by 64 scales
====================  ===============================================  ==========================

Names of parameters and buffers are those of CompressAI up to 1.2.6; those of later versions load, too.
"""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from math import log
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from flowerpress.codecs.dtypes import Buffer
from flowerpress.errors import ConfigError
from flowerpress.latent_codecs.cdf import SMALLEST, gaussian_cdf, gaussian_tables, padded, quantized_cdf, scale_table
from flowerpress.latent_codecs.layers import LowerBound, to_rounded
from flowerpress.latent_codecs.rans import Tables
from flowerpress.latent_codecs.streams import Apart, FromApart, numbers

_LEAST = 1e-9  # likelihood
_TAIL = 1e-9  # mass that may be escaped
_LATER = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}  # names from CompressAI 1.2.7 on


class EntropyModel(nn.Module):
    """What both models share: tables in buffers, noise while training, and streams of their own."""

    _offset: torch.Tensor
    _quantized_cdf: torch.Tensor
    _cdf_length: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self._tables: tuple[object, Tables] | None = None
        for name in ("_offset", "_quantized_cdf", "_cdf_length"):
            self.register_buffer(name, torch.IntTensor())

    @property
    def tables(self) -> Tables:
        """The tables that symbols are coded with; ConfigError before `update`, or for damaged ones."""
        if not self._offset.numel():
            raise ConfigError("an entropy model has no tables yet: run update() after training, or load them")
        buffers = (self._quantized_cdf, self._cdf_length, self._offset)
        state = tuple((x.data_ptr(), 0 if x.is_inference() else x._version) for x in buffers)
        if self._tables is None or self._tables[0] != state:
            self._tables = state, Tables(*(x.cpu().numpy() for x in buffers))
        return self._tables[1]

    @abstractmethod
    def update(self, force: bool = False) -> bool:
        """Make the tables; False if there are some, and not ``force``."""

    def _keep(self, tables: Tables) -> None:
        device = self._offset.device
        self._quantized_cdf = torch.from_numpy(tables.cdf.copy()).to(device)
        self._cdf_length = torch.from_numpy(tables.lengths.copy()).to(device)
        self._offset = torch.from_numpy(tables.offsets.copy()).to(device)

    def _noisy(self, x: torch.Tensor, means: torch.Tensor | float, training: bool) -> torch.Tensor:
        """Return values with noise of a step's width while training, and rounded beside their means otherwise."""
        if training:
            return x + torch.empty_like(x).uniform_(-0.5, 0.5)
        return (x - means).round() + means

    def _strings(self, symbols: torch.Tensor, indexes: torch.Tensor) -> list[bytes]:
        """Return one stream for each item of the batch."""
        streams = Apart()
        streams.put(numbers(symbols), numbers(indexes), self.tables)
        return streams.strings[0]

    def _symbols(self, strings: Sequence[Buffer], indexes: torch.Tensor) -> torch.Tensor:
        """Return what streams hold, in the shape of ``indexes``, float32."""
        symbols = FromApart([strings]).get(numbers(indexes), self.tables)
        return torch.from_numpy(symbols).reshape(indexes.shape).to(indexes.device, torch.float32)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401 - torch's
        """Take over the sizes of the tables in a checkpoint, which depend on its weights."""
        for name, buffer in self._buffers.items():
            found = state_dict.get(prefix + name)
            if buffer is not None and isinstance(found, torch.Tensor) and found.shape != buffer.shape:
                self._buffers[name] = buffer.new_empty(found.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class EntropyBottleneck(EntropyModel):
    """A learned distribution for each channel (Ballé et al. 2018, arXiv:1802.01436, appendix 6.1).

    Parameters
    ----------
    channels : int
        Channels of the feature maps (b, channels, …) that it codes.
    filters : tuple of int
        Widths of the layers that make up the cumulative distribution.
    init_scale : float
        Half the width of the distribution that it begins with.
    """

    target: torch.Tensor

    def __init__(self, channels: int, *, filters: tuple[int, ...] = (3, 3, 3, 3), init_scale: float = 10.0) -> None:
        super().__init__()
        widths = (1, *filters, 1)
        self._layers = len(widths) - 1
        scale = init_scale ** (1 / self._layers)
        for i, (inner, outer) in enumerate(pairwise(widths)):
            matrix = torch.full((channels, outer, inner), float(np.log(np.expm1(1 / scale / outer))))
            self.register_parameter(f"_matrix{i}", nn.Parameter(matrix))
            self.register_parameter(f"_bias{i}", nn.Parameter(torch.rand(channels, outer, 1) - 0.5))
            if i < self._layers - 1:
                self.register_parameter(f"_factor{i}", nn.Parameter(torch.zeros(channels, outer, 1)))
        start = torch.tensor([-init_scale, 0.0, init_scale])
        self.quantiles = nn.Parameter(start.repeat(channels, 1, 1))
        edge = log(2 / _TAIL - 1)
        self.register_buffer("target", torch.tensor([-edge, 0.0, edge]))
        self.likelihood_lower_bound = LowerBound(_LEAST)

    @property
    def medians(self) -> torch.Tensor:
        """The values, of shape (channels,), that symbol 0 stands for."""
        return self.quantiles[:, 0, 1].detach()

    def forward(self, x: torch.Tensor, training: bool | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return feature maps (b, channels, …) with noise, or rounded, and their likelihoods, of the same shape."""
        values = x.transpose(0, 1)
        flat = values.reshape(len(values), 1, -1)
        medians = self.medians[:, None, None]
        noisy = self._noisy(flat, medians, self.training if training is None else training)
        back = [y.reshape(values.shape).transpose(0, 1) for y in (noisy, self.likelihood(noisy))]
        return back[0], back[1]

    def likelihood(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mass of the steps around values of shape (channels, 1, n)."""
        mass = torch.sigmoid(self._logits(x + 0.5)) - torch.sigmoid(self._logits(x - 0.5))
        return self.likelihood_lower_bound(mass)  # type: ignore[no-any-return]

    def loss(self) -> torch.Tensor:
        """Return how far the quantiles are from where they belong: the auxiliary loss, of these parameters alone."""
        return (self._logits(self.quantiles, learn=False) - self.target).abs().sum()

    def update(self, force: bool = False) -> bool:
        """Make the tables of the distributions as they are now; False if there are some, and not ``force``."""
        if self._offset.numel() and not force:
            return False
        with torch.no_grad():
            medians = self.quantiles[:, 0, 1]
            below = (medians - self.quantiles[:, 0, 0]).ceil().int().clamp(min=0)
            above = (self.quantiles[:, 0, 2] - medians).ceil().int().clamp(min=0)
            lengths = (below + above + 1).tolist()
            if max(lengths) > 1 << 15:
                raise ConfigError(f"expected quantiles within 16,000 steps, found {max(lengths)}: train aux_loss()")
            samples = (medians - below)[:, None, None] + torch.arange(max(lengths), device=medians.device)
            lower, upper = self._logits(samples - 0.5), self._logits(samples + 0.5)
            pmf = (torch.sigmoid(upper) - torch.sigmoid(lower))[:, 0].cpu().numpy()
            tails = (torch.sigmoid(lower[:, 0, :1]) + torch.sigmoid(-upper[:, 0, -1:])).cpu().numpy()
        rows = [quantized_cdf(np.concatenate([p[:n], t])) for p, n, t in zip(pmf, lengths, tails, strict=True)]
        self._keep(padded(rows, -below.cpu().numpy()))
        return True

    def compress(self, x: torch.Tensor) -> list[bytes]:
        """Return one stream for each item of (b, channels, …)."""
        return self._strings((x - self._spread(self.medians, x.shape)).round(), self.channel_of(x.shape))

    def decompress(self, strings: Sequence[Buffer], size: Sequence[int]) -> torch.Tensor:
        """Return feature maps (b, channels, *size), float32; ChunkError for streams that are damaged."""
        shape = torch.Size((len(strings), len(self.quantiles), *size))
        return self._symbols(strings, self.channel_of(shape)) + self._spread(self.medians, shape)

    def channel_of(self, shape: torch.Size) -> torch.Tensor:
        """Return for each value of (b, channels, …) its channel."""
        return self._spread(torch.arange(shape[1], device=self.quantiles.device), shape).expand(shape)

    def _spread(self, x: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        return x.reshape(1, -1, *[1] * (len(shape) - 2))

    def _logits(self, x: torch.Tensor, *, learn: bool = True) -> torch.Tensor:
        """Return the logits of the cumulative distributions at (channels, 1, n)."""
        for i in range(self._layers):
            x = functional.softplus(self._weight("matrix", i, learn)) @ x + self._weight("bias", i, learn)
            if i < self._layers - 1:
                x = x + torch.tanh(self._weight("factor", i, learn)) * torch.tanh(x)
        return x

    def _weight(self, name: str, layer: int, learn: bool) -> torch.Tensor:
        weight: torch.Tensor = getattr(self, f"_{name}{layer}")
        return weight if learn else weight.detach()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:  # noqa: ANN401
        for later, name in _LATER.items():
            for i in range(self._layers):
                if f"{prefix}{later}.{i}" in state_dict:
                    state_dict[f"{prefix}{name}{i}"] = state_dict.pop(f"{prefix}{later}.{i}")
        super()._load_from_state_dict(state_dict, prefix, *args)


class GaussianConditional(EntropyModel):
    """Gaussians whose means and scales somebody else says (Ballé et al. 2018; Minnen et al. 2018, arXiv:1809.02736).

    Parameters
    ----------
    scale_table : sequence of float, optional
        Scales that tables are made of, rising; none are made before `update` without them.
    """

    scale_table: torch.Tensor
    scale_bound: torch.Tensor

    def __init__(self, scale_table: Sequence[float] | None = None) -> None:
        super().__init__()
        self.register_buffer("scale_table", torch.tensor(list(scale_table or ()), dtype=torch.float32))
        self.register_buffer("scale_bound", torch.tensor([SMALLEST]))
        self.likelihood_lower_bound = LowerBound(_LEAST)
        self.lower_bound_scale = LowerBound(SMALLEST)

    def forward(
        self, x: torch.Tensor, scales: torch.Tensor, means: torch.Tensor | None = None, training: bool | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return values with noise, or rounded, and their likelihoods; all arguments have one shape."""
        centre = torch.zeros_like(x) if means is None else means
        noisy = self._noisy(x, centre, self.training if training is None else training)
        return noisy, self.likelihood(noisy - centre, scales)

    def likelihood(self, distance: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        """Return the mass of the steps around values at these distances from their means."""
        scales, magnitude = self.lower_bound_scale(scales), distance.abs()
        mass = gaussian_cdf((0.5 - magnitude) / scales) - gaussian_cdf((-0.5 - magnitude) / scales)
        return self.likelihood_lower_bound(mass)  # type: ignore[no-any-return]

    def update(self, force: bool = False) -> bool:
        """Make the tables; False if there are some, and not ``force``."""
        return self.update_scale_table(self.scale_table.tolist() or scale_table().tolist(), force)

    def update_scale_table(self, scale_table: Sequence[float], force: bool = False) -> bool:
        """Make tables for these scales; False if there are some, and not ``force``."""
        if self._offset.numel() and not force:
            return False
        self.scale_table = torch.tensor([float(s) for s in scale_table], device=self.scale_bound.device)
        self._keep(gaussian_tables(tuple(self.scale_table.tolist())))
        return True

    def build_indexes(self, scales: torch.Tensor) -> torch.Tensor:
        """Return for each scale the row of its table: how many of all but the last are below it."""
        table = self.scale_table[:-1].to(scales.dtype)
        return torch.bucketize(torch.maximum(scales, self.scale_bound.to(scales.dtype)).contiguous(), table)

    def compress(self, x: torch.Tensor, indexes: torch.Tensor, means: torch.Tensor | None = None) -> list[bytes]:
        """Return one stream for each item of (b, …)."""
        return self._strings((x if means is None else x - means).round(), indexes)

    def decompress(
        self, strings: Sequence[Buffer], indexes: torch.Tensor, means: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return values in the shape of ``indexes``, float32; ChunkError for streams that are damaged."""
        symbols = self._symbols(strings, indexes)
        return symbols if means is None else symbols + means


def rounded_beside(x: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """Round to whole steps from the means; the gradient is that of ``x``."""
    return to_rounded(x - means) + means
