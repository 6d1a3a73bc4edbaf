"""Features of large models as one plane of integers, which codecs for pictures take. ::

    features (crops, layers, tokens, channels) ── quantise ──► integers, same shape ── pack ──► plane (rows, columns)
                                               ◄─ dequantise ─                      ◄─ unpack ─

The planes are those of "Feature Coding in the Era of Large Models" (arXiv:2412.04307). Each matrix of tokens and
channels (for sd3, of rows and columns: its layers are the 16 channels of an image) is a tile of the plane:

========  ===========================  =======================================
llama3    one crop, one layer          the only tile
dinov2    any crops, any layers        crops below, layers beside each other
sd3       n crops, 16 n layers, n = 1  row by row, in a square of 4 n x 4 n
========  ===========================  =======================================
"""

from collections.abc import Iterable, Mapping, Set
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from flowerpress.codecs.dtypes import ArrayLike, all_finite, dtype_name, is_float, to_host
from flowerpress.errors import ConfigError

Array: TypeAlias = npt.NDArray[Any]
Bound: TypeAlias = float | tuple[float, ...]
Shape: TypeAlias = tuple[int, ...]

MODEL_TYPES = ("llama3", "dinov2", "sd3")
ROUNDINGS = ("truncate", "nearest")
MOST = 1 << 28  # values in a plane: 512 MiB of samples
_FLOATS = ("float16", "float32", "float64")
_LARGEST = {"float16": 65504.0, "float32": float(np.finfo("float32").max) / 2}  # so that differences are finite, too


def as_features(x: ArrayLike) -> Array:
    """Return features as a contiguous array (crops, layers, tokens, channels) of float16, 32 or 64 in host memory.

    Torch tensors are taken, and narrower floats become float32. Raises ConfigError for other dtypes and numbers of
    axes, for no values or too many, and for NaN and infinities.
    """
    x = to_host(x)
    name = dtype_name(x)
    if not is_float(name):
        raise ConfigError(f"features: expected float16, float32 or float64, found {name}; convert them")
    if x.ndim != 4 or not 0 < x.size <= MOST:
        raise ConfigError(f"features: expected 4 axes and 1 to {MOST} values, found shape {x.shape}")
    x = x if name in _FLOATS else x.astype("float32")
    if not all_finite(x):
        raise ConfigError("features: expected finite values, found NaN or infinity; replace them")
    return x


def as_bound(name: str, value: object) -> Bound:
    """Return a bound as a float, or one per layer from any sequence; ConfigError unless it is finite numbers."""
    one = not isinstance(value, Iterable) or isinstance(value, Mapping | Set | str | bytes)
    try:
        array = np.asarray(value if one or getattr(value, "shape", None) == () else list(value))  # type: ignore[call-overload]
    except (ValueError, TypeError, OverflowError):
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or array.ndim > 1 or not array.size or not np.isfinite(array).all():
        raise ConfigError(f"{name}: expected a finite number, or one per layer, found {value!r}")
    return tuple(float(v) for v in array) if array.ndim else float(array)


def check_bounds(low: Bound, high: Bound, layers: int, dtype: str = "float32") -> None:
    """Raise ConfigError unless bounds are one or one per layer, in order, and results of this dtype hold them."""
    for name, bound in (("lower", low), ("upper", high)):
        if isinstance(bound, tuple) and len(bound) != layers:
            raise ConfigError(f"{name} bounds: expected a number, or {layers}, one per layer, found {len(bound)}")
        if not (np.abs(bound) <= _LARGEST[dtype]).all():  # NaN is not, either
            raise ConfigError(f"{name} bound: expected at most {_LARGEST[dtype]:g}, as in {dtype}, found {bound}")
    if not np.less_equal(low, high).all():
        raise ConfigError(f"bounds: expected lower ones up to upper ones, found {low} and {high}")


def sample_type(bit_depth: int) -> np.dtype[Any]:
    """Return the type of a sample: a byte up to 8 bits, else two, the lower one first.

    >>> sample_type(8).itemsize, sample_type(9).itemsize
    (1, 2)
    """
    return np.dtype("u1" if bit_depth <= 8 else "<u2")


def plane_shape(shape: Shape, model_type: str) -> tuple[int, int]:
    """Return rows and columns of the plane for features of this shape.

    >>> plane_shape((1, 16, 128, 128), "sd3"), plane_shape((2, 4, 257, 1536), "dinov2")
    ((512, 512), (514, 6144))

    Raises ConfigError for shapes that would not come back whole.
    """
    down, across = _tiles(shape, model_type)
    return down * shape[2], across * shape[3]


def pack(x: Array, model_type: str) -> Array:
    """Return the plane (rows, columns) of an array (crops, layers, tokens, channels); ConfigError as `plane_shape`.

    >>> pack(np.arange(4).reshape(1, 2, 2, 1), "dinov2")
    array([[0, 2],
           [1, 3]])
    """
    down, across = _tiles(x.shape, model_type)
    tokens, channels = x.shape[2:]
    grid: Array = x.reshape(down, across, tokens, channels).transpose(0, 2, 1, 3)
    return grid.reshape(down * tokens, across * channels)


