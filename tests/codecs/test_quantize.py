import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress import Bundle, ChunkError, ConfigError, Spec, pack, parse
from flowerpress.codecs.dtypes import to_host, to_tensor
from flowerpress.codecs.quantize import Quantize

RNG = np.random.default_rng(12)
MODES = [
    {"step": 0.3},
    {"step": 0.3, "zone": 0.7},
    {"step": 0.3, "seed": 5},
    {"bound": 0.05},
    {"relative": 0.003},
    {"bits": 4},
    {"bits": 4, "block": 16},
    {"bits": 8, "block": 64, "seed": 1},
]


def there_and_back(x: np.ndarray, **arguments: object) -> np.ndarray:
    codec, spec = Quantize(**arguments), Spec.of(x, "x")  # type: ignore[arg-type]
    return codec.decode(to_host(codec.encode(x, spec)), spec)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_tensors_give_the_integers_of_arrays(mode: dict[str, object], dtype: str) -> None:
    x = RNG.standard_normal((37, 11)).astype(getattr(ml_dtypes, dtype, dtype))
    codec, spec = Quantize(**mode), Spec.of(x, "x")  # type: ignore[arg-type]
    q = codec.encode(x, spec)
    after = codec.after(spec)
    assert (q.dtype, q.shape, sum(map(np.prod, after.members))) == (np.int32, after.shape, q.size)
    assert to_host(codec.encode(to_tensor(x), spec)).tobytes() == q.tobytes()


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1.0, 1e30])
@pytest.mark.parametrize(("bits", "block"), [(2, None), (4, 8), (8, 32), (16, None)])
def test_bits_scale_to_the_largest_magnitude(scale: float, bits: int, block: int | None) -> None:
    x = (RNG.standard_normal(1000) * scale).astype(np.float32)
    if scale < 1e-40 and bits == 16:
        with pytest.raises(ConfigError, match="expected a step"):  # one that float32 holds: here it would be 0
            there_and_back(x, bits=bits, block=block)
        return
    y = there_and_back(x, bits=bits, block=block)
    step = np.abs(x).max() * 1.02 / (2 ** (bits - 1) - 1) + 3e-45 * 2**17
    assert np.abs(x.astype(np.float64) - y).max() <= step / 2 * 1.001 + 1e-44
    assert np.unique(y).size <= (2**bits - 1) * (1 if block is None else -(-1000 // block))


def test_an_outlier_costs_its_block_only() -> None:
    x = RNG.standard_normal(6400).astype(np.float32)
    x[100] = 175
    whole, blocks = there_and_back(x, bits=4), there_and_back(x, bits=4, block=64)
    assert np.abs(whole - x).mean() > 0.5
    assert np.abs(np.delete(blocks - x, range(64, 128))).max() < 0.4
    assert blocks[100] == pytest.approx(175, rel=0.02)


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, -3.0])
def test_constant_arrays(mode: dict[str, object], value: float) -> None:
    if "relative" in mode and value:
        with pytest.raises(ConfigError, match="cannot hold"):  # of a range of 0; a bundle stores it exactly
            there_and_back(np.full((5, 7), value, np.float32), **mode)
        return
    y = there_and_back(np.full((5, 7), value, np.float32), **mode)
    assert np.abs(y - value).max() <= 0.31 + abs(value) * 0.02
    assert value or not y.any()


@given(
    hnp.arrays(np.float32, st.integers(1, 80), elements=st.floats(-(2.0**90), 2.0**90, width=32)),
    st.sampled_from([{"bound": 1e-3}, {"bound": 7.5}, {"relative": 1e-4}, {"relative": 0.2}]),
)
@example(np.array([4e-45, 0], np.float32), {"relative": 1e-4})  # a bound below any number that float32 has
def test_a_bound_is_held_or_refused(x: np.ndarray, mode: dict[str, float]) -> None:
    bound = mode.get("bound", mode.get("relative", 0) * (float(x.max()) - float(x.min())))
    try:
        y = there_and_back(x, **mode)
    except ConfigError:
        assert np.abs(x).max() > 1e5 * bound or bound < np.finfo(np.float32).smallest_subnormal
        return
    assert np.abs(x.astype(np.float64) - y).max() <= bound


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_a_bound_holds_after_narrowing(dtype: str) -> None:
    x = RNG.standard_normal(5000).astype(getattr(ml_dtypes, dtype, dtype))
    y = there_and_back(x, bound=0.03)
    assert y.dtype == x.dtype
    assert np.abs(x.astype(np.float64) - y.astype(np.float64)).max() <= 0.03


def test_what_a_bound_cannot_hold_is_stored_exactly_in_a_bundle() -> None:
    arrays = {"w": np.array([1e9, 1.25, -3e8] * 700, np.float32), "n": np.array([1, np.nan] * 600, np.float32)}
    bundle = Bundle(pack(arrays, "quantize(bound=0.001) | entropy"))
    assert all(bundle[key].tobytes() == x.tobytes() for key, x in arrays.items())


