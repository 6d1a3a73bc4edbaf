"""The fault matrix: what each fault led to, as a table behind the tests."""

from collections.abc import Callable

import pytest
from rich.console import Console
from rich.table import Table

Outcome = Callable[[int, str, str], None]  # row of the matrix, fault, outcome
_OUTCOMES: list[tuple[int, str, str]] = []


@pytest.fixture
def outcome() -> Outcome:
    """Return what notes an outcome for the table; a test that failed has not noted it."""
    return lambda row, fault, found: _OUTCOMES.append((row, fault, found))


def pytest_terminal_summary() -> None:
    if _OUTCOMES:
        table = Table(title="fault matrix")
        for name in ("row", "fault", "outcome"):
            table.add_column(name, justify="right" if name == "row" else "left")
        for row, fault, found in sorted(_OUTCOMES, key=lambda line: line[0]):
            table.add_row(str(row), fault, found)
        Console(width=150).print(table)