def unpack(plane: Array, shape: Shape, model_type: str) -> Array:
    """Return the array of this shape that `pack` made the plane of; ConfigError if it made another."""
    if plane.shape != plane_shape(shape, model_type):
        raise ConfigError(f"plane: expected {plane_shape(shape, model_type)} for {shape}, found {plane.shape}")
    down, across = _tiles(shape, model_type)
    x: Array = plane.reshape(down, shape[2], across, shape[3]).transpose(0, 2, 1, 3).reshape(shape)
    return x


def quantise(x: Array, low: Bound, high: Bound, bit_depth: int, *, rounding: str = "truncate") -> Array:
    """Return indices of finite features (crops, layers, tokens, channels), clipped to their bounds, as samples.

    ``"truncate"`` is the way of published streams: ``(clip(x, low, high) - low) * scale``, ``scale = (2**bit_depth - 1)
    / (high - low)``, in the dtype of the features, cut to an integer. `dequantise` then errs by up to a step, by half a
    step on average. ``"nearest"``, in float32 or more, errs by half a step at most, and is decoded alike.

    Where the dtype cannot hold scale or indices (float16: more than 11 bits, wide or narrow bounds), the next wider one
    computes. Indices never leave ``bit_depth`` bits. Where bounds are equal, they are 0.
    """
    if rounding not in ROUNDINGS:
        raise ConfigError(f"rounding: expected {' or '.join(ROUNDINGS)}, found {rounding!r}")
    check_bounds(low, high, x.shape[1])
    levels = (1 << bit_depth) - 1
    lower, upper, scale = _affine(low, high, levels)
    dtype = _dtype(lower, upper, scale, levels, max(x.dtype.itemsize, 4 if rounding == "nearest" else 2))
    lower, upper, scale = (v.astype(dtype) for v in (lower, upper, np.where(np.isfinite(scale), scale, 0)))
    y = np.clip(x.astype(dtype, copy=False), lower, upper)
    y -= lower
    y *= scale
    if rounding == "nearest":
        np.rint(y, out=y)
    q: Array = np.clip(y, 0, levels, out=y).astype(sample_type(bit_depth))
    return q


def dequantise(q: Array, low: Bound, high: Bound, bit_depth: int, *, dtype: str = "float32") -> Array:
    """Return features of ``dtype`` from indices (crops, layers, tokens, channels): ``q / scale + low``, in float32.

    Bounds so narrow that float32 cannot hold the scale are computed in float64.
    """
    check_bounds(low, high, q.shape[1], dtype)
    levels = (1 << bit_depth) - 1
    lower, upper, scale = _affine(low, high, levels)
    wide = _dtype(lower, upper, scale, levels, 4)
    y = q.astype(wide)
    y /= scale.astype(wide)
    y += lower.astype(wide)
    return y.astype("float32", copy=False).astype(dtype, copy=False)


def _tiles(shape: Shape, model_type: str) -> tuple[int, int]:
    """Return how many tiles are below and beside each other."""
    if len(shape) != 4 or min(shape) < 1 or prod(shape) > MOST:
        raise ConfigError(f"expected a shape of 4 axes and 1 to {MOST} values, found {shape}")
    crops, layers = shape[:2]
    if model_type == "dinov2":
        return crops, layers
    if model_type == "llama3" and crops == layers == 1:
        return 1, 1
    if model_type == "sd3" and layers == 16 * crops:
        return 4 * crops, 4 * crops
    wanted = {"llama3": "(1, 1, tokens, channels)", "sd3": "(1, 16, height, width)"}.get(model_type)
    if wanted is None:
        raise ConfigError(f"model_type: expected {', '.join(MODEL_TYPES)}, found {model_type!r}")
    raise ConfigError(f"{model_type} features: expected shape {wanted}, found {shape}; code crops and layers singly")


def _affine(low: Bound, high: Bound, levels: int) -> tuple[Array, Array, Array]:
    """Return bounds and scales in float64, to go with (crops, layers, tokens, channels); equal bounds scale by inf."""
    lower, upper = (np.asarray(v, "float64").reshape(-1, 1, 1) for v in (low, high))
    with np.errstate(divide="ignore", over="ignore"):
        return lower, upper, levels / (upper - lower)


def _dtype(low: Array, high: Array, scale: Array, levels: int, least: int) -> np.dtype[Any]:
    """Return the narrowest float of at least so many bytes in which indices are exact, and bounds and scales finite."""
    finite = scale[np.isfinite(scale)]
    largest = max(float(v.max(initial=0)) for v in (np.abs(low), np.abs(high), high - low, finite))
    for name in _FLOATS[:-1]:
        info = np.finfo(name)
        if info.dtype.itemsize >= least and levels < 2 << info.nmant and largest <= float(info.max):
            return info.dtype
    return np.dtype("float64")
