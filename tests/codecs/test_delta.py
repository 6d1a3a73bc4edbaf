"""Differences to a reference, exact and float, and error feedback."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flowerpress import Bundle, ChunkError, ConfigError, Spec, pack, parse
from flowerpress.codecs.delta import Delta
from flowerpress.codecs.feedback import encode_with_feedback
from flowerpress.codecs.intdelta import IntDelta
from flowerpress.codecs.policy import Policy

RNG = np.random.default_rng(6)
FLOATS = ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def random_bits(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    return RNG.integers(0, 256, (*shape, kind.itemsize), dtype=np.uint8).view(kind).reshape(shape)


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_intdelta_is_exact_for_any_bits(dtype: str) -> None:
    x, base = random_bits(dtype, (60, 9)), random_bits(dtype, (60, 9))
    spec, pipeline = Spec.of(x, "x", base), parse("intdelta | zstd")
    y = pipeline.decode(bytes(pipeline.encode(x, spec)), spec)
    assert (y.dtype, y.tobytes()) == (x.dtype, x.tobytes())


@given(
    hnp.arrays(np.float32, 20, elements=st.floats(width=32)), hnp.arrays(np.float32, 20, elements=st.floats(width=32))
)
def test_intdelta_is_exact_for_any_floats(x: np.ndarray, base: np.ndarray) -> None:
    spec, codec = Spec.of(x, "x", base), IntDelta()
    assert codec.decode(codec.encode(x, spec), spec).tobytes() == x.tobytes()


def test_intdelta_counts_the_floats_between() -> None:
    base = np.array([1.0, -1.0, 0.0, -0.0, 3e38], np.float32)
    spec = Spec.of(base, "x", base)
    assert IntDelta().encode(base, spec).tolist() == [0] * 5
    assert IntDelta().encode(np.nextafter(base, np.float32(np.inf)), spec).tolist() == [2] * 3 + [4, 2]
    assert IntDelta().encode(np.nextafter(base, np.float32(-np.inf)), spec).tolist() == [1, 1, 3, 1, 1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64", "int16"])
def test_tensors_as_on_a_device(dtype: str) -> None:
    from flowerpress.codecs.dtypes import to_host, to_tensor

    x, base = random_bits(dtype, (8, 3)), random_bits(dtype, (8, 3))
    for reference in (base, to_tensor(base)):
        spec = Spec.of(x, "x", reference)
        assert to_host(IntDelta().encode(to_tensor(x), spec)).tobytes() == IntDelta().encode(x, spec).tobytes()
    if dtype != "int16":
        x, base = np.ones((8, 3), x.dtype), np.full((8, 3), 0.3, x.dtype)
        spec = Spec.of(x, "x", base)
        assert to_host(Delta().encode(to_tensor(x), spec)).tobytes() == Delta().encode(x, spec).tobytes()


def test_training_rounds_shrink() -> None:
    base = RNG.standard_normal((400, 300)).astype(np.float32)
    x = base + (1e-4 * RNG.standard_normal(base.shape)).astype(np.float32)
    spec = Spec.of(x, "x", base)
    sizes = [len(parse(text).encode(x, spec)) for text in ("zstd", "intdelta | zstd", "delta | zfp(tolerance=1e-5)")]
    assert sizes[1] < 0.65 * sizes[0]
    assert sizes[2] < 0.7 * sizes[1]


def test_references_that_do_not_fit() -> None:
    x = np.ones((3, 2), np.float32)
    for base in (None, np.ones(6, np.float32), np.ones((3, 2)), np.ones((1, 2), np.float32)):
        for text in ("intdelta | zstd", "delta | zstd"):
            with pytest.raises(ConfigError, match="reference"):
                parse(text).encode(x, Spec.of(x, "x", base))
            y = bytes(parse(text).encode(x, Spec.of(x, "x", x)))
            with pytest.raises(ChunkError, match="reference"):
                parse(text).decode(y, Spec.of(x, "x", base))


def test_what_they_do_not_take() -> None:
    for text, dtypes in (("intdelta | zstd", ("bool", "complex64")), ("delta | zstd", ("int32", "bool", "complex64"))):
        for dtype in dtypes:
            x = np.ones(3, dtype)
            assert parse(text).refuses(Spec.of(x, "x", x))


def test_promises() -> None:
    assert parse("intdelta | zstd").lossless
    assert not parse("delta | zstd").lossless
    assert parse("delta | zstd").reproducible


def model() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    base = {
        "large": RNG.standard_normal((1300, 1000)).astype(np.float32),
        "small": RNG.standard_normal((20, 10)).astype(np.float32),
        "half": RNG.standard_normal(90).astype(ml_dtypes.bfloat16),
        "count": np.array(7),
        "mask": np.ones(5, bool),
    }
    return base, {key: (x * np.asarray(1).astype(x.dtype)).astype(x.dtype) for key, x in base.items()}


@pytest.mark.parametrize("codec", ["intdelta | zstd", "delta | zfp(tolerance=0.01)"])
def test_bundles_against_a_reference(codec: str) -> None:
    base, arrays = model()
    arrays["large"] += np.float32(0.001)
    arrays["new"] = np.ones(4)
    data = pack(arrays, codec, bases=base)
    assert len(data) < len(pack(arrays))
    for bundle in (Bundle(data, bases=base), Bundle(data, bases={k: v.copy() for k, v in base.items()})):
        for key, y in (*bundle.read_all().items(), *bundle.items()):
            assert np.abs(y.astype(np.float64) - arrays[key].astype(np.float64)).max() <= (
                0 if "int" in codec else 0.01
            )
        assert np.array_equal(bundle.read("large", 5, 900_000), bundle["large"].ravel()[5:900_000])


def test_infinities_cost_their_own_array_only() -> None:
    base, arrays = model()
    arrays["mask"] = np.array([0, -np.inf, np.nan], np.float32)
    base["mask"] = np.array([0, -np.inf, 1], np.float32)
    bundle = Bundle(pack(arrays, "delta | zfp(tolerance=0.01)", bases=base), bases=base)
    assert bundle["mask"].tobytes() == arrays["mask"].tobytes()
    pipelines = {row["key"]: row["pipeline"] for row in bundle.rows()}
    assert pipelines["mask"] in ("intdelta | planes | zstd", "raw")
    assert pipelines["small"] == pipelines["large"] == "delta | zfp(tolerance=0.01)"


def test_a_bundle_without_its_reference() -> None:
    base, arrays = model()
    data = pack(arrays, "intdelta | zstd", bases=base)
    with pytest.raises(ChunkError, match="needs a reference, and there is none"):
        Bundle(data)["large"]
    with pytest.raises(ChunkError, match="reference"):
        Bundle(data, bases={**base, "large": base["small"]})["large"]
    assert Bundle(data, bases=base)["mask"].all()


def test_references_in_torch() -> None:
    base = {"w": torch.randn(50, 40)}
    arrays = {"w": base["w"] + 0.001}
    assert torch.equal(
        torch.from_numpy(Bundle(pack(arrays, "intdelta | zstd", bases=base), bases=base)["w"]), arrays["w"]
    )


def test_policies_fall_back_on_exact_differences() -> None:
    x = np.arange(5)
    assert str(Policy.parse("delta | zstd")(Spec.of(x, "n", x))) == "intdelta | planes | zstd"
    assert str(Policy.parse("delta | zstd")(Spec.of(x > 2, "m", x > 2))) == "planes | zstd"
    assert str(Policy.parse("delta | zstd")(Spec.of(x * 0.5, "w"))) == "planes | zstd"


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("text", ["zfp(tolerance=2)", "delta | zfp(tolerance=2)"])
def test_feedback_delivers_what_was_dropped(dtype: str, text: str) -> None:
    """The sum of what arrived, and the residual, is the sum of what was meant; without feedback errors add up."""
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    pipeline, base = parse(text), np.zeros((30, 8), kind)
    meant, arrived, without, residual = np.zeros((4, 30, 8))
    residual = None
    for _ in range(40):
        x = (0.1 + 0.01 * RNG.standard_normal((30, 8))).astype(kind)
        spec = Spec.of(x, "x", base)
        y, residual = encode_with_feedback(pipeline, x, residual, spec)
        meant += x.astype(np.float64)
        arrived += pipeline.decode(y, spec).astype(np.float64)
        without += pipeline.decode(pipeline.encode(x, spec), spec).astype(np.float64)
    assert residual.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert np.abs(meant - arrived - residual).max() < 1e-4
    assert np.abs(meant - without).max() > 2 * np.abs(meant - arrived).max()


def test_feedback_is_pure() -> None:
    x, residual = np.ones((4, 4), np.float32), np.full((4, 4), 0.2, np.float32)
    before = x.tobytes(), residual.tobytes()
    encode_with_feedback(parse("zfp(tolerance=0.5)"), x, residual, Spec.of(x))
    assert (x.tobytes(), residual.tobytes()) == before


@pytest.mark.parametrize("residual", [np.zeros(3, np.float32), np.full((2, 2), np.nan, np.float32)])
def test_residuals_that_do_not_fit(residual: np.ndarray) -> None:
    x = np.ones((2, 2), np.float32)
    with pytest.raises(ConfigError, match="start anew"):
        encode_with_feedback(parse("zstd"), x, residual, Spec.of(x))
