"""What an exchange of messages cost: bytes on the wire and raw, seconds of coding, per node and in all."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict

from flowerpress.chunks.bundle import Clock
from flowerpress.codecs.dtypes import ArrayLike, Host, dtype_name, is_float, numpy_dtype, to_host
from flowerpress.errors import ConfigError
from flowerpress.federation.protocol import Mark, records_of
from flowerpress.jsons import dumps
from flowerpress.records import LatentArray

_BLOCK = 1 << 17


@dataclass(frozen=True)
class NodeMetrics:
    """One node's part of an exchange: what it was sent, ``down``, and replied, ``up``, in bytes of Flower objects.

    ``ticket`` is that of the message; "" for one that went out plain.
    """

    node: int
    mark: Mark
    ticket: str = ""
    down_bytes: int = 0
    down_raw_bytes: int = 0
    down_distortion: float = 0.0
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
            "down-distortion": self.down_distortion,
            "up-distortion": self.mark.distortion,
            "client-encode-seconds": self.mark.encode_seconds,
            "client-decode-seconds": self.mark.decode_seconds,
            "server-decode-seconds": sum(clock.seconds for clock in self.clocks),
            "error": self.error,
        }


@dataclass
class Exchange:
    """One round trip: all nodes that were sent a message of one type and what came of it.

    ``failed`` says why the round had too few valid replies, and is empty if it had enough.
    """

    message_type: str
    server_round: int
    nodes: list[NodeMetrics] = field(default_factory=list)
    encode_seconds: float = 0.0
    seconds: float = 0.0
    failed: str = ""

    @property
    def ratio(self) -> float:
        """Raw bytes over bytes sent, both directions; 1 if nothing was sent."""
        sent = sum(node.down_bytes + node.up_bytes for node in self.nodes)
        return sum(node.down_raw_bytes + node.mark.raw_bytes for node in self.nodes) / sent if sent else 1.0

    def row(self) -> dict[str, object]:
        """Return sums over the nodes, then the nodes."""
        rows = [node.row() for node in self.nodes]

        def total(name: str) -> int | float:
            return sum(value for row in rows if not isinstance(value := row[name], str))

        return {
            "type": self.message_type,
            "round": self.server_round,
            "replies": sum(not node.error for node in self.nodes),
            "failures": sum(bool(node.error) for node in self.nodes),
            "failed": self.failed,
            **{name: total(name) for name in ("down-bytes", "down-raw-bytes", "up-bytes", "up-raw-bytes")},
            "ratio": self.ratio,
            "distortion": max((node.mark.distortion for node in self.nodes), default=0.0),
            "encode-seconds": self.encode_seconds + total("client-encode-seconds"),
            "decode-seconds": total("server-decode-seconds") + total("client-decode-seconds"),
            "seconds": self.seconds,
            "nodes": rows,
        }

    def line(self) -> str:
        """Return the exchange as one line for a person."""
        failures = sum(bool(node.error) for node in self.nodes)
        down, up = sum(node.down_bytes for node in self.nodes), sum(node.up_bytes for node in self.nodes)
        line = (
            f"round {self.server_round} {self.message_type}: {len(self.nodes) - failures} replies, "
            f"{failures} failures, sent {_megabytes(down)} down and {_megabytes(up)} up, "
            f"{self.ratio:.1f}x less than raw, {self.seconds:.1f} s"
        )
        return f"{line}; failed: {self.failed}" if self.failed else line


Log = Callable[[Exchange], None]


def log_to(path: str | Path) -> Log:
    """Return what appends each exchange to a file, as a line of JSON."""

    def write(exchange: Exchange) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("a") as file:
            file.write(dumps(exchange.row()) + "\n")

    return write


def distortion(meant: Mapping[str, ArrayLike], decoded: Mapping[str, Host], bases: Mapping[str, ArrayLike]) -> float:
    """Return the L2 norm of what a codec dropped over that of what there was to say.

    That is the difference to the reference, where there is one of the same shape, else the array; floats only.
    """
    dropped = said = 0.0
    for key, array in meant.items():
        x = to_host(array)
        if is_float(dtype_name(x)):
            base = to_host(bases[key]) if key in bases else np.zeros((), x.dtype)
            said += squared_distance(x, base if base.shape == x.shape else np.zeros((), x.dtype))
            dropped += squared_distance(x, decoded[key])
    return math.sqrt(dropped / said) if said else 0.0


def squared_distance(x: Host, y: Host) -> float:
    """Return the sum of the squared differences, in float64, a block at a time; inf where it is too large."""
    x, y = x.reshape(-1), np.broadcast_to(y.reshape(-1), x.size)
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, x.size, _BLOCK):
            d = np.subtract(x[start : start + _BLOCK], y[start : start + _BLOCK], dtype=np.float64)
            total += float(np.einsum("i,i->", d, d))  # not d @ d: for so few values BLAS spends its time on threads
    return total


def arrays_of(content: RecordDict) -> list[Array]:
    """Return the arrays of all records of a message."""
    return [array for record in records_of(content, ArrayRecord).values() for array in record.values()]


def object_bytes(thing: Message | RecordDict) -> int:
    """Return the bytes of a message, or of its content: of all Flower objects that it is made of, equal ones once."""
    waiting, seen, total = list[Any]([thing]), set[str](), 0
    while waiting:
        found = waiting.pop()
        total += len(found.deflate())
        children = {i: child for i, child in (found.children or {}).items() if i not in seen}
        seen |= children.keys()
        waiting += children.values()
    return total


def raw_bytes(content: RecordDict) -> int:
    """Return the bytes of the arrays of a message as they lie in memory, without decoding them."""
    return sum(map(_nbytes, arrays_of(content)))


def clocks(content: RecordDict) -> tuple[Clock, ...]:
    """Return what measures the decoding of the records of a message."""
    bundles = {id(a.bundle): a.bundle for a in arrays_of(content) if isinstance(a, LatentArray)}
    return tuple(bundle.clock for bundle in bundles.values())


def _nbytes(array: Array) -> int:
    if isinstance(array, LatentArray):
        return array.spec.nbytes
    try:
        return prod(array.shape) * numpy_dtype(array.dtype).itemsize
    except ConfigError:
        return len(array.data)


def _megabytes(n: float) -> str:
    return f"{n / 1e6:.3g} MB"
