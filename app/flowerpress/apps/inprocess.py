"""The app without an engine: server and clients in this process, for benchmarks that need hundreds of runs.

The code is that of every other run, server app, strategy, mod and client app; messages are really deflated to Flower's
objects and inflated again. What is left out: processes, sockets, and waiting for them. ::

    server app ─► InProcessGrid ─► deflate, inflate ─► client app of the node, with its own Context
"""

import logging
import os
import random
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity  # private, and Message asks it for the sender

from flowerpress.apps.config import Config
from flowerpress.apps.outcome import Outcome
from flowerpress.chunks.content import FOLDER
from flowerpress.errors import ConfigError

if TYPE_CHECKING:
    from flwr.supercore.run import Run

Value = bool | float | int | str  # of a run configuration
_FIRST = 1 << 62  # ids are random 64-bit integers in Flower's engines: this is as long as those when it is deflated
_RAISED = 2  # Flower's code for an app that raised; its name is not public
_log = logging.getLogger("flwr")


class InProcessGrid(Grid):
    """A Grid whose nodes are client apps in this process.

    Parameters
    ----------
    apps : sequence of ClientApp
        One per node: the app of partition i is node i of `get_node_ids`. It may be the same app.
    run_config : mapping
        Of the run, for the Contexts of the nodes.

    Attributes
    ----------
    contexts : dict
        The Context of each node by its id; what apps keep in ``state`` stays until the grid goes.

    Notes
    -----
    A node runs when its reply is pulled, so that one reply is in memory at a time. Random numbers that a client takes
    from Python, numpy or torch leave those of the server, and of other clients, as they were: order does not matter.
    What an app raises is an error reply, as in Flower.
    """

    answers_at_once = True  # see `flowerpress.federation.pulling`

    def __init__(self, apps: Sequence[ClientApp], run_config: Mapping[str, Value]) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = _FIRST
        self._apps = {_FIRST + 1 + i: app for i, app in enumerate(apps)}
        self.contexts = {
            node: Context(_FIRST, node, {"partition-id": i, "num-partitions": len(apps)}, RecordDict(), {**run_config})
            for i, node in enumerate(self._apps)
        }
        self._waiting: dict[str, Message] = {}
        self._run: Run | None = None

    def set_run(self, run: "Run") -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> "Run":
        """The run that was set; ConfigError if none was."""
        if self._run is None:
            raise ConfigError("InProcessGrid: expected set_run first; it has no run of its own")
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message; Flower prefers the constructor of Message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes, in the order of partitions."""
        return list(self._apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages as they arrive at their nodes; return their ids."""
        ids = []
        for message in messages:
            if message.metadata.dst_node_id not in self._apps:
                raise ConfigError(f"InProcessGrid: expected a known node, found {message.metadata.dst_node_id}")
            ids.append(_name(message))
            self._waiting[ids[-1]] = arrived(message)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Run the nodes that these messages wait for, and return their replies."""
        waiting = [self._waiting.pop(i) for i in message_ids if i in self._waiting]
        return [self._answer(message) for message in waiting]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and return their replies, in the order of the messages; nobody is late here."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        with undisturbed():
            try:
                reply = self._apps[node](message, self.contexts[node])
            except Exception as error:
                _log.exception("node %d: the client app raised", node)
                reply = Message(Error(_RAISED, f"{type(error)}:<'{error}'>"), reply_to=message)
        _name(reply)
        return arrived(reply)


def arrived(message: Message) -> Message:
    """Return what a peer gets: the message deflated to Flower's objects, and inflated from them."""

    def copy(part: Any) -> Any:  # noqa: ANN401 - the class of Flower's objects is private
        children = {i: copy(child) for i, child in (part.children or {}).items()}
        return type(part).inflate(part.deflate(), children)

    received: Message = copy(message)
    received.metadata.__dict__["_message_id"] = message.metadata.message_id
    return received


def _name(message: Message) -> str:
    """Give a message the id that an engine gives it, in the form of the simulation engine's; return it."""
    message.metadata.__dict__["_message_id"] = str(uuid.uuid4())
    return message.metadata.message_id


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put the random states of Python, numpy and torch, and torch's threads, back at the end."""
    import torch

    threads, python, legacy = torch.get_num_threads(), random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)


def run(run_config: Mapping[str, Value], *, clients: int, folder: Path | None = None) -> Outcome:
    """Run our app in this process, and return what came of it.

    Parameters
    ----------
    run_config : mapping
        All keys of the app's configuration; see `flowerpress.apps.runconfig.defaults`.
    clients : int
        Nodes, each with its partition of the data.
    folder : Path, optional
        Where ``metrics.jsonl``, ``summary.json``, ``model.fpb`` and ``app.log`` stay, as after a run in an engine.

    Raises
    ------
    ConfigError, RunError
        As the server app does.

    Notes
    -----
    References go to a folder of their own, which is removed at the end. Torch uses one thread unless ``torch-threads``
    says otherwise: models here are too small for more.
    """
    with tempfile.TemporaryDirectory(prefix="flowerpress-") as own, undisturbed(), _environment(FOLDER, own + "/cache"):
        where = (folder or Path(own) / "results").resolve()
        config = {**run_config, "output-dir": str(where)}
        config["torch-threads"] = config.get("torch-threads") or 1
        where.mkdir(parents=True, exist_ok=True)
        with _logged(where / "app.log"):
            _run(config, clients)
        return Outcome.of(where)


def _run(config: dict[str, Any], clients: int) -> None:
    import torch

    from flowerpress.apps.client_app import app as client
    from flowerpress.apps.server_app import app as server

    torch.set_num_threads(Config.read(config).torch_threads)
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)  # imports half of torch: not within a run's seconds
    grid = InProcessGrid([client] * clients, config)
    server(grid, Context(_FIRST, _FIRST, {}, RecordDict(), config))


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write what Flower logs to a file, not to the console, and show no bars of progress."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    handlers, shown, file = _log.handlers, not are_progress_bars_disabled(), logging.FileHandler(path)
    _log.handlers = [file]
    disable_progress_bars()
    try:
        yield
    finally:
        _log.handlers = handlers
        file.close()
        if shown:
            enable_progress_bars()


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable, and put it back at the end."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
