"""Features as planes of integers."""

import warnings

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowerpress import ConfigError
from flowerpress.latent_codecs.planes import (
    MOST,
    as_bound,
    as_features,
    check_bounds,
    dequantise,
    pack,
    plane_shape,
    quantise,
    sample_type,
    unpack,
)

SHAPES = [
    ((1, 1, 7, 5), "llama3", (7, 5)),
    ((3, 2, 5, 4), "dinov2", (15, 8)),
    ((1, 1, 5, 4), "dinov2", (5, 4)),
    ((1, 16, 3, 2), "sd3", (12, 8)),
    ((2, 32, 3, 2), "sd3", (24, 16)),
]


def published(x: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    """The quantiser as it is published: in the dtype of the features, cut."""
    scale = (2**bits - 1) / (high - low)
    return ((np.clip(x, low, high) - low) * scale).astype("uint16" if bits > 8 else "uint8")


@pytest.mark.parametrize(("shape", "model", "plane"), SHAPES)
def test_planes_hold_every_tile_where_it_belongs(shape: tuple[int, ...], model: str, plane: tuple[int, int]) -> None:
    x = np.arange(np.prod(shape)).reshape(shape)
    packed = pack(x, model)
    assert packed.shape == plane == plane_shape(shape, model)
    side = 4 * shape[0] if model == "sd3" else shape[1]
    for crop, layer, token, channel in np.ndindex(shape):
        down, across = divmod(crop * shape[1] + layer, side)
        assert packed[down * shape[2] + token, across * shape[3] + channel] == x[crop, layer, token, channel]
    np.testing.assert_array_equal(unpack(packed, shape, model), x)
    with pytest.raises(ConfigError, match=r"plane: expected \(.*, found"):
        unpack(packed[1:], shape, model)


@pytest.mark.parametrize(
    ("shape", "model", "words"),
    [
        ((2, 1, 7, 5), "llama3", r"expected shape \(1, 1, tokens, channels\), found \(2, 1, 7, 5\)"),
        ((1, 4, 7, 5), "llama3", "code crops and layers singly"),
        ((1, 4, 7, 5), "sd3", r"expected shape \(1, 16, height, width\)"),
        ((2, 16, 7, 5), "sd3", r"\(1, 16, height, width\)"),
        ((1, 1, 7, 5), "gpt", r"llama3, dinov2, sd3, found 'gpt'"),
        ((1, 7, 5), "dinov2", "4 axes"),
        ((1, 0, 7, 5), "dinov2", "1 to"),
        ((1, -1, 7, -5), "dinov2", "1 to"),
        ((1, 1, MOST, 2), "dinov2", "1 to"),
    ],
)
def test_shapes_that_would_not_come_back(shape: tuple[int, ...], model: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plane_shape(shape, model)


@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_indices_are_those_of_published_streams(bits: int, dtype: str) -> None:
    x = np.random.default_rng(bits).normal(0, 8, (2, 3, 20, 7)).astype(dtype)
    q = quantise(x, -20.0, 20.0, bits)
    assert q.dtype == sample_type(bits) == ("uint8" if bits == 8 else "<u2")
    np.testing.assert_array_equal(q, published(x, -20, 20, bits))
    y = dequantise(q, -20.0, 20.0, bits)
    assert y.dtype == "float32"
    np.testing.assert_array_equal(y, q.astype("float32") / np.float32((2**bits - 1) / 40) + np.float32(-20))


@pytest.mark.parametrize("bits", [8, 10, 11])
def test_float16_is_quantised_in_float16_as_published(bits: int) -> None:
    x = np.random.default_rng(bits).normal(0, 2, (1, 16, 9, 7)).astype("float16")
    low, high = -6.176, 4.668
    expected = published(x, low, high, bits)
    np.testing.assert_array_equal(quantise(x, low, high, bits), expected)
    assert dequantise(expected, low, high, bits, dtype="float16").dtype == "float16"


@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(-5.0, 5.0, 12), (-5.0, 5.0, 16), (-65504.0, 65504.0, 8), (-1e-3, 1e-3, 10), (0.0, 2e-8, 8)],
)
def test_float16_that_cannot_hold_indices_or_scales_is_widened(low: float, high: float, bits: int) -> None:
    x = np.linspace(low, high, 24).astype("float16").reshape(1, 2, 3, 4)
    q = quantise(x, low, high, bits)
    np.testing.assert_array_equal(q, published(x.astype("float32"), low, high, bits))
    step = (high - low) / (2**bits - 1)
    np.testing.assert_allclose(dequantise(q, low, high, bits), x.clip(low, high), atol=step * 1.01)


