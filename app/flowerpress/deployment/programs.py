"""Flower's programs as processes: found beside this Python, with a home and a log, stopped with all they started."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import SystemRandom

import psutil

from flowerpress.errors import RunError

_STOP_SECONDS = 15.0
_PORTS = range(20_000, 32_768)  # below those that systems give to outgoing connections
QUIET = {  # no telemetry, no questions to servers elsewhere; polls that cost little and are not slow
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",  # each poll is a request that two programs answer
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Program:
    """A program of Flower's that runs.

    Parameters
    ----------
    command : sequence of str
        Its name and its arguments.
    log : Path
        Where it, and what it starts, write what they print, behind what is there.
    env : mapping
        Its environment, as `environment` makes it; ``FLWR_HOME`` is where it runs.
    """

    def __init__(self, command: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        name, *arguments = command
        self.log, self._begun = log, log.stat().st_size if log.exists() else 0
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [program(name), *arguments],
                env=env,
                cwd=env["FLWR_HOME"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def said(self) -> str:
        """Return what it printed so far."""
        with self.log.open("rb") as file:
            file.seek(self._begun)
            return file.read().decode(errors="replace")

    def last_words(self, lines: int = 20) -> str:
        """Return the end of what it printed."""
        return "\n".join(self.said().splitlines()[-lines:]) or "none"

    def stop(self, *, kill: bool = False) -> None:
        """Stop it and all it started: that watches its parent, but is not left to it. ``kill`` gives no warning."""
        tree = descendants(self.process.pid)
        (self.process.kill if kill else self.process.terminate)()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        end_processes(tree, wait=not kill)


def environment(home: Path, **more: str) -> dict[str, str]:
    """Return the environment for programs with this Flower home, Flower's outside calls switched off."""
    beside = str(Path(sys.executable).parent)  # where Flower finds its other programs, venv activated or not
    path = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])
    return {**os.environ, **QUIET, "FLWR_HOME": str(home), "PATH": path, **more}


def free_port() -> int:
    """Return a port of loopback that nothing uses now, and that no outgoing connection will be given either."""
    for port in SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as s, suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port
    raise RunError(f"expected a free port on 127.0.0.1 from {_PORTS.start} to {_PORTS.stop - 1}, found none")


def program(name: str) -> str:
    """Return the path of one of Flower's programs: that of this Python first."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise RunError(f"the program {name!r} is not installed beside {sys.executable}")
    return found


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below one, which may have ended."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end_processes(pids: Sequence[int], *, wait: bool = True) -> None:
    """Give processes time to end, unless ``wait`` is false, then kill the ones that did not."""
    end = time.monotonic() + (_STOP_SECONDS if wait else 0.0)
    while time.monotonic() < end and any(map(_alive, pids)):
        time.sleep(0.1)
    for pid in pids:
        if _alive(pid):
            os.kill(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # the id is another's process by now
        return False
    return True
