"""A run is watched to its end, whatever becomes of the stream of its log."""

import json
from pathlib import Path
from typing import Any

import pytest

from flowerpress import ChunkError, ConfigError, RunError
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


LEFT = {"summary.json": "{}", "metrics.jsonl": '{"round": 1}\n', "asked.json": '{"clients": 3, "run-config": []}\n'}


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """What a run left that had one round."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name, text in LEFT.items():
        (folder / name).write_text(text)
    return folder


class Failing(Followed):
    """It knows no SuperLink, or takes a run that fails, behind the rounds that it is given."""

    def __init__(self, home: Path, *, takes: bool, rows: int) -> None:
        super().__init__(home, ["finished:failed"], [0.0])
        self.takes, self.rows = takes, rows

    def submit(self, app: Path, run_config: str, federation_config: str = "") -> int:
        if not self.takes:
            raise RunError("no such connection")
        return 1

    def status(self, run_id: int) -> tuple[str, str]:
        (self.folder / "metrics.jsonl").write_text("".join(f'{{"round": {n + 1}}}\n' for n in range(self.rows)))
        return "finished:failed", "it failed"


@pytest.mark.parametrize(
    ("takes", "rows", "stays"),
    [
        pytest.param(False, 1, True, id="a connection that is none"),
        pytest.param(True, 1, True, id="it fails before its first round"),
        pytest.param(True, 2, False, id="it fails behind another round"),
    ],
)
def test_a_run_that_cannot_go_on_is_as_it_was(
    takes: bool, rows: int, stays: bool, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "_POLL", 0.05)
    connection = Failing(done.parent, takes=takes, rows=rows)
    _, text, note = launch.prepared(ROOT, done, None, ["seed=7"], resume=True, checkpoints="kept")
    with pytest.raises(RunError):
        launch.submit(connection, ROOT, done, run_config=text, on_round=lambda _: None, note=note)
    left = {name: (done / name).read_text() for name in LEFT if (done / name).is_file()}
    assert (left == LEFT) is stays
    if not stays:
        assert "summary.json" not in left
        assert "seed=7" in left["asked.json"]


@pytest.mark.parametrize("place", ["kept", "kept/", "s3://bucket/kept", "it's"])
def test_checkpoints_are_in_a_place_that_the_server_app_finds(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, text, _ = launch.prepared(ROOT, tmp_path / "run", 3, [], checkpoints=place)
    where = place if "://" in place else str(tmp_path / place)
    assert f"{where}/run" in text


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder for the results that can be written"):
        launch.prepared(ROOT, tmp_path / "file" / "run", 3, [])


def test_a_note_that_is_damaged(done: Path) -> None:
    (done / "asked.json").write_text('{"clients": 3, "run')
    with pytest.raises(ChunkError, match=r"asked.json: expected an object of JSON"):
        launch.prepared(ROOT, done, None, [], resume=True)
