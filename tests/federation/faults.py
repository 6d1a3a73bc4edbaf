"""What goes wrong between a server and its nodes, made to order, and what must be right all the same."""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from flowerpress import PressGrid
from flowerpress.federation.protocol import RECORD, VERSION, Mark, Offer
from flowerpress.federation.store import Store
from flowerpress.wire import KEY, PRESSED
from tests.bundles import Parts
from tests.federation.apps import client, initial
from tests.federation.local_grid import RAISED, LocalGrid

LOSSLESS = ("zstd", "intdelta | zstd")
LOSSY = "delta | quantize(step=0.01) | entropy"
CODECS = (*LOSSLESS, LOSSY)
BAD, *GOOD = NODES = (5, 71, 930)  # the first: a node without the mod has no partition id, and is sorted before others
ROUNDS = 3

Spoil = Callable[[RecordDict], object]
Damage = Callable[[Message], Message | None]
Failing = tuple[int, tuple[int, ...]]  # a round, and the nodes that fail in it; () for all


class Watched(FedAvg):
    """FedAvg that remembers who replied, with what errors, by round; and has something happen before some rounds."""

    def __init__(self, events: Mapping[int, Callable[[], object]] | None = None, **options: Any) -> None:
        super().__init__(**{"fraction_evaluate": 0.0, **options})
        self.events = events or {}
        self.errors: dict[int, dict[int, str]] = {}
        self.valid: dict[int, list[int]] = {}

    def configure_train(self, server_round: int, *args: Any) -> Iterable[Message]:
        self.events.get(server_round, int)()
        return super().configure_train(server_round, *args)

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        replies = list(replies)
        self.errors[server_round] = {r.metadata.src_node_id: r.error.reason for r in replies if r.has_error()}
        self.valid[server_round] = [r.metadata.src_node_id for r in replies if not r.has_error()]
        return super().aggregate_train(server_round, replies)

    def run(self, grid: Grid, rounds: int = ROUNDS, timeout: float = 60) -> Result:
        return self.start(grid=grid, initial_arrays=initial(), num_rounds=rounds, timeout=timeout)


