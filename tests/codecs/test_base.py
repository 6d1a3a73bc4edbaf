import numpy as np
import pytest

from flowerpress.codecs.base import Pipeline, Spec
from flowerpress.codecs.planes import Planes
from flowerpress.codecs.raw import Raw
from flowerpress.codecs.text import parse
from flowerpress.codecs.zfp import Zfp
from flowerpress.codecs.zstd import Zstd
from flowerpress.errors import ConfigError


def test_spec_counts() -> None:
    spec = Spec("w", "bfloat16", (3, 5))
    assert (spec.size, spec.itemsize, spec.nbytes) == (15, 2, 30)
    assert Spec("s", "float64", ()).size == 1


def test_spec_is_equal_by_what_travels() -> None:
    base = np.zeros(3)
    assert Spec("w", "float64", (3,), base) == Spec("w", "float64", (3,))
    assert Spec.of(base, "w").shape == (3,)


@pytest.mark.parametrize(
    ("dtype", "shape"), [("datetime64[s]", (3,)), ("float128", ()), ("object", ()), ("float32", (-1,))]
)
def test_spec_refuses(dtype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Spec("w", dtype, shape)


@pytest.mark.parametrize(
    ("shape", "start", "stop", "expected"),
    [
        ((10, 6), 0, 60, (10, 6)),
        ((10, 6), 12, 36, (4, 6)),
        ((10, 2, 3), 12, 36, (4, 2, 3)),
        ((10, 6), 11, 35, (24,)),
        ((10, 6), 12, 35, (23,)),
        ((10, 6), 0, 3, (3,)),
        ((60,), 12, 36, (24,)),
        ((), 0, 1, ()),
        ((4, 0), 0, 0, (4, 0)),
    ],
)
def test_cut(shape: tuple[int, ...], start: int, stop: int, expected: tuple[int, ...]) -> None:
    spec = Spec("w", "float32", shape, np.zeros(shape, np.float32))
    found = spec.cut(start, stop)
    assert (found.key, found.dtype, found.shape, found.members) == ("w", "float32", expected, ())
    assert found.size == stop - start
    assert (found is spec) == (found.size == spec.size)
    assert (found.base is None) == (found.size < spec.size)


def test_join() -> None:
    one, two, three = Spec("a", "int8", (2, 3)), Spec("b", "int8", ()), Spec("c", "int8", (4, 1, 2))
    assert Spec.join([one]) is one
    joined = Spec.join([one, two, three])
    assert (joined.key, joined.dtype, joined.shape) == ("a", "int8", (15,))
    assert joined.members == joined.parts == ((2, 3), (), (4, 1, 2))
    assert one.parts == ((2, 3),)
    assert joined != Spec("a", "int8", (15,))


def test_plans_are_settled_before_anything_is_encoded() -> None:
    for text in ("auto", "delta | budget(bits=1)", "best(raw, zstd)", "sparse(keep=0.1, whole=true) | nonzero"):
        assert not parse(text).settled
    for text in ("zstd", "delta | quantize(step=1.0) | entropy", "sparse(keep=0.1) | nonzero | zstd"):
        assert parse(text).settled


@pytest.mark.parametrize(
    "text", ["delta | zstd", "quantize(step=0.5) | entropy", "intdelta | entropy | zstd", "zfp(tolerance=0.1)"]
)
def test_distort_is_what_decoding_gives_back(text: str) -> None:
    x = np.random.default_rng(0).standard_normal((30, 20)).astype(np.float32)
    spec, pipeline = Spec.of(x, "x", (x * np.float32(0.9))), parse(text)
    y = pipeline.distort(x, spec)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)
    assert y.tobytes() == pipeline.decode(pipeline.encode(x, spec), spec).tobytes()


def test_config_of_nested_pipelines() -> None:
    found = parse("best(raw, budget(bits=2))").config()
    (stage,) = found["stages"]
    assert [p["stages"][0]["name"] for p in stage["pipelines"]] == ["raw", "budget"]
    assert stage["pipelines"][1]["stages"][0]["bits"] == 2


@pytest.mark.parametrize("stages", [(), (Zstd(),), (Raw(), Planes()), (Zstd(), Raw()), (Raw(), Zstd(), Raw())])
def test_pipeline_refuses_stages_that_do_not_fit(stages: tuple) -> None:
    with pytest.raises(ConfigError, match="does not fit together"):
        Pipeline(stages)


def test_pipeline_refuses_what_is_no_codec() -> None:
    with pytest.raises(ConfigError, match="expected codecs"):
        Pipeline(("raw",))  # type: ignore[arg-type]


def test_promises_of_a_pipeline_are_those_of_its_stages() -> None:
    assert parse("zstd").lossless
    assert not Pipeline((Zfp(tolerance=1.0), Zstd())).lossless
    assert parse("zfp").reproducible
    assert parse("zfp").elementwise


def test_objects_are_refused() -> None:
    x = np.array(["text", None], dtype=object)
    with pytest.raises(ConfigError, match="dtype 'object'"):
        Spec.of(x)
    with pytest.raises(ConfigError, match="expected a numpy array or a torch tensor"):
        parse("raw").encode([1.0], Spec("x", "float64", (1,)))  # type: ignore[arg-type]
