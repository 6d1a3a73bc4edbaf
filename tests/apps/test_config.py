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
        ("image-size", -1),
        ("server-learning-rate", -0.1),
        ("server-learning-rate", float("inf")),
        ("codec", "nothing"),
        ("codec-down", "nothing"),
        ("codec", 3),
    ],
)
def test_wrong_values(key: str, value: Any) -> None:
    with pytest.raises(ConfigError):
        Config.read({**DEFAULTS, key: value})


def test_stock_flower_has_no_codec_for_the_way_down() -> None:
    assert Config.read({**DEFAULTS, "codec-down": "raw"}).codec_down == "raw"
    with pytest.raises(ConfigError, match="expected a codec beside codec-down"):
        Config.read({**DEFAULTS, "codec": "", "codec-down": "raw"})


def test_missing_keys() -> None:
    with pytest.raises(ConfigError, match="expected the key 'codec'"):
        Config.read({})