def spoiled(spoil: Spoil, *, rounds: Iterable[int] = (2,), pressed: bool = True) -> ClientApp:
    """Return a client whose answers are bad in some rounds, as an app would make them: before they are pressed."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        number = message.content.config_records["config"]["server-round"]
        reply = call_next(message, context)
        if number in rounds:
            spoil(reply.content)
        return reply

    return client(pressed=pressed, mods=[mod])


def damaging(damage: Damage, *numbers: int) -> Callable[[int, Message], Message | None]:
    """Return what damages some of the replies of BAD, which are counted from 1, on their way."""
    count = 0

    def damaged(node: int, reply: Message) -> Message | None:
        nonlocal count
        count += node == BAD
        return damage(reply) if node == BAD and count in numbers else reply

    return damaged


def grid_of(folder: Path, apps: Mapping[int, ClientApp] | None = None, **options: Any) -> LocalGrid:
    """Return a grid of machines with caches of their own; nodes without an app in ``apps`` are good ones."""
    return LocalGrid({node: client() for node in NODES} | dict(apps or {}), caches=folder, **options)


@cache
def stock(*failing: Failing, rounds: int = ROUNDS) -> ArrayRecord:
    """Return the model of stock Flower, where some nodes fail in some rounds."""
    count = dict.fromkeys(NODES, 0)

    def fail(node: int, reply: Message) -> Message:
        count[node] += 1
        fails = any(number == count[node] and node in (nodes or NODES) for number, nodes in failing)
        return Message(Error(RAISED, "bad"), reply_to=reply) if fails else reply

    inner = LocalGrid({node: client(pressed=False) for node in NODES}, damage=fail)
    return Watched().run(inner, rounds).arrays


def check_one_bad_round(grid: PressGrid, reason: str, codec: str = "zstd") -> None:
    """Run three rounds; the second reply of BAD is refused, which costs nobody else anything, and nobody later."""
    strategy = Watched()
    result = strategy.run(grid)
    assert set(strategy.errors[2]) == {BAD}
    assert re.search(reason, strategy.errors[2][BAD]), strategy.errors[2][BAD]
    assert strategy.errors[1] == strategy.errors[3] == {}
    assert strategy.valid == {1: list(NODES), 2: list(GOOD), 3: list(NODES)}
    assert [exchange.row()["failures"] for exchange in grid.exchanges] == [0, 1, 0]
    assert_same_model(result.arrays, stock((2, (BAD,))), codec)


def assert_same_model(found: ArrayRecord, expected: ArrayRecord, codec: str = "zstd") -> None:
    """Compare floats by bits, integers by value; and what a lossy codec gives, with a few of its steps to spare."""
    assert list(found) == list(expected)
    for key, first in initial().items():
        x, y = found[key].numpy(), expected[key].numpy()
        if codec == LOSSY:
            assert x.shape == y.shape
            assert np.abs(x - y).max() < 0.05, key
        elif first.dtype == "float32":
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), key
        else:
            assert np.array_equal(x, y), key


def assert_in_step(grid: PressGrid, inner: LocalGrid, nodes: Iterable[int] = NODES) -> None:
    """Check that nodes hold what the server believes that they do, bit by bit, and that both can read it."""
    for node in nodes:
        digest = grid.held(node)
        assert digest == holds(inner, node) != ""
        theirs, ours = store_of(inner, node).get(digest), Store().get(digest)
        assert theirs is not None
        assert ours is not None
        assert list(theirs) == list(ours)
        for key in ours:
            x, y = theirs[key], ours[key]
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def holds(inner: LocalGrid, node: int) -> str:
    """Return what a node itself remembers to hold of the model."""
    record = inner.contexts[node].state.config_records[RECORD]
    return dict(zip(record["records"], record["holds"], strict=True))["arrays"]  # type: ignore[arg-type]


def store_of(inner: LocalGrid, node: int) -> Store:
    with inner.machine(node):
        return Store()


def starts(inner: LocalGrid, node: int) -> list[str]:
    """Return what the messages to a node, one after another, were differences to; "" for whole ones."""
    offers = [Offer.find(m.content) for m in inner.sent if m.metadata.dst_node_id == node]
    return [offer.steps["arrays"].start if offer else "plain" for offer in offers]


def mark_of(content: RecordDict) -> Mark:
    """Return the mark in the unfolded content of a reply."""
    return msgspec.msgpack.decode(content.config_records[RECORD]["mark"], type=Mark)  # type: ignore[arg-type]


def marked(**fields: Any) -> Damage:
    """Return what writes something else into the mark of a reply, of any type."""
    return remarked(lambda mark: msgspec.msgpack.encode(msgspec.structs.replace(mark, **fields)))


def remarked(change: Callable[[Mark], Any], **beside: Any) -> Damage:
    """Return what puts something else in the place of the mark of a reply, and beside it."""

    def damage(reply: Message) -> Message:
        reply.content[RECORD] = ConfigRecord({"version": VERSION, "mark": change(mark_of(reply.content)), **beside})
        return reply

    return damage


def repacked(change: Callable[[bytes], bytes]) -> Damage:
    """Return what changes the bundle in a reply."""

    def damage(reply: Message) -> Message:
        record = reply.content.array_records["arrays"]
        data = change(record[KEY].data)
        record[KEY] = Array("uint8", (len(data),), PRESSED, data)
        return reply

    return damage


def forged(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Change the payloads of a bundle, and make all digests and lengths right again, as a hostile node can."""
    parts = Parts.of(data)
    parts.chunks = [(header, change(payload)) for header, payload in parts.chunks]
    parts.agree()
    return parts.bundle()
