"""A model with floats, integers and an odd shape, and what a client makes of it, the same everywhere."""

import numpy as np
from flwr.app import Array, ArrayRecord


def initial(megabytes: float = 0.0) -> ArrayRecord:
    rng, record = np.random.default_rng(0), ArrayRecord()
    record["w"] = Array(rng.standard_normal((40, 30), np.float32))
    record["b"] = Array(rng.standard_normal(30, np.float32))
    record["count"] = Array(np.array(3, np.int64))
    if megabytes:
        record["large"] = Array(rng.standard_normal(int(megabytes * 250_000), np.float32))
    return record


def trained(record: ArrayRecord, partition: int) -> ArrayRecord:
    """Move the floats by a step of this partition's own, and count."""
    found = ArrayRecord()
    for key, array in record.items():
        x = array.numpy()
        if key == "count":
            found[key] = Array(np.asarray(x + partition + 1, np.int64))
        else:
            step = np.float32(0.1) * np.sin(x.astype(np.float32) * np.float32(partition + 1))
            found[key] = Array((x - step).astype(np.float32))
    return found
