"""Texts with labels, from what is installed: pieces of docstrings, and which section each is from.

The packages come with this project. What is left out are headings, names and types, and code: "If True, X is copied" is
from ``Parameters``. A module is either for training or for testing. All follows from a seed, and from the releases that
are installed.
"""

import ast
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.bert import batch

PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn")
LISTS = ("Parameters", "Attributes", "Returns", "Raises")
SECTIONS = ("Summary", *LISTS, "Notes", "Examples", "References")
HEADING = re.compile(r"^([A-Z][A-Za-z ]+)\n-{3,} *\n", re.MULTILINE)
WORDS, TOKENS = 6, 32  # words that a text has at least; tokens that are kept of it
FROM_MODULE, FROM_TEST = 4, 4  # texts of a section from one module at most; one module in so many is for testing
TRAIN, TEST = 320, 96  # texts of each section


@dataclass(frozen=True)
class Texts:
    """Token ids of shape (texts, tokens), padded with 0, and which section each text is from."""

    ids: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Sequence[int] | np.ndarray) -> "Texts":
        """Return some of the texts, no longer than they need be."""
        ids = self.ids[indices]
        return Texts(ids[:, : int((ids != 0).sum(1).max())], self.labels[indices])

    def batches(self, size: int) -> Iterator["Texts"]:
        """Return all texts in their order, ``size`` at a time."""
        return (self.at(range(start, min(start + size, len(self)))) for start in range(0, len(self), size))


@cache
def texts(seed: int) -> tuple[Texts, Texts]:
    """Return texts to train and texts to test with, from different modules; as many of each section."""
    rng, seen = random.Random(seed), set[str]()
    sides = [{section: list[str]() for section in SECTIONS} for _ in range(2)]
    for number, module in enumerate(shuffled_modules(rng)):
        found = sides[number % FROM_TEST == 0]
        for section, some in by_section(module).items():
            new = [text for text in some if text not in seen]
            seen.update(new)
            found[section] += rng.sample(new, min(FROM_MODULE, len(new)))
    return labelled(sides[0], TRAIN), labelled(sides[1], TEST)


def labelled(found: Mapping[str, Sequence[str]], count: int) -> Texts:
    if fewer := {section: len(some) for section, some in found.items() if len(some) < count}:
        raise SystemExit(f"expected {count} texts of each section, found {fewer}")
    ids, _ = batch([text for some in found.values() for text in some[:count]], TOKENS)
    return Texts(ids, torch.arange(len(found)).repeat_interleave(count))


def shuffled_modules(rng: random.Random) -> list[Path]:
    modules = []
    for package in PACKAGES:
        found = find_spec(package)
        if found is None or found.origin is None:
            raise SystemExit(f"expected the package {package}, found none")
        root = Path(found.origin).parent
        modules += sorted(path for path in root.rglob("*.py") if "test" not in str(path.relative_to(root)))
    rng.shuffle(modules)
    return modules


def by_section(module: Path) -> dict[str, list[str]]:
    """Return the texts of a module's docstrings that have some words, each once."""
    found: dict[str, dict[str, None]] = {section: {} for section in SECTIONS}
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            first, *others = HEADING.split(ast.get_docstring(node) or "")
            for heading, body in (("Summary", first), *zip(others[::2], others[1::2], strict=True)):
                for text in split(heading, body) if heading in found else ():
                    if len(re.findall(r"[A-Za-z]{2,}", text)) >= WORDS:
                        found[heading][text] = None
    return {section: list(some) for section, some in found.items()}


def split(heading: str, body: str) -> list[str]:
    """Return the descriptions in a list of what has names and types, or paragraphs without code."""
    if heading in LISTS:
        parts = [entry.partition("\n")[2] for entry in re.split(r"\n(?=\S)", body)]
    else:
        parts = [part for part in re.split(r"\n\s*\n|^\.\. ", body, flags=re.MULTILINE) if ">>>" not in part]
    return [" ".join(part.split()) for part in parts]


def shared(texts: Texts, clients: int, alpha: float, seed: int) -> list[Texts]:
    """Return the texts of each client: Dirichlet over the clients for each label."""
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in range(len(SECTIONS)):
        mine = rng.permutation(np.flatnonzero(texts.labels.numpy() == label))
        cuts = (rng.dirichlet([alpha] * clients).cumsum()[:-1] * len(mine)).astype(int)
        for part, some in zip(parts, np.split(mine, cuts), strict=True):
            part.append(some)
    return [texts.at(np.concatenate(part)) for part in parts]
