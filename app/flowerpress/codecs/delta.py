"""The float difference to the reference: what a lossy codec after it should see.

Weights after a round differ from the reference by little; a quantiser with one step spends its bits on that difference.
Adding it back is one rounding, so the pair is not exact: for exactness there is `intdelta`.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from flowerpress.codecs.base import ArrayToArray, Spec, base_of, check_base, check_float
from flowerpress.codecs.dtypes import ArrayLike, Host, all_finite, cast, numpy_dtype
from flowerpress.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Delta(ArrayToArray):
    """Array minus reference, in float32, or float64 for float64; decoding adds and rounds to the array's dtype once.

    Takes finite floats and needs ``spec.base``. Each step is one IEEE operation, never a fused one, so that both ends
    get the same bits on any device.

    >>> import numpy as np
    >>> base = np.array([1.0, 2.0], dtype="float32")
    >>> Delta().encode(base + 1, Spec.of(base, "w", base))
    array([1., 1.], dtype=float32)
    """

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
        with np.errstate(invalid="ignore", over="ignore"):
            y: ArrayLike = cast(x, wide) - cast(base_of(spec, x), wide)
        if not all_finite(y):
            raise ConfigError(f"array {spec.key!r}: delta needs finite differences; use intdelta, which is exact")
        return y

    def decode(self, y: Host, spec: Spec) -> Host:
        return (cast(base_of(spec, y), str(y.dtype)) + y).astype(numpy_dtype(spec.dtype), copy=False)
