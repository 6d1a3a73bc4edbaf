"""Uniform quantisers: floats to small integers, with one step, bits per value, or a bound on the error that is checked.

A uniform quantiser followed by an entropy coder is within a quarter of a bit per value of what no code can beat at high
rates (Gish and Pierce 1968, doi:10.1109/TIT.1968.1054193). Whatever scale is found in the values travels as a small
integer in front of the indices: the upper bits of a float32, which any device computes alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar
from zlib import crc32

import ml_dtypes
import numpy as np

from flowerpress.codecs import both
from flowerpress.codecs.base import ArrayToArray, Spec, check_float, check_some, is_number
from flowerpress.codecs.both import Both  # noqa: TC001 - one import of both names
from flowerpress.codecs.dtypes import ArrayLike, Host, all_finite, bits, cast, holds, numpy_dtype, view
from flowerpress.errors import ChunkError, ConfigError

# Bits of a float32 scale that do not travel. Steps are up to 0.05% finer than asked, with many of them 1.6%.
_DROPPED, _DROPPED_PER_BLOCK = 11, 17
DEAD_ZONE = 0.6  # at low rates it saves more bits than it costs accuracy
_MOST = 1 << 30  # indices stay below it: float32 may round a quotient up to the next power of two


@dataclass(frozen=True, kw_only=True)
class Quantize(ArrayToArray):
    """Indices of the nearest multiples of a step, int32 and flat, behind the scales that the values decided.

    One of these says what the step is:

    Parameters
    ----------
    step : float, optional
        The step itself.
    bound : float, optional
        Largest absolute error of any value. Checked when encoding: values for which float arithmetic cannot hold it
        are refused.
    relative : float, optional
        The same as a share of the array's range, largest minus smallest value.
    bits : int, optional
        2 to 16: indices from -(2**(bits-1) - 1) to 2**(bits-1) - 1, scaled to the largest magnitude.
    block : int, optional
        With ``bits``: values per scale, flat; None is one scale for the array. Outliers then cost their block only.
    zone : float
        With ``step`` or ``bits``: magnitudes below this share of a step become 0, and larger ones move up to the next
        index at the same share; 0.5 is plain rounding, more is a dead zone, which saves bits where most values are
        small and errs by up to this share of a step.
    seed : int, optional
        With ``step`` or ``bits``: round stochastically, unbiased, by a generator of this seed, the name of the array
        and the position; equal seeds give equal bytes on every device.

    >>> spec = Spec("w", "float32", (3,))
    >>> Quantize(step=0.5).encode(np.array([0.6, -1.4, 0.1], dtype="float32"), spec)
    array([ 1, -3,  0], dtype=int32)
    """

    step: float | None = None
    bound: float | None = None
    relative: float | None = None
    bits: int | None = None
    block: int | None = None
    zone: float = 0.5
    seed: int | None = None
    name: ClassVar[str] = "quantize"

    def __post_init__(self) -> None:
        given = [name for name in ("step", "bound", "relative", "bits") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ConfigError(f"quantize: expected one of step, bound, relative and bits, found {given or 'none'}")
        for name in ("step", "bound", "relative", "zone"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and isfinite(value) and value > 0):
                raise ConfigError(f"quantize: expected {name} above 0, found {value!r}")
        for name, low, high in (("bits", 2, 16), ("block", 8, 1 << 20), ("seed", 0, 1 << 32)):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high
            ):
                raise ConfigError(f"quantize: expected {name} from {low} to {high}, found {value!r}")
        if not 0.5 <= self.zone <= 1:
            raise ConfigError(f"quantize: expected a zone from 0.5 to 1, found {self.zone!r}")
        if self.block is not None and self.bits is None:
            raise ConfigError("quantize: block goes with bits")
        if (self.bound or self.relative) and (self.zone != 0.5 or self.seed is not None):
            raise ConfigError("quantize: zone and seed do not go with a bound, which rounding alone holds")

    @property
    def lossless(self) -> bool:
        return False

    @property
    def elementwise(self) -> bool:
        return self.step is not None or self.bound is not None

    def refuses(self, spec: Spec) -> str:
        return check_float(spec) or check_some(spec)

    def after(self, spec: Spec) -> Spec:
        words = self._words(spec)
        return Spec(spec.key, "int32", (words + spec.size,), members=((words,), *spec.parts) if words else spec.parts)

    def encode(self, x: ArrayLike, spec: Spec) -> ArrayLike:
        flat: Both = cast(x, _wide(spec)).reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not isfinite(high - low):  # NaN, too: it is the smallest and the largest of anything
            raise ConfigError(f"array {spec.key!r}: quantize needs finite values")
        bound, most = self.bound or (self.relative or 0) * (high - low), max(-low, high)
        words = self._scales(flat, bound, most, spec)
        steps = self._steps(words, spec)
        largest = self._largest(steps, most, spec)
        step = both.spread(steps, self.block, spec.size)
        if self.bits is None and not most / float(step + (step == 0)) < _MOST:
            raise ConfigError(f"array {spec.key!r}: the step of {self} is too small for values like these")
        divisor = step + (step == 0)
        noise = both.uniform(flat, crc32(spec.key.encode(), self.seed)) if self.seed is not None else flat

        def quotient(x: Both, noise: Both, divisor: Both = divisor) -> Both:
            rounded = self._round(x / divisor, noise)
            if self.bound or self.relative:
                self._check(x, rounded, step, most, bound, spec)
            return cast(rounded, "int32")

        with np.errstate(over="ignore", invalid="ignore"):
            found = both.blockwise(quotient, flat, noise, *([divisor] if self.block else []), behind=words)
            if not holds(spec.dtype, most * (1 + 2.0**-20) + largest) and not (self.bound or self.relative):
                self._check_ends(both.product(found[self._words(spec) :], step), spec)
        return found  # type: ignore[no-any-return]

    def decode(self, y: Host, spec: Spec) -> Host:
        count = self._words(spec)
        words, indices = (y[:count] if count else None), y[count:]
        with np.errstate(over="ignore"):
            x: Both = both.product(indices, both.spread(self._steps(words, spec), self.block, spec.size))
            return x.astype(numpy_dtype(spec.dtype), copy=False).reshape(spec.shape)  # type: ignore[no-any-return]

    def _words(self, spec: Spec) -> int:
        """Return how many scales travel: none if the step is known, one, or one per block."""
        if self.step is not None:
            return 0
        return -(-spec.size // self.block) if self.block else 1

    def _scales(self, x: Both, bound: float, most: float, spec: Spec) -> Both:
        """Find the scales in the values: upper bits of float32, each after the first as a difference, small as indices.

        They are rounded up for ``bits``, so that indices fit, and down for a bound, so that it holds.
        """
        if self.step is not None:
            return None
        if self.bits is None:
            # The second holds where rounding is coarser than the bound: it then brings back the value itself.
            step = max(2 * (bound - most * _rounding(spec)), bound * (1 - 2.0**-12))
            step = min(step, float(np.finfo(np.float32).max))
            return both.like(x, [int(bits(np.array(step, np.float32))) >> self._dropped])
        largest = cast(both.largest(both.blocks(abs(x), self.block)), "float32")
        if not all_finite(largest):
            raise ConfigError(f"array {spec.key!r}: quantize needs magnitudes that float32 holds")
        words = ((bits(largest) >> self._dropped) + 1) * (largest > 0)
        return both.join(words[:1], words[1:] - words[:-1])

    def _steps(self, words: Both, spec: Spec) -> Both:
        """Return the step, or one per block, from what travels and what both ends know."""
        wide = numpy_dtype(_wide(spec))
        if words is None:
            return wide.type(min(self.step or 0, float(np.finfo(wide).max)))
        words = cast(words, "int64").cumsum(0)
        if int(words.min()) < 0 or int(words.max()) > 0x7F800000 >> self._dropped:
            raise ChunkError(f"array {spec.key!r}: expected scales of float32, found {words.min()} to {words.max()}")
        scale = cast(view(cast(words << self._dropped, "int32"), "float32"), wide.name)
        scale = scale if self.block else scale[0]
        return scale if self.bits is None else scale / ((1 << self.bits - 1) - 1)

    def _round(self, x: Both, noise: Both) -> Both:
        if self.seed is not None:
            x = both.floor(x + noise)
        elif self.zone == 0.5:
            x = x.round()
        else:
            x = both.floor(abs(x) + (1 - self.zone)) * ((x > 0) * 2 - 1)
        if self.bits is None:
            return x
        limit = (1 << self.bits - 1) - 1
        return x.clip(-limit, limit)

    def _largest(self, steps: Both, most: float, spec: Spec) -> float:
        """Return the largest step; refuse one that is no number, or none for values of which the largest is not 0."""
        largest = float(steps.max())
        if not isfinite(largest) or (most and not largest and not (self.bound or self.relative)):
            raise ConfigError(
                f"array {spec.key!r}: expected a step for {self} that {_wide(spec)} holds, found {largest} for values "
                f"up to {most}; code them losslessly"
            )
        return largest

    def _check_ends(self, decoded: Both, spec: Spec) -> None:
        """Refuse indices of which the smallest or the largest decodes to what the dtype does not hold."""
        low, high = float(decoded.min()), float(decoded.max())
        if not (holds(spec.dtype, low) and holds(spec.dtype, high)):
            raise ConfigError(
                f"array {spec.key!r}: expected values that {spec.dtype} holds from {self}, found {low} to {high}; code "
                "them losslessly"
            )

    def _check(self, x: Both, indices: Both, step: Both, most: float, bound: float, spec: Spec) -> None:
        """Refuse values, up to ``most``, unless what their indices decode to is within the bound."""
        y = both.product(indices, step, most=most / float(step + (step == 0)) + 1)
        difference = cast(cast(y, spec.dtype), _wide(spec))
        difference -= x
        if not max(float(difference.max()), -float(difference.min())) * (1 + 2.0**-22) <= bound:  # NaN, too
            raise ConfigError(f"array {spec.key!r}: {spec.dtype} cannot hold the bound of {self} for values like these")

    @property
    def _dropped(self) -> int:
        return _DROPPED if self.block is None else _DROPPED_PER_BLOCK


def _rounding(spec: Spec) -> float:
    """Return what rounding alone may take off the largest magnitude: of the quotient, the product and the dtype."""
    return float(ml_dtypes.finfo(numpy_dtype(spec.dtype)).eps) / 2 + 2.0 ** (-51 if spec.dtype == "float64" else -22)  # type: ignore[no-untyped-call]


def _wide(spec: Spec) -> str:
    """Return the type to compute in."""
    return "float64" if spec.dtype == "float64" else "float32"
