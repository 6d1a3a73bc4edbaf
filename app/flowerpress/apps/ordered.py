"""The same participation in every run of a seed: nodes in the order of their partitions.

Node ids are random per run. Strategies sample from the nodes in the order in which a grid lists them, with Python's
global random numbers, of which an engine's threads draw as well. Whoever wants to compare two runs needs the same
partitions in the same rounds, and, for the last bits of a sum, replies in the same order.
"""

import logging
import random
from collections.abc import Iterable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from flowerpress.federation.around import Around

PLACE = "place"  # the ConfigRecord with the answer
_TIMEOUT = 120.0  # seconds for an answer, at most
_LAST = 1 << 64
_log = logging.getLogger("flwr")


class OrderedGrid(Around):
    """A Grid that asks each new node, once, for its partition, and lists nodes and replies in that order.

    Whenever nodes are listed it seeds Python's `random`, from ``seed`` and the number of times that messages were sent
    after a listing: what a strategy samples from the list is the same in every run.

    Nodes that do not say are last, in the order of their ids. The app has to answer messages of the type ``"query"``
    with a ConfigRecord ``place`` that has ``partition-id``.
    """

    def __init__(self, grid: Grid, seed: int, timeout: float = _TIMEOUT) -> None:
        super().__init__(grid)
        self._seed, self._draw, self._drawn = seed, 0, False
        self._timeout = min(timeout, _TIMEOUT)
        self._places: dict[int, int] = {}

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are connected, in the order of partitions."""
        nodes = list(self._grid.get_node_ids())
        if new := [node for node in nodes if node not in self._places]:
            self._ask(new)
        random.seed(f"{self._seed}, {self._draw}")
        self._drawn = True
        return sorted(nodes, key=self._order)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages."""
        self._send()
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return sorted(self._grid.pull_messages(message_ids), key=self._sender)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for their replies, as the inner grid does; return them in the order of partitions."""
        self._send()
        return sorted(self._grid.send_and_receive(messages, timeout=timeout), key=self._sender)

    def _send(self) -> None:
        self._draw += self._drawn  # once for a listing: a message may be sent again, to a node that needs it whole
        self._drawn = False

    def _ask(self, nodes: list[int]) -> None:
        self._places |= dict.fromkeys(nodes, _LAST)
        questions = [Message(RecordDict(), node, "query") for node in nodes]
        for reply in self._grid.send_and_receive(questions, timeout=self._timeout):
            record = reply.content.config_records.get(PLACE) if reply.has_content() else None
            if record is not None and isinstance(place := record.get("partition-id"), int):
                self._places[reply.metadata.src_node_id] = place
        if silent := sum(self._places[node] == _LAST for node in nodes):
            _log.warning("flowerpress: %d of %d nodes do not say which partition they have", silent, len(nodes))

    def _sender(self, reply: Message) -> tuple[int, int]:
        return self._order(reply.metadata.src_node_id)

    def _order(self, node: int) -> tuple[int, int]:
        return self._places.get(node, _LAST), node
