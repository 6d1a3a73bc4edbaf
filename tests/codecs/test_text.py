import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowerpress.codecs.base import literal
from flowerpress.codecs.text import _Parser, parse
from flowerpress.errors import ConfigError, FlowerpressError


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("zstd", "planes | zstd"),
        ("planes|zstd", "planes | zstd"),
        (" raw ", "raw"),
        ("zstd()", "planes | zstd"),
        ("zstd(level=none)", "planes | zstd"),
        ("zstd(level=3,)", "planes | zstd(level=3)"),
        ("zfp(tolerance=1e-3) | zstd(level = 19)", "zfp(tolerance=0.001) | zstd(level=19)"),
        ("zfp(tolerance=2)", "zfp(tolerance=2)"),
        ("auto", "auto"),
        ("auto()", "auto"),
        ("auto(zstd,)", "auto(planes | zstd)"),
        ("auto( raw|zstd , zfp )", "auto(raw | zstd, zfp)"),
        ("delta | budget( bits=0.5)", "delta | budget(bits=0.5)"),
        ("budget(quantize(step=1.0, zone=0.6) | entropy, bytes=900)", "budget(bytes=900)"),
        ("budget(ratio=30, lowrank|entropy)", "budget(lowrank | entropy, ratio=30)"),
        ("best(raw, zstd) | zstd", "best(raw, planes | zstd) | zstd"),
        (
            "delta | best(budget(bits=0.1), budget(lowrank | entropy, bits=0.1))",
            "delta | best(budget(bits=0.1), budget(lowrank | entropy, bits=0.1))",
        ),
        ("sparse(keep=0.1, whole=true) | nonzero", "sparse(keep=0.1, whole=true) | nonzero"),
        ("sparse(keep=0.1, sample=1.0, above=none) | nonzero", "sparse(keep=0.1) | nonzero"),
        ("best(best(best(best(raw, raw), raw), raw), raw)", "best(best(best(best(raw, raw), raw), raw), raw)"),
    ],
)
def test_parse_and_print(text: str, printed: str) -> None:
    assert str(parse(text)) == printed
    assert parse(printed) == parse(text)


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("", 1, "the name of a codec"),
        ("zst", 1, "no codec is called 'zst'"),
        ("raw | zst", 7, "expected one of"),
        ("raw |", 6, "the name of a codec"),
        ("raw raw", 5, "expected '|'"),
        ("raw(", 5, "no argument of raw"),
        ("zstd(level)", 11, "expected '='"),
        ("zstd(level=)", 12, "a number, a quoted string"),
        ("zstd(speed=1)", 6, "one of level of zstd"),
        ("zstd(level=1, level=2)", 15, "found 'level'"),
        ("zstd(level=1.5)", 1, "a level from 1 to 22"),
        ("zstd(level=3.0)", 1, "a level from 1 to 22"),
        ("zstd(level=true)", 1, "a level from 1 to 22"),
        ("zfp(tolerance=true)", 1, "a tolerance above 0"),
        (f"quantize(step=1{400 * '0'})", 1, "step above 0"),
        ("zfp(tolerance='a')", 1, "a tolerance above 0"),
        ("zfp(tolerance=0)", 1, "a tolerance above 0"),
        ("zfp(tolerance=1e999)", 1, "a tolerance above 0"),
        ("zfp(tolerance=[1, 2", 20, "expected ','"),
        ("raw ü", 5, "expected '|' or the end, found 'ü'"),
        ("raw; zstd", 4, "found ';'"),
        ("auto(raw, zst)", 11, "no codec is called 'zst'"),
        ("auto(raw zstd)", 10, "expected ','"),
        ("auto(raw", 9, "expected ','"),
        ("auto(raw,", 10, "found the end"),
        ("auto(pipelines=3)", 6, "no argument of auto"),
        ("delta | best(raw, budget(lowrank | entropy, bit=1))", 45, "no codec is called 'bit'"),
        ("delta | best(raw, budget(lowrank | entropy, bits=0))", 19, "bits above 0"),
        ("delta | best(raw, budget(lowrank(rank=99) | entropy, bits=1))", 26, "a rank from 1 to 16"),
        ("budget(bits=1, ratio=3)", 1, "one of bits, bytes, ratio and error"),
        ("budget(zstd, bits=1)", 1, "one pipeline with a step"),
        ("raw | best(raw)", 7, "two pipelines or more"),
        ("best(raw | , raw)", 12, "the name of a codec"),
        ("best(best(best(best(best(raw, raw), raw), raw), raw), raw)", 26, "at most 4 pipelines within one another"),
    ],
)
def test_errors_point_at_the_column(text: str, column: int, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert f"column {column}" in str(caught.value)
    assert expected in str(caught.value)


def test_stages_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="does not fit together"):
        parse("raw | zfp")


def test_nested_stages_that_do_not_fit() -> None:
    for text in ("auto(raw | zfp)", "best(delta, raw)", "auto(raw) | raw", "budget(lowrank, bits=1)"):
        with pytest.raises(ConfigError, match="does not fit together"):
            parse(text)


def test_long_and_deep_texts_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 2048 characters"):
        parse("raw " + " " * 3000)
    with pytest.raises(ConfigError, match="column"):
        parse("zfp(tolerance=" + "[" * 1000)
    with pytest.raises(ConfigError, match="at most 4 pipelines within"):
        parse("auto(" * 400)
    with pytest.raises(ConfigError, match="column"):
        parse("best(" + "raw, " * 400)


_pieces = st.sampled_from(["auto", "best", "budget", "raw", "zstd", "bits=1", "(", "(", ")", ")", ",", "|", " ", "="])


@given(
    st.text(max_size=60)
    | st.text("rawzfpstd(|)=, 0123.'\"[]", max_size=60)
    | st.lists(_pieces, max_size=25).map("".join)
)
def test_any_text_is_a_pipeline_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(FlowerpressError):
        assert parse(str(parse(text))) == parse(text)


_leaves = ("raw", "zstd", "delta | zfp", "lowrank | entropy", "sparse(keep=0.5) | nonzero", "budget(bits=1)", "auto")


def _plans(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return texts of plans of two or three pipelines."""
    several = st.lists(inner, min_size=2, max_size=3)
    return st.tuples(st.sampled_from(["auto(%s)", "best(%s) | zstd", "delta|best( %s,raw )"]), several).map(
        lambda found: found[0] % ", ".join(found[1])
    )


_names = st.sampled_from(_leaves)


@given(_plans(_names | _plans(_names | _plans(_names))))
def test_nested_pipelines_round_trip(text: str) -> None:
    pipeline = parse(text)
    assert parse(str(pipeline)) == pipeline
    assert hash(parse(str(pipeline))) == hash(pipeline)
    assert pipeline.config() == parse(str(pipeline)).config()


_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("ab c_-|(", max_size=9),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(_values)
def test_literals_round_trip(value: object) -> None:
    found = _Parser(literal(value)).literal()  # type: ignore[arg-type]
    assert found == value
    assert type(found) is type(value)
