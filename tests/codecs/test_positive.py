"""Arrays that are positive throughout stay positive: `delta(positive=true)`, whatever follows it."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress import Bundle, ConfigError, Spec, pack, parse
from flowerpress.chunks.parts import JOIN
from flowerpress.codecs.delta import Delta
from flowerpress.codecs.dtypes import to_host, to_tensor

CODEC = Delta(positive=True)
COARSE = "delta(positive=true) | quantize(step=0.5) | entropy"
RNG = np.random.default_rng(12)
FLOATS = ["float16", "bfloat16", "float32", "float64"]
ROUNDING = {"float16": 2**-10, "bfloat16": 2**-7, "float32": 2**-19, "float64": 2**-48}
positive = hnp.arrays(np.float32, 12, elements=st.floats(width=32, min_value=0, exclude_min=True, max_value=2.0**100))


def of(dtype: str, x: Any) -> np.ndarray:
    return np.asarray(x).astype(getattr(ml_dtypes, dtype, dtype))


def variances(size: int, dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Return variances and what they were before: some grew fourfold, some nearly vanished."""
    base = of(dtype, np.exp2(RNG.uniform(-4, 4, size)))
    return base, of(dtype, base.astype(np.float64) * np.exp2(RNG.uniform(-6, 2, size)))


def decoded(x: np.ndarray, base: np.ndarray, y: np.ndarray | None = None) -> np.ndarray:
    spec = Spec.of(x, "x", base)
    return CODEC.decode(to_host(CODEC.encode(x, spec)) if y is None else y, spec)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(), (1,), (64,), (8, 8)])
def test_round_trips(dtype: str, shape: tuple[int, ...]) -> None:
    base, x = (y.reshape(shape) for y in variances(int(np.prod(shape)), dtype))
    y = decoded(x, base)
    assert (y.dtype, y.shape) == (x.dtype, shape)
    assert np.abs(y.astype(np.float64) / x.astype(np.float64) - 1).max() < ROUNDING[dtype]
    assert decoded(base, base).tobytes() == base.tobytes()


def test_octaves_are_what_is_coded() -> None:
    base = np.full(8, 3.0, np.float32)
    ratios = np.array([1, 1.5, 2, 3, 4, 0.75, 0.5, 0.25], np.float32)
    spec = Spec.of(base, "x", base)
    assert CODEC.encode(base * ratios, spec).tolist() == [0, 0.5, 1, 1.5, 2, -0.5, -1, -2]
    assert CODEC.decode(np.array([0, 0.5, 1, 1.5, 2, -0.5, -1, -9], np.float32), spec).tolist() == [
        *[3, 4.5, 6, 9, 12, 2.25, 1.5],
        3 / 512,
    ]


@given(positive, positive)
def test_any_positive_values(x: np.ndarray, base: np.ndarray) -> None:
    spec = Spec.of(x, "x", base)
    try:
        y = CODEC.encode(x, spec)
    except ConfigError:  # the ratio is out of float32's range
        assert (x.astype(np.float64) / base).max() > 2.0**127 or (x.astype(np.float64) / base).min() < 2.0**-148
        return
    found = CODEC.decode(to_host(y), spec)
    assert (found > 0).all()
    normal = (np.minimum(x, base) > 1e-37) & (x / base > 1e-37)
    assert np.abs(found[normal] / x[normal] - 1).max(initial=0) < 1e-4


@given(positive, hnp.arrays(np.int32, 12), st.sampled_from([1e-30, 0.5, 1.0, 1e30]))
def test_no_indices_give_a_value_that_is_not_positive(base: np.ndarray, indices: np.ndarray, step: float) -> None:
    for dtype in FLOATS:
        reference = np.maximum(
            of(dtype, base.clip(max=6e4)), ml_dtypes.finfo(getattr(ml_dtypes, dtype, dtype)).smallest_subnormal
        )
        spec = Spec.of(reference, "x", reference)
        with np.errstate(over="ignore"):
            y = indices.astype(np.float64 if dtype == "float64" else np.float32) * np.float32(step)
        assert (CODEC.decode(y, spec).astype(np.float64) > 0).all(), dtype


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("extreme", [-(2**31), 2**31 - 1])
def test_extreme_indices_in_a_bundle(dtype: str, extreme: int) -> None:
    base = of(dtype, [1e-7, 1.0, 1e4])
    pipeline, spec = parse(COARSE), Spec.of(base, "x", base)
    entropy = pipeline.stages[-1]
    data = entropy.encode(np.full(3, extreme, np.int32), Spec("x", "int32", (3,)))  # type: ignore[attr-defined]
    assert (pipeline.decode(data, spec).astype(np.float64) > 0).all()


