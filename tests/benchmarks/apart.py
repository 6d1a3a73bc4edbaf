"""A Grid whose nodes live in a process of their own, so that the memory of this one is the server's alone. ::

this process                                    the other
push  ── ids ──►  ◄── ids that it lacks ──  content-addressed objects, as in a SuperLink
      ── those objects ──►
pull  ── id ──►                             inflate, run the client app, deflate
      ◄── ids, then the objects of the reply ──
"""

from collections.abc import Iterable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, no_object_id_recompute
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from tests.benchmarks.app.noisy.client import app
from tests.federation.local_grid import LocalGrid


class ApartGrid(LocalGrid):
    """``nodes`` noisy clients; one of them runs when its reply is pulled, and no reply is kept here."""

    def __init__(self, nodes: int) -> None:
        super().__init__(dict.fromkeys(range(1, nodes + 1), app))
        self._pipe, there = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=serve, args=(there, nodes), daemon=True)
        process.start()
        there.close()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        with no_object_id_recompute():  # as Flower's own grid does
            return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._pull(i) for i in message_ids]

    def _push(self, message: Message) -> str:
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = get_all_nested_objects(message)
        for i in self._ask("push", list(objects)):
            self._pipe.send_bytes(objects[i].deflate())
        return message.object_id

    def _pull(self, message_id: str) -> Message:
        ids = self._ask("pull", message_id)
        return inflated(ids[-1], {i: self._pipe.recv_bytes() for i in ids})

    def _ask(self, what: str, about: Any) -> list[str]:
        self._pipe.send((what, about))
        return self._pipe.recv()


def serve(pipe: Connection, nodes: int) -> None:
    """Be the SuperLink and its nodes until the other end is closed."""
    grid, store = LocalGrid(dict.fromkeys(range(1, nodes + 1), app)), dict[str, bytes]()
    with suppress(EOFError):
        while True:
            what, about = pipe.recv()
            if what == "push":
                missing = [i for i in about if i not in store]
                pipe.send(missing)
                store |= {i: pipe.recv_bytes() for i in missing}
            else:
                answer(pipe, grid, inflated(about, dict(store)))


def answer(pipe: Connection, grid: LocalGrid, message: Message) -> None:
    """Run the node that a message is for, and send its reply."""
    node = message.metadata.dst_node_id
    reply = grid.apps[node](message, grid.contexts[node])
    with no_object_id_recompute():
        objects = get_all_nested_objects(reply)
        pipe.send(list(objects))
        for found in objects.values():
            pipe.send_bytes(found.deflate())


def inflated(message_id: str, contents: dict[str, bytes]) -> Message:
    message: Any = inflate_object_from_contents(message_id, contents)
    message.metadata.__dict__["_message_id"] = message_id
    return message
