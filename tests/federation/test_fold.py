"""Small messages in one record: what comes out is what went in, and nothing else is believed."""

from collections.abc import Callable
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from flowerpress import ChunkError, LatentRecord, PressGrid
from flowerpress.federation.fold import MOST, fold, unfold
from flowerpress.federation.protocol import MARK, RECORD, Mark
from flowerpress.wire import KEY, PRESSED, press
from tests.federation.apps import client, initial
from tests.federation.faults import BAD, GOOD, NODES, assert_in_step, check_one_bad_round, grid_of
from tests.federation.local_grid import LocalGrid, wire

CONFIG, METRICS, ARRAYS = range(3)
Entries = list[Any]


def content(**records: Any) -> RecordDict:
    return RecordDict({**records, RECORD: Mark(ticket="t").record()})


def encoded(entries: Entries) -> bytes:
    return msgspec.msgpack.encode(entries)


def folded(data: Any, **beside: Any) -> RecordDict:
    return RecordDict({RECORD: ConfigRecord({"folded": data, **beside})})


def assert_same(found: RecordDict, expected: RecordDict) -> None:
    assert list(found) == list(expected)
    for name, record in expected.items():
        assert type(found[name]) is type(record)
        assert dict(found[name].items()) == dict(record.items())


def test_any_records() -> None:
    values = {"i": -(2**63), "f": 0.1, "s": "ä\0", "b": b"\xff\0", "t": True, "e": [], "l": [1, 2], "n": 2**63 - 1}
    expected = content(
        **{
            "": ConfigRecord(),
            "config": ConfigRecord(values | {"texts": ["", "b"], "flags": [True, False], "bytes": [b"", b"1"]}),
            "metrics": MetricRecord({"loss": 1.5, "infinite": -np.inf, "counts": [1, 2], "floats": [1.0, 2.0]}),
            "arrays": press(LatentRecord(initial())),
            "none": ArrayRecord(),
        }
    )
    assert_same(unfold(fold(expected)), expected)
    assert list(fold(expected)) == [RECORD]


def test_fewer_objects_and_bytes() -> None:
    LocalGrid({})  # a Message needs to know whose task it is
    plain = content(config=ConfigRecord({"lr": 0.1}), arrays=press(LatentRecord(initial())))
    (_, before), (_, after) = (wire(Message(c, 5, "train")) for c in (plain, fold(plain)))
    assert after < before - 400


def test_large_messages_and_arrays_beside_a_bundle_travel_as_they_are() -> None:
    noise = np.random.default_rng(0).integers(0, 256, MOST, np.uint8)
    other = ArrayRecord()
    other["own"] = Array("uint8", (1,), "somebody's own", b"1")
    for record in (press(LatentRecord([noise])), other, initial()):
        whole = content(arrays=record)
        assert fold(whole) is whole
        assert unfold(whole) is whole


class Level(IntEnum):
    HIGH = 3


class Name(StrEnum):
    ADAM = "adam"


def test_values_that_flower_takes_for_plain_ones() -> None:
    """Metrics are often ``numpy.float64``, which is a float: Flower sends what it stands for, and so do we."""
    values = {"f": np.float64(1.5), "s": np.str_("a"), "b": np.bytes_(b"c"), "l": [np.float64(2)], "i": Level.HIGH}
    sent = content(config=ConfigRecord({**values, "e": Name.ADAM}), metrics=MetricRecord({"loss": np.float64(0.5)}))
    found = unfold(fold(sent))
    assert dict(found["config"]) == {"f": 1.5, "s": "a", "b": b"c", "l": [2.0], "i": 3, "e": "adam"}
    assert [type(value) for value in found["config"].values()] == [float, str, bytes, list, int, str]
    assert type(found["metrics"]["loss"]) is float


def test_a_client_that_returns_numpy_metrics(tmp_path: Path) -> None:
    def widen(message: Message, context: Any, call_next: Any) -> Message:
        reply = call_next(message, context)
        reply.content["metrics"]["loss"] = np.float64(0.25)
        return reply

    grid = PressGrid(grid_of(tmp_path, {BAD: client(mods=[widen])}))
    for reply in grid.send_and_receive([Message(RecordDict({"arrays": initial()}), node, "train") for node in NODES]):
        assert not reply.has_error()


