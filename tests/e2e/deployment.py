"""Runs on a federation on loopback, to their end."""

import subprocess
import time
from pathlib import Path

from flowerpress.deployment.connection import Connection
from flowerpress.deployment.programs import program


def run(connection: Connection, app: Path, config: str, seconds: float, resources: str = "") -> int:
    """Submit an app, wait until it has completed, and return the run's id; ``resources`` are a simulation's."""
    run_id = connection.submit(app, config, resources)
    wait(connection, run_id, seconds)
    status, details = connection.status(run_id)
    if status != "finished:completed":
        raise RuntimeError(f"{status}: {details}\n{log_of(connection, run_id)[-3000:]}")
    return run_id


def wait(connection: Connection, run_id: int, seconds: float) -> None:
    """Wait until a run has ended, whichever way."""
    follow = [program("flwr"), "log", str(run_id), connection.name]  # polling the status would cost a core's time
    end = time.monotonic() + seconds
    while not connection.status(run_id)[0].startswith("finished"):
        subprocess.run(follow, env=connection.env, capture_output=True, timeout=end - time.monotonic(), check=False)


def log_of(connection: Connection, run_id: int) -> str:
    """Return what the server app of a run printed and logged."""
    command = [program("flwr"), "log", str(run_id), connection.name, "--show"]
    return subprocess.run(command, env=connection.env, capture_output=True, text=True, check=False).stdout
