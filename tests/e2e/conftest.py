"""What came of it, as a table behind the tests: the fault matrix first of all."""

from collections.abc import Callable

import pytest
from rich.console import Console
from rich.table import Table

Outcome = Callable[[int, str, str], None]  # row of the fault matrix, or 0; what was done, and what came of it
_OUTCOMES: list[tuple[int, str, str]] = []


@pytest.fixture
def outcome() -> Outcome:
    """Return what notes an outcome for the table; a test that failed has not noted it."""
    return lambda row, fault, found: _OUTCOMES.append((row, fault, found))


def pytest_terminal_summary() -> None:
    if _OUTCOMES:
        table = Table(title="the fault matrix, and what else was tried")
        for name in ("row", "what", "outcome"):
            table.add_column(name, justify="right" if name == "row" else "left")
        for row, fault, found in sorted(_OUTCOMES, key=lambda line: line[0]):
            table.add_row(str(row or ""), fault, found)
        Console(width=150).print(table)
