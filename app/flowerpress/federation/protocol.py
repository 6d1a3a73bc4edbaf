"""What grid and mod say to each other, in one reserved ConfigRecord of each message.

::

    server ──► client   "flowerpress": version, codec         the grid is there; press replies with this codec
    client ──► server   "flowerpress": version, partition-id, raw-bytes, encode-seconds, decode-seconds    the mark

An error reply has no records: there the mark stands at the beginning of the reason. A reply without the mark comes from
a node that does not run the mod.
"""

from dataclasses import dataclass
from typing import Self, TypeVar

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

VERSION = 1
RECORD = "flowerpress"
MARK = "[flowerpress] "
T = TypeVar("T", int, float)
RAISED = 2  # Flower's code for a client app that raised; its name is not public


@dataclass(frozen=True)
class Offer:
    """What the server asks of a client."""

    codec: str
    version: int = VERSION

    def record(self) -> ConfigRecord:
        """Return the offer as it travels."""
        return ConfigRecord({"version": self.version, "codec": self.codec})

    @classmethod
    def find(cls, content: RecordDict) -> Self | None:
        """Return the offer in a message, or None if the server does not run the grid."""
        record = content.config_records.get(RECORD)
        if record is None:
            return None
        return cls(str(record.get("codec", "")), _number(record, "version", int))


@dataclass(frozen=True)
class Mark:
    """What a client says of its reply; -1 stands for a partition that the node does not know."""

    partition: int = -1
    raw_bytes: int = 0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0

    def record(self) -> ConfigRecord:
        """Return the mark as it travels."""
        return ConfigRecord(
            {
                "version": VERSION,
                "partition-id": self.partition,
                "raw-bytes": self.raw_bytes,
                "encode-seconds": self.encode_seconds,
                "decode-seconds": self.decode_seconds,
            }
        )

    @classmethod
    def find(cls, reply: Message) -> Self | None:
        """Return the mark of a reply, or None if the node does not run the mod."""
        if reply.has_error():
            return cls() if (reply.error.reason or "").startswith(MARK) else None
        record = reply.content.config_records.get(RECORD)
        if record is None or _number(record, "version", int) != VERSION:
            return None
        return cls(
            _number(record, "partition-id", int),
            _number(record, "raw-bytes", int),
            _number(record, "encode-seconds", float),
            _number(record, "decode-seconds", float),
        )


def error_reply(message: Message, reason: str) -> Message:
    """Return a reply that says, with the mark, why a client could not answer."""
    return Message(Error(RAISED, MARK + reason), reply_to=message)


def partition_of(context: Context) -> int:
    """Return the partition id that the node was started with, or -1."""
    partition = context.node_config.get("partition-id", -1)
    return partition if isinstance(partition, int) else -1


def without_record(content: RecordDict) -> RecordDict:
    """Return the records of a message without ours; the message may be shared and is not changed."""
    return RecordDict({key: record for key, record in content.items() if key != RECORD})


def _number(record: ConfigRecord, key: str, kind: type[T]) -> T:
    value = record.get(key, -1)
    return kind(value) if isinstance(value, int | float) else kind(-1)
