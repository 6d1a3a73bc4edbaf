"""One run of the app, from submission to its end: what ``flowerpress run`` does."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from flowerpress.apps.results import read_rounds
from flowerpress.apps.runconfig import as_text, changes, defaults
from flowerpress.deployment.connection import Connection
from flowerpress.deployment.superlink import SuperLink
from flowerpress.errors import ConfigError, RunError

_POLL, _ASK = 0.5, 60.0  # seconds; asking for the status takes two seconds of a processor's time


def prepared(
    app: Path, folder: Path, clients: int | None, run_config: list[str], *, resume: bool = False, checkpoints: str = ""
) -> tuple[int | None, str]:
    """Return the simulated clients, if any, and the ``key=value`` pairs of a run, and note them in its folder.

    Its checkpoints are in the folder, or in a place of its name below ``checkpoints``, a folder or a URL.

    A run that is resumed has those that it had, and what is asked for now beside them. ConfigError if it cannot be.
    """
    folder = folder.resolve()
    note, known = folder / "asked.json", defaults(app)
    if checkpoints:
        run_config = [f"checkpoints='{checkpoints.rstrip('/')}/{folder.name}'", *run_config]
    if resume:
        if not note.is_file() or "checkpoints" not in known:
            raise ConfigError(f"expected the folder of a run that keeps checkpoints, found no {note.name} in {folder}")
        before = json.loads(note.read_text())
        clients, run_config = before["clients"], [*before["run-config"], *run_config]
    found = changes(run_config, known)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"clients": clients, "run-config": run_config}) + "\n")
    except OSError as error:
        raise ConfigError(f"expected a folder for the results that can be written, found {folder}: {error}") from error
    if "checkpoints" in known:
        found = {"checkpoints": str(folder / "checkpoints"), **found, "resume": resume}
    return clients, as_text(found)


def simulate(
    app: Path, folder: Path, *, clients: int, run_config: str, on_round: Callable[[dict[str, Any]], None]
) -> None:
    """Run the Flower app in ``app`` in Flower's simulation engine; arguments and errors are those of `submit`.

    ``clients`` are simulated SuperNodes; one core each, as many at a time as there are cores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    resources = f"num-supernodes={clients} client-resources-num-cpus=1 client-resources-num-gpus=0.0"
    with SuperLink(simulation=True, log=folder / "superlink.log") as superlink:
        submit(superlink, app, folder, run_config=run_config, on_round=on_round, resources=resources)


def submit(
    connection: Connection,
    app: Path,
    folder: Path,
    *,
    run_config: str,
    on_round: Callable[[dict[str, Any]], None],
    resources: str = "",
) -> None:
    """Run the Flower app in ``app`` on a SuperLink, and wait until its results are in ``folder``.

    Parameters
    ----------
    connection : Connection
        To the SuperLink.
    app : Path
        A folder with a ``pyproject.toml`` that describes a Flower app which knows ``output-dir``.
    folder : Path
        Where the results and ``app.log`` go: one that the server app, wherever it runs, can write under this path.
    run_config : str
        ``key=value`` pairs, as Flower's ``--run-config`` takes them. If they say to resume, the results in ``folder``
        are gone on with.
    on_round : callable
        Called with each round's results as they appear.
    resources : str
        Of a simulation, as Flower's ``--federation-config`` takes them.

    Raises
    ------
    RunError
        If the run did not complete; the message has Flower's reason. It is stopped if this is interrupted.
    """
    if not (app / "pyproject.toml").is_file():
        raise ConfigError(f"expected a Flower app in {app}, found no pyproject.toml; name the app's folder")
    if "'" in str(folder):
        raise ConfigError(f"expected a folder for the results without quotes in its name, found {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    run_id = connection.submit(app, f"{run_config} output-dir='{folder}'", resources)
    try:
        status, details = _watch(connection, run_id, folder, on_round)
    except KeyboardInterrupt:
        connection.flwr("stop", str(run_id), connection.name)
        raise
    log = folder / "app.log"
    if status != "finished:completed":
        said = details or log.read_text(errors="replace")[-2000:]
        raise RunError(f"the run ended as {status}: {said}\nits log is {log}")
    if not (folder / "summary.json").is_file():
        raise RunError(
            f"the run completed, but left no summary.json in {folder}: expected a folder that the server app, where it "
            f"runs, can write under this path; its log is {log}"
        )


def _watch(
    connection: Connection, run_id: int, folder: Path, on_round: Callable[[dict[str, Any]], None]
) -> tuple[str, str]:
    """Report rounds as they appear until the run has finished; return its status and Flower's details.

    Its log ends when it does; that of a SuperLink that is busy or starts again may end before, or go on behind it.
    """
    seen, asked, status = len(_rounds(folder)), time.monotonic(), ("", "")
    log = connection.follow(run_id, folder / "app.log")
    try:
        while log.alive or not status[0].startswith("finished"):
            time.sleep(_POLL)
            if not log.alive or time.monotonic() - asked > _ASK:
                status, asked = connection.status(run_id), time.monotonic()
                if log.alive == status[0].startswith("finished"):
                    log.stop()
                    log = connection.follow(run_id, folder / "app.log")
            rounds = _rounds(folder)
            for row in rounds[seen:]:
                on_round(row)
            seen = len(rounds)
    finally:
        log.stop()
    return status


def _rounds(folder: Path) -> list[dict[str, Any]]:
    return read_rounds(folder) if (folder / "metrics.jsonl").is_file() else []


def new_folder(root: Path) -> Path:
    """Return the folder for a new run below ``root``, named by the time; it does not exist yet."""
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = root / name
    count = 1
    while folder.exists():
        count += 1
        folder = root / f"{name}-{count}"
    return folder.resolve()
