r"""Pipelines as text: ``"delta | quantize(step=0.5) | entropy"``.

::

    pipeline := codec ("|" codec)*
    codec    := name [ "(" [ argument ("," argument)* ] ")" ]
    argument := name "=" literal | pipeline
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
from flowerpress.codecs.recommended import up
from flowerpress.codecs.registry import lookup
from flowerpress.errors import ConfigError

_TOKEN = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_-]*)|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<string>'[^'\\]*'|"[^"\\]*")|(?P<mark>[|(),=\[\]]))""",
    re.VERBOSE,
)
R = TypeVar("R")
_MOST = 2048  # characters
_DEEPEST = 4  # pipelines within pipelines
_WORDS: dict[str, Literal] = {"none": None, "true": True, "false": False}


@lru_cache(maxsize=256)
def parse(text: str) -> Pipeline:
    """Return the pipeline that ``text`` describes, or that is recommended under this name.

    Raises ConfigError that points at the column for what is not a pipeline, an unknown codec, an argument that it does
    not take, or stages that do not fit together.

    >>> print(parse("zstd"))
    planes | zstd
    >>> parse("planes | zstd(level=3)").stages
    (Planes(), Zstd(level=3))
    """
    parser = _Parser(up(text))
    found = parser.pipeline()
    if parser.kind != "end":
        raise parser.fail("'|' or the end")
    return found


class _WithoutColumn(ConfigError):
    """What a codec's class or constructor refused: the parser adds the column."""


def _checked(function: Callable[..., R], *args: str, **arguments: object) -> R:
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
        self.start = self.stop = self.depth = 0
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

    def pipeline(self) -> Pipeline:
        stages = [self.codec()]
        while self.token == "|" and self.kind == "mark":
            self.advance()
            stages.append(self.codec())
        arrays = sum(1 for _ in takewhile(lambda stage: isinstance(stage, ArrayToArray), stages))
        if arrays < len(stages) and isinstance(stages[arrays], BytesToBytes):
            stages.insert(arrays, lookup("planes")())
        return Pipeline(tuple(stages))

    def codec(self) -> Codec:
        column, name = self.start, self.name("the name of a codec")
        try:
            return self.call(name)
        except _WithoutColumn as error:
            raise ConfigError(f"pipeline text, column {column + 1}: {error}") from error

    def call(self, name: str) -> Codec:
        cls, arguments = _checked(lookup, name), dict[str, object]()
        if self.token == "(" and self.kind == "mark":
            self.advance()
            while self.token != ")":
                self.argument(cls, arguments)
                if self.token != ")":
                    self.take(",")
            self.take(")")
        return _checked(cls, **arguments)

    def argument(self, cls: type[Codec], arguments: dict[str, object]) -> None:
        """Read one argument into ``arguments``: a literal by name, or a pipeline, for codecs that take some."""
        known = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        if "pipelines" in known and self.kind == "name" and self.token not in known:
            self.depth += 1
            if self.depth > _DEEPEST:
                raise self.fail(f"at most {_DEEPEST} pipelines within one another")
            arguments["pipelines"] = (*arguments.get("pipelines", ()), self.pipeline())  # type: ignore[misc]
            self.depth -= 1
            return
        known = [n for n in known if n not in arguments and n != "pipelines"]
        if self.token not in known:
            raise self.fail(f"{'one of ' + ', '.join(known) if known else 'no argument'} of {cls.name}")
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
