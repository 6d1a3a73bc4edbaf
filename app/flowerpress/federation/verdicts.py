"""What the server knows of the training replies of each node: which became part of the model, and which never will."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from flowerpress.federation.metrics import NodeMetrics
from flowerpress.federation.protocol import is_refusal, later


class Verdict(NamedTuple):
    """Tickets of a node's training replies: those that became part of the model, or may still, and one that never will.

    What is neither was lost, if this server sent its ticket.
    """

    accepted: tuple[str, ...] = ()
    refused: str = ""


class Verdicts:
    """The last verdicts on the replies of each node."""

    def __init__(self) -> None:
        self._last: dict[int, Verdict] = {}

    def judge(self, nodes: Iterable[NodeMetrics], *, failed: bool = False) -> None:
        """Note what became of training replies; of those of a failed round only which were refused.

        A strategy that pulls its replies itself may do so in any order: the message that was sent last counts.
        """
        for node in nodes:
            accepted, refused = self._last.get(node.node, Verdict())
            if is_refusal(node.error):
                self._last[node.node] = Verdict(accepted, later(refused, node.ticket))
            elif not node.error and not failed:
                self._last[node.node] = Verdict((later(*accepted, node.ticket),), refused)

    def beside(self, pending: Iterable[tuple[int, str]]) -> Mapping[int, Verdict]:
        """Return the verdicts, if these nodes are still to answer these tickets: most replies are accepted."""
        verdicts = dict(self._last)
        for node, ticket in pending:
            accepted, refused = verdicts.get(node, Verdict())
            verdicts[node] = Verdict((*accepted, ticket), refused)
        return verdicts
