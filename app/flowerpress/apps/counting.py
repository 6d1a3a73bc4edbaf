"""What a run costs in Flower's own terms: the bytes of every object that its messages are deflated to.

`PressGrid` counts them too; here they are counted for stock runs and pressed ones alike. ::

    strategy ─► PressGrid, or nothing ─► CountingGrid ─► Flower's grid
"""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from flowerpress.federation.metrics import object_bytes, raw_bytes

if TYPE_CHECKING:
    from flwr.proto.node_pb2 import NodeInfo
    from flwr.supercore.run import Run


class CountingGrid(Grid):
    """A Grid that passes everything on, and adds up what messages and replies take on the wire.

    Attributes
    ----------
    counts : Counter
        ``{down,up}-bytes``: of all Flower objects; one that is sent to ten nodes counts ten times.
        ``{down,up}-raw-bytes``: of arrays as they lie in memory.
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
            self.counts[f"{way}-bytes"] += object_bytes(message)
            if message.has_content():
                self.counts[f"{way}-raw-bytes"] += raw_bytes(message.content)
        return messages
