"""Rate control: one step for all arrays of a record, such that it takes so many bytes, or errs by so much.

With one step for all, no bit would buy more accuracy in another array: reverse water-filling (Cover and Thomas 2006,
section 10.3.3), where arrays that move by less than a step take next to nothing. Size is nearly a power of the step, so
that the secant method on logarithms needs two encodings, three at most, if the first guess is near.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from math import isfinite, prod, sqrt
from typing import ClassVar

import numpy as np

from flowerpress.codecs.base import Codec, Pipeline, Spec, bounds, check_float, is_number
from flowerpress.codecs.both import Both
from flowerpress.codecs.dtypes import Host, all_finite, cast, dtype_name, local, to_host
from flowerpress.codecs.entropy import Entropy
from flowerpress.codecs.levels import Scales, entropy, matrix
from flowerpress.codecs.plan import Plan, Record
from flowerpress.codecs.quantize import DEAD_ZONE, Quantize
from flowerpress.codecs.search import search
from flowerpress.errors import ConfigError

_SAMPLE = 1 << 18  # values that the first guess looks at
_HALVINGS = 14  # of 41 octaves, down to 0.2%


@dataclass(frozen=True, kw_only=True)
class Budget(Plan):
    """The step with which a record just stays within its budget: from 98% to 100% of it, where steps are that fine.

    Exactly one of these is the budget of the whole bundle; arrays that must stay exact are paid out of it:

    Parameters
    ----------
    bits : float, optional
        Bits per value.
    bytes : int, optional
        Bytes.
    ratio : float, optional
        Bytes in memory over bytes of the bundle, at least.
    least : int
        Bytes that the bundle may take in any case, with ``bits`` or ``ratio``: a small record is little more than the
        names of its arrays.
    error : float, optional
        L2 norm of the error over the L2 norm of what is coded (after ``delta``: of the difference), at most.
    pipelines : tuple of Pipeline
        At most one; in text without a name. What codes the arrays; the step that was found takes the place of each
        ``step`` in it. By default ``quantize(step=1.0, zone=0.6) | entropy``.
    """

    pipelines: tuple[Pipeline, ...] = (Pipeline((Quantize(step=1.0, zone=DEAD_ZONE), Entropy())),)
    bits: float | None = None
    bytes: int | None = None
    ratio: float | None = None
    error: float | None = None
    least: int = 0
    name: ClassVar[str] = "budget"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pipelines", tuple(self.pipelines))
        given = {n: getattr(self, n) for n in ("bits", "bytes", "ratio", "error") if getattr(self, n) is not None}
        if len(given) != 1:
            raise ConfigError(f"budget: expected one of bits, bytes, ratio and error, found {list(given) or 'none'}")
        for name, value in given.items():
            if not (is_number(value) and isfinite(value) and value > 0):
                raise ConfigError(f"budget: expected {name} above 0, found {value!r}")
        if isinstance(self.least, bool) or not isinstance(self.least, int) or self.least < 0:
            raise ConfigError(f"budget: expected least of 0 bytes or more, found {self.least!r}")
        if self.least and (self.bytes or self.error):
            raise ConfigError("budget: least goes with bits or ratio")
        if len(self.pipelines) != 1 or not self.pipelines[0].settled or self._with(0.5) == self._with(0.25):
            raise ConfigError(f"budget: expected one pipeline with a step, found {', '.join(map(str, self.pipelines))}")

    def refuses(self, spec: Spec) -> str:
        return check_float(spec) or self.pipelines[0].refuses(spec)

    def settle(self, record: Record) -> Codec:
        sample = _Sample(record)
        if self.error is not None:
            most = self.error * _norm(record, sample.most)

            def used(step: float) -> float:
                return sqrt(record.squared_error(self._with(step), sample.most)) / most if most else 0.0

            def guess(share: float) -> float:
                return sample.largest(lambda step: sample.squared_error(step) < (most * share) ** 2)
        else:
            target = self._bytes(record)

            def used(step: float) -> float:
                return record.nbytes(self._with(step)) / target

            def guess(share: float) -> float:
                return sample.step(8 * share * target)

        return self._with(search(used, guess, rising=self.error is not None))

    def _with(self, step: float) -> Pipeline:
        stages = self.pipelines[0].stages
        return Pipeline(tuple(replace(s, step=step) if _has_step(s) else s for s in stages))  # type: ignore[type-var]

    def _bytes(self, record: Record) -> float:
        if self.bytes is not None:
            return self.bytes
        wanted = record.size * self.bits / 8 if self.bits is not None else record.raw_bytes / (self.ratio or 1)
        return max(wanted, self.least)


def _has_step(stage: Codec) -> bool:
    return any(f.name == "step" for f in fields(stage)) and getattr(stage, "step", None) is not None  # type: ignore[arg-type]


class _Sample:
    """Magnitudes of some rows of each array, which say what a step will take before anything is encoded."""

    def __init__(self, record: Record) -> None:
        samples, sizes, largest, share = list[Host](), list[int](), 0.0, max(1, record.size // _SAMPLE)
        for x in _finite(record):
            every = min(share, x.shape[0])
            samples.append(to_host(x[::every, :: -(-share // every)]))
            sizes.append(x.shape[0] * x.shape[1])
            largest = max(largest, float(x.max()), -float(x.min()))
        self.most = largest or 1.0  # the unit of what follows: squares of extreme values overflow
        self.shapes = [x.shape for x in samples]
        magnitudes: list[Host] = [(np.abs(x) / np.float64(self.most)).astype(np.float32).ravel() for x in samples]
        self.flat = np.concatenate([np.zeros(0, np.float32), *magnitudes])
        self.bounds = list(bounds(self.shapes))
        self.starts = [start for start, _ in self.bounds]
        self.weights = np.array(sizes) / [stop - start for start, stop in self.bounds]  # values that each stands for
        self.gain = 1.0

    def step(self, bits: float) -> float:
        """Return the step at which the record should take so many bits."""
        if self.gain == 1.0:
            step = self.largest(lambda step: self._bits(step) > bits) / self.most
            by_line = sum(w * Scales(q).choose(2)[0] for w, q in zip(self.weights, self._matrices(step), strict=True))
            self.gain = max(0.1, by_line / (self._bits(step) or 1.0))
        return self.largest(lambda step: self._bits(step) > bits / self.gain)

    def largest(self, holds: Callable[[float], bool]) -> float:
        """Return about the largest step for which something holds that only small steps fulfil."""
        low, high = 2.0**-40, 2.0
        for _ in range(_HALVINGS):
            middle = sqrt(low * high)
            low, high = (middle, high) if holds(middle) else (low, middle)
        return sqrt(low * high) * self.most

    def squared_error(self, step: float) -> float:
        """Return about what a quantiser with this step errs by."""
        return float(self.weights @ self._sums(np.square(self.flat - self._indices(step) * np.float32(step))))

    def _bits(self, step: float) -> float:
        """Return what geometric codes take, one for each array."""
        counts = np.diff([*self.starts, self.flat.size])
        return float((self.weights * counts) @ entropy(self._sums(self._indices(step)) / counts))

    def _indices(self, step: float) -> Host:
        return np.asarray(np.floor(self.flat * np.float32(1 / step) + np.float32(1 - DEAD_ZONE)))

    def _sums(self, flat: Host) -> Host:
        """Return the sum of each array of the sample."""
        return np.add.reduceat(flat, self.starts, dtype=np.float64) if self.starts else np.zeros(0)

    def _matrices(self, step: float) -> Iterator[Host]:
        flat = self._indices(step)
        return (flat[start:stop].reshape(shape) for (start, stop), shape in zip(self.bounds, self.shapes, strict=True))


def _finite(record: Record) -> Iterator[Both]:
    """Return the arrays as matrices, without those that are coded exactly: scalars, empty ones, infinities and NaN."""
    for x in record.arrays():
        wide: Both = cast(local(x), "float64" if dtype_name(x) == "float64" else "float32")
        if wide.shape and prod(wide.shape) and all_finite(wide):
            yield wide.reshape(matrix(tuple(wide.shape)))


def _norm(record: Record, unit: float) -> float:
    return sqrt(sum(float(((cast(x, "float64") / unit) ** 2).sum()) for x in _finite(record)))
