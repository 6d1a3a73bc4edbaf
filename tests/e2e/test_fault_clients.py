"""Rows 13 and 16 of the fault matrix: clients that are killed, stopped or slow, on a SuperLink."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowerpress.apps.runconfig import as_text
from flowerpress.deployment.local import Federation
from flowerpress.deployment.programs import descendants
from tests.e2e.conftest import Outcome
from tests.e2e.deployment import log_of, wait
from tests.e2e.proxy import Link, links
from tests.e2e.test_fault_replies import APP, BAD, NODES, assert_same, errors_of, expected

CLOSED = 75  # seconds after which a round has given up a client that was killed
LATE = 5  # seconds after its limit that a round ends


class Running:
    """A run of the app, round by round."""

    def __init__(self, federation: Federation, folder: Path, **config: Any) -> None:
        folder.mkdir(exist_ok=True)
        self.superlink, self.log, self.model = federation.superlink, folder / "log.jsonl", folder / "model.fpb"
        values = {"log": str(self.log), "output": str(self.model), **config}
        self.id = self.superlink.submit(APP, as_text(values))

    def rounds(self) -> list[dict[str, Any]]:
        """Return what the rounds that have ended cost."""
        lines = self.log.read_text().split("\n")[:-1] if self.log.is_file() else []
        return [json.loads(line) for line in lines]

    def reach(self, rounds: int, seconds: float = 120) -> None:
        """Wait until so many rounds have ended."""
        end = time.monotonic() + seconds
        while len(self.rounds()) < rounds:
            assert time.monotonic() < end, log_of(self.superlink, self.id)[-2000:]
            time.sleep(0.2)

    def finish(self, seconds: float = 300) -> list[dict[str, Any]]:
        """Wait until the run has completed, and return its rounds."""
        wait(self.superlink, self.id, seconds)
        assert self.superlink.status(self.id)[0] == "finished:completed", log_of(self.superlink, self.id)[-3000:]
        return self.rounds()


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, list[Link]]]:
    with (
        links(1 << 20, 0.0) as (made, through),
        Federation(NODES, folder=tmp_path_factory.mktemp("federation"), through=through) as running,
    ):
        yield running, made


@pytest.fixture
def federation(linked: tuple[Federation, list[Link]]) -> Federation:
    return linked[0]


@pytest.mark.parametrize("phase", ["train", "encode"])
def test_a_client_app_is_killed(federation: Federation, tmp_path: Path, outcome: Outcome, phase: str) -> None:
    rounds = Running(federation, tmp_path, faults=f"2:{BAD}:die-{phase}", rounds=3).finish()
    assert [len(errors_of(exchange)) for exchange in rounds] == [0, 1, 0]
    (failed,) = [node for node in rounds[1]["nodes"] if node["error"]]
    assert failed["partition"] == BAD
    assert rounds[1]["seconds"] <= CLOSED
    assert_same(tmp_path / "model.fpb", expected(3, {(2, BAD)}))
    outcome(13, f"kill -9 of a client app: {phase}", f"round closed in {rounds[1]['seconds']:.0f} s; back in the next")


def test_a_supernode_is_killed_while_it_uploads(
    linked: tuple[Federation, list[Link]], tmp_path: Path, outcome: Outcome
) -> None:
    """Its link takes eight seconds for a reply of 8 MB; it is killed in the middle, and started again."""
    federation, made = linked
    run, link = Running(federation, tmp_path, rounds=4, megabytes=8.0, codec="zstd"), made[BAD]
    run.reach(1)
    sent, end = link.up.nbytes, time.monotonic() + 60
    while link.up.nbytes - sent < 1 << 20:
        assert time.monotonic() < end
        time.sleep(0.01)
    federation.stop(BAD, kill=True)
    federation.start(BAD)
    rounds = run.finish()
    assert [len(errors_of(exchange)) for exchange in rounds[:2]] == [0, 1]
    assert rounds[1]["seconds"] <= CLOSED
    assert errors_of(rounds[-1]) == []
    assert len(rounds[-1]["nodes"]) == NODES
    outcome(
        13, "kill -9 of a SuperNode: upload", f"round closed in {rounds[1]['seconds']:.0f} s; another took its place"
    )


def test_a_slow_client(federation: Federation, tmp_path: Path, outcome: Outcome) -> None:
    """What comes late is no part of the round that it comes in."""
    limit = 20.0
    rounds = Running(federation, tmp_path, faults=f"2:{BAD}:slow", rounds=6, timeout=limit).finish()
    assert errors_of(rounds[1]) == ["no reply in time"]
    assert limit <= rounds[1]["seconds"] <= limit + LATE
    assert errors_of(rounds[-1]) == []
    late = {number for number, exchange in enumerate(rounds, 1) if errors_of(exchange)}
    assert late <= {2, 3, 4}
    assert_same(tmp_path / "model.fpb", expected(6, {(number, BAD) for number in late}))
    outcome(
        16, "slow client", f"round ended {rounds[1]['seconds'] - limit:.1f} s after its limit, late reply not counted"
    )


def test_a_supernode_is_stopped(federation: Federation, tmp_path: Path, outcome: Outcome) -> None:
    """SIGSTOP, as of a machine that sleeps; it goes on later."""
    limit = 20.0
    run = Running(federation, tmp_path, rounds=6, timeout=limit)
    run.reach(1)
    process = federation.supernodes[BAD].programs[0].process
    family = [process.pid, *descendants(process.pid)]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    run.reach(2)
    for pid in family:
        os.kill(pid, signal.SIGCONT)
    rounds = run.finish()
    assert errors_of(rounds[1]) == ["no reply in time"]
    assert rounds[1]["seconds"] <= limit + LATE
    assert errors_of(rounds[-1]) == []
    late = {number for number, exchange in enumerate(rounds, 1) if errors_of(exchange)}
    assert_same(tmp_path / "model.fpb", expected(6, {(number, BAD) for number in late}))
    outcome(
        16, "SIGSTOP of a SuperNode", f"round ended {rounds[1]['seconds'] - limit:.1f} s after its limit; it is back"
    )