def test_indices_stay_within_their_bits_where_products_round_up() -> None:
    rng = np.random.default_rng(0)
    for bits in (8, 10, 11, 16):
        for dtype in ("float16", "float32"):
            for low, span in rng.uniform(1, 30, (200, 2)):
                ends = np.array([low - 1, low + span + 1], dtype).reshape(1, 1, 1, 2)
                below, above = quantise(ends, low, low + span, bits).ravel()
                assert below == 0
                assert 0.95 * 2**bits < above < 2**bits


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-1e30, 1e30),
    span=st.floats(1e-3, 1e3),
    bits=st.integers(8, 16),
    rounding=st.sampled_from(["truncate", "nearest"]),
)
def test_error_is_at_most_a_step_or_half_a_step(low: float, span: float, bits: int, rounding: str) -> None:
    high = low + span * max(1.0, abs(low))
    x = np.random.default_rng(bits).uniform(low, high, (2, 2, 5, 3))
    y = dequantise(quantise(x, low, high, bits, rounding=rounding), low, high, bits)
    step = (high - low) / (2**bits - 1)
    slack = 4 * float(np.spacing(np.float32(max(abs(low), abs(high)))))
    assert np.abs(y - x).max() <= (step if rounding == "truncate" else step / 2) + slack


def test_nearest_has_no_bias_and_half_the_error() -> None:
    x = np.random.default_rng(1).uniform(-1, 1, (1, 1, 100, 100)).astype("float16")
    step = 2 / 255
    cut, near = (dequantise(quantise(x, -1.0, 1.0, 8, rounding=r), -1.0, 1.0, 8) - x for r in ("truncate", "nearest"))
    assert -0.55 * step < cut.mean() < -0.45 * step
    assert abs(near.mean()) < 0.02 * step
    assert np.abs(near).max() <= step / 2 * 1.001
    with pytest.raises(ConfigError, match="truncate or nearest, found 'up'"):
        quantise(x, -1.0, 1.0, 8, rounding="up")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [0.0, -3.7, 6e4, 1e-7])
def test_constant_features_come_back(dtype: str, value: float) -> None:
    x = np.full((1, 2, 3, 4), value, dtype)
    bound = float(x[0, 0, 0, 0])
    q = quantise(x, bound, bound, 10)
    assert not q.any()
    for noisy in (q, q + 1):  # a lossy codec may change indices
        np.testing.assert_array_equal(dequantise(noisy, bound, bound, 10), x.astype("float32"))


def test_extremely_narrow_and_wide_bounds() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for low, high in ((0.0, 1e-40), (0.0, 5e-324), (-1.5e38, 1.5e38), (1.0, np.nextafter(1.0, 2))):
            x = np.array([low, high]).reshape(1, 1, 1, 2)
            y = dequantise(quantise(x, low, high, 8), low, high, 8)
            np.testing.assert_allclose(y, x, rtol=1e-6, atol=max((high - low) / 255, 1e-45))