@pytest.mark.parametrize(
    ("dtype", "values", "text"),
    [
        ("float8_e4m3fn", [448, 0, 1, 100], "quantize(bound=113) | entropy"),
        ("float8_e4m3fn", [448, 0, 1, 100], "quantize(step=80.0) | entropy"),
        ("float8_e4m3fn", [448, 0, 1, 100], "budget(bits=0.5)"),
        ("float16", [65504, 1, 2], "quantize(bits=4, block=64) | entropy"),
        ("float16", [-65504, 1, 2], "quantize(bits=4, block=64) | entropy"),
        ("float32", [3.4028235e38, 1, 2], "quantize(bits=8) | entropy"),
        ("float32", [1, 2, 3], "quantize(step=1e-50) | entropy"),
        ("float64", [1e-60, 2e-60], "quantize(bits=8) | entropy"),
        ("float8_e8m0fnu", [0.5, 1, 4], "quantize(step=2.0) | entropy"),
        ("float8_e8m0fnu", [0.5, 1, 4], "sparse(keep=0.5) | nonzero | zstd"),
    ],
)
def test_what_would_decode_to_no_number_or_to_zeros_is_stored_exactly(
    dtype: str, values: list[float], text: str
) -> None:
    x = np.tile(np.array(values, getattr(ml_dtypes, dtype, dtype)), 500)
    assert Bundle(pack({"w": x}, text))["w"].tobytes() == x.tobytes()
    assert Bundle(pack({"w": to_tensor(x)}, text))["w"].tobytes() == x.tobytes()


def test_the_largest_values_are_quantised_where_their_indices_decode() -> None:
    x = np.tile(np.array([448, 0, 1, -448], ml_dtypes.float8_e4m3fn), 500)
    assert there_and_back(x, step=64.0)[:4].tolist() == [448, 0, 0, -448]
    assert there_and_back(np.full(9, 1e30), bound=1e300).tolist() == [0] * 9


@pytest.mark.parametrize("step", [1e-10, 1 / (2**31 - 100), 1 / 2**30])
def test_steps_that_are_too_small(step: float) -> None:
    with pytest.raises(ConfigError, match="too small"):
        there_and_back(np.ones(3, np.float32), step=step)


def test_a_zone_makes_zeros() -> None:
    x = RNG.standard_normal(10_000).astype(np.float32)
    plain, dead = there_and_back(x, step=1.0), there_and_back(x, step=1.0, zone=0.8)
    assert (dead == 0).mean() > (plain == 0).mean() + 0.15
    assert not dead[np.abs(x) < 0.8].any()
    assert np.abs(dead - x).max() <= 0.8 + 1e-6


def test_stochastic_rounding_is_unbiased_and_repeatable() -> None:
    x = np.full(200_000, 0.3, np.float32)
    one, again, other = (there_and_back(x, step=1.0, seed=seed) for seed in (1, 1, 2))
    assert set(np.unique(one)) == {0, 1}
    assert one.mean() == pytest.approx(0.3, abs=0.005)
    assert one.tobytes() == again.tobytes() != other.tobytes()
    spec = Spec("another", "float32", x.shape)
    assert not np.array_equal(Quantize(step=1.0, seed=1).encode(x, spec), one.astype(np.int32))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({}, "expected one of step, bound, relative and bits"),
        ({"step": 1, "bits": 4}, "expected one of"),
        ({"step": 0}, "step above 0"),
        ({"step": float("inf")}, "step above 0"),
        ({"bound": -1}, "bound above 0"),
        ({"relative": "x"}, "relative above 0"),
        ({"bits": 1}, "bits from 2 to 16"),
        ({"bits": 4.0}, "bits from 2 to 16"),
        ({"bits": 4, "block": 4}, "block from 8"),
        ({"step": 1, "block": 64}, "block goes with bits"),
        ({"step": 1, "zone": 1.5}, "zone from 0.5 to 1"),
        ({"bound": 1, "zone": 0.7}, "do not go with a bound"),
        ({"relative": 1, "seed": 7}, "do not go with a bound"),
        ({"step": 1, "seed": -1}, "seed from 0"),
    ],
)
def test_arguments(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        Quantize(**arguments)  # type: ignore[arg-type]


def test_forged_scales() -> None:
    x = RNG.standard_normal(64).astype(np.float32)
    codec, spec = Quantize(bits=4, block=16), Spec.of(x)
    q = codec.encode(x, spec)
    for place, value in ((0, -(2**31)), (0, 2**31 - 1), (1, -(2**30)), (3, 2**30)):
        forged = q.copy()
        forged[place] = value
        with pytest.raises(ChunkError, match="expected scales of float32"):
            codec.decode(forged, spec)


def test_what_it_does_not_take() -> None:
    for x in (np.ones(3, np.int32), np.ones(3, np.complex64), np.ones((0, 3), np.float32)):
        assert parse("quantize(bits=4) | entropy").refuses(Spec.of(x))
    for value in (np.nan, np.inf):
        with pytest.raises(ConfigError, match="finite"):
            there_and_back(np.array([1, value], np.float32), step=1.0)


def test_promises() -> None:
    assert not parse("quantize(step=1.0) | entropy").lossless
    assert Quantize(step=1.0).elementwise
    assert not Quantize(bits=4).elementwise
    assert parse("delta | quantize(bits=4, block=64) | entropy").reproducible


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_steps_that_only_float64_holds(dtype: str) -> None:
    x = np.linspace(-3, 3, 7).astype(getattr(ml_dtypes, dtype, dtype))
    spec, codec = Spec.of(x, "x"), Quantize(step=1e200)
    assert not codec.decode(codec.encode(x, spec), spec).any()  # type: ignore[arg-type]
