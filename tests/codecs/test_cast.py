import numpy as np
import pytest

from flowerpress import Bundle, ConfigError, pack
from flowerpress.codecs.base import Spec
from flowerpress.codecs.cast import Cast


def test_half_precision_is_half_the_bytes() -> None:
    x = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    data = pack({"x": x}, "cast | raw")
    assert x.nbytes / 2 < len(data) < x.nbytes / 2 + 200
    assert np.array_equal(Bundle(data)["x"], x.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("value", [65_520.0, -1e30, np.inf, np.nan])
def test_values_that_it_does_not_hold_are_coded_exactly(value: float) -> None:
    x = np.array([1 / 3, value], np.float32)
    assert Bundle(pack({"x": x}, "cast | raw"))["x"].tobytes() == x.tobytes()
    with pytest.raises(ConfigError, match="needs finite values that float16 holds"):
        Cast().encode(x, Spec.of(x, "x"))


def test_bfloat16_has_the_range_of_float32() -> None:
    x = np.array([1e30, -1e-30], np.float32)
    assert np.allclose(Bundle(pack({"x": x}, "cast(dtype='bfloat16') | raw"))["x"], x, rtol=2**-8)


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected a dtype among float16, bfloat16, found 'int8'"):
        Cast(dtype="int8")
