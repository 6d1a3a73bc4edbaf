"""JSON as its standard has it: without NaN and infinities, and with an error of ours for a file that is damaged."""

import json
import math
from pathlib import Path
from typing import Any

from flowerpress.errors import ChunkError


def dumps(value: object, *, indent: int | None = None) -> str:
    """Return a value as JSON; NaN and infinities, which JSON has not, are null.

    >>> dumps({"loss": float("nan"), "rounds": [1, 2.5]})
    '{"loss": null, "rounds": [1, 2.5]}'
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def loads(path: Path) -> dict[str, Any]:
    """Return the object in a file; ChunkError, with the file's name, if there is no whole one in it."""
    return parsed(path.read_bytes(), str(path))


def parsed(text: bytes, where: str) -> dict[str, Any]:
    """Return the object in a text; ChunkError, which says ``where`` it is from, if there is no whole one in it.

    >>> parsed(b'{', "line 2")
    Traceback (most recent call last):
    flowerpress.errors.ChunkError: line 2: expected an object of JSON, found b'{'; it is damaged: restore or remove it
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # of bytes that are no text, too
        found = None
    if not isinstance(found, dict):
        raise ChunkError(
            f"{where}: expected an object of JSON, found {_short(text)}; it is damaged: restore or remove it"
        )
    return found


def _finite(value: Any) -> Any:  # noqa: ANN401 - whatever JSON has
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(x) for key, x in value.items()}
    return [_finite(x) for x in value] if isinstance(value, list | tuple) else value


def _short(text: bytes, most: int = 40) -> str:
    return repr(text) if len(text) <= most else f"{len(text):,} bytes that end in {text[-most:]!r}"
