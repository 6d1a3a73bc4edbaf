"""A Grid in this process: every message is really deflated and inflated, and handed to real ClientApps."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from flowerpress.chunks.content import FOLDER
from flowerpress.errors import ChunkError
from flowerpress.federation.fold import fold, unfold
from flowerpress.federation.protocol import RECORD

RAISED = 2


def wire(message: Message) -> tuple[Message, int]:
    """Send a message through Flower's objects; return what arrives and the bytes of all objects."""
    objects = {i: o.deflate() for i, o in get_all_nested_objects(message).items()}
    received: Any = inflate_object_from_contents(message.object_id, dict(objects))
    received.metadata.__dict__["_message_id"] = message.object_id
    return received, sum(map(len, objects.values()))


def unfolded(message: Message) -> Message:
    """Return a message as it was before its records were folded; one that was forged as it is."""
    found = copy.copy(message)
    if message.has_content():
        with suppress(ChunkError):
            found.content = unfold(message.content)
    return found


class LocalGrid(Grid):
    """Nodes are client apps by id; ``damage``, if given, sees each reply, unfolded, before the server does.

    ``pushed`` are the messages as they travel, ``sent`` are those unfolded.

    ``caches`` is a folder for the references of each node: as if each were a machine of its own.
    """

    def __init__(
        self,
        apps: dict[int, ClientApp],
        *,
        damage: Callable[[int, Message], Message | None] | None = None,
        run_config: dict[str, Any] | None = None,
        caches: Path | None = None,
    ) -> None:
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        self.apps = apps
        self.contexts = {
            node: Context(1, node, {"partition-id": i, "num-partitions": len(apps)}, RecordDict(), run_config or {})
            for i, node in enumerate(apps)
        }
        self.damage = damage
        self.caches = caches
        self.sent: list[Message] = []
        self.pushed: list[Message] = []
        self.bytes = 0
        self._replies: dict[str, Message] = {}
        self._count = itertools.count()

    def set_run(self, run: Any) -> None:
        self.the_run = run

    @property
    def run(self) -> Any:
        return self.the_run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        ids = []
        for message in messages:
            message.metadata.created_at += next(self._count) * 1e-3  # no two messages are equal
            self.pushed.append(message)
            self.sent.append(unfolded(message))
            received, nbytes = wire(message)
            message.metadata.__dict__["_message_id"] = received.metadata.message_id
            self.bytes += nbytes
            ids.append(received.metadata.message_id)
            self._answer(received)
        return ids

    def _answer(self, message: Message) -> None:
        node = message.metadata.dst_node_id
        with self.machine(node):
            try:
                reply = self.apps[node](message, self.contexts[node])
            except Exception as error:
                reply = Message(Error(RAISED, repr(error)), reply_to=message)
        if self.damage:
            damaged = self.damage(node, unfolded(reply))
            if damaged is None:
                return
            reply = damaged
            if reply.has_content() and RECORD in reply.content:
                reply.content = fold(reply.content)
        received, nbytes = wire(reply)
        self.bytes += nbytes
        self._replies[message.metadata.message_id] = received

    @contextmanager
    def machine(self, node: int | str) -> Iterator[None]:
        """What happens in it, happens on a node: with ``caches``, each has a folder for references of its own."""
        with pytest.MonkeyPatch.context() as patch:
            if self.caches:
                patch.setenv(FOLDER, str(self.caches / str(node)))
            yield

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._replies.pop(i) for i in reversed(list(message_ids)) if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        replies = list(self.pull_messages(self.push_messages(messages)))
        partition = {node: i for i, node in enumerate(self.apps)}
        return sorted(replies, key=lambda reply: partition.get(reply.metadata.src_node_id, -1))
