"""Messages as a strategy makes them, made into messages as they travel; what several of them share is made once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from flwr.app import ArrayRecord, Message, RecordDict

from flowerpress.errors import ConfigError
from flowerpress.federation.fold import fold
from flowerpress.federation.ledger import Ledger, Sending
from flowerpress.federation.metrics import NodeMetrics, object_bytes, raw_bytes
from flowerpress.federation.protocol import RECORD, Mark, Offer, kind_of, records_of
from flowerpress.federation.restore import Dtypes
from flowerpress.federation.screening import Structure
from flowerpress.federation.verdicts import Verdict


@dataclass(frozen=True)
class Sent:
    """A message as the strategy made it, and as it went out.

    ``records`` are the strategy's in the dtypes of the model; ``sendings`` are empty for a plain node.
    """

    message: Message
    wire: Message
    records: RecordDict
    sendings: dict[str, Sending]
    metrics: NodeMetrics

    @property
    def node(self) -> int:
        """The node that it went to."""
        return self.metrics.node

    @property
    def ticket(self) -> str:
        """What makes a reply the reply to this message; "" if it went out plain."""
        return self.metrics.ticket

    @property
    def plain(self) -> bool:
        """Whether it went out without our record, as on stock Flower."""
        return RECORD not in self.wire.content

    @property
    def difference(self) -> bool:
        """Whether it can be read only with what the node is believed to hold."""
        return any(sending.start for sending in self.sendings.values())

    @property
    def kind(self) -> str:
        """What the message is for: ``train``, ``evaluate`` or ``query``."""
        return kind_of(self.message.metadata.message_type)

    def instead_of(self, first: "Sent") -> "Sent":
        """Return the message as the second one of its round to this node."""
        down, up = first.metrics.down_bytes + self.metrics.down_bytes, first.metrics.up_bytes + self.metrics.up_bytes
        return replace(self, metrics=replace(self.metrics, down_bytes=down, up_bytes=up))

    def answered(self, nbytes: int) -> "Sent":
        """Return the message as one whose reply took so many bytes."""
        return replace(self, metrics=replace(self.metrics, up_bytes=self.metrics.up_bytes + nbytes))


class Outbox:
    """Makes messages for the wire: dtypes restored, records coded against what each node holds.

    Parameters
    ----------
    codec : str
        What clients are asked to press their replies with.
    feedback : bool
        Whether they are asked to add what that drops to their next update.
    ledger : Ledger
        Knows what nodes hold.
    """

    def __init__(self, codec: str, feedback: bool, ledger: Ledger) -> None:
        self._codec, self._feedback, self._ledger, self._dtypes = codec, feedback, ledger, Dtypes()

    def keep_dtypes(self, record: ArrayRecord, name: str) -> None:
        """Send records of this name in the dtypes of this one."""
        self._dtypes.restore(name, record)

    def replied(self, arrays: Structure) -> None:
        """Take note of the arrays of a valid reply to a train message."""
        self._dtypes.replied(arrays)

    def prepare(
        self,
        messages: list[Message],
        ticket: str,
        plain_nodes: Collection[int],
        verdicts: Mapping[int, Verdict],
    ) -> list[Sent]:
        """Return the messages of one push as they travel; those given are not changed.

        Raises ConfigError if a record of the strategy has our name, or if one cannot be coded.
        """
        contents = {id(m.content): m.content for m in messages}
        restored = {i: self._restored(content) for i, content in contents.items()}
        records = [restored[id(m.content)] for m in messages]
        plain = [m.metadata.dst_node_id in plain_nodes for m in messages]
        sendings = self._sendings(messages, records, plain)
        wires: dict[tuple[object, ...], tuple[RecordDict, int]] = {}
        sent = []
        for i, message in enumerate(messages):
            verdict = verdicts.get(message.metadata.dst_node_id, Verdict())
            key = (id(records[i]), plain[i], verdict, *map(id, sendings[i].values()))
            if key not in wires:
                content = records[i] if plain[i] else self._wire(records[i], sendings[i], ticket, verdict)
                wires[key] = content, object_bytes(content)
            wire = _like(message, wires[key][0])
            metrics = NodeMetrics(
                message.metadata.dst_node_id,
                Mark(),
                "" if plain[i] else ticket,
                down_bytes=wires[key][1] + len(wire.deflate()),
                down_raw_bytes=raw_bytes(message.content),
                down_distortion=max((s.distortion for s in sendings[i].values()), default=0.0),
            )
            sent.append(Sent(message, wire, records[i], sendings[i], metrics))
        return sent

    def _sendings(
        self, messages: list[Message], records: list[RecordDict], plain: list[bool]
    ) -> list[dict[str, Sending]]:
        """Return, for each message, how its records are sent; name by name, as nodes hold them."""
        sendings: list[dict[str, Sending]] = [{} for _ in messages]
        pressed = [i for i in range(len(messages)) if not plain[i]]
        arrays = [records_of(content, ArrayRecord) for content in records]
        for name in {name: None for i in pressed for name in arrays[i]}:
            having = [i for i in pressed if name in arrays[i]]
            wanted = [(messages[i].metadata.dst_node_id, arrays[i][name]) for i in having]
            for i, sending in zip(having, self._ledger.send(name, wanted), strict=True):
                sendings[i][name] = sending
        return sendings

    def _restored(self, content: RecordDict) -> RecordDict:
        """Return a message's content with the dtypes that its records had at first."""
        if RECORD in content:
            raise ConfigError(f"PressGrid: the record name {RECORD!r} is reserved; rename yours")
        return RecordDict(
            {
                name: self._dtypes.restore(name, record) if isinstance(record, ArrayRecord) else record
                for name, record in content.items()
            }
        )

    def _wire(self, records: RecordDict, sendings: dict[str, Sending], ticket: str, verdict: Verdict) -> RecordDict:
        """Return a message's content as it travels."""
        steps = {name: sending.step for name, sending in sendings.items() if sending.step}
        wire = {name: sendings[name].wire if name in sendings else record for name, record in records.items()}
        offer = Offer(self._codec, ticket, steps, self._feedback, *verdict)
        return fold(RecordDict({**wire, RECORD: offer.record()}))


def _like(message: Message, content: RecordDict) -> Message:
    """Return a new message to the same node, with other content."""
    m = message.metadata
    return Message(content, m.dst_node_id, m.message_type, ttl=m.ttl, group_id=m.group_id, dst_task_id=m.dst_task_id)
