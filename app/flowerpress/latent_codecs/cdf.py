"""Probabilities as whole numbers: what range coding needs, equal on every machine to what CompressAI makes of them.

Everything is float32, in an order that is fixed: the same sums in float64 differ by 1 or 2 in 796 of the 27,256 entries
of the Gaussian tables, and streams of one could not be read with the other.
"""

from functools import lru_cache
from math import ceil, isfinite, log
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowerpress.errors import ConfigError
from flowerpress.latent_codecs.rans import PRECISION, Tables

if TYPE_CHECKING:
    import torch

_ONE = 1 << PRECISION
SCALES = 64
SMALLEST, LARGEST = 0.11, 256.0  # scales
_EDGE = 6.109410204869  # standard deviations to the 5e-10 quantile: half of the mass that may be escaped


def quantized_cdf(pmf: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return cumulative frequencies, from 0 to 65536, in which no bin is empty.

    Parameters
    ----------
    pmf : float32 array of shape (n,)
        Probabilities; their sum may differ from 1.

    Raises
    ------
    ConfigError
        For probabilities that are negative, not finite, or all zero; or more than 65536 of them.

    >>> quantized_cdf(np.array([0.5, 0.0, 0.5], np.float32)).tolist()
    [0, 32767, 32768, 65536]
    """
    scaled = np.floor(pmf.astype(np.float32) * np.float32(_ONE) + np.float32(0.5))  # half away from zero
    total = float(scaled.sum(dtype=np.float64))
    if not (len(pmf) <= _ONE and isfinite(total) and total > 0 and (pmf >= 0).all()):
        raise ConfigError("expected up to 65536 probabilities of 0 or more, not all 0: the weights are damaged")
    counts = scaled.astype(np.int64) * _ONE // int(total)
    counts[-1] = _ONE - counts[:-1].sum()
    for empty in np.flatnonzero(counts == 0):
        rich = np.where(counts > 1, counts, _ONE + 1)
        counts[empty] = 1
        counts[rich.argmin()] -= 1
    return np.concatenate([[0], counts.cumsum()]).astype(np.int32)


def padded(rows: list[NDArray[np.int32]], offsets: NDArray[np.int32]) -> Tables:
    """Return rows of any lengths as one array, with zeros behind them."""
    lengths = np.array([len(row) for row in rows], np.int32)
    cdf = np.zeros((len(rows), lengths.max(initial=0)), np.int32)
    for row, out in zip(rows, cdf, strict=True):
        out[: len(row)] = row
    return Tables(cdf, lengths, offsets)


def scale_table() -> "torch.Tensor":
    """Return the 64 scales between which those of Gaussian conditionals are chosen: 0.11 to 256, float32."""
    import torch

    return torch.exp(torch.linspace(log(SMALLEST), log(LARGEST), SCALES))


@lru_cache(maxsize=8)
def gaussian_tables(scales: tuple[float, ...]) -> Tables:
    """Return the tables of Gaussians of mean 0 with these scales, rising: sixteen models share one.

    Raises ConfigError for scales that do not rise, or are not above 0.
    """
    import torch

    table = torch.tensor(scales)
    if not (len(scales) and bool((table > 0).all()) and bool((table.diff() > 0).all()) and isfinite(scales[-1])):
        raise ConfigError(f"expected scales above 0 that rise, found {len(scales)}, {scales[:3]} …")
    centres = [ceil(scale * _EDGE) for scale in scales]
    distance = torch.arange(2 * max(centres) + 1)[None] - torch.tensor(centres)[:, None]
    magnitude, wide = distance.abs().float(), table[:, None].float()
    upper, lower = gaussian_cdf((0.5 - magnitude) / wide), gaussian_cdf((-0.5 - magnitude) / wide)
    pmf, tails = (upper - lower).numpy(), (2 * lower[:, :1]).numpy()
    rows = [
        quantized_cdf(np.concatenate([p[: 2 * centre + 1], tail]))
        for p, centre, tail in zip(pmf, centres, tails, strict=True)
    ]
    return padded(rows, -np.array(centres, np.int32))


def gaussian_cdf(x: "torch.Tensor") -> "torch.Tensor":
    """Return the cumulative distribution of the standard normal, exact far out in the lower tail."""
    import torch

    return 0.5 * torch.erfc(-(2**-0.5) * x)
