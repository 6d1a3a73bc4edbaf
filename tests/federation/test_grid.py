"""PressGrid and press_mod over a grid that really deflates and inflates."""

import math
import shutil
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import strategy

from flowerpress import ConfigError, LatentArray, LatentRecord, PressGrid, Spec, parse, press_mod
from flowerpress.chunks.content import FOLDER
from flowerpress.federation.fold import unfold
from flowerpress.federation.protocol import MARK, RECORD, VERSION, Mark, Offer
from flowerpress.federation.store import Store
from flowerpress.wire import KEY, PRESSED
from tests.federation.apps import client, initial
from tests.federation.local_grid import LocalGrid

NODES = (71, 5, 930, 44)


def grid_of(*, pressed: Any = True, **options: Any) -> LocalGrid:
    flags = dict.fromkeys(NODES, pressed) if isinstance(pressed, bool) else pressed
    return LocalGrid({node: client(pressed=flag) for node, flag in flags.items()}, **options)


def messages(content: RecordDict, kind: str = "train", nodes: tuple[int, ...] = NODES) -> list[Message]:
    return [Message(content, node, kind) for node in nodes]


def content(**records: Any) -> RecordDict:
    return RecordDict({"arrays": initial(), "config": ConfigRecord({"server-round": 4}), **records})


def start(name: str, grid: Any, rounds: int = 3) -> Any:
    cls = getattr(strategy, name)
    return cls().start(grid=grid, initial_arrays=initial(), num_rounds=rounds)


@pytest.mark.parametrize(
    "codec",
    [
        "quantize(bound=0.001) | entropy",
        "budget(error=0.01)",
        "best(budget(error=0.01), budget(lowrank | entropy, error=0.01))",
        "auto(zstd, quantize(bound=0.001) | entropy)",
    ],
)
def test_lossy_codecs_and_plans_reach_the_clients(codec: str) -> None:
    stock, grid = start("FedAvg", grid_of(pressed=False)), PressGrid(grid_of(), codec)
    ours = start("FedAvg", grid)
    assert all(not node.error for exchange in grid.exchanges for node in exchange.nodes)
    for key, array in stock.arrays.items():
        x, y = array.numpy(), ours.arrays[key].numpy()
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.linalg.norm(x - y) <= 0.05 * np.linalg.norm(x) + 0.01


def test_messages_of_the_strategy_are_not_changed() -> None:
    shared = content()
    before = {key: id(record) for key, record in shared.items()}
    sent = messages(shared)
    PressGrid(grid_of()).send_and_receive(sent)
    assert {key: id(record) for key, record in shared.items()} == before
    assert shared["arrays"] == initial()
    assert all(message.content is shared for message in sent)


def test_a_model_for_many_nodes_is_coded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowerpress.federation import ledger as module

    calls = []
    original = module.press
    monkeypatch.setattr(module, "press", lambda *args, **options: calls.append(1) or original(*args, **options))
    inner = grid_of()
    PressGrid(inner).send_and_receive(messages(content()))
    assert len(calls) == 1
    assert len({id(m.content) for m in inner.pushed}) == 1