def test_layers_have_bounds_of_their_own() -> None:
    low, high = (-1.0, -2.0, -10.0, -20.0), (1.0, 2.0, 10.0, 20.0)
    x = np.random.default_rng(2).normal(0, 9, (2, 4, 6, 5)).astype("float32")
    q = quantise(x, low, high, 10)
    for layer in range(4):
        np.testing.assert_array_equal(q[:, layer], published(x[:, layer], low[layer], high[layer], 10))
    y = dequantise(q, low, high, 10)
    for layer in range(4):
        alone = dequantise(q[:, layer : layer + 1], low[layer], high[layer], 10)
        np.testing.assert_array_equal(y[:, layer : layer + 1], alone)
    np.testing.assert_array_equal(quantise(x, low, 30.0, 10)[:, 1], published(x[:, 1], -2, 30, 10))


@pytest.mark.parametrize(
    ("low", "high", "dtype", "words"),
    [
        ((-1.0,), 1.0, "float32", "a number, or 2, one per layer, found 1"),
        (-1.0, (1.0, 1.0, 1.0), "float32", "upper bounds: expected a number, or 2"),
        (1.0, -1.0, "float32", "lower ones up to upper ones"),
        ((0.0, 1.0), (1.0, 0.5), "float32", "lower ones up to"),
        (float("nan"), 1.0, "float32", "found nan"),
        (0.0, float("inf"), "float32", "found inf"),
        (0.0, 1e39, "float32", "as in float32"),
        (-1e5, 1.0, "float16", "65504, as in float16"),
    ],
)
def test_bounds_that_do_not_fit(low: object, high: object, dtype: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_bounds(low, high, 2, dtype)
    x = np.zeros((1, 2, 1, 1), "float32")
    with pytest.raises(ConfigError, match=words):
        dequantise(x.astype("uint8"), low, high, 8, dtype=dtype)
    if dtype == "float32":
        with pytest.raises(ConfigError, match=words):
            quantise(x, low, high, 8)


def test_bounds_of_many_kinds() -> None:
    for one in (-5, -5.0, np.float32(-5), np.array(-5), torch.tensor(-5.0)):
        assert as_bound("low", one) == -5.0
    for many in ([1, 2.5], (1, 2.5), np.array([1, 2.5]), torch.tensor([1, 2.5]), range(1, 3)):
        assert as_bound("low", many) in ((1.0, 2.5), (1.0, 2.0))
    for bad in (None, "5", b"5", True, [], [[1.0]], [1, [2]], ["a"], {1: 2}, {1.0}, [float("nan")], float("inf"), 1j):
        with pytest.raises(ConfigError, match="low: expected a finite number, or one per layer"):
            as_bound("low", bad)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "bfloat16", ">f4", "torch", "grad", "strided"])
def test_features_of_many_kinds(kind: str) -> None:
    x = np.arange(24, dtype="float32").reshape(1, 2, 3, 4)
    given = {
        "bfloat16": lambda: torch.tensor(x).bfloat16(),
        "torch": lambda: torch.tensor(x),
        "grad": lambda: torch.tensor(x, requires_grad=True),
        "strided": lambda: np.repeat(x, 2, axis=3)[..., ::2],
    }.get(kind, lambda: x.astype(kind))()
    y = as_features(given)
    assert y.dtype == (kind if kind in ("float16", "float64") else "float32")
    assert y.dtype.isnative
    assert y.flags.c_contiguous
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((1, 1, 2, 2), "int32"), "float32 or float64, found int32"),
        (np.zeros((1, 1, 2, 2), "complex64"), "found complex64"),
        (np.zeros((2, 2), "float32"), r"4 axes and .*found shape \(2, 2\)"),
        (np.zeros((1, 0, 2, 2), "float32"), "1 to"),
        (np.full((1, 1, 2, 2), np.nan, "float32"), "found NaN or infinity"),
        (np.full((1, 1, 2, 2), -np.inf, "float16"), "found NaN or infinity"),
        (np.full((1, 1, 2, 2), np.nan, ml_dtypes.bfloat16), "found NaN or infinity"),
        ([[[[1.0]]]], "numpy array or a torch tensor, found list"),
        (None, "found NoneType"),
    ],
)
def test_features_that_cannot_be_coded(x: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        as_features(x)
