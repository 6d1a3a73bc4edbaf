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
