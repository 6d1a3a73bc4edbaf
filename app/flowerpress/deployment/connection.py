"""A SuperLink as ``flwr`` knows it: a name in the ``config.toml`` of a Flower home."""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from flowerpress.deployment.programs import Program, environment, program
from flowerpress.deployment.sources import copied
from flowerpress.errors import RunError

_PATIENCE = 30.0  # seconds that a SuperLink may not answer


class Connection:
    """What one can ask of a SuperLink.

    Parameters
    ----------
    name : str
        Its name in ``$FLWR_HOME/config.toml``.
    env : mapping
        The environment for everything that talks to it, with ``FLWR_HOME``.
    """

    def __init__(self, name: str, env: Mapping[str, str]) -> None:
        self.name, self.env = name, dict(env)

    @classmethod
    def of_user(cls, name: str) -> Self:
        """Return the connection of that name in the user's own Flower home: ``$FLWR_HOME``, or ``~/.flwr``."""
        return cls(name, environment(Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr")))

    def flwr(self, *arguments: str) -> dict[str, Any]:
        """Run ``flwr … --format json`` and return what it printed; RunError if it failed."""
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
        with tempfile.TemporaryDirectory(prefix="flowerpress-") as folder:
            return int(self.flwr("run", str(copied(app, Path(folder))), self.name, *options)["run-id"])

    def status(self, run_id: int) -> tuple[str, str]:
        """Return a run's status, such as ``"running"`` or ``"finished:failed"``, and its details.

        A SuperLink that does not answer, because it is busy or starts again, is asked again for half a minute.
        """
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                run = self.flwr("ls", self.name, "--run-id", str(run_id))["runs"][0]
                return run["status"], run.get("status-details", "")
            except RunError:
                if time.monotonic() > end:
                    raise

    def follow(self, run_id: int, log: Path) -> Program:
        """Write what the server app of a run prints into a new file as it comes: a program that ends with the run."""
        log.unlink(missing_ok=True)
        return Program(
            ["flwr", "log", str(run_id), self.name, "--stream"], log=log, env={**self.env, "PYTHONUNBUFFERED": "1"}
        )

    def nodes(self) -> list[dict[str, Any]]:
        """Return what is known of each SuperNode: ``"node-id"``, ``"status"`` (such as ``"online"``), and more."""
        found: list[dict[str, Any]] = self.flwr("supernode", "ls", self.name).get("nodes", [])
        return found

    def register(self, public_key: Path) -> int:
        """Admit the SuperNode with this key; return its id."""
        return int(self.flwr("supernode", "register", str(public_key), self.name)["node-id"])


def configured(home: Path, name: str, address: str, ca: Path | None = None) -> None:
    """Write the ``config.toml`` of a Flower home in which a SuperLink has a name; ``ca`` is for TLS."""
    security = f'root-certificates = "{ca}"' if ca else "insecure = true"
    lines = [f'[superlink]\ndefault = "{name}"\n', f'[superlink.{name}]\naddress = "{address}"\n{security}\n']
    (home / "config.toml").write_text("".join(lines))
