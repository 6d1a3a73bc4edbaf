"""Dtypes that a strategy changed, changed back.

FedAvg turns integer buffers into float64, FedAdam and QFedAvg the whole model; bfloat16 comes back from any strategy as
float32. Sent like that, a model doubles. torch narrows again in ``load_state_dict``, by rounding floats and truncating
integers; doing the same before sending gives the same models, in fewer bytes.
"""

import numpy as np
from flwr.app import ArrayRecord

from flowerpress.codecs.dtypes import numpy_dtype
from flowerpress.errors import ConfigError
from flowerpress.records import LatentArray


class Dtypes:
    """The dtypes in which records of each name were first sent."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], str] = {}

    def restore(self, name: str, record: ArrayRecord) -> ArrayRecord:
        """Return ``record`` with promoted arrays narrowed to what was first sent as ``name``; itself if none is."""
        narrowed = {
            key: LatentArray(array.numpy().astype(numpy_dtype(first)), codec="raw")
            for key, array in record.items()
            if _promoted(first := self._first.setdefault((name, key), array.dtype), array.dtype)
        }
        if not narrowed:
            return record
        restored = ArrayRecord()
        for key, array in record.items():
            restored[key] = narrowed.get(key, array)
        return restored


def _promoted(first: str, now: str) -> bool:
    """Tell whether ``now`` is what numpy makes of ``first`` in arithmetic with floats."""
    if now == first or now not in ("float32", "float64"):
        return False
    try:
        return np.promote_types(numpy_dtype(first), numpy_dtype(now)) == numpy_dtype(now)
    except (TypeError, ConfigError):
        return False
