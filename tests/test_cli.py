"""The commands that need no server."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flowerpress import pack
from flowerpress.cli import app

RUN = CliRunner()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "model.fpb"
    arrays = {"w": np.zeros((30, 20), np.float32), "tied": np.zeros((30, 20), np.float32), "n": np.array(3)}
    path.write_bytes(pack({**arrays, "none": np.zeros(0)}, "w = zfp; * = zstd"))
    return path


def test_inspect_prints_a_table(bundle: Path) -> None:
    done = RUN.invoke(app, ["inspect", str(bundle)], env={"COLUMNS": "200"})
    assert done.exit_code == 0
    for text in ("float32", "30x20", "scalar", "a copy", "2,400", "zfp", "empty"):
        assert text in done.output


def test_inspect_prints_json(bundle: Path) -> None:
    done = RUN.invoke(app, ["inspect", str(bundle), "--format", "json"])
    found = json.loads(done.output)
    assert found["bytes"] == bundle.stat().st_size
    assert [a["key"] for a in found["arrays"]] == ["w", "tied", "n", "none"]
    assert found["arrays"][0]["pipeline"] == "zfp"


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_inspect_says_what_is_wrong(bundle: Path, damage: bytes | None) -> None:
    data = bytearray(bundle.read_bytes())
    data[40] ^= 1
    bundle.write_bytes(bytes(data) if damage is None else damage)
    done = RUN.invoke(app, ["inspect", str(bundle)])
    assert done.exit_code == 1
    assert "error: bundle" in done.output


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for arguments in (["inspect", "nothing.fpb"], ["plot", str(tmp_path)], ["run", str(tmp_path)]):
        done = RUN.invoke(app, arguments)
        assert done.exit_code == 1
        assert "error: " in done.output


def test_help_teaches() -> None:
    for arguments in ([], ["--help"], ["run", "--help"], ["inspect", "--help"], ["plot", "--help"]):
        assert "Usage" in RUN.invoke(app, arguments).output
