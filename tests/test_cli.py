"""The commands that need no server."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.main import get_command
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
    assert done.exit_code == 3
    assert "error: bundle" in done.output


def test_inspect_of_a_message_needs_its_references(tmp_path: Path) -> None:
    base, message = tmp_path / "base.fpb", tmp_path / "message.fpb"
    arrays = {"w": np.ones((30, 20), np.float32), "n": np.array(3)}
    base.write_bytes(pack(dict(arrays), "raw"))
    message.write_bytes(pack({**arrays, "n": np.array(4)}, "intdelta | zstd", bases=arrays, by_schema=True))
    done = RUN.invoke(app, ["inspect", str(message)])
    assert (done.exit_code, "expected references of the schema" in done.output.replace("\n", " ")) == (3, True)
    done = RUN.invoke(app, ["inspect", str(message), "--base", str(base), "--format", "json"])
    rows = json.loads(done.output)["arrays"]
    assert [(a["key"], a["shape"], a["pipeline"]) for a in rows] == [
        ("w", [30, 20], "intdelta | planes | zstd"),
        ("n", [], "raw"),
    ]


def test_missing_files_and_folders(tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing.fpb")
    for arguments in (
        ["inspect", nothing],
        ["plot", str(tmp_path)],
        ["run", str(tmp_path)],
        ["resume", str(tmp_path), "--app", str(ROOT)],
        ["bench", nothing],
        ["press", nothing, str(tmp_path / "model.fpb")],
        ["unpress", nothing, str(tmp_path / "model.npz")],
        ["extract", str(tmp_path / "opts.json"), "images.h5"],
    ):
        done = RUN.invoke(app, arguments)
        assert done.exit_code == 2, arguments
        assert "error" in done.output.lower(), arguments
        assert list(tmp_path.iterdir()) == []


def test_every_command_can_print_json() -> None:
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        for inner in getattr(command, "commands", {name: command}).values():
            assert "--format" in {option for one in inner.params for option in one.opts}, inner.name


def test_help_teaches() -> None:
    commands = (
        *("run", "resume", "compare", "plot", "bench", "inspect", "press", "unpress", "extract", "train-codec"),
        *("deploy", "cache"),
    )
    for arguments in ([], ["--help"], ["cache"], ["deploy"], *([command, "--help"] for command in commands)):
        assert "Usage" in RUN.invoke(app, arguments).output
    assert "flowerpress bench after.safetensors --base" in RUN.invoke(app, ["bench", "--help"]).output
    for command in ("add", "ls", "clear"):
        assert "Usage" in RUN.invoke(app, ["cache", command, "--help"]).output
    assert "where the server app runs and on each client" in RUN.invoke(app, ["cache", "add", "--help"]).output


def cached() -> dict[str, Any]:
    return json.loads(RUN.invoke(app, ["cache", "ls", "--format", "json"]).output)


def test_press_and_unpress(tmp_path: Path) -> None:
    arrays = {"w": np.linspace(0, 1, 10_000, dtype=np.float32), "n": np.array(3)}
    source, pressed, back = (tmp_path / name for name in ("model.npz", "model.fpb", "model.safetensors"))
    np.savez(source, **arrays)
    done = RUN.invoke(app, ["press", str(source), str(pressed), "--format", "json"])
    found = json.loads(done.output)
    assert found == {"file": str(pressed), "arrays": 2, "raw-bytes": 40_008, "bytes": pressed.stat().st_size}
    assert digest_of(Bundle.open(pressed)) == digest_of(arrays)
    done = RUN.invoke(app, ["unpress", str(pressed), str(back)])
    assert (done.exit_code, "2 arrays" in done.output) == (0, True)
    assert digest_of(arrays_of_file(back)) == digest_of({key: arrays[key] for key in sorted(arrays)})


def test_press_against_a_base(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    before = {"w": rng.standard_normal((100, 100), np.float32)}
    after = {"w": before["w"] + rng.standard_normal((100, 100), np.float32) / 1000}
    base, source, update, back = (str(tmp_path / f"{name}") for name in ("b.npz", "a.npz", "u.fpb", "r.npz"))
    np.savez(base, **before)
    np.savez(source, **after)
    done = RUN.invoke(app, ["press", source, update, "--base", base, "--codec", "delta | budget(error=0.1)"])
    assert done.exit_code == 0, done.output
    assert "x smaller than its arrays" in done.output
    alone = RUN.invoke(app, ["unpress", update, back])
    assert (alone.exit_code, "reference" in alone.output, Path(back).exists()) == (2, True, False)
    done = RUN.invoke(app, ["unpress", update, back, "--base", base, "--format", "json"])
    assert done.exit_code == 0, done.output
    error = arrays_of_file(Path(back))["w"] - after["w"]
    assert 0.09 < np.linalg.norm(error) / np.linalg.norm(after["w"] - before["w"]) <= 0.1


def test_press_and_unpress_say_what_is_wrong(bundle: Path) -> None:
    model, bad = str(bundle), bundle.with_name("bad.fpb")
    bad.write_bytes(bundle.read_bytes()[:-1])
    for arguments, code, said in (
        (["press", model, "x.npz"], 2, "expected a bundle to write"),
        (["press", model, str(bundle.with_name("x.fpb")), "--codec", "zst"], 2, "no codec is called 'zst'"),
        (["press", model, str(bundle.parent / "no" / "x.fpb")], 2, "make it first"),
        (["unpress", model, str(bundle.with_suffix(".onnx"))], 2, "expected a file that ends in"),
        (["unpress", str(bad), str(bundle.with_suffix(".npz"))], 3, "bundle"),
    ):
        done = RUN.invoke(app, arguments)
        assert (done.exit_code, said in done.output.replace("\n", " ")) == (code, True), done.output
    assert {path.name for path in bundle.parent.iterdir()} == {"model.fpb", "bad.fpb"}


def test_cache_add(bundle: Path) -> None:
    done = RUN.invoke(app, ["cache", "add", str(bundle)])
    assert done.exit_code == 0
    digest = digest_of(Bundle.open(bundle))
    size = Store().nbytes(digest)
    assert done.output == f"{digest} 4 arrays, {size:,} bytes\n"
    assert Store().holders(digest) == {SEED}
    again = RUN.invoke(app, ["cache", "add", str(bundle)])
    assert (again.exit_code, again.output) == (0, done.output)
    said = RUN.invoke(app, ["cache", "add", str(bundle), "--format", "json"])
    assert json.loads(said.output) == {"digest": digest, "arrays": 4, "bytes": size}
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
        assert (done.exit_code, cached()["records"]) == (2 if path.name == "x.npz" else 3, [])
        assert "error: " in done.output
        assert reason in done.output
    monkeypatch.setenv(MOST, "100")
    done = RUN.invoke(app, ["cache", "add", str(bundle)])
    assert done.exit_code == 2
    assert f"or raise {MOST}" in done.output
    monkeypatch.setenv(MOST, "much")
    for arguments in (["add", str(bundle)], ["ls"], ["clear"]):
        done = RUN.invoke(app, ["cache", *arguments])
        assert done.exit_code == 2
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
    assert (done.exit_code, "the SuperNodes there are the clients" in done.output.replace("\n", " ")) == (2, True)
    done = RUN.invoke(app, ["run", str(ROOT), "--connection", "nowhere", "--runs", str(tmp_path / "runs")])
    assert (done.exit_code, "nowhere" in done.output) == (1, True)
