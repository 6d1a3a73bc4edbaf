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
        ("zstd(level=true)", 1, "a level from 1 to 22"),
        ("zfp(tolerance='a')", 1, "a tolerance above 0"),
        ("zfp(tolerance=0)", 1, "a tolerance above 0"),
        ("zfp(tolerance=1e999)", 1, "a tolerance above 0"),
        ("zfp(tolerance=[1, 2", 20, "expected ','"),
        ("raw ü", 5, "expected '|', found 'ü'"),
        ("raw; zstd", 4, "found ';'"),
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


def test_long_and_deep_texts_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 2048 characters"):
        parse("raw " + " " * 3000)
    with pytest.raises(ConfigError, match="column"):
        parse("zfp(tolerance=" + "[" * 1000)


@given(st.text(max_size=60) | st.text("rawzfpstd(|)=, 0123.'\"[]", max_size=60))
def test_any_text_is_a_pipeline_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(FlowerpressError):
        assert parse(str(parse(text))) == parse(text)


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
