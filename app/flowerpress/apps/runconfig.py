"""Run configurations as people write them: an app's own, ``key=value`` texts that change it, and back to text."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flowerpress.errors import ConfigError

_PAIR = re.compile(r"""(\S+?)=('[^']*'|"[^"]*"|\S+)""")  # as Flower's --run-config has it


def defaults(app: Path) -> dict[str, Any]:
    """Return the configuration in the ``pyproject.toml`` of a Flower app; ConfigError if there is none."""
    path = app / "pyproject.toml"
    try:
        return dict(tomllib.loads(path.read_text())["tool"]["flwr"]["app"]["config"])
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"expected a Flower app with [tool.flwr.app.config] in {path}: {error!r}") from error


def changes(texts: Iterable[str], known: Iterable[str]) -> dict[str, Any]:
    """Return what ``key=value`` pairs say; a later one wins. ConfigError for an unknown key, or a value that is none.

    >>> changes(["seed=3 codec='delta | budget(bits=1.0)'"], ["seed", "codec"])
    {'seed': 3, 'codec': 'delta | budget(bits=1.0)'}
    """
    found: dict[str, Any] = {}
    for text in texts:
        if _PAIR.sub("", text).strip():
            raise ConfigError(f"run config: expected key=value pairs, text in quotes, found {text!r}")
        for key, value in _PAIR.findall(text):
            if key not in known:
                raise ConfigError(f"run config: expected a key among {', '.join(known)}, found {key!r}")
            try:
                found[key] = tomllib.loads(f"x = {value}")["x"]
            except ValueError as error:
                raise ConfigError(
                    f"run config: expected {key} to be a number, or text in quotes, found {value}"
                ) from error
    return found


def as_text(values: Mapping[str, Any]) -> str:
    """Return a configuration as ``key=value`` pairs; ConfigError for text with both kinds of quotes.

    >>> as_text({"seed": 3, "codec": "raw", "learning-rate": 0.1})
    "seed=3 codec='raw' learning-rate=0.1"
    """
    return " ".join(f"{key}={_quoted(value)}" for key, value in values.items())


def _quoted(value: Any) -> str:  # noqa: ANN401 - whatever TOML has
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    for quote in "'\"":
        if quote not in value and (quote == "'" or "\\" not in value):
            return f"{quote}{value}{quote}"
    raise ConfigError(f"run config: expected text with one kind of quotes, found {value}")
