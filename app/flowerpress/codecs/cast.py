"""Fewer bits per float, without looking at the values: what most federated systems call compression.

Half precision is 16 bits per value, whatever they are; a quantiser with an entropy coder takes 2 to 6 for the same
accuracy of a whole run. It is here to be compared with, and for links where only speed counts.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from flowerpress.codecs.base import ArrayToArray, Spec, check_float
from flowerpress.codecs.dtypes import ArrayLike, Host, all_finite, cast, numpy_dtype
from flowerpress.errors import ConfigError

_DTYPES = ("float16", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Cast(ArrayToArray):
    """Floats in another precision, each rounded to the nearest.

    Parameters
    ----------
    dtype : str
        ``"float16"`` (11 bits of precision, up to 65,504) or ``"bfloat16"`` (8 bits, the range of float32). Arrays with
        values that it does not hold are coded exactly.

    >>> x = np.array([1.0, 1e-3], dtype="float32")
    >>> Cast().encode(x, Spec.of(x)).dtype
    dtype('float16')
    """

    dtype: str = "float16"
    name: ClassVar[str] = "cast"

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise ConfigError(f"cast: expected a dtype among {', '.join(_DTYPES)}, found {self.dtype!r}")

    @property
    def lossless(self) -> bool:
        return False

    def refuses(self, spec: Spec) -> str:
        return check_float(spec)

    def after(self, spec: Spec) -> Spec:
        return replace(spec, dtype=self.dtype, base=None)

    def encode(self, x: ArrayLike, spec: Spec) -> ArrayLike:
        with np.errstate(over="ignore"):
            y: ArrayLike = cast(x, self.dtype)
        if not all_finite(y):
            raise ConfigError(f"array {spec.key!r}: {self} needs finite values that {self.dtype} holds")
        return y

    def decode(self, y: Host, spec: Spec) -> Host:
        return y.astype(numpy_dtype(spec.dtype))
