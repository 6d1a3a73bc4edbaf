"""A SuperLink of one's own: it is ours that answers, and nothing is left of it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from flowerpress import RunError
from flowerpress.deployment import programs
from flowerpress.deployment.superlink import SuperLink


def test_it_starts_answers_and_stops(tmp_path: Path) -> None:
    with SuperLink(simulation=True, log=tmp_path / "log") as superlink:
        assert superlink.flwr("ls", "own")["runs"] == []
        assert superlink.env["FLWR_TELEMETRY_ENABLED"] == "0"
        assert superlink._link is not None
        process, home = superlink._link.process, superlink.home
        family = [process.pid, *programs.descendants(process.pid)]
        assert len(family) > 1
        with pytest.raises(RunError, match="flwr run failed"):
            superlink.submit(tmp_path, "")
    assert not any(map(programs._alive, family))
    assert not home.exists()


def test_a_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    with SuperLink(simulation=True, log=tmp_path / "one") as first:
        second = SuperLink(simulation=True, log=tmp_path / "two")
        second.address = first.address
        with pytest.raises(RunError, match="did not start"):
            second.__enter__()
        assert not second.home.exists()


def test_processes_that_do_not_end_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_STOP_SECONDS", 0.2)
    with subprocess.Popen(["sleep", "60"]) as child:
        assert child.pid in programs.descendants(os.getpid())
        programs.end_processes([child.pid])
        assert child.wait(5) == -signal.SIGKILL
