from math import ceil

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress import Bundle, ConfigError, Spec, pack, parse
from flowerpress.codecs.dtypes import to_host, to_tensor
from flowerpress.codecs.sparse import Sparse

RNG = np.random.default_rng(24)
FLOATS = ["float16", "bfloat16", "float32", "float64"]


def random(dtype: str, shape: tuple[int, ...] = (61, 33)) -> np.ndarray:
    return RNG.standard_normal(shape).astype(getattr(ml_dtypes, dtype, dtype))


def sparse(x: np.ndarray, **arguments: object) -> np.ndarray:
    codec, spec = Sparse(**arguments), Spec.of(x, "x")  # type: ignore[arg-type]
    y = codec.decode(to_host(codec.encode(x, spec)), spec)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    return y


def first_largest(x: np.ndarray, count: int) -> np.ndarray:
    """Return what must be left: the largest magnitudes as float32, of equal ones the first."""
    order = np.argsort(-np.abs(x.astype(np.float32)).ravel(), kind="stable")[:count]
    y = np.zeros_like(x).ravel()
    y[order] = x.ravel()[order]
    return y.reshape(x.shape)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("keep", [0.001, 0.01, 0.5, 0.99, 1.0, 1])
def test_the_largest_share_is_kept_exactly(dtype: str, keep: float) -> None:
    x = random(dtype)
    y = sparse(x, keep=keep)
    assert np.count_nonzero(y) == ceil(keep * x.size)
    assert np.array_equal(y, first_largest(x, ceil(keep * x.size)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_of_equal_magnitudes_the_first_are_kept(dtype: str) -> None:
    x = RNG.choice([-3, -2, -1, 0, 1, 2, 3], 1000).astype(getattr(ml_dtypes, dtype, dtype))
    for keep in (0.001, 0.1, 0.25, 0.4, 0.7, 1.0):
        assert np.array_equal(sparse(x, keep=keep), first_largest(x, ceil(keep * 1000)))
    ones = np.ones(10, np.float32)
    assert sparse(ones, keep=0.31).tolist() == [1] * 4 + [0] * 6


@given(
    hnp.arrays(
        np.float32, hnp.array_shapes(max_dims=3, max_side=8), elements=st.floats(-(2.0**120), 2.0**120, width=32)
    ),
    st.floats(0, 1, exclude_min=True),
)
def test_any_array(x: np.ndarray, keep: float) -> None:
    assert np.array_equal(sparse(x, keep=keep), first_largest(x, ceil(keep * x.size)))


def test_at_least_one_is_kept() -> None:
    for shape in ((), (1,), (7, 3)):
        assert np.count_nonzero(sparse(random("float32", shape), keep=1e-9)) == 1


def test_float64_compares_as_float32() -> None:
    x = np.array([1 + 1e-12, 1 + 2e-12, 1.0, 0.5])
    assert sparse(x, keep=0.25).tolist() == [1 + 1e-12, 0, 0, 0]
    huge = np.array([1e300, -1.0, 2.0, -3.0])
    assert sparse(huge, keep=0.25).tolist() == [1e300, 0, 0, 0]
    assert sparse(huge, above=2.5).tolist() == [1e300, 0, 0, -3.0]


def test_above_keeps_what_reaches_it() -> None:
    x = np.array([[0.5, -0.5], [0.49, -7]], np.float32)
    assert sparse(x, above=0.5).tolist() == [[0.5, -0.5], [0, -7]]
    assert sparse(x, above=0).tobytes() == x.tobytes()
    assert not sparse(x, above=100.0).any()


@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_dropped_is_positive_zero(dtype: str) -> None:
    """Negative zero has a bit set: it would be stored."""
    x = random(dtype)
    for arguments in ({"keep": 0.1}, {"above": 1.5}):
        y = sparse(x, **arguments)
        assert not np.signbit(y[y == 0]).any()


def test_dropped_values_cost_nothing_behind_nonzero() -> None:
    x = random("float32", (100_000,))
    pipeline = parse("sparse(keep=0.01) | nonzero | zstd")
    assert len(pipeline.encode(x, Spec.of(x))) < 1000 * (8.1 + 32) / 8 + 200


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("arguments", [{"keep": 0.07}, {"above": 1.0}, {"keep": 0.2, "sample": 0.1}], ids=str)
def test_tensors_give_the_values_of_arrays(dtype: str, arguments: dict[str, object]) -> None:
    for x in (random(dtype), np.round(random(dtype)), random(dtype, (1,)), random(dtype, (3, 4, 5))):
        codec, spec = Sparse(**arguments), Spec.of(x)  # type: ignore[arg-type]
        y = codec.encode(to_tensor(x), spec)
        assert to_host(y).tobytes() == to_host(codec.encode(x, spec)).tobytes()
        assert tuple(y.shape) == x.shape
        assert type(codec.encode(to_tensor(x), spec)).__module__ in ("torch", "numpy")


def whole(arrays: dict[str, np.ndarray], text: str) -> tuple[dict[str, np.ndarray], float]:
    bundle = Bundle(pack(arrays, text))
    (stage,) = {p.stages[0] for p in bundle.layout.pipelines if isinstance(p.stages[0], Sparse)}
    assert (stage.keep, stage.whole) == (None, False)
    return bundle.read_all(), stage.above


def record() -> dict[str, np.ndarray]:
    return {
        "a": random("float32", (300, 100)),
        "b": random("float32", (100, 20, 3)) * np.float32(30),
        "c": random("float64", (5000,)) * 0.01,
        "d": random("bfloat16", (64, 64)),
        "n": np.arange(1000),
    }


@pytest.mark.parametrize("keep", [0.0001, 0.01, 0.1, 0.9, 1.0])
def test_a_threshold_over_the_whole_record(keep: float) -> None:
    arrays = record()
    every = np.concatenate([np.abs(x.astype(np.float32)).ravel() for k, x in arrays.items() if k != "n"])
    place = every.size - ceil(keep * every.size)
    found, above = whole(arrays, f"sparse(keep={keep}, whole=true) | nonzero | zstd")
    assert above == np.partition(every, place)[place]
    for key, x in arrays.items():
        kept = np.abs(x.astype(np.float32)) >= (above if key != "n" else 0)
        assert np.array_equal(found[key], np.where(kept, x, 0)), key


def test_arrays_compete() -> None:
    found, _ = whole(record(), "sparse(keep=0.05, whole=true) | nonzero | zstd")
    assert not found["a"].any()
    assert np.count_nonzero(found["b"]) == pytest.approx(0.05 * 45_096, abs=2)


def test_a_whole_record_behind_a_difference() -> None:
    arrays = {k: x for k, x in record().items() if x.dtype == np.float32}
    bases = {k: (x * 0.5).astype(x.dtype) for k, x in arrays.items()}
    data = pack(arrays, "delta | sparse(keep=0.1, whole=true) | nonzero", bases=bases)
    found = Bundle(data, bases=bases).read_all()
    moved = sum(np.count_nonzero(found[k] != bases[k]) for k in arrays)
    assert moved == ceil(0.1 * sum(x.size for x in arrays.values()))


def test_a_sampled_threshold_is_near() -> None:
    x = random("float32", (1000, 500))
    kept = np.count_nonzero(sparse(x, keep=0.01, sample=0.1))
    assert kept != 5000
    assert 4000 < kept < 6000
    arrays = {"a": x, "b": random("float32", (400, 400))}
    found, above = whole(arrays, "sparse(keep=0.01, whole=true, sample=0.05) | nonzero")
    kept = sum(np.count_nonzero(y) for y in found.values())
    assert 5500 < kept < 7700
    assert above == pytest.approx(2.576, abs=0.1)


def test_of_equal_magnitudes_over_a_record_all_are_kept() -> None:
    arrays = {"a": np.repeat(np.float32([1, 2]), 300), "b": np.repeat(np.float32([2, 1]), 300).reshape(20, 30)}
    found, above = whole(arrays, "sparse(keep=0.1, whole=true) | nonzero")
    assert above == 2
    assert sum(np.count_nonzero(y) for y in found.values()) == 600


def test_what_is_not_finite_stays_exact_beside_others() -> None:
    for value in (np.nan, np.inf, -np.inf):
        arrays = {"a": random("float32"), "b": np.full(5, value, np.float32), "c": random("float32", (40, 40))}
        for text in ("sparse(keep=0.1)", "sparse(above=2.0)", "sparse(keep=0.1, whole=true)"):
            bundle = Bundle(pack(arrays, f"{text} | nonzero | zstd"))
            assert bundle["b"].tobytes() == arrays["b"].tobytes()
            assert 0 < np.count_nonzero(bundle["a"]) < 500


def test_a_record_that_is_mostly_not_finite() -> None:
    arrays = {"a": random("float32"), "b": np.full(9000, np.nan, np.float32)}
    bundle = Bundle(pack(arrays, "sparse(keep=0.1, whole=true) | nonzero | zstd"))
    assert bundle["b"].tobytes() == arrays["b"].tobytes()


def test_a_share_of_each_array_is_of_the_array_and_not_of_its_slices() -> None:
    for shape in ((10,), (5, 7), (1001, 333)):
        x = random("float32", shape)
        bundle = Bundle(pack({"x": x}, "sparse(keep=0.01) | nonzero | zstd"))
        assert np.count_nonzero(bundle["x"]) == ceil(0.01 * x.size)


def test_what_it_does_not_take() -> None:
    for x in (np.ones(3, np.int32), np.ones(3, np.complex64), np.ones((0, 3), np.float32), np.ones(2, bool)):
        assert Sparse(keep=0.5).refuses(Spec.of(x))
    for value in (np.nan, np.inf, -np.inf):
        for arguments in ({"keep": 0.5}, {"above": 1.0}):
            with pytest.raises(ConfigError, match="finite"):
                sparse(np.array([1, value], np.float32), **arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "one of keep and above"),
        ({"keep": 0.1, "above": 1.0}, "one of keep and above"),
        ({"keep": 0}, "keep above 0 and at most 1"),
        ({"keep": 1.1}, "keep above 0 and at most 1"),
        ({"keep": True}, "keep above 0"),
        ({"keep": float("nan")}, "keep above 0"),
        ({"keep": "x"}, "keep above 0"),
        ({"above": -1}, "above of 0 or more"),
        ({"above": float("inf")}, "above of 0 or more"),
        ({"above": float("nan")}, "above of 0 or more"),
        ({"above": 1.0, "whole": True}, "go with keep"),
        ({"above": 1.0, "sample": 0.5}, "go with keep"),
        ({"keep": 0.1, "sample": 0}, "sample above 0"),
        ({"keep": 0.1, "sample": 2}, "sample above 0"),
    ],
)
def test_arguments(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Sparse(**arguments)  # type: ignore[arg-type]


def test_promises() -> None:
    assert not parse("sparse(keep=0.1) | nonzero").lossless
    assert Sparse(above=0.1).elementwise
    assert not Sparse(keep=0.1).elementwise
    assert Sparse(keep=0.1).settled
    assert not Sparse(keep=0.1, whole=True).settled
    with pytest.raises(ConfigError, match="over a whole record"):
        sparse(np.ones(3), keep=0.1, whole=True)
