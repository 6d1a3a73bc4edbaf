"""One run of the app, from submission to its end: what ``flowerpress run`` does."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from flowerpress.apps.results import read_rounds
from flowerpress.apps.runconfig import as_text, changes, defaults
from flowerpress.deployment.connection import Connection
from flowerpress.deployment.superlink import SuperLink
from flowerpress.errors import ConfigError, RunError
from flowerpress.jsons import dumps, loads

_NOTE, _SUMMARY, _ROUNDS = "asked.json", "summary.json", "metrics.jsonl"
_POLL, _ASK = 0.5, 60.0  # seconds; asking for the status takes two seconds of a processor's time


class Asked(NamedTuple):
    """What a run was asked for: simulated clients, if any, ``key=value`` pairs, and a note that `submit` keeps."""

    clients: int | None
    run_config: str
    note: str


def prepared(
    app: Path, folder: Path, clients: int | None, run_config: list[str], *, resume: bool = False, checkpoints: str = ""
) -> Asked:
    """Return what a run was asked for, in words of the app, and the note by which it is resumed.

    Its checkpoints are in the folder, or in a place of its name below ``checkpoints``, a folder or a URL.

    A run that is resumed has those that it had, and what is asked for now beside them. ConfigError if it cannot be, or
    if the folder, which is made, cannot be written; ChunkError if the note of a run that is resumed is damaged.
    """
    folder = folder.resolve()
    note, known = folder / _NOTE, defaults(app)
    if checkpoints:
        run_config = [as_text({"checkpoints": f"{_absolute(checkpoints)}/{folder.name}"}), *run_config]
    if resume:
        if not note.is_file() or "checkpoints" not in known:
            raise ConfigError(f"expected the folder of a run that keeps checkpoints, found no {note.name} in {folder}")
        before = loads(note)
        clients, run_config = before.get("clients"), [*before.get("run-config", []), *run_config]
    found = changes(run_config, known)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(f"expected a folder for the results that can be written, found {folder}: {error}") from error
    if "checkpoints" in known:
        found = {"checkpoints": str(folder / "checkpoints"), **found, "resume": resume}
    return Asked(clients, as_text(found), dumps({"clients": clients, "run-config": run_config}) + "\n")


def _absolute(place: str) -> str:
    """Return a folder or a URL as the server app, which runs in another folder, finds it too."""
    return (place if "://" in place else str(Path(place).resolve())).rstrip("/")


def simulate(
    app: Path,
    folder: Path,
    *,
    clients: int,
    run_config: str,
    on_round: Callable[[dict[str, Any]], None],
    note: str = "",
) -> None:
    """Run the Flower app in ``app`` in Flower's simulation engine; arguments and errors are those of `submit`.

    ``clients`` are simulated SuperNodes; one core each, as many at a time as there are cores.
    """
    folder.mkdir(parents=True, exist_ok=True)
    resources = f"num-supernodes={clients} client-resources-num-cpus=1 client-resources-num-gpus=0.0"
    with SuperLink(simulation=True, log=folder / "superlink.log") as superlink:
        submit(superlink, app, folder, run_config=run_config, on_round=on_round, resources=resources, note=note)


def submit(
    connection: Connection,
    app: Path,
    folder: Path,
    *,
    run_config: str,
    on_round: Callable[[dict[str, Any]], None],
    resources: str = "",
    note: str = "",
) -> None:
    """Run the Flower app in ``app`` on a SuperLink, and wait until its results are in ``folder``.

    What is there of a run before is as it was if this raises and no round was added or taken away.

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
    note : str
        What ``asked.json`` in ``folder`` is to hold, if anything: what `prepared` goes on with.

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
    with _kept_if_nothing_changes(folder):
        run_id = connection.submit(app, f"{run_config} output-dir='{folder}'", resources)
        (folder / _SUMMARY).unlink(missing_ok=True)  # it says that a run is done
        if note:
            (folder / _NOTE).write_text(note)
        _to_its_end(connection, run_id, folder, on_round)


@contextmanager
def _kept_if_nothing_changes(folder: Path) -> Iterator[None]:
    """Put summary and note of a run back if what follows raises and has left the rounds as they were."""
    rounds, *others = (folder / name for name in (_ROUNDS, _SUMMARY, _NOTE))
    before = _bytes(rounds)
    kept = {path: path.read_bytes() for path in others if path.is_file()}
    try:
        yield
    except BaseException:
        if _bytes(rounds) == before:
            for path, data in kept.items():
                path.write_bytes(data)
        raise


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _to_its_end(connection: Connection, run_id: int, folder: Path, on_round: Callable[[dict[str, Any]], None]) -> None:
    """Wait for a run, and raise RunError if it did not complete, or left nothing; stop it if this is interrupted."""
    try:
        status, details = _watch(connection, run_id, folder, on_round)
    except KeyboardInterrupt:
        connection.flwr("stop", str(run_id), connection.name)
        raise
    log = folder / "app.log"
    if status != "finished:completed":
        said = details or log.read_text(errors="replace")[-2000:]
        raise RunError(f"the run ended as {status}: {said}\nits log is {log}")
    if not (folder / _SUMMARY).is_file():
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
    return read_rounds(folder) if (folder / _ROUNDS).is_file() else []


def new_folder(root: Path) -> Path:
    """Return the folder for a new run below ``root``, named by the time; it does not exist yet."""
    name = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = root / name
    count = 1
    while folder.exists():
        count += 1
        folder = root / f"{name}-{count}"
    return folder.resolve()
