"""Rows 14, 15 and 21 of the fault matrix: servers that are killed, SuperLinks that restart, two writers of a run."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flowerpress.arrays.store import Checkpoints
from flowerpress.deployment.local import Federation, Security
from tests.e2e import s3
from tests.e2e.conftest import Outcome
from tests.e2e.test_fault_clients import Running
from tests.e2e.test_fault_replies import NODES, assert_same, errors_of, expected

ROOT = Path(__file__).parents[2]
PHASES = ("configure", "receive", "aggregate", "write", "publish")


def until(happened: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(NODES, folder=tmp_path_factory.mktemp("federation")) as running:
        yield running


def test_a_server_is_killed_in_each_phase(federation: Federation, tmp_path: Path, outcome: Outcome) -> None:
    """One run, killed in five rounds, each time in another phase; it ends as one that nobody stopped."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    options = {"checkpoints": str(tmp_path / "checkpoints"), "resume": True}
    for number, phase in enumerate(PHASES, 2):
        Running(federation, tmp_path, rounds=number, die=f"{phase}:{number}", **options)
        until((tmp_path / "died").is_file, 180)
        assert (tmp_path / "died").read_text() == f"{phase} {number}"
        (tmp_path / "died").unlink()
        stored = checkpoints.load()
        assert stored
        assert not stored.passed_over
        assert stored.round == number - 1
        outcome(14, f"kill -9 of the server: {phase}", f"round {number} lost, {stored.round} whole; went on behind it")
    last = len(PHASES) + 2
    Running(federation, tmp_path, rounds=last, **options).finish()
    assert_same(tmp_path / "model.fpb", expected(last, set()))


def test_the_superlink_is_killed(federation: Federation, tmp_path: Path, outcome: Outcome) -> None:
    """With it goes the server app; the SuperNodes stay, and a new run goes on behind the last good round."""
    options = {"checkpoints": str(tmp_path / "checkpoints"), "resume": True, "rounds": 4}
    Running(federation, tmp_path, **options).reach(2)
    nodes, killed = dict(federation.supernodes), time.monotonic()
    federation.superlink.restart(kill=True)
    run = Running(federation, tmp_path, **options)
    before = len(run.rounds())
    run.reach(before + 1, 120)
    seconds = time.monotonic() - killed
    run.finish()
    assert all(node.alive for node in nodes.values())
    assert federation.supernodes == nodes
    assert_same(tmp_path / "model.fpb", expected(4, set()))
    assert seconds <= 120
    outcome(
        15, "kill -9 of the SuperLink", f"a new run had its first round {seconds:.0f} s later, no SuperNode restarted"
    )


def test_the_superlink_restarts_under_a_run(tmp_path: Path, outcome: Outcome) -> None:
    """Where server apps have processes of their own, as with TLS, they wait for it."""
    with Federation(NODES, folder=tmp_path / "federation", security=Security.TLS) as federation:
        run = Running(federation, tmp_path, rounds=4)
        run.reach(1)
        federation.superlink.restart(pause=3.0)
        rounds = run.finish()
    assert [errors_of(exchange) for exchange in rounds] == [[]] * 4
    assert_same(tmp_path / "model.fpb", expected(4, set()))
    outcome(15, "restart of the SuperLink, TLS", "the run went on, no reply lost")


WRITER = """
import sys
import numpy as np
from flowerpress import ConfigError
from flowerpress.arrays.store import Checkpoints
from tests.e2e.test_fault_servers import place

mine, won = Checkpoints(place(sys.argv[1]), keep=0), 0
for number in range(1, 1 + int(sys.argv[3])):
    try:
        mine.save(number, {"w": np.full((300, 40), int(sys.argv[2]), np.float32)}, notes={"writer": int(sys.argv[2])})
        won += 1
    except ConfigError:
        pass
print(won)
"""


def place(where: str) -> object:
    """Return a folder, or a place in the bucket of a server."""
    if "|" not in where:
        return where
    from obstore.store import S3Store
    from zarr.storage import ObjectStore, StorePath

    address, bucket = where.split("|")
    keys = {"access_key_id": "any", "secret_access_key": "any", "region": "us-east-1"}
    store = S3Store(bucket, endpoint=f"http://{address}", client_options={"allow_http": True}, **keys)
    return StorePath(ObjectStore(store), "run")


def race(where: str, rounds: int) -> list[int]:
    """Have two processes write the same rounds at once; check that each has one winner; return how many each won."""
    command = [sys.executable, "-W", "ignore", "-c", WRITER, where]
    writers = [
        subprocess.Popen([*command, str(i), str(rounds)], cwd=ROOT, stdout=subprocess.PIPE, text=True) for i in (1, 2)
    ]
    won = [int(writer.communicate(timeout=300)[0]) for writer in writers]
    checkpoints = Checkpoints(place(where), keep=0)
    assert checkpoints.rounds() == list(range(1, rounds + 1))
    winners = []
    for number in range(1, rounds + 1):
        found = checkpoints.load(number)
        assert found
        winners.append(found.notes["writer"])
        assert (found.model["w"] == winners[-1]).all()
    assert won == [winners.count(1), winners.count(2)]
    return won


def test_two_writers_of_a_run(tmp_path: Path, outcome: Outcome) -> None:
    won = race(str(tmp_path / "run"), 40)
    assert len([path for path in (tmp_path / "run" / "rounds").iterdir() if path.is_dir()]) == 40  # none is left over
    outcome(21, "two writers of a folder", f"each of 40 rounds has one winner ({won[0]} and {won[1]}), and is whole")


@s3.needed
def test_two_writers_of_a_bucket(outcome: Outcome) -> None:
    with s3.running() as server:
        won = race(f"{server.address}|{server.bucket}", 15)
    outcome(21, "two writers of a bucket", f"each of 15 rounds has one winner ({won[0]} and {won[1]}), and is whole")
