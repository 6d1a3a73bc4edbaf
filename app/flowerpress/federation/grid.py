"""The server's hook: a Grid that presses what a strategy sends and unpresses what comes back.

Any strategy runs on it unchanged: ``strategy.start(grid=PressGrid(grid, "zstd"), …)``. A model that goes to N nodes is
encoded once. Replies are handed on in a fixed order, still compressed; a strategy decodes an array when it reads it.
"""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from flowerpress.codecs.policy import Policy, as_policy
from flowerpress.errors import ChunkError, ConfigError
from flowerpress.federation.metrics import Exchange, NodeMetrics, clocks, raw_bytes, wire_bytes
from flowerpress.federation.protocol import MARK, RAISED, RECORD, Mark, Offer, without_record
from flowerpress.federation.restore import Dtypes
from flowerpress.records import CodecLike
from flowerpress.wire import press, unpress

if TYPE_CHECKING:
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.run import Run

_log = logging.getLogger("flwr")
_POLL = (0.02, 0.2)  # seconds between polls, at first and at most


@dataclass(frozen=True)
class _Sent:
    """A message as the strategy made it, and as it went out."""

    message: Message
    wire: Message
    metrics: NodeMetrics


class PressGrid(Grid):
    """A Grid whose messages are compressed in both directions.

    Parameters
    ----------
    grid : Grid
        The grid that Flower gave to the server app.
    codec : str, Pipeline or Policy
        What clients code their replies with, and the server its messages unless ``down`` says otherwise; lossless by
        default. It travels to the clients as text.
    down : str, Pipeline or Policy, optional
        What the server codes its messages with.
    timeout : float
        Seconds to wait for replies when the strategy names no limit.

    Attributes
    ----------
    exchanges : list of Exchange
        What each round trip cost, the last one last.

    Notes
    -----
    A node that does not run `press_mod` is found out by its first reply, sent plain arrays in the same round, and from
    then on. Dtypes that a strategy promoted are restored before they are sent.
    """

    def __init__(
        self, grid: Grid, codec: CodecLike = "zstd", *, down: CodecLike | None = None, timeout: float = 3600.0
    ) -> None:
        up = as_policy(codec)
        if not isinstance(up, Policy):
            raise ConfigError(f"PressGrid: the codec travels to the clients as text: expected some, found {codec!r}")
        if not timeout > 0:
            raise ConfigError(f"PressGrid: expected a timeout above 0 seconds, found {timeout!r}")
        self.exchanges: list[Exchange] = []
        self._grid = grid
        self._offer = Offer(str(up))
        self._down = codec if down is None else down
        self._timeout = timeout
        self._plain_nodes: set[int] = set()
        self._marked_nodes: set[int] = set()
        self._sent: dict[str, _Sent] = {}
        self._dtypes = Dtypes()
        as_policy(self._down)

    def set_run(self, run: "Run") -> None:
        """Set the run of the inner grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> "Run":
        """The run of the inner grid."""
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message; Flower prefers the constructor of Message."""
        return Message(content, dst_node_id, message_type, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the ids of the nodes that are connected."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable["NodeInfo"]:
        """Return the nodes that are connected."""
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages compressed, each distinct record encoded once; the messages themselves are not changed."""
        return self._push(list(messages))[0]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there, unpressed, in a fixed order."""
        received = [self._receive(reply) for reply in self._grid.pull_messages(list(message_ids))]
        return [reply for reply, _ in sorted(received, key=_order)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for their replies, which come in the order of partition ids, then node ids.

        Parameters
        ----------
        messages : iterable of Message
            What to send.
        timeout : float, optional
            Seconds to wait; the grid's own by default.

        Returns
        -------
        list of Message
            Replies with content, and error replies. Replies that did not come in time are missing.
        """
        started, messages = time.monotonic(), list(messages)
        if not messages:
            return []
        end = started + (self._timeout if timeout is None else timeout)
        exchange = Exchange(messages[0].metadata.message_type, _round_of(messages[0]))
        ids, exchange.encode_seconds = self._push(messages)
        pending, received, pause = {i for i in ids if i}, list[tuple[Message, NodeMetrics]](), _POLL[0]
        while pending and time.monotonic() < end:
            time.sleep(pause)
            pause = min(2 * pause, _POLL[1])
            for reply in self._grid.pull_messages(list(pending)):
                answered = reply.metadata.reply_to_message_id
                pending.discard(answered)
                if self._is_plain(reply):
                    again, _ = self._push([self._sent.pop(answered).message])
                    pending |= {i for i in again if i}
                else:
                    received.append(self._receive(reply))
        for missing in pending:
            _log.warning("flowerpress: node %d did not reply in time", self._sent.pop(missing).metrics.node)
        received.sort(key=_order)
        exchange.nodes = [metrics for _, metrics in received]
        exchange.seconds = time.monotonic() - started
        self.exchanges.append(exchange)
        return [reply for reply, _ in received]

    def _push(self, messages: list[Message]) -> tuple[list[str], float]:
        """Push what ``messages`` look like on the wire; return their ids and the seconds that coding took."""
        started = time.perf_counter()
        pressed: dict[int, ArrayRecord] = {}
        restored: dict[int, ArrayRecord] = {}
        sent = []
        for message in messages:
            node = message.metadata.dst_node_id
            content = self._wire(message.content, pressed, restored, plain=node in self._plain_nodes)
            metrics = NodeMetrics(node, Mark(), wire_bytes(content), raw_bytes(message.content))
            sent.append(_Sent(message, _like(message, content), metrics))
        seconds = time.perf_counter() - started
        ids = list(self._grid.push_messages([s.wire for s in sent]))
        self._sent |= {i: s for i, s in zip(ids, sent, strict=False) if i}
        return ids, seconds

    def _wire(
        self, content: RecordDict, pressed: dict[int, ArrayRecord], restored: dict[int, ArrayRecord], *, plain: bool
    ) -> RecordDict:
        """Return a message's content as it travels; records that messages share are coded once, by identity."""
        if RECORD in content:
            raise ConfigError(f"PressGrid: the record name {RECORD!r} is reserved; rename yours")
        wire = RecordDict()
        for name, record in content.items():
            if isinstance(record, ArrayRecord):
                if id(record) not in restored:
                    restored[id(record)] = self._dtypes.restore(name, record)
                if not plain and id(record) not in pressed:
                    pressed[id(record)] = press(restored[id(record)], self._down)
                wire[name] = (restored if plain else pressed)[id(record)]
            else:
                wire[name] = record
        if not plain:
            wire[RECORD] = self._offer.record()
        return wire

    def _is_plain(self, reply: Message) -> bool:
        """Tell whether a reply to a pressed message shows that its node does not run the mod; remember it."""
        sent = self._sent.get(reply.metadata.reply_to_message_id)
        if sent is None or RECORD not in sent.wire.content:
            return False
        node = sent.metrics.node
        if Mark.find(reply) is not None:
            self._marked_nodes.add(node)
            return False
        if reply.has_error() and (reply.error.code != RAISED or node in self._marked_nodes):
            return False  # the node was lost, or its app has no function for such messages: mods are not asked then
        _log.info("flowerpress: node %d does not run press_mod; it gets plain arrays", node)
        self._plain_nodes.add(node)
        return True

    def _receive(self, reply: Message) -> tuple[Message, NodeMetrics]:
        """Unpress a reply, which is ours alone, and take the mark off it."""
        sent = self._sent.pop(reply.metadata.reply_to_message_id, None)
        mark = Mark.find(reply) or Mark()
        sender = sent.metrics if sent else NodeMetrics(reply.metadata.src_node_id, mark, 0, 0)
        if reply.has_error():
            return self._refuse(reply, sent, sender, mark, reply.error)
        up = wire_bytes(reply.content)
        try:
            records = without_record(reply.content)
            reply.content = RecordDict(
                {name: unpress(r) if isinstance(r, ArrayRecord) else r for name, r in records.items()}
            )
        except ChunkError as error:
            return self._refuse(reply, sent, sender, mark, Error(RAISED, f"{MARK}refused: {error}"))
        return reply, replace(sender, mark=mark, up_bytes=up, clocks=clocks(reply.content))

    def _refuse(
        self, reply: Message, sent: _Sent | None, sender: NodeMetrics, mark: Mark, error: Error
    ) -> tuple[Message, NodeMetrics]:
        """Return an error reply that names the node: for lost nodes Flower's own names the SuperLink."""
        if sent is not None:
            reply = Message(error, reply_to=sent.wire)
        self._plain_nodes.discard(sender.node)  # it failed with plain arrays, too: that was not the reason
        reason = error.reason or f"error {error.code}"
        return reply, replace(sender, mark=mark, error=reason)


def _order(received: tuple[Message, NodeMetrics]) -> tuple[int, int]:
    _, metrics = received
    return metrics.mark.partition, metrics.node


def _like(message: Message, content: RecordDict) -> Message:
    """Return a new message to the same node, with other content."""
    m = message.metadata
    return Message(content, m.dst_node_id, m.message_type, ttl=m.ttl, group_id=m.group_id, dst_task_id=m.dst_task_id)


def _round_of(message: Message) -> int:
    """Return the round that the strategy wrote into its configuration, or 0."""
    for record in message.content.config_records.values():
        if isinstance(found := record.get("server-round"), int):
            return found
    return 0
