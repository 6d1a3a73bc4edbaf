"""Runs that go on: behind a hundred kill -9, and from the command line."""

import json
from pathlib import Path

from typer.testing import CliRunner

from flowerpress import Bundle
from flowerpress.apps.results import read_rounds
from flowerpress.cli import app
from tests.federation.killing import ROOT, end_is_the_same, kill


def test_kill_9_a_hundred_times(tmp_path: Path) -> None:
    """None of the rounds is torn, at most one is lost each time, and the end is the same."""
    assert end_is_the_same(tmp_path, kill(tmp_path, 100, seed=100))


def test_a_run_in_the_simulation_engine_goes_on(tmp_path: Path) -> None:
    def ran(*arguments: str) -> Path:
        done = CliRunner().invoke(app, [*arguments, "--format", "json"])
        assert done.exit_code == 0, done.output
        return Path(json.loads(done.output)["folder"])

    def run(rounds: int) -> Path:
        config = f"num-server-rounds={rounds} codec='lossless' torch-threads=1"
        return ran("run", str(ROOT), "--clients", "2", "-c", config, "--runs", str(tmp_path))

    whole, first = run(4), run(2)
    assert ran("resume", str(first), "--app", str(ROOT), "-c", "num-server-rounds=4") == first
    assert [row["round"] for row in read_rounds(first)] == [0, 1, 2, 3, 4]
    assert [row["accuracy"] for row in read_rounds(first)] == [row["accuracy"] for row in read_rounds(whole)]
    ends = [Bundle.open(folder / "model.fpb") for folder in (first, whole)]
    assert all(ends[0][key].tobytes() == ends[1][key].tobytes() for key in ends[1])