def model() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a model and its reference, in which positive arrays lie among others."""
    arrays, bases = {}, {}
    for i in range(6):
        bases[f"{i}.weight"] = RNG.standard_normal((9, 7)).astype(np.float32)
        arrays[f"{i}.weight"] = bases[f"{i}.weight"] + RNG.standard_normal((9, 7)).astype(np.float32)
        bases[f"{i}.var"], arrays[f"{i}.var"] = variances(11)
    return arrays, bases


def test_joined_chunks_of_which_some_are_positive() -> None:
    arrays, bases = model()
    bundle = Bundle(pack(dict(arrays), COARSE, bases=bases), bases=bases)
    assert len(bundle.layout.chunks) == 1
    for key, y in bundle.read_all().items():
        x = arrays[key]
        if "var" in key:
            assert (y > 0).all()
            assert np.abs(np.log2(y) - np.log2(x)).max() < 0.37  # half a step is at most that of an octave
        else:
            assert np.abs(y - x).max() <= 0.2501
        assert bundle.read(key, 2, 5).tobytes() == bundle[key].ravel()[2:5].tobytes() == y.ravel()[2:5].tobytes()
        alone = Bundle(pack({key: x}, COARSE, bases=bases), bases=bases)
        assert alone[key].tobytes() == y.tobytes()


def test_slices_of_large_arrays() -> None:
    """Whether a slice is positive is decided slice by slice, at both ends alike."""
    size = 3 * JOIN
    base, x = variances(size)
    mixed, moved = base.copy(), x.copy()
    mixed[-5:] = moved[-5:] = -1
    arrays, bases = {"x": x, "mixed": moved}, {"x": base, "mixed": mixed}
    data = pack(dict(arrays), COARSE, bases=bases)
    bundle, whole = Bundle(data, bases=bases), Bundle(data, bases=bases).read_all()
    assert len(bundle.layout.chunks) > 2
    assert (whole["x"] > 0).all()
    assert np.abs(whole["x"] / x - 1).max() < 0.5
    assert (whole["mixed"][: JOIN // 4] > 0).all()
    assert np.abs(whole["mixed"][-5:] - moved[-5:]).max() <= 0.25
    for key in arrays:
        assert bundle.read(key, 7, size - 3).tobytes() == whole[key][7:-3].tobytes()
    assert data == pack(dict(arrays), COARSE, bases=bases, workers=1)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("text", ["delta(positive=true) | zstd", COARSE])
def test_tensors_give_the_bytes_of_arrays(dtype: str, text: str) -> None:
    base, x = variances(200, dtype)
    pipeline, spec = parse(text), Spec.of(x, "x", base)
    data = bytes(pipeline.encode(x, spec))
    for reference in (base, to_tensor(base)):
        given = Spec.of(x, "x", reference)
        assert bytes(pipeline.encode(to_tensor(x), given)) == data
        assert to_host(CODEC.encode(to_tensor(x), given)).tobytes() == to_host(CODEC.encode(x, spec)).tobytes()
        assert pipeline.decode(data, given).tobytes() == pipeline.decode(data, spec).tobytes()


@pytest.mark.parametrize("value", [0.0, -0.0, -1.0, np.nan, np.inf, 1e-40])
def test_values_that_have_no_ratio_are_exact_and_alone(value: float) -> None:
    arrays, bases = model()
    arrays["2.var"][3], bases["2.var"][3] = value, np.float32(1e30)
    bundle = Bundle(pack(dict(arrays), COARSE, bases=bases), bases=bases)
    assert [key for key in bundle if bundle.exact(key)] == ["2.var"]
    assert bundle["2.var"].tobytes() == arrays["2.var"].tobytes()


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e20, 1e37])
def test_tiny_and_huge_references(scale: float) -> None:
    base, x = (y.astype(np.float32) / 16 * np.float32(scale) for y in variances(50))
    y = decoded(x, base)
    assert (y > 0).all()
    assert np.abs(y.astype(np.float64) / x - 1).max() < (0.01 if scale < 1e-37 else 1e-5)


def test_references_that_are_not_positive_throughout_are_as_ever() -> None:
    x, base = np.array([0.5, 2.0], np.float32), np.array([0.0, 1.0], np.float32)
    spec = Spec.of(x, "x", base)
    assert np.asarray(CODEC.encode(x, spec)).tolist() == Delta().encode(x, spec).tolist() == [0.5, 1.0]  # type: ignore[union-attr]
    assert decoded(x, base).tolist() == x.tolist()


def test_one_channel_that_dies_does_not_blur_the_others() -> None:
    """Its ratio is 1e-5: in octaves, that is 17 times as far as a half, not 100,000 times."""
    base, x = np.ones(64, np.float32), np.linspace(0.3, 3, 64, dtype=np.float32)
    x[17] = 1e-5
    text = "delta(positive=true) | quantize(relative=0.01) | entropy"
    bundle = Bundle(pack({"x": x}, text, bases={"x": base}), bases={"x": base})
    assert not bundle.exact("x")
    assert np.abs(bundle["x"] / x - 1).max() < 0.2


def test_plain_delta_is_as_it_was() -> None:
    assert str(Delta()) == "delta"
    assert str(CODEC) == "delta(positive=true)"
    assert parse("delta(positive=true) | zstd").stages[0] == CODEC
    assert not CODEC.lossless
    assert CODEC.reproducible
    assert CODEC.joinable
