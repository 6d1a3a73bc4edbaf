"""A SuperLink of one's own: started on a free port with its own Flower home, and stopped with all it started.

``flwr run`` alone would start, or silently reuse, one that all users of a machine share and that never stops.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowerpress.errors import RunError

_START_SECONDS, _STOP_SECONDS = 60.0, 15.0
_NAME = "own"
_QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class SuperLink:
    """A SuperLink on loopback, as a context manager.

    Parameters
    ----------
    simulation : bool
        Run clients in Flower's simulation engine (Ray), not on SuperNodes.
    log : Path
        Where it, and the apps it runs, write what they print.

    Attributes
    ----------
    address : str
        ``127.0.0.1:port``, for SuperNodes.
    env : dict
        The environment for everything that talks to it: its Flower home, and Flower's outside calls switched off.

    Raises
    ------
    RunError
        If it does not answer within a minute.
    """

    def __init__(self, *, simulation: bool, log: Path) -> None:
        self.simulation, self.log = simulation, log
        self.home = Path(tempfile.mkdtemp(prefix="flowerpress-"))
        self.address = f"127.0.0.1:{free_port()}"
        beside = str(Path(sys.executable).parent)  # where Flower finds its other programs, venv activated or not
        path = os.pathsep.join([beside, os.environ.get("PATH", os.defpath)])
        self.env = {**os.environ, **_QUIET, "FLWR_HOME": str(self.home), "PATH": path}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        config = f'[superlink]\ndefault = "{_NAME}"\n[superlink.{_NAME}]\naddress = "{self.address}"\ninsecure = true\n'
        (self.home / "config.toml").write_text(config)
        host, port = self.address.split(":")
        command = [program("flower-superlink"), "--insecure", "--host", host, "--port", port]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *(["--simulation"] if self.simulation else [])],
                env=self.env,
                cwd=self.home,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def flwr(self, *arguments: str) -> dict[str, Any]:
        """Run ``flwr … --format json`` against this SuperLink and return what it printed; RunError if it failed."""
        done = subprocess.run(
            [program("flwr"), *arguments, "--format", "json"], env=self.env, capture_output=True, text=True, check=False
        )
        try:
            answer = json.loads(done.stdout[done.stdout.index("{") :])
        except ValueError:
            answer = {}
        if not answer.get("success"):
            said = answer.get("error-message") or (done.stderr or done.stdout).strip()
            raise RunError(f"flwr {arguments[0]} failed: {said}")
        return answer  # type: ignore[no-any-return]

    def submit(self, app: Path, run_config: str, federation_config: str = "") -> int:
        """Submit the app in a folder and return the run's id."""
        options = ["--run-config", run_config] if run_config else []
        options += ["--federation-config", federation_config] if federation_config else []
        return int(self.flwr("run", str(app), _NAME, *options)["run-id"])

    def status(self, run_id: int) -> tuple[str, str]:
        """Return a run's status, such as ``"running"`` or ``"finished:failed"``, and its details."""
        run = self.flwr("ls", _NAME, "--run-id", str(run_id))["runs"][0]
        return run["status"], run.get("status-details", "")

    def log_of(self, run_id: int) -> str:
        """Return what the server app of a run printed and logged."""
        command = [program("flwr"), "log", str(run_id), _NAME, "--show"]
        return subprocess.run(command, env=self.env, capture_output=True, text=True, check=False).stdout

    def _wait(self) -> None:
        """Wait until the server answers that is ours: its process lives, and says in its log that it has the port."""
        process, end = self._process, time.monotonic() + _START_SECONDS
        while process and process.poll() is None and time.monotonic() < end:
            if f"running on http://{self.address}" in self.log.read_text(errors="replace"):
                try:
                    urllib.request.urlopen(f"http://{self.address}/health", timeout=2).close()
                except OSError:
                    pass
                else:
                    return
            time.sleep(0.1)
        raise RunError(f"the SuperLink did not start on {self.address}; its last words: {last_words(self.log)}")

    def _stop(self) -> None:
        """Stop the SuperLink, and what it started: that watches its parent, but is not left to it."""
        if self._process is not None:
            tree = descendants(self._process.pid)
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            end_processes(tree)
        shutil.rmtree(self.home, ignore_errors=True)


def free_port() -> int:
    """Return a port of loopback that nothing listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def program(name: str) -> str:
    """Return the path of one of Flower's programs: that of this Python first."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise RunError(f"the program {name!r} is not installed beside {sys.executable}")
    return found


def last_words(log: Path, lines: int = 20) -> str:
    """Return the end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "none"


def descendants(pid: int) -> list[int]:
    """Return the ids of all processes below one, deepest last; Linux and macOS."""
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listing.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, above in parents if above == parent]
    return found[1:]


def end_processes(pids: list[int]) -> None:
    """Give processes time to end, then kill the ones that did not."""
    end = time.monotonic() + _STOP_SECONDS
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
