"""The commands that need no server."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from flowerpress import Bundle, pack
from flowerpress.arrays.files import arrays_of_file
from flowerpress.chunks.content import digest_of
from flowerpress.cli import app
from flowerpress.federation.store import MOST, SEED, Store

ROOT = Path(__file__).parents[1]

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


def test_inspect_of_a_message_needs_its_references(tmp_path: Path) -> None:
    base, message = tmp_path / "base.fpb", tmp_path / "message.fpb"
    arrays = {"w": np.ones((30, 20), np.float32), "n": np.array(3)}
    base.write_bytes(pack(dict(arrays), "raw"))
    message.write_bytes(pack({**arrays, "n": np.array(4)}, "intdelta | zstd", bases=arrays, by_schema=True))
    done = RUN.invoke(app, ["inspect", str(message)])
    assert (done.exit_code, "expected references of the schema" in done.output.replace("\n", " ")) == (1, True)
    done = RUN.invoke(app, ["inspect", str(message), "--base", str(base), "--format", "json"])
    rows = json.loads(done.output)["arrays"]
    assert [(a["key"], a["shape"], a["pipeline"]) for a in rows] == [
        ("w", [30, 20], "intdelta | planes | zstd"),
        ("n", [], "raw"),
    ]


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for arguments in (["inspect", "nothing.fpb"], ["plot", str(tmp_path)], ["run", str(tmp_path)]):
        done = RUN.invoke(app, arguments)
        assert done.exit_code == 1
        assert "error: " in done.output


def test_help_teaches() -> None:
    for arguments in (
        [],
        ["--help"],
        ["run", "--help"],
        ["compare", "--help"],
        ["inspect", "--help"],
        ["plot", "--help"],
        ["cache"],
    ):
        assert "Usage" in RUN.invoke(app, arguments).output
    for command in ("add", "ls", "clear"):
        assert "Usage" in RUN.invoke(app, ["cache", command, "--help"]).output
    assert "where the server app runs and on each client" in RUN.invoke(app, ["cache", "add", "--help"]).output


def cached() -> dict[str, Any]:
    return json.loads(RUN.invoke(app, ["cache", "ls", "--format", "json"]).output)


def test_convert(bundle: Path) -> None:
    target = bundle.with_suffix(".npz")
    done = RUN.invoke(app, ["convert", str(bundle), str(target)])
    assert done.exit_code == 0
    assert "4 arrays" in done.output
    assert digest_of(arrays_of_file(target)) == digest_of(Bundle.open(bundle))
    done = RUN.invoke(app, ["convert", str(bundle), str(bundle.with_suffix(".onnx"))])
    assert (done.exit_code, "expected a file that ends in" in done.output) == (1, True)


def test_cache_add(bundle: Path) -> None:
    done = RUN.invoke(app, ["cache", "add", str(bundle)])
    assert done.exit_code == 0
    digest = digest_of(Bundle.open(bundle))
    size = Store().nbytes(digest)
    assert done.output == f"{digest} 4 arrays, {size:,} bytes\n"
    assert Store().holders(digest) == {SEED}
    again = RUN.invoke(app, ["cache", "add", str(bundle)])
    assert (again.exit_code, again.output) == (0, done.output)
    found = cached()
    assert found["folder"] == str(Store().folder)
    (record,) = found["records"]
    used = record.pop("used")
    assert record == {"digest": digest, "arrays": 4, "bytes": size, "holders": 1, "seed": True}
    assert used == pytest.approx(Store().folder.joinpath(digest, "record").stat().st_mtime)


def test_cache_add_takes_other_files(tmp_path: Path) -> None:
    arrays = {"a": np.ones((3, 4), np.float32), "b": np.arange(3, dtype=np.float32)}
    np.savez(tmp_path / "model.npz", **arrays)
    save_file(arrays, tmp_path / "model.safetensors")
    for name in ("model.npz", "model.safetensors"):
        done = RUN.invoke(app, ["cache", "add", str(tmp_path / name)])
        assert done.output.startswith(f"{digest_of(arrays)} 2 arrays, ")
    assert len(cached()["records"]) == 1


def test_cache_add_says_what_is_wrong(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pickle = bundle.with_suffix(".pt")
    pickle.write_bytes(b"")
    damaged = bundle.with_name("damaged.fpb")
    damaged.write_bytes(bundle.read_bytes()[:-1])
    for path, reason in ((pickle, "cannot be read"), (damaged, "bundle"), (Path("x.npz"), "no such file")):
        done = RUN.invoke(app, ["cache", "add", str(path)])
        assert (done.exit_code, cached()["records"]) == (1, [])
        assert "error: " in done.output
        assert reason in done.output
    monkeypatch.setenv(MOST, "100")
    done = RUN.invoke(app, ["cache", "add", str(bundle)])
    assert done.exit_code == 1
    assert f"or raise {MOST}" in done.output
    monkeypatch.setenv(MOST, "much")
    for arguments in (["add", str(bundle)], ["ls"], ["clear"]):
        done = RUN.invoke(app, ["cache", *arguments])
        assert done.exit_code == 1
        assert "expected a number of bytes, found 'much'" in done.output


def test_cache_ls_prints_a_table(bundle: Path) -> None:
    RUN.invoke(app, ["cache", "add", str(bundle)])
    other = {"w": np.ones(250_000, np.float32)}
    for holder in ("run-1", "run-2"):
        Store().add(digest_of(other), other, holder)
    done = RUN.invoke(app, ["cache", "ls"], env={"COLUMNS": "200"})
    first, second = (line for line in done.output.splitlines() if "│" in line)
    assert [cell.strip() for cell in first.split("│")][1:6] == [digest_of(other), "1", "1.00", "2", "no"]
    assert [cell.strip() for cell in second.split("│")][1:6] == [
        digest_of(Bundle.open(bundle)),
        "4",
        "0.00",
        "1",
        "yes",
    ]
    narrow = RUN.invoke(app, ["cache", "ls"], env={"COLUMNS": "80"})
    assert digest_of(other) in narrow.output


def test_cache_clear(bundle: Path) -> None:
    assert RUN.invoke(app, ["cache", "clear"]).output == f"0 bytes freed in {Store().folder}\n"
    RUN.invoke(app, ["cache", "add", str(bundle)])
    seed = digest_of(Bundle.open(bundle))
    other = {"w": np.ones(250_000, np.float32)}
    size = Store().add(digest_of(other), other, "a run").nbytes
    done = RUN.invoke(app, ["cache", "clear", "--keep-seeds"])
    assert (done.exit_code, done.output) == (0, f"{size:,} bytes freed in {Store().folder}\n")
    assert [record["digest"] for record in cached()["records"]] == [seed]
    size = Store().nbytes(seed)
    assert RUN.invoke(app, ["cache", "clear"]).output == f"{size:,} bytes freed in {Store().folder}\n"
    assert cached()["records"] == []


def test_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path))
    done = RUN.invoke(app, ["run", str(ROOT), "--connection", "nowhere", "--clients", "3"])
    assert (done.exit_code, "the SuperNodes there are the clients" in done.output.replace("\n", " ")) == (1, True)
    done = RUN.invoke(app, ["run", str(ROOT), "--connection", "nowhere", "--runs", str(tmp_path / "runs")])
    assert (done.exit_code, "nowhere" in done.output) == (1, True)
