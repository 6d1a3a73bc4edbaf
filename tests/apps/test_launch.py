"""A run is watched to its end, whatever becomes of the stream of its log."""

import json
from pathlib import Path
from typing import Any

import pytest

from flowerpress.apps import launch
from flowerpress.deployment.connection import Connection
from flowerpress.deployment.programs import Program, environment

ROOT = Path(__file__).parents[2]


class Followed(Connection):
    """Its runs have the given states one after the other, and logs that go on for the given seconds."""

    def __init__(self, home: Path, states: list[str], logs: list[float]) -> None:
        super().__init__("followed", environment(home))
        self.states, self.logs, self.folder, self.programs = states, logs, home / "run", list[Program]()

    def submit(self, app: Path, run_config: str, federation_config: str = "") -> int:
        return 1

    def status(self, run_id: int) -> tuple[str, str]:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if state.startswith("finished"):
            (self.folder / "metrics.jsonl").write_text(json.dumps({"round": 1}) + "\n")
            (self.folder / "summary.json").write_text("{}")
        return state, ""

    def follow(self, run_id: int, log: Path) -> Program:
        self.programs.append(Program(["sleep", str(self.logs.pop(0))], log=log, env=self.env))
        return self.programs[-1]


@pytest.mark.parametrize(
    ("states", "logs"),
    [
        pytest.param(["finished:completed"], [0.0], id="it ends with the run"),
        pytest.param(["running", "running", "finished:completed"], [0.0, 0.0, 0.0], id="it ends before"),
        pytest.param(["running", "finished:completed"], [60.0, 0.0], id="it never ends"),
    ],
)
def test_watching(states: list[str], logs: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_POLL", 0.05)
    monkeypatch.setattr(launch, "_ASK", 0.2)
    run, rows = Followed(tmp_path, states, logs), list[dict[str, Any]]()
    launch.submit(run, ROOT, run.folder, run_config="", on_round=rows.append)
    assert rows == [{"round": 1}]
    assert logs == []
    assert not any(program.alive for program in run.programs)
