import struct
from math import comb, log2

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress import ChunkError, Spec, parse
from flowerpress.codecs.nonzero import Nonzero
from tests.codecs.contract import BITS, FLOATS
from tests.samples import of_dtype

RNG = np.random.default_rng(25)
CODEC = Nonzero()


def there_and_back(x: np.ndarray) -> bytes:
    data = bytes(CODEC.encode(x, Spec.of(x)))
    y = CODEC.decode(data, Spec.of(x))
    assert (y.dtype, y.shape, y.tobytes()) == (x.dtype, x.shape, x.tobytes())
    assert y.flags.writeable
    return data


def sparse(n: int, k: int, dtype: str = "float32") -> np.ndarray:
    x = np.zeros(n, np.dtype(getattr(ml_dtypes, dtype, dtype)))
    x[RNG.permutation(n)[:k]] = 1
    return x


def head(data: bytes) -> tuple[int, int]:
    """Return how many values there are, and the bytes of the gaps, 0 for a bitmap."""
    return struct.unpack_from("<II", data)  # type: ignore[return-value]


@pytest.mark.parametrize("dtype", [d for d in BITS + FLOATS if d != "complex128"])
@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (1000,), (30, 7, 2)])
def test_every_dtype_and_share(dtype: str, shape: tuple[int, ...]) -> None:
    x = of_dtype(dtype, shape)
    zeros = np.zeros(shape, x.dtype)
    for share in (0.0, 0.01, 0.3, 0.9, 1.0):
        kept = np.asarray(RNG.random(shape) < share)
        there_and_back(np.where(kept, x, zeros).astype(x.dtype))


def test_negative_zeros_and_payloads_of_nan_are_kept() -> None:
    bits = np.zeros(500, np.uint32)
    bits[[3, 9, 10, 499]] = 0x80000000, 0x7FC00001, 0xFFC12345, 1
    data = there_and_back(bits.view(np.float32))
    assert head(data)[0] == 4
    half = np.zeros(500, np.uint16)
    half[[0, 77]] = 0x8000, 0x7E01
    there_and_back(half.view(np.float16))
    there_and_back(half.view(ml_dtypes.bfloat16))


def test_gaps_or_a_bitmap_whichever_is_smaller() -> None:
    seen = set()
    for share in (0.0001, 0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        n = 20_000
        x = sparse(n, int(n * share), "int8")
        data = there_and_back(x)
        k, gaps = head(data)
        assert k == int(n * share)
        assert len(data) - k - 8 == (gaps or n // 8)
        assert len(data) - k - 8 <= n // 8
        seen.add(gaps > 0)
    assert seen == {True, False}
    clustered = np.zeros(20_000, np.int8)
    clustered[7000:17_000] = 1  # half of the values, and yet gaps are shorter
    assert head(there_and_back(clustered))[1] > 0


@pytest.mark.parametrize(("n", "k"), [(100_000, 1000), (100_000, 100), (1_000_000, 10_000), (100_000, 5000)])
def test_random_positions_cost_what_they_must(n: int, k: int) -> None:
    data = there_and_back(sparse(n, k, "int8"))
    assert len(data) - k <= 1.05 * log2(comb(n, k)) / 8 + 64


def test_behind_it_zstd_takes_planes() -> None:
    x = sparse(100_000, 1000)
    assert len(parse("nonzero | zstd").encode(x, Spec.of(x))) < len(there_and_back(x)) - 3000


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.int8, np.float64, np.int16, bool]),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=9),
        fill=st.just(0),
    )
)
def test_any_array(x: np.ndarray) -> None:
    there_and_back(x)


def outcome(data: bytes, spec: Spec) -> bool:
    try:
        x = CODEC.decode(data, spec)
    except ChunkError:
        return False
    assert (x.dtype.name, x.shape) == (spec.dtype, spec.shape)
    return True


@pytest.mark.parametrize("k", [0, 1, 5, 120])
def test_damage_at_every_byte(k: int) -> None:
    x = sparse(300, k).reshape(30, 10)
    data, spec = there_and_back(x), Spec.of(x)
    for length in range(len(data)):
        with pytest.raises(ChunkError):
            CODEC.decode(data[:length], spec)
    with pytest.raises(ChunkError):
        CODEC.decode(data + b"\0", spec)
    for place in range(len(data)):
        for mask in (1, 0x80, 0xFF):
            outcome(data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :], spec)
    for dtype, shape in (("float32", (250,)), ("float32", (3000,)), ("float32", ())):
        with pytest.raises(ChunkError):
            CODEC.decode(data, Spec("x", dtype, shape))
    if k:
        with pytest.raises(ChunkError):
            CODEC.decode(data, Spec("x", "float64", (300,)))


def test_forged_gaps() -> None:
    spec = Spec("x", "int8", (100,))
    entropy = parse("entropy")

    def forged(*gaps: int) -> bytes:
        coded = bytes(entropy.encode(np.array(gaps, np.int64), Spec("", "int64", (len(gaps),))))
        return struct.pack("<II", len(gaps) - 1, len(coded)) + coded + bytes([7]) * (len(gaps) - 1)

    assert CODEC.decode(forged(3, 96), spec)[3] == 7
    for gaps in ((3, 95), (3, 97), (-1, 100), (100, -1), (2**62, 2**62, 2**62, 2**62 + 97), (-5, 5, 98)):
        with pytest.raises(ChunkError, match="gaps that fill"):
            CODEC.decode(forged(*gaps), spec)
    with pytest.raises(ChunkError):
        CODEC.decode(struct.pack("<II", 2**32 - 1, 2) + b"\x00\x02", spec)
    bitmap = struct.pack("<II", 2, 0) + b"\xc0" + bytes(12) + b"ab"
    assert CODEC.decode(bitmap, spec)[:3].tolist() == [97, 98, 0]
    for wrong in (b"\x80", b"\xe0"):
        with pytest.raises(ChunkError, match="positions"):
            CODEC.decode(bitmap[:8] + wrong + bitmap[9:], spec)


@settings(max_examples=300)
@given(
    st.binary(max_size=60), st.sampled_from([(), (0,), (9,), (30, 3)]), st.sampled_from(["float32", "bool", "int64"])
)
def test_any_bytes(data: bytes, shape: tuple[int, ...], dtype: str) -> None:
    outcome(data, Spec("x", dtype, shape))


def test_what_it_does_not_take() -> None:
    assert CODEC.refuses(Spec("x", "complex128", (3,)))
    assert CODEC.refuses(Spec("x", "int8", (1 << 16, 1 << 16)))
    assert not CODEC.refuses(Spec("x", "int8", ((1 << 32) - 1,)))
    assert parse("nonzero | zstd").lossless
    assert CODEC.elementwise
