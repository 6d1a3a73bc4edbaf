"""Policies: which pipeline codes which array, as data that can travel.

A policy is text: rules ``glob:dtype = pipeline`` separated by semicolons, the first that matches wins. ::

    *.bias = raw; embed.*:float32 = zfp(tolerance=1e-3); * = zstd
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Self

from flowerpress.codecs.base import Codec, Pipeline, Spec
from flowerpress.codecs.dtypes import is_float
from flowerpress.codecs.recommended import up
from flowerpress.codecs.text import parse
from flowerpress.errors import ConfigError


@dataclass(frozen=True)
class Rule:
    """Arrays whose key and dtype match the globs ``key`` and ``dtype`` go through ``pipeline``."""

    key: str
    dtype: str
    pipeline: Pipeline

    def matches(self, spec: Spec) -> bool:
        """Tell whether this rule is for such an array."""
        return fnmatchcase(spec.key, self.key) and fnmatchcase(spec.dtype, self.dtype)

    def __str__(self) -> str:
        return f"{self.key}{'' if self.dtype == '*' else ':' + self.dtype} = {self.pipeline}"


@dataclass(frozen=True)
class Policy:
    """Ordered rules, read as a function from a `Spec` to its `Pipeline`.

    Integers, scalars and empty arrays are never lossy, and arrays that the chosen pipeline cannot take are coded
    losslessly instead: against their reference if there is one.

    >>> policy = Policy.parse("*.bias = raw; * = zfp(tolerance=0.001)")
    >>> print(policy(Spec("fc.weight", "float32", (10, 4))))
    zfp(tolerance=0.001)
    >>> print(policy(Spec("fc.weight", "int64", (10, 4))))
    planes | zstd
    """

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if not self.rules or (self.rules[-1].key, self.rules[-1].dtype) != ("*", "*"):
            raise ConfigError(f"policy {str(self)!r}: expected a last rule '* = pipeline' for all other arrays")

    @classmethod
    def parse(cls, text: str, named: Callable[[str], str] = up) -> Self:
        """Return the policy that ``text`` describes; a pipeline alone, or the name of one, is a policy of one rule.

        ``named`` gives the pipelines behind recommended names, by default those of replies.

        Raises ConfigError for a rule that is not ``glob[:dtype] = pipeline``, and as `text.parse` does.
        """
        if not _is_policy(text):
            return cls((Rule("*", "*", parse(named(text))),))
        return cls(tuple(_rule(part, named) for part in text.split(";") if part.strip()))

    def __call__(self, spec: Spec) -> Pipeline:
        pipeline = next(rule.pipeline for rule in self.rules if rule.matches(spec))
        exact = not is_float(spec.dtype) or not spec.shape or spec.size == 0
        if (exact and not pipeline.lossless) or pipeline.refuses(spec):
            return lossless_for(spec)
        return pipeline

    @property
    def lossless(self) -> bool:
        """Tell whether no rule loses anything."""
        return all(rule.pipeline.lossless for rule in self.rules)

    def __str__(self) -> str:
        return "; ".join(map(str, self.rules))


def lossless_for(spec: Spec) -> Pipeline:
    """Return what codes any array exactly, and against its reference if it has one."""
    against = parse("intdelta | zstd")
    return parse("zstd") if against.refuses(spec) else against


def as_policy(codec: str | Codec | Callable[[Spec], Pipeline]) -> Callable[[Spec], Pipeline]:
    """Return what chooses a pipeline per array, from text, a pipeline, a codec, a policy, or any such function."""
    if isinstance(codec, str):
        return Policy.parse(codec)
    if isinstance(codec, Codec):
        return Policy((Rule("*", "*", parse(str(codec))),))
    if callable(codec):
        return codec
    raise ConfigError(f"codec: expected the text of a pipeline or policy, or one of them, found {codec!r}")


def _is_policy(text: str) -> bool:
    """Tell rules from a pipeline: only rules have ``=`` outside parentheses."""
    return "=" in text.split("(", 1)[0] or ";" in text


def _rule(text: str, named: Callable[[str], str]) -> Rule:
    left, equals, right = text.partition("=")
    if not equals:
        raise ConfigError(f"policy: expected 'glob[:dtype] = pipeline' between semicolons, found {text.strip()!r}")
    key, colon, dtype = left.strip().rpartition(":")
    return Rule(key if colon else dtype, dtype if colon else "*", parse(named(right)))
