import numpy as np
import pytest
import zfpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress.codecs import zfp
from flowerpress.codecs.zfp import Zfp
from flowerpress.errors import ChunkError

RNG = np.random.default_rng(3)


def header(kind: int = 3, lengths: tuple[int, ...] = (4, 10), mode: int = 2176) -> bytes:
    """Build the 12 bytes by hand, from the lengths in zfp's order, fastest first."""
    width = 48 // len(lengths)
    meta = (kind - 1) | (len(lengths) - 1) << 2
    for i, n in enumerate(lengths):
        meta |= (n - 1) << 4 + i * width
    return b"zfp\x05" + (meta | mode << 52).to_bytes(8, "little")


@pytest.mark.parametrize("shape", [(40,), (10, 4), (2, 5, 4), (1, 2, 5, 4), (7,), (3, 5)])
@pytest.mark.parametrize("tolerance", [None, 1e-3, 1.0, 1e-30, 1e6])
def test_streams_of_zfpy_itself(shape: tuple[int, ...], tolerance: float | None) -> None:
    x = RNG.standard_normal(shape).astype(np.float32)
    stream = zfpy.compress_numpy(x) if tolerance is None else zfpy.compress_numpy(x, tolerance=tolerance)
    assert zfp.decompress(stream, "float32", x.size).tobytes() == zfpy.decompress_numpy(stream).tobytes()


def test_our_streams_are_read_by_zfpy() -> None:
    x = RNG.standard_normal((10, 4)).astype(np.float32)
    assert zfpy.decompress_numpy(zfp.compress(x)).tobytes() == x.tobytes()


def test_the_header_built_by_hand_is_zfps() -> None:
    x = np.zeros((10, 4), np.float32)
    assert zfpy.compress_numpy(x)[:12] == header()


@pytest.mark.parametrize(
    ("forged", "match"),
    [
        (b"", "expected the header"),
        (b"zfp\x04" + header()[4:], "codec version 5"),
        (header(kind=4), "found type 4"),
        (header(lengths=(4, 11)), r"found type 3, shape \[11, 4\]"),
        (header(lengths=(65536, 65536)), "expected 40 values"),
        (header(mode=100), "found mode 100"),
        (header(mode=2100), "found mode 2100"),
        (header(mode=4095), "found mode 4095"),
        (header(), "expected 0 to"),
        (header() + bytes(100_000), "found 100000"),
    ],
)
def test_forged_headers(forged: bytes, match: str) -> None:
    with pytest.raises(ChunkError, match=match):
        zfp.decompress(forged, "float32", 40)


def test_a_shape_that_needs_gigabytes_is_refused() -> None:
    lengths = (1, 1, 1, 4096)
    with pytest.raises(ChunkError):
        zfp.decompress(header(lengths=lengths) + bytes(8), "float32", 4096)


@given(
    hnp.arrays(np.float32, st.integers(1, 200), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    st.sampled_from([1e-9, 1e-3, 0.7, 3.0, 1e5]),
)
def test_the_tolerance_is_never_exceeded(x: np.ndarray, tolerance: float) -> None:
    y = zfp.decompress(zfp.compress(x, tolerance), "float32", x.size)
    assert np.abs(x.astype(np.float64) - y).max() <= tolerance


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_tolerance_holds_after_narrowing(dtype: str) -> None:
    import ml_dtypes

    x = RNG.standard_normal(4096).astype(getattr(ml_dtypes, dtype, dtype))
    for tolerance in (1e-5, 1e-3, 0.1):
        y = zfp.decompress(zfp.compress(x, tolerance), dtype, x.size)
        assert y.dtype == x.dtype
        assert np.abs(x.astype(np.float64) - y.astype(np.float64)).max() <= tolerance


def test_where_zfp_itself_exceeds_its_tolerance() -> None:
    """Values 1e9 times the tolerance: zfp is off by more, and the stream falls back to a smaller one or reversible."""
    x = np.tile(np.array([1e9, 1.2345, -7.5e8, 3.3], np.float32), 50)
    bare = zfpy.decompress_numpy(zfpy.compress_numpy(x.reshape(-1, 4), tolerance=1.0)).ravel()
    assert np.abs(bare.astype(np.float64) - x).max() > 1.0
    y = zfp.decompress(zfp.compress(x, 1.0), "float32", x.size)
    assert np.abs(y.astype(np.float64) - x).max() <= 1.0


def test_large_tolerances_shrink() -> None:
    x = RNG.standard_normal(100_000).astype(np.float32)
    assert len(zfp.compress(x, 0.1)) < len(zfp.compress(x, 0.001)) < len(zfp.compress(x))


def test_lossless_says_so() -> None:
    assert Zfp().lossless
    assert not Zfp(tolerance=0.1).lossless
