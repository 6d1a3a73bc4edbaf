"""Files of models at the command line: what is asked for is checked before anything is read, decoded or written."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flowerpress.chunks.pack import pack
from flowerpress.cli import app

BEFORE = {"w": np.arange(600, dtype=np.float32).reshape(30, 20)}
AFTER = {"w": BEFORE["w"] + 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.fpb").write_bytes(pack(dict(AFTER)))
    (tmp_path / "update.fpb").write_bytes(pack(dict(AFTER), "intdelta | zstd", bases=BEFORE))
    np.savez(tmp_path / "m.npz", **AFTER)
    np.savez(tmp_path / "base.npz", **BEFORE)
    np.save(tmp_path / "tokens.npy", np.ones((4, 5, 8), np.float32))
    np.savez(tmp_path / "other.npz", w=np.zeros(3, np.float32))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            "unpress nope.fpb o.npz --base base.npz",
            "expected a bundle, as flowerpress press makes of model files, found none",
        ),
        ("unpress m.npz o.npz --base base.npz", "found a .npz file"),
        ("unpress update.fpb o.npz --base nope.npz", "there is no such file"),
        ("unpress update.fpb o.npz", "expected a reference for array 'w', found none; give the model"),
        ("unpress update.fpb o.npz --base other.npz", "found none like it in"),
        *((f"unpress m.fpb nodir/m{kind}", "make it first") for kind in (".fpb", ".npz", ".pt", ".safetensors")),
        *((f"train-codec tokens.npy nodir/c{kind}", "make it first") for kind in (".fpb", ".pt")),
        *(
            (f"train-codec tokens.npy c.fpb --{option} {value}", f"{option}: expected a finite number, found {value}")
            for option in ("learning-rate", "weight", "held-out")
            for value in ("nan", *(["inf"] if option != "held-out" else []))
        ),
        ("inspect m.fpb --base nope.fpb", "expected a bundle, as flowerpress press makes of model files, found none"),
        ("inspect .", "expected a bundle"),
        ("inspect m.npz", "expected a bundle"),
    ],
)
def test_what_is_not_possible_is_not_called_damaged(
    command: str, said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    there = set(folder.iterdir())
    done = CliRunner().invoke(app, command.split())
    assert (done.exit_code, said in done.output.replace("\n", " ")) == (2, True), done.output
    assert set(folder.iterdir()) == there


def test_help_says_that_a_base_is_not_checked() -> None:
    for command, said in (("unpress", "wrong model, and no error"), ("press", "no other will do")):
        help_of = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400"}).output
        assert said in " ".join(help_of.replace("│", " ").split()), command
