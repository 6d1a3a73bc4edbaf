"""Docstrings as Markdown: doctests, and what stands behind ``::``, become blocks of code."""

import re

from griffe import Extension, Object

_LITERAL = re.compile(r"(?m)^(?P<text>.*?)\s*::[ ]*\n\n?(?P<block>(?:[ \t]+\S.*\n|\n(?=[ \t]+\S))+)")
_DOCTEST = re.compile(r"(?m)^>>> .*(?:\n(?!\s*$).*)*")
_SECTION = re.compile(r"(?m)^\w[\w ]*\n-{3,}$")


def markdown(text: str) -> str:
    """Fence what is code; a doctest behind numpy's sections becomes a section of its own, as griffe wants it."""
    section = _SECTION.search(text)
    start = section.start() if section else len(text)
    head, tail = _LITERAL.sub(_literal, text[:start] + "\n").rstrip("\n"), text[start:]
    head = _DOCTEST.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```", head)
    tail = _DOCTEST.sub(lambda found: f"Examples\n--------\n{found[0]}", tail, count=1)
    return f"{head}\n\n{tail}" if tail else head


def _literal(found: "re.Match[str]") -> str:
    lines = found["block"].rstrip().splitlines()
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join([found["text"], "", "```text", *(line[margin:] for line in lines), "```", "", ""])


class Docstrings(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Object, **kwargs: object) -> None:
        """Rewrite one."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
