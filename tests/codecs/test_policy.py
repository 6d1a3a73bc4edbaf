import pytest

from flowerpress.codecs.base import Spec
from flowerpress.codecs.policy import Policy, as_policy
from flowerpress.codecs.text import parse
from flowerpress.errors import ConfigError

WEIGHT = Spec("layer.weight", "float32", (8, 8))


def test_first_matching_rule_wins() -> None:
    policy = Policy.parse("*.bias = raw; layer.*:float32 = zfp; * = zstd(level=5)")
    assert str(policy(Spec("x.bias", "float32", (3,)))) == "raw"
    assert str(policy(WEIGHT)) == "zfp"
    assert str(policy(Spec("layer.weight", "float64", (3,)))) == "planes | zstd(level=5)"


def test_a_pipeline_is_a_policy() -> None:
    assert Policy.parse("zfp(tolerance=0.5)")(WEIGHT) == parse("zfp(tolerance=0.5)")
    assert Policy.parse("zfp(tolerance=0.5) | zstd(level=3)")(WEIGHT).stages[1].name == "zstd"


@pytest.mark.parametrize(
    "text", ["raw", "*.bias = raw; * = zstd(level=3)", "a*:int* = raw; b = zfp(tolerance=0.5); * = raw"]
)
def test_text_round_trips(text: str) -> None:
    policy = Policy.parse(text)
    assert Policy.parse(str(policy)) == policy


@pytest.mark.parametrize(
    "spec",
    [
        Spec("n", "int64", (8,)),
        Spec("mask", "bool", (8,)),
        Spec("c", "complex64", (8,)),
        Spec("scale", "float32", ()),
        Spec("none", "float32", (0, 3)),
    ],
)
def test_integers_scalars_and_empty_arrays_are_never_lossy(spec: Spec) -> None:
    assert Policy.parse("zfp(tolerance=0.5)")(spec).lossless


def test_arrays_that_a_pipeline_cannot_take_go_losslessly() -> None:
    assert Policy.parse("zfp")(Spec("mask", "bool", (8,))) == parse("zstd")


@pytest.mark.parametrize(
    "text", ["*.bias = raw", "a = raw; zstd", "= ; * = raw", "*:float32 = raw", ";", "* = nothing"]
)
def test_errors(text: str) -> None:
    with pytest.raises(ConfigError):
        Policy.parse(text)


def test_as_policy() -> None:
    assert as_policy("raw") == as_policy(parse("raw")) == Policy.parse("raw")
    assert as_policy(choose := lambda spec: parse("raw")) is choose
    with pytest.raises(ConfigError, match="expected the text of a pipeline"):
        as_policy(3)  # type: ignore[arg-type]
