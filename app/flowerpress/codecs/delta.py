"""The float difference to the reference: what a lossy codec after it should see.

Weights after a round differ from the reference by little; a quantiser with one step spends its bits on that difference.
Adding it back is one rounding, so the pair is not exact: for exactness there is `intdelta`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from flowerpress.codecs import both
from flowerpress.codecs.base import ArrayToArray, Spec, base_of, bounds, check_base, check_float
from flowerpress.codecs.both import Both
from flowerpress.codecs.dtypes import ArrayLike, Host, all_finite, cast, numpy_dtype, smallest
from flowerpress.errors import ConfigError

_MOST = 4096  # octaves, more than any float has


@dataclass(frozen=True, kw_only=True)
class Delta(ArrayToArray):
    """Array minus reference, in float32, or float64 for float64; decoding adds and rounds to the array's dtype once.

    Takes finite floats and needs ``spec.base``. Each step is one IEEE operation, never a fused one, so that both ends
    get the same bits on any device.

    Parameters
    ----------
    positive : bool
        Arrays whose references are positive throughout, such as the variances of batch normalisation, stay positive,
        however coarse a quantiser follows. Coded is by how many octaves ``x / reference`` changed, straight between
        powers of 2: 0.5 stands for growth by a half, 2 for four times as much, -1 for half of it.

    >>> import numpy as np
    >>> base = np.array([1.0, 2.0], dtype="float32")
    >>> Delta().encode(base + 1, Spec.of(base, "w", base))
    array([1., 1.], dtype=float32)
    """

    positive: bool = False
    name: ClassVar[str] = "delta"

    @property
    def lossless(self) -> bool:
        return False

    def refuses(self, spec: Spec) -> str:
        return check_float(spec) or check_base(spec)

    def after(self, spec: Spec) -> Spec:
        return replace(spec, dtype="float64" if spec.dtype == "float64" else "float32", base=None)

    def encode(self, x: ArrayLike, spec: Spec) -> ArrayLike:
        wide = self.after(spec).dtype
        with np.errstate(all="ignore"):
            x, base = cast(x, wide).reshape(-1), cast(base_of(spec, x), wide).reshape(-1)
            y: Both = x - base
            for part in self._positive(spec, base):
                ratio = x[part] / base[part]
                if not bool((ratio > 0).all()):
                    raise ConfigError(
                        f"array {spec.key!r}: {self} needs values above 0 where the reference has no others"
                    )
                y[part] = _octaves(ratio, wide)
        if not all_finite(y):
            raise ConfigError(f"array {spec.key!r}: delta needs finite differences; use intdelta, which is exact")
        found: ArrayLike = y.reshape(spec.shape)
        return found

    def decode(self, y: Host, spec: Spec) -> Host:
        y, base = y.reshape(-1), cast(base_of(spec, y), str(y.dtype)).reshape(-1)
        with np.errstate(all="ignore"):
            x = base + y
            for part in self._positive(spec, base):
                x[part] = np.maximum(base[part] * _ratio(y[part]), smallest(spec.dtype))
            return x.reshape(spec.shape).astype(numpy_dtype(spec.dtype), copy=False)

    def _positive(self, spec: Spec, base: Both) -> Iterator[slice]:
        """Return where the arrays lie whose references are positive throughout."""
        for start, stop in bounds(spec.parts) if self.positive else ():
            if stop > start and bool((base[start:stop] > 0).all()):
                yield slice(start, stop)


def _octaves(ratio: Both, wide: str) -> Both:
    """Return the logarithms to base 2, straight between whole numbers, which every device inverts alike."""
    mantissa, exponent = both.frexp(ratio)
    return (2 * mantissa - 2) + cast(exponent, wide)


def _ratio(octaves: Host) -> Host:
    """Undo `_octaves`; what is out of the range of floats becomes infinite, or 0."""
    octaves = octaves.clip(-_MOST, _MOST)
    whole = np.floor(octaves)
    return np.asarray(np.ldexp(1 + (octaves - whole), whole.astype(np.int32)))
