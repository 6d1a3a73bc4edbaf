"""README and docs/: links and paths lead somewhere, commands are accepted, and what is written in Python runs."""

import ast
import importlib
import re
import shlex
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import typer

from flowerpress import Bundle, pack
from flowerpress.apps import runconfig
from flowerpress.chunks import schema
from flowerpress.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
MADE = ("docker/secrets*",)  # what commands make
SHORTER = {"num_rounds=40": "num_rounds=2", "/runs/one": "tensorboard"}  # in blocks that are run
FLOWER = """
import numpy as np, torch
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg
from tests.federation.apps import client, initial
from tests.federation.local_grid import LocalGrid
arrays, strategy, grid = initial(), FedAvg(fraction_evaluate=0.0), LocalGrid({1: client(), 2: client()})
model, w, b = torch.nn.Linear(3, 2), np.ones((4, 3), "float32"), np.zeros(3, "float32")
"""
BEFORE = {  # each block of a page
    "README.md": FLOWER,
    "docs/arrays.md": f"{FLOWER}\nencoder, loader = torch.nn.Linear(3, 2), [torch.ones(5, 3)] * 2",
    "docs/federation.md": f"{FLOWER}\nfrom flowerpress import PressGrid",
    "docs/learned.md": """
import torch
from flowerpress.latent_codecs import VitUnionLatentCodec
small = VitUnionLatentCodec(h_dim=64, y_dim=8, z_dim=8, groups=4)
small.update()
torch.save(small.state_dict(), "codec.pth")
tokens = torch.randn(1, 257, 64)
""",
    "docs/pipelines.md": FLOWER,
}


def blocks(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """Yield the comment above each block of code, if there is one, and the block."""
    pattern = rf"(?ms)^(?:<!-- ([^\n]*) -->\n)?```{language}\n(.*?)^```$"
    return ((found[1] or "", found[2]) for found in re.finditer(pattern, page.read_text()))


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"(?ms)^```.*?^```$", "", page.read_text())


def slug(heading: str) -> str:
    """Return the anchor of a heading, as both GitHub and mkdocs make it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(found) for found in re.findall(r"(?m)^#+ (.*)$", prose(page))}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links(page: Path) -> None:
    assert "—" not in page.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_paths(page: Path) -> None:
    text = page.read_text()
    for path in re.findall(r"(?<![\w/.$-])((?:app|tests|docs|docker|\.ci)/[\w./-]*\w)", text):
        there = (ROOT / path).exists() or (ROOT / path.replace("app/", "app/flowerpress/", 1)).exists()
        assert there or any(fnmatch(path, made) for made in MADE) or (ROOT / f"{path}.py").exists(), path
    homes = [ROOT, ROOT / "app" / "flowerpress", ROOT / "tests" / "benchmarks", ROOT / "tests" / "thirdparty"]
    for path in re.findall(r"`([\w./-]+\.(?:py|sh|yml|conf))`", text):
        assert any((home / path).exists() for home in homes), path


def test_the_tree_of_the_package() -> None:
    (tree,) = (b for _, b in blocks(ROOT / "docs" / "architecture.md", "text") if "codecs/ " in b and "base.py" in b)
    folder, found = ROOT / "app" / "flowerpress", 0
    for line in tree.splitlines():
        if start := re.match(r"(?: {2})?([\w.]+)/? ", line):
            inner = ROOT / "app" / "flowerpress" / start[1]
            folder = inner if inner.is_dir() and line.startswith("  ") else folder
        for name in re.findall(r"\b(\w+\.py)\b", line) if line.startswith("   ") else ():
            assert (folder / name).is_file(), f"{folder.name}/{name}"
            found += 1
    assert found > 60


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before, names = BEFORE.get(str(page.relative_to(ROOT)), ""), dict[str, Any]()
    for comment, text in blocks(page, "python"):
        tree = compile(text, str(page), "exec", ast.PyCF_ONLY_AST)
        if theirs := re.match(r"# (tests/\S+)\n", text):
            assert text[theirs.end() :] in (ROOT / theirs[1]).read_text(), f"not what stands in {theirs[1]}"
        elif comment:
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flowerpress"):
                    module = importlib.import_module(str(node.module))
                    assert all(hasattr(module, alias.name) for alias in node.names)
        else:
            for long, short in SHORTER.items():
                text = text.replace(long, short)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of TensorBoard's imports
                exec(before, names)
                exec(compile(text, str(page), "exec"), names)


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield the words of each command line, and whether it is whole; in prose some name no arguments."""
    for _, block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            yield shlex.split(line, comments=True), True
    for text in re.findall(r"`((?:flowerpress|make) [^`]+)`", prose(page)):
        yield shlex.split(text), False


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands(page: Path) -> None:
    targets = set(re.findall(r"(?m)^([a-z0-9-]+):", (ROOT / "Makefile").read_text()))
    known = runconfig.defaults(ROOT)
    for words, whole in commands(page):
        if words[:1] == ["make"]:
            assert set(words[1:]) <= targets, words
        if "flowerpress" not in words:
            continue
        try:
            context = typer.main.get_command(app).make_context("flowerpress", words[words.index("flowerpress") + 1 :])
            while isinstance(group := context.command, click.Group):
                name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
                context = command.make_context(name, rest, parent=context)
        except click.MissingParameter:
            assert not whole, words
            continue
        except click.BadParameter as error:
            if "does not exist" not in str(error):
                raise
            continue
        except (click.exceptions.NoArgsIsHelpError, click.exceptions.Exit):  # help was asked for
            continue
        runconfig.changes([text.replace("…", "") for text in context.params.get("run_config") or []], known)


def table(title: str, number: int = 0) -> bytes:
    """Return the bytes of a table of the specification, whose offsets have to follow each other."""
    section = (ROOT / "docs" / "spec.md").read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| (\d+) \| `([0-9a-f ]+)` \|", section.split("| offset | bytes |")[number + 1])
    data = b""
    for offset, text in rows:
        assert int(offset) == len(data), offset
        data += bytes.fromhex(text)
    return data


def test_the_bytes_of_a_file() -> None:
    w = np.array([[1, 2], [3, 4]], "float32")
    data = pack({"w": w, "tied": w, "n": np.array(7)})
    assert table("Worked example: a file").hex(" ") == data.hex(" ")
    assert [row["pipeline"] for row in Bundle(data).rows()] == ["raw", "a copy", "raw"]


def test_the_bytes_of_a_message() -> None:
    base = {"w": np.arange(8, dtype="float32")}
    moved = {"w": base["w"] + np.array([0, 1, 0, 0, -1, 0, 0, 2], "float32")}
    written, data = (
        table("Worked example: a message"),
        pack(moved, "delta | quantize(step=1.0) | bitpack", bases=base, by_schema=True),
    )
    length = int.from_bytes(written[-12:-8], "little")
    manifest = schema.inflate(written[-12 - length : -12])
    assert manifest.hex(" ") == table("Worked example: a message", 1).hex(" ")
    assert schema.inflate(data[len(written) - 12 - length : -12]) == manifest  # another zlib may write other bytes
    assert data[: len(written) - 12 - length] == written[: len(written) - 12 - length]
    assert Bundle(written, bases=base)["w"].tobytes() == moved["w"].tobytes()
