"""Texts with labels, from what is installed: paragraphs of docstrings, and which package each is from.

The packages come with this project. Their names are left out: "Returns the small-world coefficient (omega) of a graph".
A module is either for training or for testing. All follows from a seed, and from the releases that are installed.
"""

import ast
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tests.benchmarks.bert import batch

PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sklearn", "sympy", "torch")
NAMES = re.compile(rf"\b(?:{'|'.join(PACKAGES)}|mpl|nx|np|pd|scikit|pytorch)\w*", re.IGNORECASE)
WORDS, FROM_MODULE = 8, 6  # words that a text has at least; texts of one module at most
TOKENS = 32  # of a text at most
TRAIN, TEST = 320, 96  # texts of each package


@dataclass(frozen=True)
class Texts:
    """Token ids of shape (texts, tokens), padded with 0, and which package each text is from."""

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
    """Return texts to train and texts to test with, from different modules; as many of each package."""
    rng, seen = random.Random(seed), set[str]()
    train, test = zip(*(drawn(package, rng, seen) for package in PACKAGES), strict=True)
    return labelled(train), labelled(test)


def drawn(package: str, rng: random.Random, seen: set[str]) -> tuple[list[str], list[str]]:
    """Return texts of one package to train and to test with, none that was seen before."""
    train, test = list[str](), list[str]()
    for module in shuffled_modules(package, rng):
        new = [text for text in prose(module) if text not in seen]
        seen.update(new)
        (test if len(test) < TEST else train).extend(rng.sample(new, min(FROM_MODULE, len(new))))
        if len(train) >= TRAIN:
            return train[:TRAIN], test[:TEST]
    raise SystemExit(f"expected {TRAIN} texts of {package} to train with, found {len(train)}")


def labelled(lists: Sequence[Sequence[str]]) -> Texts:
    ids, _ = batch([text for some in lists for text in some], TOKENS)
    return Texts(ids, torch.arange(len(lists)).repeat_interleave(len(lists[0])))


def shuffled_modules(package: str, rng: random.Random) -> list[Path]:
    found = find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"expected the package {package}, found none")
    root = Path(found.origin).parent
    modules = sorted(path for path in root.rglob("*.py") if "test" not in str(path.relative_to(root)))
    rng.shuffle(modules)
    return modules


def prose(module: Path) -> list[str]:
    """Return the paragraphs of a module's docstrings, those that are sentences, without names of packages."""
    found: dict[str, None] = {}
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
                text = " ".join(NAMES.sub(" ", paragraph).split())
                words = re.findall(r"[A-Za-z]{2,}", text)
                if len(words) >= WORDS and ">>>" not in paragraph and "---" not in paragraph and text[0].isupper():
                    found[text] = None
    return list(found)


def shared(texts: Texts, clients: int, alpha: float, seed: int) -> list[Texts]:
    """Return the texts of each client: Dirichlet over the clients for each label."""
    rng = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in range(clients)]
    for label in range(len(PACKAGES)):
        mine = rng.permutation(np.flatnonzero(texts.labels.numpy() == label))
        cuts = (rng.dirichlet([alpha] * clients).cumsum()[:-1] * len(mine)).astype(int)
        for part, some in zip(parts, np.split(mine, cuts), strict=True):
            part.append(some)
    return [texts.at(np.concatenate(part)) for part in parts]
