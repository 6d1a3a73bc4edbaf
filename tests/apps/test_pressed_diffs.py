"""Two lines: what a diff beside an app of somebody else's changes, counted in statements."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.their_apps import APPS, NAMES, copied

IMPORTS = (ast.Import, ast.ImportFrom)
BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")


def pieces(source: str) -> Iterator[ast.AST]:
    """Yield the statements of a module, each without those inside it; heads of handlers and cases as well."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield type(node)(**{name: [] if name in BLOCKS else value for name, value in ast.iter_fields(node)})


def counts(folder: Path, *, imports: bool) -> Counter[tuple[str, str]]:
    """Count the statements in an app's files, or its imports."""
    return Counter(
        (str(path.relative_to(folder)), ast.unparse(piece) if imports else ast.dump(piece))
        for path in folder.rglob("*.py")
        for piece in pieces(path.read_text())
        if isinstance(piece, IMPORTS) == imports
    )


def changes(before: Path, after: Path) -> Counter[str]:
    """Return how many statements were changed in each file; as many went as came."""
    old, new = counts(before, imports=False), counts(after, imports=False)
    went, came = (Counter(file for file, _ in found.elements()) for found in (old - new, new - old))
    assert went == came
    return went


def imported(before: Path, after: Path) -> tuple[set[str], set[str]]:
    """Return the imports that went, and those that came."""
    old, new = counts(before, imports=True), counts(after, imports=True)
    return {text for _, text in old - new}, {text for _, text in new - old}


def test_what_counts_as_a_change(tmp_path: Path) -> None:
    text = "import a\n\n\ndef f(x):\n    '''Say.'''\n    if x:\n        return g(\n            x,\n        )\n"
    for name, old, new, changed in (
        ("an inner one", "x,\n", "h(x),\n", 1),
        ("its head", "if x", "if not x", 1),
        ("layout and comments", "if x:", "if (x):  # so", 0),
        ("an import", "import a", "import a\nimport b", 0),
    ):
        for folder, source in ((tmp_path / name / "a", text), (tmp_path / name / "b", text.replace(old, new))):
            folder.mkdir(parents=True)
            (folder / "m.py").write_text(source)
        assert changes(tmp_path / name / "a", tmp_path / name / "b").total() == changed, name
    assert imported(tmp_path / name / "a", tmp_path / name / "b") == (set(), {"import b"})


def test_the_apps_of_others() -> None:
    assert NAMES == ["custom", "dp", "lora", "pytorch", "records", "sklearn"]
    for path in APPS.rglob("*"):
        if path.is_file() and path.suffix in (".py", ".toml"):
            assert "flowerpress" not in path.read_text(), path


@pytest.mark.parametrize("name", NAMES)
def test_an_app_is_pressed_by_two_statements_and_their_imports(name: str, tmp_path: Path) -> None:
    before, after = copied(name, tmp_path / "before"), copied(name, tmp_path / "after", pressed=True)
    (package,) = (path.parent.name for path in before.glob("*/server_app.py"))
    assert changes(before, after) == {f"{package}/client_app.py": 1, f"{package}/server_app.py": 1}
    went, came = imported(before, after)
    assert "from flowerpress import press_mod" in came
    assert all(text.startswith("from flowerpress import ") for text in came)
    if name == "lora":  # its bfloat16 is for a record of ours, under the name of Flower's
        assert went == {"from flwr.app import ArrayRecord"}
        assert "from flowerpress import LatentRecord as ArrayRecord" in came
    assert (len(went), len(came)) == ((1, 3) if name == "lora" else (0, 2))
