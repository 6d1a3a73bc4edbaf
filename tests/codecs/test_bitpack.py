import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress import ChunkError, Spec
from flowerpress.codecs.bitpack import BitPack, pack_bits, unpack_bits

RNG = np.random.default_rng(17)
CODEC = BitPack()
INTEGERS = st.sampled_from([np.int8, np.int16, np.int32, np.int64])


def there_and_back(q: np.ndarray, spec: Spec | None = None) -> bytes:
    spec = spec or Spec.of(q)
    y = bytes(CODEC.encode(q, spec))
    z = CODEC.decode(y, spec)
    assert (z.dtype, z.shape, z.tobytes()) == (q.dtype, q.shape, q.tobytes())
    return y


@given(hnp.arrays(INTEGERS, hnp.array_shapes(max_dims=3, max_side=30)))
def test_any_integers(q: np.ndarray) -> None:
    there_and_back(q)


@pytest.mark.parametrize(("spread", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 4), (16, 4), (17, 8), (257, 16)])
def test_as_many_bits_as_the_spread_needs(spread: int, bits: int) -> None:
    q = np.arange(1001, dtype=np.int32) % spread - 1_000_000
    assert len(there_and_back(q)) == 9 + -(-1001 * bits // 8)


def test_the_whole_range_of_a_dtype() -> None:
    for dtype in (np.int8, np.int16, np.int32, np.int64):
        limits = np.iinfo(dtype)
        assert len(there_and_back(np.array([limits.min, -1, 0, limits.max], dtype))) == 9 + 4 * limits.bits // 8


def test_each_array_of_a_chunk_has_its_own_width() -> None:
    q = np.concatenate([np.array([500_000, 3]), RNG.integers(-7, 8, 1000)]).astype(np.int32)
    assert len(there_and_back(q, Spec("q", "int32", (1002,), members=((2,), (10, 100))))) == 9 + 8 + 9 + 500


@given(hnp.arrays(np.int32, st.integers(0, 70), elements=st.integers(0, 255)), st.sampled_from([0, 1, 2, 4, 8, 16, 32]))
def test_bits(q: np.ndarray, width: int) -> None:
    packed = np.asarray(pack_bits(q, width))
    assert np.array_equal(unpack_bits(packed, width, q.size), q.astype(np.int64) & ((1 << width) - 1))
    with pytest.raises(ChunkError):
        unpack_bits(np.append(packed, np.uint8(0)), width, q.size)


def test_forged_bytes() -> None:
    q = RNG.integers(-7, 8, 100).astype(np.int16)
    spec, y = Spec.of(q), there_and_back(q)
    low = (1 << 40).to_bytes(8, "little")
    forged = [y[:n] for n in range(len(y))] + [y + b"x", b"\x03" + y[1:], b"\x20" + y[1:], y[:1] + low + y[9:]]
    for data in forged:
        with pytest.raises(ChunkError):
            CODEC.decode(data, spec)