OURS = [RECORD, CONFIG, {"version": 1, "mark": b""}]
PRESENT = [["arrays", ARRAYS, {KEY: b"FPB"}], OURS]
FORGED: dict[str, Any] = {
    "no bytes": b"",
    "a text": "folded",
    "a list of bytes": [encoded(PRESENT)],
    "noise": bytes(range(256)),
    "cut short": encoded(PRESENT)[:-1],
    "trailing bytes": encoded(PRESENT) + b"\0",
    "a map": msgspec.msgpack.encode({"arrays": PRESENT}),
    "no records": encoded([]),
    "not our record": encoded(PRESENT[:1]),
    "our record with metrics in it": encoded([[RECORD, METRICS, {"version": 1}]]),
    "our record with arrays in it": encoded([[RECORD, ARRAYS, {KEY: b""}]]),
    "one record twice": encoded([PRESENT[0], *PRESENT]),
    "our record twice": encoded([*PRESENT, OURS]),
    "an unknown kind": encoded([["arrays", 3, {}], OURS]),
    "a kind below": encoded([["arrays", -1, {}], OURS]),
    "a kind that is a text": encoded([["arrays", "0", {}], OURS]),
    "a name that is a number": encoded([[7, CONFIG, {}], OURS]),
    "a name that is no text": b"\x92\x93\xa2\xff\xfe\x00\x80" + encoded([OURS])[1:],
    "no values": encoded([["config", CONFIG], OURS]),
    "too many fields": encoded([["config", CONFIG, {}, 1], OURS]),
    "a list for values": encoded([["config", CONFIG, [1]], OURS]),
    "numbers for keys": encoded([["config", CONFIG, {1: 1}], OURS]),
    "nothing for a value": encoded([["config", CONFIG, {"a": None}], OURS]),
    "a map for a value": encoded([["config", CONFIG, {"a": {}}], OURS]),
    "lists in a list": encoded([["config", CONFIG, {"a": [[1]]}], OURS]),
    "a list of several types": encoded([["config", CONFIG, {"a": [1, "b"]}], OURS]),
    "a text for a metric": encoded([["metrics", METRICS, {"a": "1"}], OURS]),
    "a flag for a metric": encoded([["metrics", METRICS, {"a": True}], OURS]),
    "bytes for a metric": encoded([["metrics", METRICS, {"a": b"1"}], OURS]),
    "an extension": encoded([["config", CONFIG, {"a": msgspec.msgpack.Ext(5, b"?")}], OURS]),
    "a time": encoded([["config", CONFIG, {"a": msgspec.msgpack.Ext(-1, bytes(4))}], OURS]),
    "a bundle that is a text": encoded([["arrays", ARRAYS, {KEY: "FPB"}], OURS]),
    "a bundle that is a number": encoded([["arrays", ARRAYS, {KEY: 7}], OURS]),
    "arrays without a bundle": encoded([["arrays", ARRAYS, {"w": b"FPB"}], OURS]),
    "arrays beside a bundle": encoded([["arrays", ARRAYS, {KEY: b"FPB", "w": b""}], OURS]),
    "a fold in a fold": encoded([[RECORD, CONFIG, {"folded": encoded(PRESENT)}]]),
    "lists without end": b"\x91" * 1_000_000,
    "maps without end": b"\x92\x93\xa1a\x00" + b"\x81\xa1a" * 1_000_000,
    "values without end": b"\x91\x93\xa1a\x00\x81\xa1b" + b"\x91" * 1_000_000,
    "as many records as there are": b"\xdd\xff\xff\xff\xff",
    "a bundle of 4 GiB": b"\x92\x93\xa1a\x02\x81\xa1b\xc6\xff\xff\xff\xff",
}


@pytest.mark.parametrize("data", FORGED.values(), ids=FORGED)
def test_forged_bytes(data: Any) -> None:
    with pytest.raises(ChunkError, match=r"^message: expected folded records, "):
        unfold(folded(data))


@pytest.mark.parametrize(
    "forged",
    [
        folded(encoded(PRESENT), more=1),
        RecordDict({**folded(encoded(PRESENT)), "more": ConfigRecord()}),
        RecordDict({"more": press(LatentRecord(initial())), **folded(encoded(PRESENT))}),
    ],
)
def test_what_is_beside_folded_records(forged: RecordDict) -> None:
    with pytest.raises(ChunkError, match="message: expected folded records and nothing beside them"):
        unfold(forged)


def test_every_bit_of_a_folded_message() -> None:
    """Damage is found here, or makes other records of the same kinds; nothing but ChunkError is raised."""
    good = bytes(fold(content(config=ConfigRecord({"a": [1, 2]}), metrics=MetricRecord({"b": 1.5})))[RECORD]["folded"])
    for i in range(8 * len(good)):
        data = bytearray(good)
        data[i // 8] ^= 1 << i % 8
        try:
            found = unfold(folded(bytes(data)))
        except ChunkError:
            continue
        assert isinstance(found[RECORD], ConfigRecord)


def forging(data: Any) -> Callable[[int, Message], Message]:
    """Return what puts folded bytes in the place of BAD's second reply; LocalGrid does not fold them again."""
    count = 0

    def damage(node: int, reply: Message) -> Message:
        nonlocal count
        count += node == BAD
        if node == BAD and count == 2:
            reply.content = folded(data)
        return reply

    return damage


@pytest.mark.parametrize("name", ["noise", "one record twice", "a fold in a fold", "lists without end", "a time"])
def test_a_forged_reply_costs_its_node_that_round(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.federation.local_grid.fold", lambda content: content)
    inner = grid_of(tmp_path, damage=forging(FORGED[name]))
    grid = PressGrid(inner)
    check_one_bad_round(grid, r"^\[flowerpress\] refused: message: expected folded records")
    assert_in_step(grid, inner)


@pytest.mark.parametrize("name", ["noise", "not our record", "a fold in a fold", "lists without end"])
def test_a_forged_message_is_refused_by_the_node(name: str, tmp_path: Path) -> None:
    inner = grid_of(tmp_path)
    push = inner.push_messages

    def forge(messages: Any) -> Any:
        for message in messages:
            message.content = folded(FORGED[name])
        return push(messages)

    inner.push_messages = forge  # type: ignore[method-assign]
    for node, reply in zip((BAD, *GOOD), _ask(PressGrid(inner)), strict=True):
        assert reply.metadata.src_node_id == node
        assert reply.error.reason.startswith(f"{MARK}ChunkError: message: expected folded records")


def _ask(grid: PressGrid) -> list[Message]:
    return list(grid.send_and_receive([Message(RecordDict({"arrays": initial()}), node, "query") for node in NODES]))


def test_pressed_arrays_keep_their_stype() -> None:
    (array,) = unfold(fold(content(arrays=press(LatentRecord(initial())))))["arrays"].values()
    assert (array.stype, array.dtype, array.shape) == (PRESSED, "uint8", (len(array.data),))
