"""Replies that are lost, late, forged or garbage on their way: each costs one node one round."""

import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message, RecordDict
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from flowerpress import PressGrid, RunError
from flowerpress.federation.protocol import MARK, NEED_WHOLE, RECORD, Mark
from tests.federation.apps import client
from tests.federation.faults import (
    BAD,
    CODECS,
    GOOD,
    NODES,
    Damage,
    Watched,
    assert_in_step,
    assert_same_model,
    check_one_bad_round,
    damaging,
    forged,
    grid_of,
    mark_of,
    marked,
    remarked,
    repacked,
    starts,
    stock,
)
from tests.federation.local_grid import RAISED, LocalGrid

OTHER = "0" * 32  # the digest of nothing, the ticket of nobody


def envelope(**fields: Any) -> Damage:
    """Return what changes what a reply says of itself: Flower checks, and goes by, what stands beside it."""

    def damage(reply: Message) -> Message:
        reply.metadata.__dict__.update({f"_{name}": value for name, value in fields.items()})
        return reply

    return damage


def failing(code: int, reason: str) -> Damage:
    return lambda reply: Message(Error(code, reason), reply_to=reply)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "lost node": (failing(5, "Node Unavailable"), "^Node Unavailable$"),
    "without a reason": (failing(RAISED, ""), "^error 2$"),
    "another ticket": (marked(ticket=OTHER), f"expected a reply to the message '.*-3', found one to '{OTHER}'"),
    "no ticket": (marked(ticket=""), "found one to ''"),
    "a ticket that is a number": (marked(ticket=7), "found one to ''"),
    "another base": (
        marked(holds={"arrays": OTHER}),
        f"arrays: expected a reply that is based on .*, found one on '{OTHER}'",
    ),
    "to another message": (envelope(reply_to_message_id=OTHER), "expected a reply to, from and of the type"),
    "from another node": (envelope(src_node_id=GOOD[0]), r"expected a reply .*, 5, 'train'\), found .*, 71, 'train'\)"),
    "of another type": (envelope(message_type="query"), r"expected a reply .*'train'\), found .*'query'\)"),
    "no bundle": (repacked(lambda data: b""), r"bundle: expected b'FPB' and at least 16 bytes, found 0"),
    "cut short": (repacked(lambda data: data[:-1]), "bundle"),
    "a flipped bit": (repacked(lambda data: data[:60] + bytes([data[60] ^ 4]) + data[61:]), "bundle: chunk 0"),
    "no payloads": (repacked(lambda data: forged(data, lambda payload: b"")), "."),
    "payloads of zeros": (repacked(lambda data: forged(data, lambda payload: bytes(len(payload)))), "."),
    "payloads cut short": (repacked(lambda data: forged(data, lambda payload: payload[: len(payload) // 2])), "."),
    "payloads of noise": (repacked(lambda data: forged(data, np.random.default_rng(1).bytes(50).__add__)), "."),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("codec", CODECS[1:])
def test_a_damaged_reply_costs_its_node_that_round(damage: Damage, reason: str, codec: str, tmp_path: Path) -> None:
    inner = grid_of(tmp_path, damage=damaging(damage, 2))
    grid = PressGrid(inner, codec)
    check_one_bad_round(grid, reason, codec)
    assert_in_step(grid, inner)


@pytest.mark.parametrize("codec", CODECS)
def test_a_lost_reply(codec: str, tmp_path: Path) -> None:
    inner, strategy = grid_of(tmp_path, damage=damaging(lambda reply: None, 2)), Watched()
    grid = PressGrid(inner, codec)
    result = strategy.run(grid, timeout=0.1)
    assert strategy.valid == {1: list(NODES), 2: list(GOOD), 3: list(NODES)}
    assert [node.error for node in grid.exchanges[1].nodes if node.node == BAD] == ["no reply in time"]
    assert_same_model(result.arrays, stock((2, (BAD,))), codec)
    assert_in_step(grid, inner)


def replaying(*forge: str) -> Callable[[int, Message], Message]:
    """Return what sends BAD's first reply as its second; these fields of the mark are those of the second."""
    replies: list[dict[str, Any]] = []

    def replay(node: int, reply: Message) -> Message:
        if node == BAD:
            replies.append(dict(reply.content.items()))
        if node == BAD and len(replies) == 2:
            old, new = (mark_of(RecordDict(content)) for content in replies)
            mark = msgspec.structs.replace(old, **{name: getattr(new, name) for name in forge})
            reply.content = RecordDict({**replies[0], RECORD: mark.record()})
        return reply

    return replay


@pytest.mark.parametrize(
    ("forge", "reason"),
    [
        ((), "refused: expected a reply to the message '.*-3', found one to '.*-1'"),
        (("ticket",), "refused: arrays: expected a reply that is based on .*, found one on '"),
    ],
)
@pytest.mark.parametrize("codec", CODECS)
def test_a_replayed_reply(forge: tuple[str, ...], reason: str, codec: str, tmp_path: Path) -> None:
    inner = grid_of(tmp_path, damage=replaying(*forge))
    grid = PressGrid(inner, codec)
    check_one_bad_round(grid, reason, codec)
    assert_in_step(grid, inner)


@pytest.mark.parametrize("codec", CODECS)
def test_a_replay_with_all_of_the_mark_forged_is_one_more_opinion(codec: str, tmp_path: Path) -> None:
    """Nobody can tell; it has the right shapes, is finite and not too large."""
    inner, strategy = grid_of(tmp_path, damage=replaying("ticket", "holds")), Watched()
    grid = PressGrid(inner, codec)
    result = strategy.run(grid)
    assert all(np.isfinite(array.numpy()).all() for array in result.arrays.values())
    assert strategy.valid[3] == list(NODES)
    assert_in_step(grid, inner)


def test_a_reply_of_another_run(tmp_path: Path) -> None:
    kept: list[RecordDict] = []

    def keep(reply: Message) -> Message:
        kept.append(RecordDict(dict(reply.content.items())))
        return reply

    def replace(reply: Message) -> Message:
        reply.content = kept[0]
        return reply

    Watched().run(PressGrid(grid_of(tmp_path / "one", damage=damaging(keep, 2))))
    inner = grid_of(tmp_path / "two", damage=damaging(replace, 2))
    grid = PressGrid(inner)
    check_one_bad_round(grid, "refused: expected a reply to the message '.*-3', found one to '.*-3'")
    assert_in_step(grid, inner)


FIGURES = ("distortion", "encode_seconds", "decode_seconds")
MARKS: dict[str, dict[str, Any]] = {
    "no records": {"holds": {}},
    "records that nobody sent": {"holds": {str(i): OTHER for i in range(1000)}},
    "NaN": dict.fromkeys(FIGURES, math.nan),
    "infinity": dict.fromkeys(FIGURES, -math.inf),
    "large numbers": dict.fromkeys(("raw_bytes", *FIGURES), 2**63 - 1),
    "numbers whose sum is infinite": dict.fromkeys(FIGURES, 1.7e308),
    "small numbers": dict.fromkeys(("raw_bytes", "partition", *FIGURES), -(2**63)),
}


@pytest.mark.parametrize("fields", MARKS.values(), ids=MARKS)
def test_a_strange_mark(fields: dict[str, Any], tmp_path: Path) -> None:
    """What the server makes of it costs at most that the node is sent its next message whole."""
    inner, strategy = grid_of(tmp_path, damage=damaging(marked(**fields), 2)), Watched()
    grid = PressGrid(inner)
    result = strategy.run(grid)
    assert all(set(nodes) == set(NODES) for nodes in strategy.valid.values())
    assert_same_model(result.arrays, stock())
    assert_in_step(grid, inner)
    assert all(json.dumps(exchange.row(), allow_nan=False) for exchange in grid.exchanges)
    assert all(exchange.line() for exchange in grid.exchanges)
    assert [start != "" for start in starts(inner, BAD)] == [False, True, "holds" not in fields]


def raw(data: Any) -> Damage:
    """Return what puts this in the place of the bytes of a mark."""
    return remarked(lambda mark: data)


def values_of(mark: Mark) -> list[Any]:
    return list(msgspec.structs.astuple(mark))


def packed(*values: Any) -> bytes:
    return msgspec.msgpack.encode(values)


UNREADABLE: dict[str, Damage] = {
    "no bytes": raw(b""),
    "a text": raw("mark"),
    "a number": raw(7),
    "a list of bytes": raw([b"\x97"]),
    "noise": raw(bytes(range(256))),
    "cut short": remarked(lambda mark: packed(*values_of(mark))[:-1]),
    "trailing bytes": remarked(lambda mark: packed(*values_of(mark)) + b"\x00"),
    "one field more": remarked(lambda mark: packed(*values_of(mark), 1)),
    "named fields": remarked(lambda mark: msgspec.msgpack.encode(msgspec.structs.asdict(mark))),
    "no array": raw(b"\x07"),
    "lists without end": raw(b"\x91" * 1_000_000),
    "maps without end": raw(b"\x81\xa1a" * 1_000_000),
    "as many records as there are": raw(b"\x97\xff\xa0\xdf\xff\xff\xff\xff"),
    "a ticket of 4 GiB": raw(b"\x97\xff\xdb\xff\xff\xff\xff"),
    "a ticket that is no text": raw(b"\x97\xff\xa2\xff\xfe\x80\x00\xca\x00\x00\x00\x00"),
    "a number for records": marked(holds=5),
    "numbers for digests": marked(holds={"arrays": 1}),
    "a text for digests": marked(holds="all"),
    "a partition that is none": marked(partition=math.nan),
    "bytes for everything": raw(packed(*[b"\xff"] * 7)),
    "an extension": raw(packed(msgspec.msgpack.Ext(5, b"?"))),
    "nothing for everything": raw(packed(*[None] * 7)),
}


@pytest.mark.parametrize("damage", UNREADABLE.values(), ids=UNREADABLE)
def test_a_mark_that_cannot_be_read(damage: Damage, tmp_path: Path) -> None:
    inner = grid_of(tmp_path, damage=damaging(damage, 2))
    grid = PressGrid(inner)
    check_one_bad_round(grid, "refused: expected a reply to the message '.*-3', found one to ''")
    assert_in_step(grid, inner)


def test_a_reason_is_short_whatever_a_mark_says(tmp_path: Path) -> None:
    inner, strategy = grid_of(tmp_path, damage=damaging(marked(ticket="?" * 10**6), 2)), Watched()
    strategy.run(PressGrid(inner))
    assert len(strategy.errors[2][BAD]) < 1100


def test_a_mark_beside_fields_that_nobody_knows(tmp_path: Path) -> None:
    fields = {f"field {i}": [i] * 50 for i in range(50)}
    damage = remarked(lambda mark: packed(*values_of(mark)), **fields)
    inner, strategy = grid_of(tmp_path, damage=damaging(damage, 2)), Watched()
    assert_same_model(strategy.run(PressGrid(inner)).arrays, stock())
    assert not any(strategy.errors.values())


@pytest.mark.parametrize("version", [0, 9, "1", [1]])
def test_a_mark_of_another_version_is_that_of_a_plain_node(version: Any, tmp_path: Path) -> None:
    inner, strategy = (
        grid_of(tmp_path, damage=damaging(remarked(lambda mark: mark.record()["mark"], version=version), 2)),
        Watched(),
    )
    grid = PressGrid(inner)
    assert_same_model(strategy.run(grid).arrays, stock())
    assert [start if start == "plain" else bool(start) for start in starts(inner, BAD)] == [False, True, *["plain"] * 2]
    assert_in_step(grid, inner, GOOD)


def test_the_base_that_a_node_claims_is_the_one_it_is_not_sent_differences_to(tmp_path: Path) -> None:
    inner = grid_of(tmp_path, damage=damaging(marked(holds={"arrays": OTHER}), 2))
    Watched().run(PressGrid(inner))
    assert [bool(start) for start in starts(inner, BAD)] == [False, True, False]
    assert [bool(start) for start in starts(inner, GOOD[0])] == [False, True, True]


@pytest.mark.parametrize("codec", CODECS)
def test_a_node_that_answers_need_whole_for_ever(codec: str, tmp_path: Path) -> None:
    """It is sent a whole model once a round, and is an error reply."""
    inner = grid_of(tmp_path, damage=damaging(failing(RAISED, f"{MARK}{NEED_WHOLE}more"), *range(2, 99)))
    grid, strategy = PressGrid(inner, codec), Watched()
    result = strategy.run(grid, 4)
    assert all(strategy.errors[number] == {BAD: f"{MARK}{NEED_WHOLE}more"} for number in (2, 3, 4))
    assert [bool(start) for start in starts(inner, BAD)] == [False, True, False, False, False]
    assert_same_model(result.arrays, stock(*((number, (BAD,)) for number in (2, 3, 4)), rounds=4), codec)
    assert_in_step(grid, inner, GOOD)


class Untidy(LocalGrid):
    """A grid on which the reply of BAD to its second message comes in another way."""

    def __init__(self, folder: Path, change: Callable[[list[Message]], Iterable[Message]]) -> None:
        super().__init__({node: client() for node in NODES}, caches=folder)
        self.change, self.count = change, 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        self.count += BAD in [reply.metadata.src_node_id for reply in replies]
        second = self.count == 2 and replies and replies[0].metadata.src_node_id == BAD
        return self.change(replies) if second else replies


def test_a_reply_that_comes_twice(tmp_path: Path) -> None:
    inner, strategy = Untidy(tmp_path, lambda replies: [*replies, *replies]), Watched()
    grid = PressGrid(inner)
    result = strategy.run(grid)
    assert strategy.valid == {number: list(NODES) for number in (1, 2, 3)}
    assert_same_model(result.arrays, stock())
    assert_in_step(grid, inner)


OBJECTS = {
    "nothing": b"",
    "no head": b"whatisthis",
    "an unknown class": b"Nobody  0\x00",
    "no message": ArrayRecord().deflate(),
    "neither content nor error": b"Message  0\x00",
    "no protobuf": b"Message  4\x00\xff\xff\xff\xff",
}


@pytest.mark.parametrize("data", OBJECTS.values(), ids=OBJECTS)
def test_a_reply_that_flower_cannot_make_a_message_of(data: bytes, tmp_path: Path) -> None:
    """A node decides on its bytes, and Flower's grid raises what comes of them when the server pulls the reply."""

    def inflate(replies: list[Message]) -> list[Message]:
        message: Any = inflate_object_from_contents("id", {"id": data})
        message.metadata.__dict__["_message_id"] = "id"
        return [message]

    inner = Untidy(tmp_path, inflate)
    grid = PressGrid(inner)
    check_one_bad_round(grid, "^Flower cannot read the reply: .*Error")
    assert_in_step(grid, inner)


def test_a_grid_that_is_down_is_no_reply(tmp_path: Path) -> None:
    def down(replies: list[Message]) -> list[Message]:
        raise ConnectionError("the SuperLink is gone")

    with pytest.raises(ConnectionError, match="gone"):
        Watched().run(PressGrid(Untidy(tmp_path, down)))


@pytest.mark.parametrize(
    "not_taken", [lambda ids: [None, *ids[1:]], lambda ids: ["", *ids[1:]], lambda ids: []], ids=["None", "''", "all"]
)
def test_messages_that_flower_does_not_take(not_taken: Callable[[list[str]], list[str]], tmp_path: Path) -> None:
    inner, strategy, pushes = grid_of(tmp_path), Watched(), []
    push = inner.push_messages

    def second(messages: Iterable[Message]) -> list[str]:
        ids = list(push(messages))
        pushes.extend([ids] if ids else [])  # there are none to evaluate
        return not_taken(ids) if ids and len(pushes) == 2 else ids

    inner.push_messages = second  # type: ignore[method-assign]
    grid = PressGrid(inner)
    result = strategy.run(grid)
    lost = {node.node for node in grid.exchanges[1].nodes if node.error == "Flower did not take its message"}
    assert len(lost) == 3 - len(strategy.valid[2])
    assert bool(grid.exchanges[1].failed) == (len(lost) == 3)
    assert_same_model(result.arrays, stock((2, tuple(sorted(lost)))))


def test_a_run_whose_messages_are_never_taken_ends(tmp_path: Path) -> None:
    inner = grid_of(tmp_path)
    inner.push_messages = lambda messages: []  # type: ignore[method-assign]
    with pytest.raises(RunError, match="node 5: Flower did not take its message; node 71"):
        Watched().run(PressGrid(inner))
