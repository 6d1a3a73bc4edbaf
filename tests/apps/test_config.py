import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from flowerpress import ConfigError
from flowerpress.apps.config import Config

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
DEFAULTS = PROJECT["tool"]["flwr"]["app"]["config"]


def test_every_key_is_used_and_documented() -> None:
    assert list(DEFAULTS) == [f.name.replace("_", "-") for f in fields(Config)]
    assert Config.read(DEFAULTS).num_server_rounds == 10


def test_integers_serve_as_floats() -> None:
    assert Config.read({**DEFAULTS, "learning-rate": 1}).learning_rate == 1.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("learning-rate", "abc"),
        ("learning-rate", 0.0),
        ("learning-rate", float("nan")),
        ("num-server-rounds", 2.5),
        ("num-server-rounds", 0),
        ("num-server-rounds", True),
        ("fraction-train", 1.5),
        ("dirichlet-alpha", -1.0),
        ("local-epochs", 0),
        ("batch-size", 0),
        ("torch-threads", -1),
        ("codec", "nothing"),
        ("codec", 3),
    ],
)
def test_wrong_values(key: str, value: Any) -> None:
    with pytest.raises(ConfigError):
        Config.read({**DEFAULTS, key: value})


def test_missing_keys() -> None:
    with pytest.raises(ConfigError, match="expected the key 'codec'"):
        Config.read({})
