"""Arrays that codecs must survive, by name."""

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

RNG = np.random.default_rng(5)
SHAPES = st.dictionaries(  # of hypothesis: dtypes and shapes of the arrays of any record
    st.text(min_size=1, max_size=8),
    st.tuples(
        st.sampled_from(["float32", "int8", "bfloat16", "bool", "float64"]), st.lists(st.integers(0, 7), max_size=4)
    ),
    max_size=8,
)


def of_dtype(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return random elements of any dtype, bfloat16 and float8 included."""
    kind = np.dtype(getattr(ml_dtypes, dtype)) if hasattr(ml_dtypes, dtype) else np.dtype(dtype)
    values = RNG.standard_normal(shape) * 20
    with np.errstate(all="ignore"):
        if kind.kind in "iub":
            return np.abs(np.asarray(values)).astype(kind)
        return np.asarray(values).astype(kind)


def special_floats() -> np.ndarray:
    """Return float32 with NaN payloads, infinities, signed zeros and denormals."""
    bits = [0x7FC00001, 0xFFC12345, 0x7F800000, 0xFF800000, 0x80000000, 0, 1, 0x807FFFFF, 0x00800000, 0x7F7FFFFF]
    return np.array(bits * 4, np.uint32).view(np.float32)


def awkward() -> dict[str, np.ndarray]:
    """Return float32 arrays whose layout in memory is not what it seems."""
    base = RNG.standard_normal((6, 8)).astype(np.float32)
    readonly = base.copy()
    readonly.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + base.tobytes(), np.uint8)[1:].view(np.float32).reshape(6, 8)
    return {
        "fortran": np.asfortranarray(base),
        "transposed": base.T,
        "strided": base[::2, ::3],
        "reversed": base[::-1, ::-1],
        "broadcast": np.broadcast_to(base[:1], (5, 8)),
        "big-endian": base.astype(">f4"),
        "read-only": readonly,
        "unaligned": unaligned,
        "five axes": base.reshape(1, 2, 3, 2, 4),
        "scalar": np.asarray(base[0, 0]),
    }
