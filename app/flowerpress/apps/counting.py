"""What a run costs in Flower's own terms: the bytes of every object that its messages are deflated to.

`PressGrid` counts them itself; this is for stock runs.
"""

from collections import Counter
from collections.abc import Iterable

from flwr.app import Message
from flwr.serverapp import Grid

from flowerpress.federation.around import Around
from flowerpress.federation.metrics import object_bytes, raw_bytes


class CountingGrid(Around):
    """A Grid that passes everything on, and adds up what messages and replies take on the wire.

    Attributes
    ----------
    counts : Counter
        ``{down,up}-bytes``: of all Flower objects; one that is sent to ten nodes counts ten times.
        ``{down,up}-raw-bytes``: of arrays as they lie in memory.
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self.counts: Counter[str] = Counter()

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
