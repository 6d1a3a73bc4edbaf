"""What an exchange of messages cost: bytes on the wire and raw, seconds of coding, per node and in all."""

from dataclasses import dataclass, field
from math import prod

from flwr.app import Array, RecordDict

from flowerpress.chunks.bundle import Clock
from flowerpress.codecs.dtypes import numpy_dtype
from flowerpress.errors import ConfigError
from flowerpress.federation.protocol import Mark
from flowerpress.records import LatentArray


@dataclass(frozen=True)
class NodeMetrics:
    """One node's part of an exchange: ``down`` is what it was sent, ``up`` what it replied, in bytes of array data."""

    node: int
    mark: Mark
    down_bytes: int
    down_raw_bytes: int
    up_bytes: int = 0
    error: str = ""
    clocks: tuple[Clock, ...] = ()

    def row(self) -> dict[str, int | float | str]:
        """Return the figures by name; the server's decoding counts what was decoded up to now."""
        return {
            "node": self.node,
            "partition": self.mark.partition,
            "down-bytes": self.down_bytes,
            "down-raw-bytes": self.down_raw_bytes,
            "up-bytes": self.up_bytes,
            "up-raw-bytes": self.mark.raw_bytes,
            "client-encode-seconds": self.mark.encode_seconds,
            "client-decode-seconds": self.mark.decode_seconds,
            "server-decode-seconds": sum(clock.seconds for clock in self.clocks),
            "error": self.error,
        }


@dataclass
class Exchange:
    """One round trip: all nodes that were sent a message of one type and what came of it."""

    message_type: str
    server_round: int
    nodes: list[NodeMetrics] = field(default_factory=list)
    encode_seconds: float = 0.0
    seconds: float = 0.0

    def row(self) -> dict[str, object]:
        """Return sums over the nodes, then the nodes."""
        rows = [node.row() for node in self.nodes]

        def total(name: str) -> int | float:
            return sum(value for row in rows if not isinstance(value := row[name], str))

        names = ("down-bytes", "down-raw-bytes", "up-bytes", "up-raw-bytes")
        return {
            "type": self.message_type,
            "round": self.server_round,
            "replies": sum(not node.error for node in self.nodes),
            "failures": sum(bool(node.error) for node in self.nodes),
            **{name: total(name) for name in names},
            "encode-seconds": self.encode_seconds + total("client-encode-seconds"),
            "decode-seconds": total("server-decode-seconds") + total("client-decode-seconds"),
            "seconds": self.seconds,
            "nodes": rows,
        }


def arrays_of(content: RecordDict) -> list[Array]:
    """Return the arrays of all records of a message."""
    return [array for record in content.array_records.values() for array in record.values()]


def wire_bytes(content: RecordDict) -> int:
    """Return the bytes of array data that a pressed or plain message carries."""
    return sum(len(array.data) for array in arrays_of(content))


def raw_bytes(content: RecordDict) -> int:
    """Return the bytes of the arrays of a message as they lie in memory, without decoding them."""
    return sum(map(_nbytes, arrays_of(content)))


def clocks(content: RecordDict) -> tuple[Clock, ...]:
    """Return what measures the decoding of the records of a message."""
    bundles = {id(a.bundle): a.bundle for a in arrays_of(content) if isinstance(a, LatentArray)}
    return tuple(bundle.clock for bundle in bundles.values())


def decode_seconds(content: RecordDict) -> float:
    """Return the seconds spent so far on decoding the records of a message."""
    return sum(clock.seconds for clock in clocks(content))


def _nbytes(array: Array) -> int:
    if isinstance(array, LatentArray):
        return array.spec.nbytes
    try:
        return prod(array.shape) * numpy_dtype(array.dtype).itemsize
    except ConfigError:
        return len(array.data)