@pytest.mark.parametrize(("codec", "encodes"), [("zstd", 2), ("intdelta | zstd", 4)])
def test_nodes_that_hold_different_models(codec: str, encodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them gets a difference of its own; or all the same, if that is what the codec makes of differences."""
    from flowerpress.federation import ledger as module

    calls, original = [], module.press
    monkeypatch.setattr(module, "press", lambda *args, **options: calls.append(1) or original(*args, **options))
    grid, model = PressGrid(grid_of(), codec), initial()
    for node in NODES:
        model["b"] = Array(model["b"].numpy() + 1)
        grid.send_and_receive(messages(content(arrays=model.copy()), "query", nodes=(node,)))
    assert len({grid.held(node) for node in NODES}) == 4
    calls.clear()
    model["b"] = Array(model["b"].numpy() + 1)
    for reply in grid.send_and_receive(messages(content(arrays=model), "query")):
        assert reply.content["arrays"] == model
    assert len(calls) == encodes
    assert len({grid.held(node) for node in NODES}) == 1


def test_what_travels_is_plain_flower() -> None:
    inner = grid_of()
    PressGrid(inner, "zfp").send_and_receive(messages(content()))
    for pushed, message in zip(inner.pushed, inner.sent, strict=True):
        assert [type(record) for record in pushed.content.values()] == [ConfigRecord]
        assert list(pushed.content[RECORD]) == ["folded"]
        (array,) = message.content.array_records["arrays"].values()
        assert (type(array), array.stype) == (Array, PRESSED)
        assert message.content[RECORD]["version"] == VERSION
        offer = Offer.find(message.content)
        assert offer is not None
        assert offer.codec == "zfp"


def test_replies_come_in_the_order_of_partitions_and_compressed() -> None:
    replies = PressGrid(grid_of()).send_and_receive(messages(content()))
    assert [reply.metadata.src_node_id for reply in replies] == list(NODES)
    for reply in replies:
        assert set(reply.content) == {"arrays", "metrics"}
        assert type(reply.content["arrays"]) is LatentRecord


def test_up_and_down_codecs() -> None:
    inner = grid_of()
    grid = PressGrid(inner, "zfp(tolerance=0.25)", down="raw")
    (reply, *_) = grid.send_and_receive(messages(content()))
    assert {str(p) for p in reply.content["arrays"].bundle.layout.pipelines} == {"raw", "zfp(tolerance=0.25)"}
    (exchange,) = grid.exchanges
    assert exchange.row()["down-bytes"] > exchange.row()["down-raw-bytes"] > exchange.row()["up-bytes"]


def test_query_and_evaluate_and_any_number_of_records() -> None:
    other = ArrayRecord([np.arange(5), np.ones((2, 2), np.float16)])
    both = content(other=other, empty=ArrayRecord(), numbers=MetricRecord({"x": 1.5}))
    for reply in PressGrid(grid_of()).send_and_receive(messages(both, "query")):
        assert set(reply.content) == set(both)
        assert all(reply.content[key] == record for key, record in both.items())
    bare = RecordDict({"config": ConfigRecord({"a": 1})})
    for reply in PressGrid(grid_of()).send_and_receive(messages(bare, "query")):
        assert dict(reply.content.items()) == dict(bare.items())


def test_arrays_of_other_stypes_travel_beside_what_is_shared() -> None:
    """Records, or contents, that differ in nothing else are not taken for each other."""

    def record(data: bytes) -> ArrayRecord:
        made = ArrayRecord([np.arange(5.0)])
        made["own"] = Array("uint8", (len(data),), "somebody's own", data)
        return made

    contents = {node: RecordDict({"a": record(b"1"), "b": record(bytes([node]))}) for node in (5, 71)}
    grid = PressGrid(grid_of())
    for _ in range(2):
        for reply in grid.send_and_receive([Message(content, node, "query") for node, content in contents.items()]):
            assert reply.content["a"]["own"].data == b"1"
            assert reply.content["b"]["own"].data == bytes([reply.metadata.src_node_id])
            assert np.array_equal(reply.content["b"]["0"].numpy(), np.arange(5.0))


def test_nodes_without_the_mod_get_plain_arrays_in_the_same_round() -> None:
    inner = grid_of(pressed={71: True, 5: False, 930: True, 44: False})
    grid = PressGrid(inner)
    stock = start("FedAvg", grid_of(pressed=False))
    ours = start("FedAvg", grid)
    totals = {key: np.abs(ours.arrays[key].numpy() - stock.arrays[key].numpy()).max() for key in stock.arrays}
    assert max(totals.values()) < 1e-6  # the order of replies differs: plain nodes have no mark to sort by
    sent = [(m.metadata.dst_node_id, RECORD in m.content) for m in inner.sent]
    assert sent.count((5, True)) == sent.count((44, True)) == 1
    assert sent.count((5, False)) == sent.count((44, False)) == 6
    assert sent.count((71, False)) == 0
    assert all(len(exchange.nodes) == 4 and exchange.row()["failures"] == 0 for exchange in grid.exchanges)


def test_a_node_without_the_mod_that_does_not_read_arrays() -> None:
    replies = PressGrid(grid_of(pressed=False)).send_and_receive(messages(content(), "query"))
    assert len(replies) == 4
    assert all(reply.content["arrays"] == initial() for reply in replies)


def test_a_server_without_the_grid_gets_plain_replies() -> None:
    for reply in grid_of().send_and_receive(messages(content())):
        assert set(reply.content) == {"arrays", "metrics"}
        assert {a.stype for a in reply.content["arrays"].values()} == {"numpy.ndarray"}


def failing(error: Exception) -> ClientApp:
    app = ClientApp(mods=[press_mod])

    @app.train()
    def train(message: Message, context: Any) -> Message:
        raise error

    return app


def test_an_app_that_raises_is_an_error_reply_and_stays_pressed() -> None:
    inner = LocalGrid({1: client(), 2: failing(RuntimeError("no data here")), 3: client()})
    grid = PressGrid(inner)
    replies = grid.send_and_receive(messages(content(), nodes=(1, 2, 3)))
    (failed,) = [reply for reply in replies if reply.has_error()]
    assert failed.metadata.src_node_id == 2
    assert failed.error.reason == f"{MARK}RuntimeError: no data here"
    assert len(inner.sent) == 3
    assert grid.exchanges[0].row()["failures"] == 1
    assert "no data here" in str(grid.exchanges[0].row())


def test_error_replies_of_other_mods_keep_their_code() -> None:
    def refuse(message: Message, context: Any, call_next: Any) -> Message:
        return Message(Error(6, "not today"), reply_to=message)

    app = ClientApp(mods=[press_mod, refuse])
    app.train()(lambda message, context: message)
    inner = LocalGrid({1: app})
    (reply,) = PressGrid(inner).send_and_receive(messages(content(), nodes=(1,)))
    assert (reply.error.code, reply.error.reason) == (6, f"{MARK}not today")


def test_an_app_without_a_function_for_a_message() -> None:
    """Flower raises before any mod is asked; that costs one message sent again, and not the compression."""
    app = ClientApp(mods=[press_mod])
    app.query()(lambda message, context: Message(message.content, reply_to=message))
    inner = LocalGrid({1: app})
    grid = PressGrid(inner)
    for kind, sent, failures in (("train", 2, 1), ("query", 1, 0), ("train", 1, 1), ("query", 1, 0)):
        inner.sent.clear()
        (reply,) = grid.send_and_receive(messages(content(), kind, nodes=(1,)))
        assert (len(inner.sent), reply.has_error()) == (sent, bool(failures))
        assert RECORD in inner.sent[0].content


def test_damaged_replies_cost_that_client_that_round() -> None:
    def damage(node: int, reply: Message) -> Message:
        if node == 5 and reply.has_content():
            data = bytearray(reply.content["arrays"][KEY].data)
            data[100] ^= 4
            reply.content["arrays"][KEY] = Array("uint8", (len(data),), PRESSED, bytes(data))
        return reply

    replies = PressGrid(grid_of(damage=damage)).send_and_receive(messages(content()))
    (refused,) = [reply for reply in replies if reply.has_error()]
    assert refused.metadata.src_node_id == 5
    assert "refused: bundle: chunk" in refused.error.reason


def test_damaged_messages_are_refused_by_the_client(tmp_path: Path) -> None:
    inner = grid_of(caches=tmp_path)
    grid = PressGrid(inner)
    push = inner.push_messages

    def damage(sent: Any) -> Any:
        for message in sent:
            message.content = unfold(message.content)
            data = message.content["arrays"][KEY].data[:-1] + b"?"
            message.content["arrays"][KEY] = Array("uint8", (len(data),), PRESSED, data)
        return push(sent)

    inner.push_messages = damage  # type: ignore[method-assign]
    for reply in grid.send_and_receive(messages(content(), "query")):
        assert reply.error.reason.startswith(f"{MARK}ChunkError: bundle")


def test_lost_nodes_are_named_and_not_taken_for_plain() -> None:
    """Flower reports a lost node with the SuperLink's id."""

    def lose(node: int, reply: Message) -> Message:
        if node != 930:
            return reply
        lost = Message(Error(5, "Node Unavailable"), reply_to=reply)
        lost.metadata.__dict__["_reply_to_message_id"] = reply.metadata.reply_to_message_id
        lost.metadata.__dict__["_src_node_id"] = 1
        return lost

    inner = grid_of(damage=lose)
    replies = PressGrid(inner).send_and_receive(messages(content()))
    (lost,) = [reply for reply in replies if reply.has_error()]
    assert lost.metadata.src_node_id == 930
    assert len(inner.sent) == 4


def test_timeout_returns_what_came() -> None:
    grid = PressGrid(grid_of(damage=lambda node, reply: None if node == 44 else reply), timeout=0.3)
    started = time.monotonic()
    assert len(list(grid.send_and_receive(messages(content())))) == 3
    assert len(list(grid.send_and_receive(messages(content()), timeout=0.1))) == 3
    assert time.monotonic() - started < 5


def test_push_and_pull() -> None:
    grid = PressGrid(grid_of())
    ids = list(grid.push_messages(messages(content())))
    replies = list(grid.pull_messages(ids))
    assert [reply.metadata.src_node_id for reply in replies] == list(NODES)
    assert list(ids) == [reply.metadata.reply_to_message_id for reply in replies]
    assert list(grid.pull_messages(ids)) == []
    assert grid.send_and_receive([]) == []


def test_push_and_pull_heals_with_the_next_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that lost its reference gets the model whole, one without the mod plain; references do not pile up."""
    monkeypatch.setenv(FOLDER, str(tmp_path / "server"))
    apps = {node: client(pressed=node != NODES[0]) for node in NODES}
    grid = PressGrid(LocalGrid(apps, caches=tmp_path / "nodes"))

    def failed(step: int) -> list[int]:
        moved = {key: Array(np.asarray(array.numpy() + step, array.dtype)) for key, array in initial().items()}
        pushed = grid.push_messages(messages(content(arrays=ArrayRecord(moved))))
        replies = grid.pull_messages(pushed)
        return [reply.metadata.src_node_id for reply in replies if reply.has_error()]

    assert failed(0) == [NODES[0]]
    assert failed(1) == []
    shutil.rmtree(tmp_path / "nodes" / str(NODES[1]))
    assert failed(2) == [NODES[1]]
    assert [failed(step) for step in range(3, 8)] == [[]] * 5
    assert len(list(Store())) == 1


def test_dtypes_are_restored_before_sending() -> None:
    inner = grid_of()
    start("FedAdam", PressGrid(inner, "raw"), rounds=3)
    for message in inner.sent:
        if KEY not in message.content["arrays"]:
            continue  # the model that this node evaluated: it is not sent again
        specs = [LatentRecord.of(_bundle(message)).values()]
        assert [a.dtype for a in specs[0]] == ["float32", "float32", "int64"]


def _bundle(message: Message) -> Any:
    from flowerpress import Bundle

    return Bundle(message.content.array_records["arrays"][KEY].data)


def test_bfloat16_is_narrowed_again() -> None:
    import ml_dtypes

    inner = grid_of()
    grid = PressGrid(inner)
    record = LatentRecord()
    record["w"] = LatentArray(np.linspace(0, 1, 50).astype(ml_dtypes.bfloat16))
    for arrays in (record, ArrayRecord({"w": Array(np.linspace(0, 2, 50, dtype=np.float32))})):
        grid.send_and_receive(messages(RecordDict({"arrays": arrays}), "query"))
        assert _bundle(inner.sent[-1]).spec("w") == Spec("w", "bfloat16", (50,))


def test_a_dtype_that_is_no_promotion_is_kept() -> None:
    inner = grid_of()
    grid = PressGrid(inner)
    for x in (np.ones(3, np.float32), np.ones(3, np.int64), np.ones(3, np.float16)):
        grid.send_and_receive(messages(RecordDict({"arrays": ArrayRecord([x])}), "query"))
        assert _bundle(inner.sent[-1]).spec("0").dtype == x.dtype.name


@pytest.mark.parametrize("queried", [False, True])
def test_what_nodes_make_of_a_model_is_not_truncated(queried: bool) -> None:
    """Floats of integers are the nodes' own, and arrays of another shape under the same name are another model's."""
    app = ClientApp(mods=[press_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        (x,) = (array.numpy() for array in message.content["arrays"].values())
        reply = {"arrays": ArrayRecord([x + 0.4]), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(reply), reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict(), reply_to=message)

    grid = PressGrid(LocalGrid(dict.fromkeys(NODES, app)))
    x = np.zeros(2, np.float32) if queried else np.zeros(2, np.int64)
    if queried:
        grid.send_and_receive(messages(RecordDict({"arrays": ArrayRecord([np.zeros(3, np.uint8)])}), "query"))
    result = strategy.FedAvg(fraction_evaluate=0).start(grid=grid, initial_arrays=ArrayRecord([x]), num_rounds=5)
    assert np.allclose(result.arrays["0"].numpy(), [2.0, 2.0])


def test_nodes_of_one_push_may_have_models_of_different_shapes() -> None:
    grid, first = PressGrid(grid_of()), messages(content())
    for message in first[1:]:  # a model of half the width
        narrow = {key: Array(x.numpy()[..., :15] if x.shape else x.numpy()) for key, x in initial().items()}
        message.content = content(arrays=ArrayRecord(narrow))
    for _ in range(2):
        assert [reply.has_error() for reply in grid.send_and_receive(first)] == [False] * len(NODES)


def test_metrics() -> None:
    inner = grid_of()
    grid = PressGrid(inner)
    start("FedAvg", grid, rounds=2)
    assert [(e.message_type, e.server_round) for e in grid.exchanges] == [
        ("train", 1),
        ("evaluate", 1),
        ("train", 2),
        ("evaluate", 2),
    ]
    row = grid.exchanges[0].row()
    raw = (40 * 30 + 30) * 4 + 8
    assert row["down-raw-bytes"] == row["up-raw-bytes"] == 4 * raw
    assert sum(e.row()["down-bytes"] + e.row()["up-bytes"] for e in grid.exchanges) == inner.bytes
    assert row["down-bytes"] < 4 * (raw + 400)  # names and ids; noise cannot be compressed
    assert row["decode-seconds"] > 0
    assert row["encode-seconds"] > 0
    assert [node["partition"] for node in row["nodes"]] == [0, 1, 2, 3]
    assert [node["node"] for node in row["nodes"]] == list(NODES)


@pytest.mark.parametrize(
    ("offer", "reason"),
    [
        (dict(Offer("zstd", version=9).record()), "this node speaks protocol 1, the server 9; upgrade one"),
        ({"version": 9}, "this node speaks protocol 1, the server 9; upgrade one"),
        ({"version": 9, "offer": msgspec.msgpack.encode(["zstd", 1, 2, 3])}, "the server 9; upgrade one"),
        ({"version": "9"}, "the server -1; upgrade one"),
        ({}, "the server -1; upgrade one"),
        (dict(Offer("exotic").record()), "no codec is called 'exotic'"),
        ({"version": 1}, "ChunkError: message: expected an offer of version 1, found other bytes"),
        ({"version": 1, "offer": b"\x91"}, "expected an offer of version 1"),
        ({"version": 1, "offer": "zstd"}, "expected an offer of version 1"),
        ({"version": 1, "offer": b"\x93\xa4zstd\xa0\x81\xa1a\x07"}, "expected an offer of version 1"),
        ({"version": 1, "offer": b"\x91" * 100_000}, "expected an offer of version 1"),
    ],
)
def test_offers_that_a_node_cannot_follow(offer: dict[str, Any], reason: str) -> None:
    inner = grid_of()
    push = inner.push_messages

    def changed(sent: Any) -> Any:
        for message in sent:
            message.content = RecordDict({**unfold(message.content), RECORD: ConfigRecord(offer)})
        return push(sent)

    inner.push_messages = changed  # type: ignore[method-assign]
    for reply in PressGrid(inner).send_and_receive(messages(content(), "query")):
        assert reply.error.reason.startswith(MARK)
        assert reason in reply.error.reason


def test_marks_from_a_peer_are_not_believed() -> None:
    grid_of()  # a Message needs to know whose task it is
    reply = Message(RecordDict({RECORD: Mark(3, "t-1", {"arrays": "0"}, 5, 0.5, 1.5, 2.5).record()}), 1, "train")
    assert Mark.find(reply) == Mark(3, "t-1", {"arrays": "0"}, 5, 0.5, 1.5, 2.5)
    reply.content[RECORD] = Mark(3, "t-1", {}, 5, math.nan, math.inf, -1e300).record()
    assert Mark.find(reply) == Mark(3, "t-1", {}, 5, -1.0, -1.0, -1.0)
    for data in (b"", "?", [b"?"], 1.5, msgspec.msgpack.encode(["x"]), msgspec.msgpack.encode([1, "", {}, math.nan])):
        reply.content[RECORD] = ConfigRecord({"version": 1, "mark": data})
        assert Mark.find(reply) == Mark()
    for record in ({"version": "one", "mark": b""}, {"version": 1}, dict(Offer("zstd").record())):
        reply.content[RECORD] = ConfigRecord(record)
        assert Mark.find(reply) is None


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"codec": "nothing"}, "no codec is called"),
        ({"down": "nothing"}, "no codec is called"),
        ({"timeout": 0}, "timeout above 0"),
        ({"codec": lambda spec: parse("raw")}, "travels to the clients as text"),
    ],
)
def test_mistakes_show_when_the_grid_is_made(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        PressGrid(grid_of(), **options)


THEIRS = """
from typing import ClassVar
from flowerpress.codecs.planes import Planes

class Unsure(Planes):
    name: ClassVar[str] = "unsure"
    reproducible = False
"""


def test_a_codec_that_may_decode_to_other_bits_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flowerpress.codecs.registry import lookup

    (tmp_path / "theirs.py").write_text(THEIRS)
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flowerpress.codecs]\nunsure = theirs:Unsure\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    lookup.cache_clear()
    try:
        inner = grid_of()
        with pytest.raises(ConfigError, match=r"unsure . zstd may decode to other bits"):
            PressGrid(inner, down="unsure | zstd").send_and_receive(messages(content()))
        assert not inner.sent
        for reply in PressGrid(grid_of(), "unsure | zstd", down="raw").send_and_receive(messages(content())):
            assert reply.has_content()
    finally:
        lookup.cache_clear()


def test_the_reserved_name() -> None:
    with pytest.raises(ConfigError, match="reserved"):
        PressGrid(grid_of()).send_and_receive(messages(content(**{RECORD: ConfigRecord()})))


def test_the_rest_of_the_grid_is_the_inner_ones() -> None:
    grid = PressGrid(grid_of())
    grid.set_run("a run")  # type: ignore[arg-type]
    assert grid.run == "a run"
    assert list(grid.get_node_ids()) == list(NODES)
    assert [node.node_id for node in grid.get_nodes()] == list(NODES)
    assert grid.create_message(content(), "train", 5, "1").metadata.dst_node_id == 5
