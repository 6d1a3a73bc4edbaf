"""Sparsification: all but the largest magnitudes become zero.

Top-k with error feedback trains like the whole update (Stich et al. 2018, arXiv:1809.07599; Lin et al. 2018, deep
gradient compression, arXiv:1712.01887, whose sampled threshold is here, too). The k-th largest magnitude is found from
histograms of the floats' bits, twice 16 of them: exact, in two passes, on any device, and over many arrays at once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, isfinite
from typing import ClassVar

import numpy as np

from flowerpress.codecs import both
from flowerpress.codecs.base import ArrayToArray, Spec, check_float, check_some, is_number
from flowerpress.codecs.both import Both
from flowerpress.codecs.dtypes import ArrayLike, Host, all_finite, bits, cast, local
from flowerpress.codecs.plan import Record
from flowerpress.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Sparse(ArrayToArray):
    """Keep the largest magnitudes, compared as float32, and make all others zero; the shape stays.

    Parameters
    ----------
    keep : float, optional
        Share of the values to keep, above 0 and at most 1: rounded up, so at least one. Of equal magnitudes at the
        threshold the first are kept.
    above : float, optional
        Keep magnitudes of at least this, instead.
    whole : bool
        With ``keep``: the share of the whole record; arrays compete. The plan replaces it by ``above``, and equal
        magnitudes at the threshold are all kept.
    sample : float
        With ``keep``: share of the values, evenly spaced, from which the threshold is guessed; 1 is exact.

    >>> x = np.array([0.1, -3.0, 0.2, 2.0], dtype="float32")
    >>> Sparse(keep=0.5).encode(x, Spec.of(x))
    array([ 0., -3.,  0.,  2.], dtype=float32)
    """

    keep: float | None = None
    above: float | None = None
    whole: bool = False
    sample: float = 1.0
    name: ClassVar[str] = "sparse"

    def __post_init__(self) -> None:
        if (self.keep is None) == (self.above is None):
            raise ConfigError(f"sparse: expected one of keep and above, found {self.keep!r} and {self.above!r}")
        for name, value in (("keep", self.keep), ("sample", self.sample)):
            if value is not None and not (is_number(value) and 0 < value <= 1):
                raise ConfigError(f"sparse: expected {name} above 0 and at most 1, found {value!r}")
        if self.above is not None and not (is_number(self.above) and isfinite(self.above) and self.above >= 0):
            raise ConfigError(f"sparse: expected above of 0 or more, found {self.above!r}")
        if self.above is not None and (self.whole or self.sample != 1):
            raise ConfigError("sparse: whole and sample go with keep")

    @property
    def lossless(self) -> bool:
        return False

    @property
    def elementwise(self) -> bool:
        return self.above is not None

    @property
    def settled(self) -> bool:
        return not self.whole

    def settle(self, record: Record) -> "Sparse":
        return Sparse(above=self._threshold(record.arrays)) if self.whole else self

    def refuses(self, spec: Spec) -> str:
        return check_float(spec) or check_some(spec)

    def after(self, spec: Spec) -> Spec:
        return Spec(spec.key, spec.dtype, spec.shape, members=spec.members)

    def encode(self, x: ArrayLike, spec: Spec) -> ArrayLike:
        if self.whole:
            raise ConfigError(f"array {spec.key!r}: {self} is decided over a whole record; use pack, or LatentRecord")
        flat: Both = local(x).reshape(-1)
        if not all_finite(flat):
            raise ConfigError(f"array {spec.key!r}: sparse needs finite values")
        magnitudes = _magnitudes(flat)
        threshold = self.above if self.above is not None else self._threshold(lambda: iter([flat]))
        kept = magnitudes >= threshold
        if self.keep is not None and self.sample == 1:
            ties = both.positions(magnitudes == threshold)
            kept[ties[max(0, ties.shape[0] - (int(kept.sum()) - ceil(self.keep * spec.size))) :]] = False
        found = flat.reshape(spec.shape) + 0  # a copy
        found.reshape(-1)[~kept] = 0
        return found  # type: ignore[no-any-return]

    def decode(self, y: Host, spec: Spec) -> Host:
        return y.reshape(spec.shape)

    def _threshold(self, arrays: Callable[[], Iterable[ArrayLike]]) -> float:
        """Return the magnitude, as float32, that the share ``keep`` of all finite arrays reaches; 0 without any."""
        every = round(1 / self.sample)
        upper = _histogram(arrays, every, lambda word: word >> 16, 1 << 15)
        wanted = ceil(self.keep * int(upper.sum()))  # type: ignore[operator]
        if not wanted:
            return 0.0
        top, above = _reach(upper, wanted)
        lower = _histogram(arrays, every, lambda word: word[word >> 16 == top] & 0xFFFF, 1 << 16)
        low, _ = _reach(lower, wanted - above)
        return float(np.array(top << 16 | low, np.int32).view(np.float32))


def _histogram(
    arrays: Callable[[], Iterable[ArrayLike]], every: int, part: Callable[[Both], Both], length: int
) -> Host:
    """Count a part of the bits of all magnitudes: as integers they are in the order of the floats."""
    counts = np.zeros(length, np.int64)
    for x in arrays():
        flat = local(x).reshape(-1)
        if all_finite(flat):
            counts += both.counts(part(bits(_magnitudes(flat[::every]))), length)
    return counts


def _magnitudes(flat: Both) -> Both:
    """Return magnitudes as float32, those beyond as its largest."""
    with np.errstate(over="ignore"):
        return abs(cast(flat, "float32")).clip(max=float(np.finfo(np.float32).max))


def _reach(counts: Host, wanted: int) -> tuple[int, int]:
    """Return the highest bin from which on there are ``wanted`` counts, and how many lie above it."""
    sums = counts[::-1].cumsum()
    back = int(np.searchsorted(sums, wanted))
    return counts.size - 1 - back, int(sums[back] - counts[::-1][back])
