import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress import ChunkError, ConfigError, Spec, parse
from flowerpress.codecs.entropy import Entropy

RNG = np.random.default_rng(13)
CODEC = Entropy()


def there_and_back(q: np.ndarray) -> bytes:
    y = CODEC.encode(q, Spec.of(q))
    z = CODEC.decode(y, Spec.of(q))
    assert (z.dtype, z.shape, z.tobytes()) == (q.dtype, q.shape, q.tobytes())
    assert z.flags.writeable
    return bytes(y)


def entropy(q: np.ndarray) -> float:
    _, counts = np.unique(q, return_counts=True)
    return float(-(counts / q.size * np.log2(counts / q.size)).sum())


@pytest.mark.parametrize("scale", [0.1, 0.2, 0.5, 1, 3, 10, 30])
@pytest.mark.parametrize("kind", ["laplace", "normal"])
def test_within_a_tenth_of_a_bit_of_the_entropy(scale: float, kind: str) -> None:
    q = np.rint(getattr(RNG, kind)(size=400_000) * scale).astype(np.int32)
    assert 8 * len(there_and_back(q)) / q.size <= entropy(q) + 0.1


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_every_method_is_used_and_exact(dtype: str) -> None:
    limits = np.iinfo(dtype)
    noise = RNG.integers(limits.min, limits.max, 5000, dtype=dtype, endpoint=True)
    small = RNG.integers(-60, 60, 50_000).astype(dtype)
    sparse = ((RNG.random(50_000) < 0.2) * RNG.choice([-1, 1], 50_000)).astype(dtype)
    outliers = small.copy()
    outliers[[3, 49_999]] = limits.min, limits.max
    one_sided = (RNG.random(50_000) < 0.3).astype(dtype)
    made = [there_and_back(q)[0] for q in (small, one_sided, sparse, noise, outliers, small[:1], np.array(5, dtype))]
    assert made[:3] == [2, 1, 3]


@given(hnp.arrays(st.sampled_from([np.int8, np.int16, np.int32, np.int64]), hnp.array_shapes(max_dims=2, max_side=60)))
def test_any_integers(q: np.ndarray) -> None:
    there_and_back(q)


def test_outliers_do_not_cost_the_others() -> None:
    q = np.rint(RNG.standard_normal(100_000) * 10).astype(np.int32)
    alone = len(there_and_back(q))
    q[::9000] = 2**30
    assert len(there_and_back(q)) < alone + 12 * 14 + 50


def test_noise_is_stored() -> None:
    q = RNG.integers(-(2**31), 2**31, 10_000).astype(np.int32)
    assert len(there_and_back(q)) <= q.nbytes + 64


def test_what_it_does_not_take() -> None:
    for dtype in ("float32", "uint8", "bool"):
        with pytest.raises(ConfigError, match="signed integers"):
            parse("entropy").encode(np.ones(3, dtype), Spec("x", dtype, (3,)))
    assert parse("entropy").refuses(Spec("x", "int32", (0,)))


def test_forged_bytes() -> None:
    small, spread = RNG.integers(-60, 60, 3000).astype(np.int32), RNG.integers(0, 2, 3000).astype(np.int32) * 20_000
    spec = Spec.of(small)
    planes, coded = there_and_back(small), there_and_back(spread)
    assert (planes[0], coded[0]) == (2, 1)
    outlier = b"\x02\x00" + planes[2:6] + b"\1\0\0\0" + (3000).to_bytes(4, "little") + bytes(8) + planes[10:]
    huge = b"\x02\x00" + planes[2:6] + b"\1\0\0\0" + bytes(4) + (2**40).to_bytes(8, "little") + planes[10:]
    forged = [b"", b"\x01", b"\x07\x02" + coded[2:], b"\x01\x03" + coded[2:], b"\x01\x08" + coded[2:]]
    forged += [b"\x02\x09" + planes[2:], b"\x02\x03" + planes[2:], b"\x02\x00\x01", planes[:-1], planes + b"x"]
    forged += [coded[:-1], coded[:10], b"\x00\x02" + bytes(5), outlier, huge, b"\x01\x04" + coded[2:]]
    for data in forged:
        with pytest.raises(ChunkError):
            CODEC.decode(data, spec)
    for other in (Spec("x", "int32", (2999,)), Spec("x", "int32", (3001,))):
        for data in (planes, coded):
            with pytest.raises(ChunkError):
                CODEC.decode(data, other)
    wide = there_and_back(np.array([300, -5], np.int16))
    with pytest.raises(ChunkError):
        CODEC.decode(wide, Spec("x", "int8", (2,)))
