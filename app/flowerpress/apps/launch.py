"""One run of the app, from submission to its end: what ``flowerpress run`` does."""

import json
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from flowerpress.apps.results import read_rounds
from flowerpress.apps.runconfig import as_text, changes, defaults
from flowerpress.apps.superlink import SuperLink, last_words
from flowerpress.errors import ConfigError, RunError

_POLL, _ASK = 0.5, 5.0  # seconds; asking for the status starts a Python process


def prepared(app: Path, folder: Path, clients: int, run_config: list[str], *, resume: bool) -> tuple[int, list[str]]:
    """Return the clients and the ``key=value`` pairs of a run, with checkpoints in its folder, and note them there.

    A run that is resumed has those that it had, and what is asked for now beside them. ConfigError if it cannot be.
    """
    note, known = folder / "asked.json", defaults(app)
    if resume:
        if not note.is_file() or "checkpoints" not in known:
            raise ConfigError(f"expected the folder of a run that keeps checkpoints, found no {note.name} in {folder}")
        before = json.loads(note.read_text())
        clients, run_config = before["clients"], [*before["run-config"], *run_config]
    found = changes(run_config, known)
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"clients": clients, "run-config": run_config}) + "\n")
    if "checkpoints" in known:
        found = {"checkpoints": str(folder / "checkpoints"), **found, "resume": resume}
    return clients, [as_text(found)]


def simulate(
    app: Path, folder: Path, *, clients: int, run_config: str, on_round: Callable[[dict[str, Any]], None]
) -> None:
    """Run the Flower app in ``app`` in Flower's simulation engine, and leave its results in ``folder``.

    Parameters
    ----------
    app : Path
        A folder with a ``pyproject.toml`` that describes a Flower app which knows ``output-dir``.
    folder : Path
        Where the results, ``app.log`` and ``superlink.log`` go.
    clients : int
        Simulated SuperNodes; one core each, as many at a time as there are cores.
    run_config : str
        ``key=value`` pairs, as Flower's ``--run-config`` takes them. If they say to resume, the results in ``folder``
        are gone on with.
    on_round : callable
        Called with each round's results as they appear.

    Raises
    ------
    RunError
        If the run did not complete; the message has Flower's reason.
    """
    if not (app / "pyproject.toml").is_file():
        raise ConfigError(f"expected a Flower app in {app}, found no pyproject.toml; name the app's folder")
    if "'" in str(folder):
        raise ConfigError(f"expected a folder for the results without quotes in its name, found {folder}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    log = folder / "superlink.log"
    with SuperLink(simulation=True, log=log) as superlink:
        resources = f"num-supernodes={clients} client-resources-num-cpus=1 client-resources-num-gpus=0.0"
        run_id = superlink.submit(app, f"{run_config} output-dir='{folder}'", resources)
        status, details = _watch(superlink, run_id, folder, on_round)
        (folder / "app.log").write_text(superlink.log_of(run_id))
    if status != "finished:completed" or not (folder / "summary.json").is_file():
        raise RunError(f"the run ended as {status}: {details or last_words(log)}\nits log is {folder / 'app.log'}")


def _watch(
    superlink: SuperLink, run_id: int, folder: Path, on_round: Callable[[dict[str, Any]], None]
) -> tuple[str, str]:
    """Report rounds as they appear until the run has finished; return its status and Flower's details."""
    seen, asked, status = len(_rounds(folder)), 0.0, ("", "")
    while not status[0].startswith("finished"):
        time.sleep(_POLL)
        done = (folder / "summary.json").is_file()
        if time.monotonic() - asked > (_POLL if done else _ASK):
            status, asked = superlink.status(run_id), time.monotonic()
        rounds = _rounds(folder)
        for row in rounds[seen:]:
            on_round(row)
        seen = len(rounds)
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
