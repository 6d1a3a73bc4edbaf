import logging

import ml_dtypes
import numpy as np
import pytest

from flowerpress import Bundle, ConfigError, Spec, pack, parse
from flowerpress.codecs.auto import Auto
from tests.codecs.contract import BITS, FLOATS
from tests.samples import awkward, of_dtype, special_floats

RNG = np.random.default_rng(28)


def smooth() -> np.ndarray:
    """Return what zfp is made for: a wave over two axes, with values of one exponent."""
    at = np.linspace(0, 6, 256)
    return (2.5 + np.sin(at[:, None]) * np.cos(0.7 * at)).astype(np.float32)


def weights() -> np.ndarray:
    return (RNG.standard_normal((256, 256)) * 0.02).astype(np.float32)


def chosen(arrays: dict[str, np.ndarray], text: str = "auto", **bases: np.ndarray) -> dict[str, str]:
    data = pack(arrays, text, bases=bases)
    bundle = Bundle(data, bases=bases)
    for key, x in arrays.items():
        y = bundle[key]
        assert (y.dtype, y.shape, y.tobytes()) == (
            x.dtype.newbyteorder("="),
            x.shape,
            np.ascontiguousarray(x).tobytes(),
        )
    return {row["array"] if "array" in row else row["key"]: row["pipeline"] for row in bundle.rows()}


def test_each_wins_where_it_should() -> None:
    old = weights()
    new = old * np.float32(1.0001)
    rare = np.zeros(100_000, np.float32)
    rare[RNG.permutation(100_000)[:300]] = 1.5
    arrays = {"smooth": smooth(), "weights": weights(), "moved": new, "rare": rare, "noise": of_dtype("uint8", (5,))}
    found = chosen(arrays, moved=old)
    assert found["smooth"].startswith("zfp")
    assert found["weights"] == "planes | zstd"
    assert found["moved"].startswith("intdelta")
    assert found["rare"].startswith("nonzero")


def test_the_smallest_by_measure() -> None:
    choices = ("zstd", "nonzero | zstd", "zfp", "zstd(level=9)", "raw")
    for x in (smooth(), weights(), np.zeros((64, 64), np.float32), np.round(weights() * 100)):
        sizes = [len(parse(text).encode(x, Spec.of(x))) for text in choices]
        bundle = Bundle(pack({"x": x}, f"auto({', '.join(choices)})"))
        assert bundle.layout.chunks[0].payload == min(sizes)


def test_of_equal_sizes_the_first() -> None:
    x = np.zeros((64, 64), np.float32)
    for text, first in (
        ("auto(zstd, planes | zstd(level=1))", "planes | zstd"),
        ("auto(raw | zstd, zstd)", "raw | zstd"),
    ):
        assert str(Bundle(pack({"x": x}, text)).layout.pipelines[0]).startswith(first)


def test_choices_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    arrays = {"smooth": smooth(), "n": np.arange(500)}
    with caplog.at_level(logging.INFO, "flowerpress"):
        data = pack(arrays, "auto", workers=1)
    lines = [r.getMessage() for r in caplog.records if r.name == "flowerpress" and r.levelno == logging.INFO]
    payload = {c.arrays[0]: c.payload for c in Bundle(data).layout.chunks}
    assert len(lines) == 2
    assert lines[0] == f"auto: smooth float32[256, 256]: zfp, {payload[0]} of 262144 bytes"
    assert lines[1].startswith("auto: n int64[500]: ")
    assert lines[1].endswith(f"{payload[1]} of 4000 bytes")


@pytest.mark.parametrize("dtype", BITS + FLOATS)
def test_lossless_by_default_for_every_dtype(dtype: str) -> None:
    arrays = {str(shape): of_dtype(dtype, shape) for shape in ((), (0, 3), (1,), (40, 30), (5, 4, 3, 2))}
    chosen(arrays)
    bases = {key: of_dtype(dtype, x.shape) for key, x in arrays.items()}
    chosen(arrays, **bases)


def test_special_values_and_layouts() -> None:
    chosen({"special": special_floats(), "half": special_floats().astype(ml_dtypes.bfloat16)})
    for name, x in awkward().items():
        assert np.array_equal(Bundle(pack({name: x}, "auto"))[name], x)


def test_what_cannot_take_an_array_is_left_out() -> None:
    arrays = {"n": np.arange(300, dtype=np.int32), "w": weights()}
    found = chosen(arrays, "auto(intdelta | zstd, zfp, nonzero | zstd)", w=arrays["w"] * np.float32(1.001))
    assert not found["n"].startswith("intdelta")
    assert found["w"].startswith("intdelta")


def test_lossy_choices_leave_integers_alone() -> None:
    arrays = {"n": np.arange(300), "w": weights()}
    bundle = Bundle(pack(arrays, "auto(quantize(step=0.01) | entropy, zstd)"))
    assert bundle["n"].tobytes() == arrays["n"].tobytes()
    assert 0 < np.abs(bundle["w"] - arrays["w"]).max() <= 0.00501


def test_values_that_a_choice_cannot_take_are_exact() -> None:
    x = weights()
    x[0, 0] = np.nan
    assert (
        Bundle(pack({"x": x}, "auto(quantize(step=0.01) | entropy, sparse(keep=0.1) | nonzero)"))["x"].tobytes()
        == x.tobytes()
    )


def test_plans_within_it() -> None:
    arrays = {"a": weights(), "b": smooth()}
    bundle = Bundle(pack(arrays, "auto(budget(bits=2), zfp)"))
    assert all(p.settled for p in bundle.layout.pipelines)
    sizes = [sum(c.payload for c in bundle.layout.chunks if c.arrays == (i,)) for i in range(2)]
    assert all(size <= 65536 * 2 / 8 for size in sizes)


def test_a_plan_that_cannot_be_met_is_left_out() -> None:
    bundle = Bundle(pack({"n": weights()}, "auto(budget(bytes=2), zstd)"))
    assert str(bundle.layout.pipelines[0]) == "planes | zstd"


def test_bytes_do_not_depend_on_workers_or_time() -> None:
    arrays = {str(i): x for i, x in enumerate([weights() for _ in range(10)] + [smooth()])}
    assert pack(arrays, "auto", workers=1) == pack(arrays, "auto", workers=4) == pack(arrays, "auto")


def test_keep_input() -> None:
    arrays = {"a": weights(), "b": smooth()}
    kept = dict(arrays)
    assert pack(kept, "auto", keep_input=False) == pack(arrays, "auto")
    assert kept == {}


def test_promises() -> None:
    assert Auto().lossless
    assert Auto().reproducible
    assert not Auto().settled
    assert not parse("auto(zstd, quantize(step=1.0) | entropy)").lossless
    assert Auto(pipelines=(parse("zfp"), parse("intdelta | zstd"))).refuses(Spec("x", "bool", (3,)))
    assert not Auto().refuses(Spec("x", "complex128", (3,)))
    x = np.ones(3)
    with pytest.raises(ConfigError, match="over a whole record"):
        parse("auto").encode(x, Spec.of(x))
