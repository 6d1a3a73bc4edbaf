r"""Pipelines as text: ``"delta | quantize(step=0.5) | entropy"``.

::

    pipeline := codec ("|" codec)*
    codec    := name [ "(" [ name "=" literal ("," name "=" literal)* ] ")" ]
    literal  := number | quoted string | true | false | none | "[" [ literal ("," literal)* ] "]"

``str(pipeline)`` prints what `parse` reads. Where a bytes→bytes codec is given an array, ``planes`` is put before it.
"""

import re
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache
from itertools import takewhile
from typing import TypeVar

from flowerpress.codecs.base import ArrayToArray, BytesToBytes, Codec, Literal, Pipeline
from flowerpress.codecs.registry import lookup
from flowerpress.errors import ConfigError

_TOKEN = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_-]*)|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<string>'[^'\\]*'|"[^"\\]*")|(?P<mark>[|(),=\[\]]))""",
    re.VERBOSE,
)
R = TypeVar("R")
_MOST = 2048
_WORDS: dict[str, Literal] = {"none": None, "true": True, "false": False}


@lru_cache(maxsize=256)
def parse(text: str) -> Pipeline:
    """Return the pipeline that ``text`` describes.

    Raises ConfigError that points at the column for what is not a pipeline, an unknown codec, an argument that it does
    not take, or stages that do not fit together.

    >>> print(parse("zstd"))
    planes | zstd
    >>> parse("planes | zstd(level=3)").stages
    (Planes(), Zstd(level=3))
    """
    stages = _Parser(text).pipeline()
    arrays = sum(1 for _ in takewhile(lambda stage: isinstance(stage, ArrayToArray), stages))
    if arrays < len(stages) and isinstance(stages[arrays], BytesToBytes):
        stages.insert(arrays, lookup("planes")())
    return Pipeline(tuple(stages))


class _WithoutColumn(ConfigError):
    """What a codec's class or constructor refused: the parser adds the column."""


def _checked(function: Callable[..., R], *args: str, **arguments: Literal) -> R:
    try:
        return function(*args, **arguments)
    except (ConfigError, TypeError) as error:
        raise _WithoutColumn(str(error)) from error


class _Parser:
    """A recursive descent over the tokens of one text; every error names the column."""

    def __init__(self, text: str) -> None:
        if len(text) > _MOST:
            raise ConfigError(f"pipeline text: expected at most {_MOST} characters, found {len(text)}")
        self.text, self.end = text, len(text.rstrip())
        self.start = self.stop = 0
        self.kind, self.token = "start", ""
        self.advance()

    def fail(self, expected: str) -> ConfigError:
        found = repr(self.token) if self.token else "the end"
        return ConfigError(
            f"pipeline text, column {self.start + 1}: expected {expected}, found {found}\n"
            f"  {self.text}\n  {' ' * self.start}^"
        )

    def advance(self) -> str:
        """Return the present token and move to the next."""
        token = self.token
        match = _TOKEN.match(self.text, self.stop)
        if match and match.lastgroup:
            self.kind, self.token = match.lastgroup, match[match.lastgroup]
            self.start, self.stop = match.start(match.lastgroup), match.end()
        else:
            rest = self.text[self.stop : self.end].lstrip()
            self.start = self.end - len(rest)
            self.kind, self.token = ("unknown", rest[0]) if rest else ("end", "")
        return token

    def take(self, mark: str) -> None:
        if self.token != mark or self.kind != "mark":
            raise self.fail(repr(mark))
        self.advance()

    def name(self, what: str) -> str:
        if self.kind != "name":
            raise self.fail(what)
        return self.advance()

    def pipeline(self) -> list[Codec]:
        stages = [self.codec()]
        while self.kind != "end":
            self.take("|")
            stages.append(self.codec())
        return stages

    def codec(self) -> Codec:
        column, name = self.start, self.name("the name of a codec")
        try:
            return self.call(name)
        except _WithoutColumn as error:
            raise ConfigError(f"pipeline text, column {column + 1}: {error}") from error

    def call(self, name: str) -> Codec:
        cls, arguments = _checked(lookup, name), dict[str, Literal]()
        if self.token == "(" and self.kind == "mark":
            self.advance()
            while self.token != ")":
                self.argument(cls, arguments)
                if self.token != ")":
                    self.take(",")
            self.take(")")
        return _checked(cls, **arguments)

    def argument(self, cls: type[Codec], arguments: dict[str, Literal]) -> None:
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        if self.token not in known or self.token in arguments:
            choice = f"one of {', '.join(n for n in known if n not in arguments)}" if known else "no argument"
            raise self.fail(f"{choice} of {cls.name}")
        key = self.name("the name of an argument")
        self.take("=")
        arguments[key] = self.literal()

    def literal(self, depth: int = 0) -> Literal:
        if self.kind == "number":
            token = self.advance()
            return float(token) if re.search(r"[.eE]", token) else int(token)
        if self.kind == "string":
            return self.advance()[1:-1]
        if self.kind == "name" and self.token.lower() in _WORDS:
            return _WORDS[self.advance().lower()]
        if self.token != "[" or depth > 8:
            raise self.fail("a number, a quoted string, true, false, none or a list")
        self.advance()
        items: list[Literal] = []
        while self.token != "]":
            items.append(self.literal(depth + 1))
            if self.token != "]":
                self.take(",")
        self.take("]")
        return items
