"""What grid and mod say to each other, in one reserved ConfigRecord of each message.

::

    server ──► client   "flowerpress": version, codec, ticket; records, from, to
                        what to press replies with, and what each record was coded against and becomes (digests, or "")
    client ──► server   "flowerpress": version, ticket; records, holds; partition-id, raw-bytes, distortion, seconds
                        the mark

An error reply has no records: there the mark stands at the beginning of the reason. A reply without the mark comes from
a node that does not run the mod. A node that lacks what a record was coded against says so in an error reply, and gets
the record whole.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from flowerpress.errors import FlowerpressError

VERSION = 1
RECORD = "flowerpress"
MARK = "[flowerpress] "
NEED_WHOLE = "need-whole: "
RAISED = 2  # Flower's code for a client app that raised; its name is not public
T = TypeVar("T", int, float)
V = TypeVar("V")
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


class NeedWhole(FlowerpressError):
    """A node cannot decode a record because it lacks, or disagrees on, the reference; it has to be sent whole."""


class Step(NamedTuple):
    """From which reference to which a record leads: digests of what both ends hold before and after; "" for nothing."""

    start: str
    to: str


@dataclass(frozen=True)
class Offer:
    """What the server asks of a client; the ticket comes back with the reply, which it makes the reply to this."""

    codec: str
    ticket: str = ""
    steps: Mapping[str, Step] = field(default_factory=dict)
    version: int = VERSION

    def record(self) -> ConfigRecord:
        """Return the offer as it travels."""
        names = list(self.steps)
        return ConfigRecord(
            {
                "version": self.version,
                "codec": self.codec,
                "ticket": self.ticket,
                "records": names,
                "from": [self.steps[name].start for name in names],
                "to": [self.steps[name].to for name in names],
            }
        )

    @classmethod
    def find(cls, content: RecordDict) -> Self | None:
        """Return the offer in a message, or None if the server does not run the grid."""
        record = records_of(content, ConfigRecord).get(RECORD)
        if record is None:
            return None
        steps = zip(_texts(record, "records"), _texts(record, "from"), _texts(record, "to"), strict=False)
        return cls(
            str(record.get("codec", "")),
            str(record.get("ticket", "")),
            {name: Step(start, to) for name, start, to in steps},
            _number(record, "version", int),
        )


@dataclass(frozen=True)
class Mark:
    """What a client says of its reply; -1 stands for a partition that the node does not know.

    ``holds`` are the digests of what the node holds now, by the name of the record; ``distortion`` is the L2 norm of
    what the codec dropped over that of what there was to say: the update, or the arrays where there is no reference.
    """

    partition: int = -1
    ticket: str = ""
    holds: Mapping[str, str] = field(default_factory=dict)
    raw_bytes: int = 0
    distortion: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0

    def record(self) -> ConfigRecord:
        """Return the mark as it travels."""
        return ConfigRecord(
            {
                "version": VERSION,
                "ticket": self.ticket,
                "records": list(self.holds),
                "holds": list(self.holds.values()),
                "partition-id": self.partition,
                "raw-bytes": self.raw_bytes,
                "distortion": self.distortion,
                "encode-seconds": self.encode_seconds,
                "decode-seconds": self.decode_seconds,
            }
        )

    @classmethod
    def find(cls, reply: Message) -> Self | None:
        """Return the mark of a reply, or None if the node does not run the mod."""
        if reply.has_error():
            return cls() if (reply.error.reason or "").startswith(MARK) else None
        record = records_of(reply.content, ConfigRecord).get(RECORD)
        if record is None or _number(record, "version", int) != VERSION:
            return None
        return cls(
            _number(record, "partition-id", int),
            str(record.get("ticket", "")),
            dict(zip(_texts(record, "records"), _texts(record, "holds"), strict=False)),
            _number(record, "raw-bytes", int),
            _number(record, "distortion", float),
            _number(record, "encode-seconds", float),
            _number(record, "decode-seconds", float),
        )


def records_of(content: RecordDict, kind: type[R]) -> dict[str, R]:
    """Return the records of one kind.

    Flower's ``content.array_records`` refers back to the content, and so keeps a reply in memory until the garbage
    collector comes by.
    """
    return {name: record for name, record in content.items() if isinstance(record, kind)}


def error_reply(message: Message, reason: str) -> Message:
    """Return a reply that says, with the mark, why a client could not answer."""
    return Message(Error(RAISED, MARK + reason), reply_to=message)


def whole_wanted(reply: Message) -> bool:
    """Tell whether a node lacks what it was sent differences to."""
    return reply.has_error() and (reply.error.reason or "").startswith(MARK + NEED_WHOLE)


def reference_of(name: str, references: Mapping[str, V]) -> V | None:
    """Return what a record of a reply is coded against: what came under its name, or the only one that came."""
    only = next(iter(references.values())) if len(references) == 1 else None
    return references.get(name, only)


def kind_of(message_type: str) -> str:
    """Return what a message is for, ``train``, ``evaluate`` or ``query``, without the name of a variant.

    >>> kind_of("train.with_noise")
    'train'
    """
    return message_type.split(".", 1)[0]


def partition_of(context: Context) -> int:
    """Return the partition id that the node was started with, or -1."""
    partition = context.node_config.get("partition-id", -1)
    return partition if isinstance(partition, int) else -1


def without_record(content: RecordDict) -> RecordDict:
    """Return the records of a message without ours; the message may be shared and is not changed."""
    return RecordDict({key: record for key, record in content.items() if key != RECORD})


def _number(record: ConfigRecord, key: str, kind: type[T]) -> T:
    value = record.get(key, -1)
    return kind(value) if isinstance(value, (int, kind)) and math.isfinite(value) else kind(-1)


def _texts(record: ConfigRecord, key: str) -> list[str]:
    value = record.get(key, [])
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
