"""A SuperLink that does not answer for a while."""

from typing import Any

import pytest

from flowerpress import RunError
from flowerpress.deployment import connection
from flowerpress.deployment.connection import Connection


class Busy(Connection):
    """Its SuperLink fails to answer ``failures`` times."""

    def __init__(self, failures: int) -> None:
        super().__init__("busy", {})
        self.failures = failures

    def flwr(self, *arguments: str) -> dict[str, Any]:
        self.failures -= 1
        if self.failures >= 0:
            raise RunError("flwr ls failed: database is locked")
        return {"runs": [{"status": "running"}]}


def test_it_is_asked_again() -> None:
    assert Busy(3).status(1) == ("running", "")


def test_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_PATIENCE", 0.0)
    with pytest.raises(RunError, match="database is locked"):
        Busy(1 << 30).status(1)
