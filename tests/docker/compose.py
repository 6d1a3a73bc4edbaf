"""The compose files as the tests run them: beside what a user runs, with names, ports and folders of their own."""

import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowerpress import Bundle, ConfigError
from flowerpress.apps.results import read_rounds
from flowerpress.deployment.programs import free_port

ROOT = Path(__file__).parents[2]
CONFIG = "num-server-rounds=3 codec='lossless' torch-threads=1"
# Not the image's own user, and never root.
USER = f"{os.getuid()}:{os.getgid()}" if os.getuid() else "1234:1234"


class Compose:
    """A project of docker compose, which is taken down in the end with its volumes.

    Parameters
    ----------
    folder : Path
        Where results, and with TLS secrets, go.
    name : str
        Of the project.
    overlays : str
        Files beside compose.yml.
    """

    def __init__(self, folder: Path, name: str, *overlays: str) -> None:
        self.name, self.runs, self.secrets = name, folder / "runs", folder / "secrets"
        self._files = [f"--file={ROOT / 'docker' / file}" for file in ("compose.yml", *overlays)]
        self.env = {
            **os.environ,
            "FLOWERPRESS_USER": USER,
            "FLOWERPRESS_RUNS": str(self.runs),
            "FLOWERPRESS_SECRETS": str(self.secrets),
            "FLOWERPRESS_PORT": str(free_port()),
            "FLOWERPRESS_FLEET": f"127.0.0.1:{free_port()}",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            print(self("logs", "--no-color", "--tail=30"))
        self("--profile=train", "down", "--volumes", "--remove-orphans", "--timeout=10")

    def __call__(self, *arguments: str, seconds: float = 180) -> str:
        """Run a command of docker compose and return what it printed."""
        return said(self._command(*arguments), seconds, self.env)

    def train(self, config: str, seconds: float = 600) -> Path:
        """Train to the end; return the folder of the results."""
        with self.begin(config) as run:
            run.wait(seconds)
        return run.folder()

    def begin(self, config: str) -> "Run":
        """Begin to train."""
        env = {**self.env, "FLOWERPRESS_CONFIG": config}
        return Run(self._command("run", "--rm", "--no-TTY", "train"), env, self.runs)

    def container(self, service: str) -> str:
        """Return the id of a service's container."""
        return self("ps", "--all", "--quiet", service).strip()

    def _command(self, *arguments: str) -> list[str]:
        return ["docker", "compose", "--progress=quiet", f"--project-name={self.name}", *self._files, *arguments]


class Run:
    """A run that goes on, as a context manager that ends it."""

    def __init__(self, command: list[str], env: dict[str, str], runs: Path) -> None:
        self._runs, self._before = runs, set(runs.glob("*"))
        self._process = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)

    def folder(self) -> Path:
        """Return where its results go."""
        wait(lambda: set(self._runs.glob("*")) - self._before, "no results", 120)
        (folder,) = set(self._runs.glob("*")) - self._before
        return folder

    def rounds(self) -> list[dict[str, Any]]:
        """Return what it has done so far."""
        with suppress(ConfigError):
            return read_rounds(self.folder())
        return []

    def wait_for(self, happened: Callable[[list[dict[str, Any]]], Any], what: str, seconds: float = 600) -> None:
        """Wait until its rounds are such."""

        def now() -> bool:
            if self._process.poll() is not None:
                raise RuntimeError(f"{what}, and the run has ended:\n{self._process.communicate()[0][-4000:]}")
            return bool(happened(self.rounds()))

        wait(now, what, seconds)

    def wait(self, seconds: float, *, fails: bool = False) -> None:
        """Wait for its end; RuntimeError if that is another than expected."""
        output, _ = self._process.communicate(timeout=seconds)
        if bool(self._process.returncode) != fails:
            raise RuntimeError(f"the run exited with {self._process.returncode}:\n{output[-4000:]}")


def said(command: list[str], seconds: float = 180, env: dict[str, str] | None = None) -> str:
    """Run a command; return what it printed, or raise RuntimeError with that."""
    done = subprocess.run(
        command, env=env, timeout=seconds, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def wait(happened: Callable[[], Any], what: str, seconds: float) -> None:
    """Wait until something has happened; RuntimeError if it does not in time."""
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise RuntimeError(f"after {seconds:.0f} s: {what}")
        time.sleep(0.5)


def same_model(a: Path, b: Path) -> bool:
    """Tell whether the final models of two runs are equal, bit by bit."""
    models = [Bundle.open(folder / "model.fpb").read_all() for folder in (a, b)]
    return list(models[0]) == list(models[1]) and all(
        x.tobytes() == models[1][key].tobytes() and x.dtype == models[1][key].dtype for key, x in models[0].items()
    )
