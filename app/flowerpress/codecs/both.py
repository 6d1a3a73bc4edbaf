"""What numpy and torch spell differently, so that transforms are written once and run where the array lives.

Arithmetic, comparisons, ``reshape``, ``round``, ``clip`` and ``cumsum`` are the same in both, and need nothing here.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from flowerpress.codecs.dtypes import cast, is_torch, numpy_dtype

Both: TypeAlias = Any  # a numpy array or a torch tensor, used by what they have in common
_BLOCK = 1 << 16  # elements
_EXACT = 1 << 24  # below it, float32 holds every integer


def blockwise(function: Callable[..., Both], *arrays: Both) -> Both:
    """Apply an elementwise function of flat arrays; on the host, block by block, so that temporaries stay in cache."""
    if is_torch(arrays[0]) or arrays[0].size <= _BLOCK:
        return function(*arrays)
    first = function(*(a[:_BLOCK] for a in arrays))
    out = np.empty(arrays[0].size, first.dtype)
    out[:_BLOCK] = first
    for start in range(_BLOCK, out.size, _BLOCK):
        out[start : start + _BLOCK] = function(*(a[start : start + _BLOCK] for a in arrays))
    return out


def floor(x: Both) -> Both:
    """Round down."""
    return x.floor() if is_torch(x) else np.floor(x)


def largest(x: Both) -> Both:
    """Return the largest value of each row."""
    return x.amax(1) if is_torch(x) else x.max(1)


def join(x: Both, y: Both) -> Both:
    """Join two flat arrays, in the dtype of the second."""
    if is_torch(x):
        import torch

        return torch.cat([x.to(y.dtype), y])
    return np.concatenate([x.astype(y.dtype), y])


def like(x: Both, values: list[int]) -> Both:
    """Return a few integers, as int32, where ``x`` lives."""
    found = np.array(values, np.int32)
    if not is_torch(x):
        return found
    import torch

    return torch.from_numpy(found).to(x.device)


def blocks(x: Both, block: int | None) -> Both:
    """Return rows of ``block`` values, the last one filled up with zeros; one row without a block."""
    if block is None:
        return x.reshape(1, -1)
    missing = -x.shape[0] % block
    return (join(x, x[:1].repeat(missing) * 0) if missing else x).reshape(-1, block)


def spread(steps: Both, block: int | None, size: int) -> Both:
    """Return a step for each of ``size`` values from one per block; the one step without a block."""
    if block is None:
        return steps
    return (steps.repeat_interleave(block) if is_torch(steps) else steps.repeat(block))[:size]


def product(indices: Both, steps: Both) -> Both:
    """Multiply integers with steps, in the dtype of the steps and with one rounding."""
    name = str(steps.dtype).removeprefix("torch.")
    far = max(-int(indices.min()), int(indices.max())) >= _EXACT if indices.shape[0] else False
    wide = "float64" if name == "float32" and far else name
    if steps.ndim:
        return blockwise(lambda i, s: cast(cast(i, wide) * cast(s, wide), name), indices, steps)
    factor = float(steps) if is_torch(indices) else numpy_dtype(wide).type(float(steps))
    return blockwise(lambda i: cast(cast(i, wide) * factor, name), indices)


def uniform(x: Both, seed: int) -> Both:
    """Return numbers from [0, 1) in the dtype of ``x``, by position: a 32-bit hash (lowbias32, C. Wellons 2018)."""
    if is_torch(x):
        import torch

        h: Both = torch.arange(x.shape[0], dtype=torch.int64, device=x.device)
    else:
        h = np.arange(x.shape[0], dtype=np.int64)
    mask = 0xFFFFFFFF
    h = (h + seed) & mask
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h ^= h >> shift
        h = ((h & 0xFFFF) * factor + ((((h >> 16) * factor) & 0xFFFF) << 16)) & mask
    return cast((h ^ h >> 16) >> 8, str(x.dtype).removeprefix("torch.")) / (1 << 24)
