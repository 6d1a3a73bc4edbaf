"""Run configurations as text: read as Flower reads them, and written so that it reads the same."""

from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from flowerpress import ConfigError
from flowerpress.apps.runconfig import as_text, changes, defaults
from tests.apps.test_config import DEFAULTS

ROOT = Path(__file__).parents[2]


def test_defaults_are_those_of_the_app(tmp_path: Path) -> None:
    assert defaults(ROOT) == DEFAULTS
    with pytest.raises(ConfigError, match=r"expected a Flower app with .* in .*pyproject.toml"):
        defaults(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool]")
    with pytest.raises(ConfigError, match="expected a Flower app with"):
        defaults(tmp_path)


def test_flower_reads_what_is_written() -> None:
    values = {"a": 1, "b": 0.5, "c": True, "d": "x = y; * = z", "e": "it's", "f": 'a "b"', "g": "", "h": "a\\b"}
    assert parse_config_args([as_text(values)]) == values
    assert changes([as_text(values)], values) == values
    with pytest.raises(ConfigError, match="one kind of quotes"):
        as_text({"a": "'\""})


def test_a_later_pair_wins() -> None:
    assert changes(["seed=1 codec='raw'", "seed=2"], DEFAULTS) == {"seed": 2, "codec": "raw"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [("sed=1", "expected a key among codec, "), ("codec=raw", "text in quotes, found raw"), ("codec", "key=value")],
)
def test_mistakes(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        changes([text], DEFAULTS)
