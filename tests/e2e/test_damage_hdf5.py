"""Thousands of damaged HDF5 files."""

from pathlib import Path

import pytest

from tests.extraction.damage import damage


def test_five_thousand_damages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = damage(tmp_path, 5000, 1, monkeypatch)
    print(outcomes)
    assert outcomes["done"] < sum(outcomes.values()) == 5000
