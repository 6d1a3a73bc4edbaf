"""What a run costs in Flower's own terms: the bytes of every object that its messages are deflated to.

`PressGrid` counts the data of arrays; names, ids, headers and configuration, which Flower sends as well, are counted
here, for stock runs and pressed ones alike. ::

    strategy ─► PressGrid, or nothing ─► CountingGrid ─► Flower's grid
"""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from flowerpress.federation.metrics import raw_bytes

if TYPE_CHECKING:
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.run import Run


class Inflatable(Protocol):
    """What every part of a message is to Flower, which keeps the class itself private."""

    @property
    def object_id(self) -> str:
        """The digest of the deflated object."""

    @property
    def children(self) -> dict[str, Any] | None:
        """The objects that this one refers to, by id."""

    def deflate(self) -> bytes:
        """Return the object, with the ids of its children."""


def deflated(message: Inflatable) -> dict[str, bytes]:
    """Return the objects that Flower sends for a message, children first; equal ones of a message are sent once."""
    objects: dict[str, bytes] = {}

    def add(i: str, part: Inflatable) -> None:
        for child in (part.children or {}).items():
            if child[0] not in objects:
                add(*child)
        objects[i] = part.deflate()

    add(message.object_id, message)
    return objects


class CountingGrid(Grid):
    """A Grid that passes everything on, and adds up what messages and replies take on the wire.

    Attributes
    ----------
    counts : Counter
        ``{down,up}-object-bytes``: of all deflated objects; one that is sent to ten nodes counts ten times.
        ``{down,up}-array-bytes``: of array data alone. ``{down,up}-memory-bytes``: of arrays as they lie in memory, if
        they are plain ones; of a bundle it is the same as its data.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.counts: Counter[str] = Counter()

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
        """Send messages."""
        return self._grid.push_messages(self._counted("down", messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that are there."""
        return self._counted("up", self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for their replies, as the inner grid does."""
        sent = self._counted("down", messages)
        return self._counted("up", self._grid.send_and_receive(sent, timeout=timeout))

    def _counted(self, way: str, messages: Iterable[Message]) -> list[Message]:
        messages = list(messages)
        for message in messages:
            self.counts[f"{way}-object-bytes"] += sum(map(len, deflated(message).values()))
            if message.has_content():
                self.counts[f"{way}-array-bytes"] += _array_bytes(message.content)
                self.counts[f"{way}-memory-bytes"] += raw_bytes(message.content)
        return messages


def _array_bytes(content: RecordDict) -> int:
    return sum(len(array.data) for record in content.array_records.values() for array in record.values())
