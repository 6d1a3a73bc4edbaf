"""Dtypes that a strategy changed, changed back.

FedAvg turns integer buffers into float64, FedAdam and QFedAvg the whole model; bfloat16 comes back from any strategy as
float32. Sent like that, a model doubles. torch narrows again in ``load_state_dict``, by rounding floats and truncating
integers; doing the same before sending gives the same models, in fewer bytes.
"""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from flwr.app import ArrayRecord

from flowerpress.codecs.dtypes import is_float, numpy_dtype
from flowerpress.errors import ConfigError
from flowerpress.records import LatentArray

_Array: TypeAlias = tuple[str, str, tuple[int, ...]]  # record name, key, shape


class Dtypes:
    """The dtypes in which arrays of each record name, key and shape were first sent."""

    def __init__(self) -> None:
        self._first: dict[_Array, str] = {}

    def restore(self, name: str, record: ArrayRecord) -> ArrayRecord:
        """Return ``record`` with promoted arrays narrowed to what was first sent as ``name``; itself if none is."""
        narrowed = {
            key: LatentArray(array.numpy().astype(numpy_dtype(first)), codec="raw")
            for key, array in record.items()
            if _promoted(first := self._first.setdefault((name, key, tuple(array.shape)), array.dtype), array.dtype)
        }
        if not narrowed:
            return record
        restored = ArrayRecord()
        for key, array in record.items():
            restored[key] = narrowed.get(key, array)
        return restored

    def replied(self, arrays: Iterable[tuple[str, str, str, tuple[int, ...]]]) -> None:
        """Take note of what nodes made of arrays: record name, key, dtype and shape of each.

        Floats that they made of integers are no promotion of a strategy's, and are not truncated.
        """
        for name, key, dtype, shape in arrays:
            first = self._first.get((name, key, shape))
            if first is not None and is_float(dtype) and not is_float(first):
                self._first[name, key, shape] = dtype


def _promoted(first: str, now: str) -> bool:
    """Tell whether ``now`` is what numpy makes of ``first`` in arithmetic with floats."""
    if now == first or now not in ("float32", "float64"):
        return False
    try:
        return np.promote_types(numpy_dtype(first), numpy_dtype(now)) == numpy_dtype(now)
    except (TypeError, ConfigError):
        return False
