"""Names of element types, and arrays as every codec sees them.

A codec meets an array in one of two forms, and `local` makes them: a numpy array in C order and native byte order for
everything in host memory (torch tensors on the CPU share theirs), or a contiguous torch tensor for everything on a
device. bfloat16 and the float8 types are numpy arrays too, through ml_dtypes. torch is never imported from here unless
a tensor asks for it.
"""

import sys
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import ml_dtypes
import numpy as np
import numpy.typing as npt
from typing_extensions import TypeIs

from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    import torch

Host: TypeAlias = npt.NDArray[Any]
ArrayLike: TypeAlias = "Host | torch.Tensor"
Buffer: TypeAlias = bytes | bytearray | memoryview
A = TypeVar("A", bound="Host | torch.Tensor")

_NUMPY = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
_DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype(name) for name in _NUMPY},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in _EXTENDED},
}


_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype called ``name``, bfloat16 and float8 included.

    >>> numpy_dtype("bfloat16").itemsize
    2
    """
    try:
        return _DTYPES[name]
    except KeyError:
        raise ConfigError(f"dtype {name!r} cannot be coded; expected one of {', '.join(_DTYPES)}") from None


def is_float(name: str) -> bool:
    """Tell whether ``name`` is a real floating-point type: the only ones that may be coded with loss."""
    return "float" in name


def is_extended(name: str) -> bool:
    """Tell whether numpy has no type of its own for it: bfloat16 and float8."""
    return name in _EXTENDED


def is_complex(name: str) -> bool:
    """Tell whether ``name`` is a type whose elements have an imaginary part."""
    return name.startswith("complex")


def sum_dtype(name: str) -> str:
    """Return the type in which elements of the type ``name`` are summed.

    >>> sum_dtype("bfloat16"), sum_dtype("complex64")
    ('float64', 'complex128')
    """
    return "complex128" if is_complex(name) else "float64"


def smallest(name: str) -> float:
    """Return the smallest number above 0 of a float type."""
    return float(ml_dtypes.finfo(numpy_dtype(name)).smallest_subnormal)  # type: ignore[no-untyped-call]


def is_torch(x: object) -> "TypeIs[torch.Tensor]":
    """Tell whether ``x`` is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def dtype_name(x: ArrayLike) -> str:
    """Return the name of the element type of an array, whatever its library and byte order."""
    if is_torch(x):
        return str(x.dtype).removeprefix("torch.")
    return _NAMES.get(x.dtype) or x.dtype.newbyteorder("=").name


def local(x: ArrayLike) -> ArrayLike:
    """Return ``x`` contiguous and in native byte order, where it lives; copies only if it must.

    Raises ConfigError for what has no element bytes of its own: sparse, quantised and meta tensors, object arrays.
    """
    if is_torch(x):
        return _local_tensor(x)
    if not isinstance(x, np.ndarray | np.generic):
        raise ConfigError(f"expected a numpy array or a torch tensor, found {type(x).__name__}")
    dtype = numpy_dtype(dtype_name(x))
    if x.dtype == dtype and x.flags.c_contiguous and isinstance(x, np.ndarray):
        return x
    shape = x.shape  # ascontiguousarray makes a 0-d array 1-d
    return np.ascontiguousarray(x, dtype=dtype).reshape(shape)


def _local_tensor(x: "torch.Tensor") -> ArrayLike:
    if x.layout is not sys.modules["torch"].strided or x.is_quantized or x.is_meta:
        raise ConfigError(f"expected a dense tensor with data, found layout {x.layout} on device {x.device}")
    dtype = numpy_dtype(dtype_name(x))
    x = x.detach().resolve_conj().resolve_neg().contiguous()
    if x.device.type != "cpu":
        return x
    name = dtype_name(x)
    return x.numpy() if name in _NUMPY else bits(x).numpy().view(dtype)


def to_host(x: ArrayLike) -> Host:
    """Return ``x`` as a C-contiguous numpy array in host memory; from a GPU through pinned memory, which is faster.

    Only the calling thread waits for the copy: others encode meanwhile.
    """
    x = local(x)
    if not is_torch(x):
        return x
    y = x.to("cpu", non_blocking=x.is_cuda)  # to the CPU, non-blocking means pinned
    if x.is_cuda:
        sys.modules["torch"].cuda.current_stream(x.device).synchronize()
    return to_host(y)


def to_tensor(x: Host) -> "torch.Tensor":
    """Return a CPU tensor of the same element type that shares the memory of ``x``; imports torch."""
    import torch

    name = dtype_name(x)
    if name in _NUMPY:
        return torch.from_numpy(x)
    return torch.from_numpy(bits(x)).view(getattr(torch, name))


def all_finite(x: ArrayLike) -> bool:
    """Tell whether no element is NaN or infinite."""
    return bool(x.isfinite().all()) if is_torch(x) else bool(np.isfinite(x).all())


def holds(name: str, value: float) -> bool:
    """Tell whether the float type ``name`` has a finite number next to a value."""
    with np.errstate(over="ignore"):
        return all_finite(np.array(value).astype(numpy_dtype(name)))


def cast(x: A, name: str) -> A:
    """Convert the elements to the type ``name`` (same library, same device); the array itself if they are of it."""
    if is_torch(x):
        return x.to(getattr(sys.modules["torch"], name))  # type: ignore[return-value]
    return x.astype(_DTYPES[name], copy=False)  # type: ignore[return-value]


def view(x: A, name: str) -> A:
    """Reinterpret the elements of a contiguous array as the numpy-native type ``name`` (same library, same device)."""
    if is_torch(x):
        return x.view(getattr(sys.modules["torch"], name))  # type: ignore[return-value]
    return x.view(_DTYPES[name])  # type: ignore[return-value]


def bits(x: A) -> A:
    """Reinterpret the elements as signed integers of the same size (1, 2, 4 or 8 bytes)."""
    return view(x, f"int{8 * x.dtype.itemsize}")
