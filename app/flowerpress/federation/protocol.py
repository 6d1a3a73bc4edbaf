"""What grid and mod say to each other, in one reserved ConfigRecord of each message.

::

    server ──► client   "flowerpress": version, offer   what to press replies with; what each record was coded against,
                                                        and becomes; which of the node's replies was accepted last
    client ──► server   "flowerpress": version, mark    what it replies to, what it holds now, what pressing took

Both are msgpack arrays, in the order of the fields of `Offer` and `Mark`; small messages are folded (see `fold`).

An error reply has no records: there the mark stands at the beginning of the reason. A reply without the mark comes from
a node that does not run the mod. A node that lacks what a record was coded against says so in an error reply, and gets
the record whole.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self, TypeVar

import msgspec
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from flowerpress.errors import ChunkError, FlowerpressError

VERSION = 1
RECORD = "flowerpress"
MARK = "[flowerpress] "
NEED_WHOLE = "need-whole: "
_MARK = "mark"
_REFUSED = "refused: "
_LONG = 1000  # characters of a reason
_LARGE = 1e15  # so that sums of figures are finite
RAISED = 2  # Flower's code for a client app that raised; its name is not public
M = TypeVar("M", bound=msgspec.Struct)
V = TypeVar("V")
R = TypeVar("R", ArrayRecord, ConfigRecord, MetricRecord)


class NeedWhole(FlowerpressError):
    """A node cannot decode a record because it lacks, or disagrees on, the reference; it has to be sent whole."""


class Step(NamedTuple):
    """From which reference to which a record leads: digests of what both ends hold before and after; "" for nothing."""

    start: str
    to: str


class Offer(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What the server asks of a client; the ticket comes back with the reply, which it makes the reply to this.

    ``accepted`` are the tickets of the node's training replies that became part of the model, or may still, ``refused``
    is one that never will; with ``feedback`` the node keeps what its codec drops, and adds it to its next update.
    """

    codec: str
    ticket: str = ""
    steps: dict[str, Step] = {}
    feedback: bool = False
    accepted: tuple[str, ...] = ()
    refused: str = ""
    version: int = VERSION  # of the sender

    def record(self) -> ConfigRecord:
        """Return the offer as it travels."""
        return ConfigRecord({"version": self.version, "offer": msgspec.msgpack.encode(self)})

    @classmethod
    def find(cls, content: RecordDict) -> Self | None:
        """Return the offer in a message, or None if the server does not run the grid.

        That of a server of another version may be empty; ChunkError if one of this version is damaged.
        """
        record = records_of(content, ConfigRecord).get(RECORD)
        if record is None:
            return None
        version = record.get("version", -1)
        if version != VERSION:
            return cls("", version=version if isinstance(version, int) else -1)
        if (found := _decoded(record.get("offer"), cls)) is None:
            raise ChunkError(f"message: expected an offer of version {VERSION}, found other bytes")
        return found


class Mark(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What a client says of its reply; -1 stands for a partition that the node does not know.

    ``holds`` are the digests of what the node holds now, by the name of the record; ``distortion`` is the L2 norm of
    what the codec dropped over that of what there was to say: the update, or the arrays where there is no reference.
    """

    partition: int = -1
    ticket: str = ""
    holds: dict[str, str] = {}
    raw_bytes: int = 0
    distortion: float = 0.0
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0

    def record(self) -> ConfigRecord:
        """Return the mark as it travels."""
        return ConfigRecord({"version": VERSION, _MARK: msgspec.msgpack.encode(self)})

    @classmethod
    def find(cls, reply: Message) -> Self | None:
        """Return the mark of a reply, or None if the node does not run the mod; one that is damaged is empty."""
        if reply.has_error():
            return cls() if (reply.error.reason or "").startswith(MARK) else None
        record = records_of(reply.content, ConfigRecord).get(RECORD)
        if record is None or record.get("version") != VERSION or _MARK not in record:  # some apps return our offer
            return None
        mark = _decoded(record.get(_MARK), cls) or cls()
        return msgspec.structs.replace(
            mark,
            distortion=_figure(mark.distortion),
            encode_seconds=_figure(mark.encode_seconds),
            decode_seconds=_figure(mark.decode_seconds),
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


def refusal(reason: str) -> Error:
    """Return the error that a strategy sees in the place of a reply; a peer may have put anything into its reason."""
    return Error(RAISED, f"{MARK}{_REFUSED}{reason[:_LONG]}")


def is_refusal(reason: str) -> bool:
    """Tell whether a reply was refused by the server."""
    return reason.startswith(MARK + _REFUSED)


def whole_wanted(reply: Message) -> bool:
    """Tell whether a node lacks what it was sent differences to."""
    return reply.has_error() and (reply.error.reason or "").startswith(MARK + NEED_WHOLE)


def reference_of(name: str, references: Mapping[str, V]) -> V | None:
    """Return what a record of a reply is coded against: what came under its name, or the only one that came."""
    only = next(iter(references.values())) if len(references) == 1 else None
    return references.get(name, only)


def ticket_of(server: str, push: int) -> str:
    """Return the ticket of a push of the server with this name."""
    return f"{server}-{push}"


def same_server(ticket: str, other: str) -> bool:
    """Tell whether one server gave out both tickets."""
    return ticket.rpartition("-")[0] == other.rpartition("-")[0]


def later(*tickets: str) -> str:
    """Return the ticket, of some of one server, that was given out last."""
    return max(tickets, key=lambda ticket: int(ticket.rpartition("-")[2] or 0))


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


def _figure(x: float) -> float:
    """Return a figure that a peer tells; -1 for what cannot be one."""
    return x if 0 <= x <= _LARGE else -1.0


def _decoded(data: object, kind: type[M]) -> M | None:
    """Return what a peer encoded, checked; None for anything else."""
    try:
        return msgspec.msgpack.decode(data, type=kind) if isinstance(data, bytes) else None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
