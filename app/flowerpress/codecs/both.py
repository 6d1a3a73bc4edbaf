"""What numpy and torch spell differently, so that transforms are written once and run where the array lives.

Arithmetic, comparisons, ``reshape``, ``round``, ``clip`` and ``cumsum`` are the same in both, and need nothing here.
"""

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flowerpress.codecs.dtypes import Host, cast, is_torch, numpy_dtype, to_tensor

Both: TypeAlias = Any  # a numpy array or a torch tensor, used by what they have in common
_BLOCK = 1 << 17  # elements: temporaries that memory allocators keep, in a core's cache
_EXACT = 1 << 24  # below it, float32 holds every integer


def blockwise(function: Callable[..., Both], *arrays: Both, behind: Both = None) -> Both:
    """Apply an elementwise function of flat arrays; on the host, block by block, so that temporaries stay in cache.

    The result comes ``behind`` a few values of its dtype, if they are given.
    """
    if is_torch(arrays[0]):
        return function(*arrays) if behind is None else join(behind, function(*arrays))
    first, head = function(*(a[:_BLOCK] for a in arrays)), 0 if behind is None else behind.size
    out = np.empty(head + arrays[0].size, first.dtype)
    out[:head] = 0 if behind is None else behind
    found = out[head:]
    found[:_BLOCK] = first
    for start in range(_BLOCK, found.size, _BLOCK):
        found[start : start + _BLOCK] = function(*(a[start : start + _BLOCK] for a in arrays))
    return out


def floor(x: Both) -> Both:
    """Round down."""
    return x.floor() if is_torch(x) else np.floor(x)


def frexp(x: Both) -> tuple[Both, Both]:
    """Return mantissas from 0.5 to 1 and exponents of 2."""
    found: tuple[Both, Both] = x.frexp() if is_torch(x) else np.frexp(x)
    return found


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


def product(indices: Both, steps: Both, *, most: float | None = None) -> Both:
    """Multiply whole numbers, up to ``most``, with steps, in the dtype of the steps and with one rounding."""
    name = str(steps.dtype).removeprefix("torch.")
    if most is None:
        most = max(-int(indices.min()), int(indices.max())) if indices.shape[0] else 0
    wide = "float64" if name == "float32" and most >= _EXACT else name
    if steps.ndim:
        return blockwise(lambda i, s: cast(cast(i, wide) * cast(s, wide), name), indices, steps)
    factor = float(steps) if is_torch(indices) else numpy_dtype(wide).type(float(steps))
    if wide != name:
        return blockwise(lambda i: cast(cast(i, wide) * factor, name), indices)
    found = cast(indices, name)
    if found is indices:
        return found * factor
    found *= factor  # in place, since fresh memory costs more than arithmetic
    return found


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


def positions(mask: Both) -> Both:
    """Return where a flat mask is true."""
    return mask.nonzero().reshape(-1) if is_torch(mask) else np.flatnonzero(mask)


def counts(x: Both, length: int) -> npt.NDArray[np.int64]:
    """Count how often each of 0, 1, … up to ``length`` occurs, on the host."""
    return x.bincount(minlength=length).cpu().numpy() if is_torch(x) else np.bincount(x, minlength=length)


def linalg(x: Both) -> Both:
    """Return the module of matrix decompositions for arrays like ``x``; numpy's and torch's agree in what is used."""
    return sys.modules["torch"].linalg if is_torch(x) else np.linalg


def place(x: Both, y: Host) -> Both:
    """Return a host array where ``x`` lives."""
    return to_tensor(y).to(x.device) if is_torch(x) else y
