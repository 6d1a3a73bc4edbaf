"""Row 22 of the fault matrix: under each security a run ends with the simulation's model, and strangers stay out."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flowerpress import Bundle
from flowerpress.apps import launch
from flowerpress.apps.report import summary_of
from flowerpress.apps.runconfig import as_text
from flowerpress.deployment.credentials import Credentials
from flowerpress.deployment.local import Federation, Security
from flowerpress.deployment.programs import Program, environment
from flowerpress.deployment.superlink import SuperLink
from flowerpress.deployment.supernode import SuperNode, Trust
from tests.e2e.conftest import Outcome
from tests.e2e.deployment import run

ROOT, NODES = Path(__file__).parents[2], 3
CONFIG: dict[str, Any] = {"num-server-rounds": 2, "codec": "lossless", "torch-threads": 1, "fraction-evaluate": 0.0}
WORK = r"POST /v1/fleet/(?!activate|register)\S* HTTP/1.1\" 200"


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("simulated")
    launch.simulate(ROOT, folder, clients=NODES, run_config=as_text(CONFIG), on_round=lambda _: None)
    return Bundle.open(folder / "model.fpb")


@pytest.fixture(scope="module", params=list(Security))
def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp(f"federation-{request.param}")
    with Federation(NODES, folder=folder, security=request.param) as running:
        yield running


def test_a_run_ends_with_the_model_of_the_simulation(
    federation: Federation, simulated: Bundle, tmp_path: Path, outcome: Outcome
) -> None:
    started = time.monotonic()
    run(federation.superlink, ROOT, as_text({**CONFIG, "output-dir": str(tmp_path)}), 400)
    found, summary = Bundle.open(tmp_path / "model.fpb"), summary_of(tmp_path)
    assert summary["failures"] == 0
    assert list(found) == list(simulated)
    for key in simulated:
        assert found[key].dtype == simulated[key].dtype
        assert found[key].tobytes() == simulated[key].tobytes(), key
    words = f"equal by bits to the simulation's model, {summary['accuracy']:.2%}, {time.monotonic() - started:.0f} s"
    outcome(22, f"run of 3 SuperNodes, security {federation.security}", words)


def accepted(federation: Federation) -> int:
    """Return how many requests of SuperNodes for work, or with it, the SuperLink has taken."""
    return len(re.findall(WORK, federation.superlink.log.read_text()))


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A SuperLink that admits registered keys only, and no SuperNodes: whatever work it accepts is a stranger's."""
    with Federation(1, folder=tmp_path_factory.mktemp("keyed"), security=Security.KEYS) as running:
        running.stop(0)
        yield running


def strangers(keyed: Federation, folder: Path) -> dict[str, Trust | None]:
    """Return what strangers come with, by what is wrong with it."""
    given = keyed.credentials
    assert given
    others = Credentials.make(folder / "others", ["127.0.0.1"], 1)
    return {
        "another authority": Trust(others.ca, others.secret, given.key(0)),
        "a key that is not registered": Trust(given.ca, others.secret, others.key(0)),
        "no key": Trust(given.ca, others.secret),
        "no TLS": None,
    }


KINDS = ("another authority", "a key that is not registered", "no key", "no TLS")


@pytest.mark.parametrize("kind", KINDS)
def test_strangers_are_refused(keyed: Federation, tmp_path: Path, outcome: Outcome, kind: str) -> None:
    refused(keyed, tmp_path, strangers(keyed, tmp_path)[kind])
    outcome(22, f"SuperNode with {kind}", "refused, no work accepted")


def test_an_expired_certificate(tmp_path: Path, outcome: Outcome, monkeypatch: pytest.MonkeyPatch) -> None:
    with Federation(0, folder=tmp_path / "federation", security=Security.TLS) as federation:
        given, superlink = federation.credentials, federation.superlink
        assert given
        given.issue(["127.0.0.1"], datetime.now(UTC) - timedelta(hours=1))
        monkeypatch.setattr(SuperLink, "_wait", lambda *_: time.sleep(8))  # we do not trust it either
        superlink.restart()
        refused(federation, tmp_path, Trust(given.ca, given.secret))
    assert "certificate has expired" in (tmp_path / "stranger.log").read_text()
    outcome(22, "SuperLink whose certificate has expired", "refused by SuperNodes, no work accepted")


def refused(federation: Federation, folder: Path, trust: Trust | None) -> None:
    """Start a SuperNode that is to be refused, and check that it is: it ends, or is not let in, and gets no work."""
    before, online = accepted(federation), admitted(federation)
    node = SuperNode(federation.superlink.address, {"partition-id": 7}, log=folder / "stranger.log", trust=trust)
    try:
        end = time.monotonic() + 15
        while node.programs[0].alive and time.monotonic() < end:
            time.sleep(0.2)
        assert trust is None or not node.programs[0].alive
    finally:
        node.stop()
    assert accepted(federation) == before
    assert admitted(federation) == online


def admitted(federation: Federation) -> int:
    """Return how often the SuperLink has let a SuperNode in."""
    return federation.superlink.log.read_text().count("Activated node_id=")


def test_nobody_takes_server_apps_without_the_secret(keyed: Federation, tmp_path: Path, outcome: Outcome) -> None:
    """Flower's Runtime API is on the port of its Fleet API: TLS alone lets a stranger take a run's server app."""
    given = keyed.credentials
    assert given
    (tmp_path / "home").mkdir()
    (tmp_path / "guess").write_bytes(bytes(48))
    log, runs = keyed.superlink.log, tmp_path / "results"
    run_id = keyed.superlink.submit(ROOT, as_text({**CONFIG, "output-dir": str(runs)}))
    for name, secret in (("none", []), ("guessed", ["--superexec-auth-secret-file", str(tmp_path / "guess")])):
        before = log.read_text().count('POST /v1/runtime/acquire-task HTTP/1.1" 401')
        command = ["flower-superexec", "--runtime-api-address", keyed.superlink.address]
        command += ["--root-certificates", str(given.ca), *secret]
        stranger = Program(command, log=tmp_path / f"{name}.log", env=environment(tmp_path / "home"))
        end = time.monotonic() + 30
        while log.read_text().count('POST /v1/runtime/acquire-task HTTP/1.1" 401') == before:
            assert time.monotonic() < end
            time.sleep(0.2)
        stranger.stop()
        assert "flwr-serverapp" not in stranger.said()
    keyed.superlink.flwr("stop", str(run_id), keyed.superlink.name)
    outcome(22, "a stranger who wants to run the server app", "refused without the secret (HTTP 401)")
