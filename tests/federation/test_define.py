"""A first model that is defined by what its codec leaves of it: both ends start from that, in few bytes."""

import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flowerpress import ConfigError, PressGrid, press_mod
from flowerpress.chunks.content import digest_of
from flowerpress.federation.fold import fold, unfold
from flowerpress.federation.protocol import RECORD
from flowerpress.federation.streaming import StreamingFedAvg
from flowerpress.wire import FIRST, KEY, PRESSED, bundle_array, values_of
from tests.federation.apps import client, initial, record_of
from tests.federation.faults import assert_in_step, holds
from tests.federation.local_grid import LocalGrid

NODES = (4, 70, 951)
LOSSY = "delta | quantize(step=0.01) | entropy"
FOUR = "budget(bits=4)"
Arrays = dict[str, Any]


def nodes(folder: Path, app: ClientApp | None = None, **options: Any) -> LocalGrid:
    return LocalGrid({node: app or client() for node in NODES}, caches=folder, **options)


def ask(grid: PressGrid, model: ArrayRecord, to: Iterable[int] = NODES, kind: str = "query") -> list[Message]:
    """Send a model to nodes, which must answer."""
    content = RecordDict({"arrays": model, "config": ConfigRecord({"server-round": 1})})
    replies = list(grid.send_and_receive([Message(content, node, kind) for node in to]))
    assert [r.error.reason for r in replies if r.has_error()] == []
    return replies


def parts(message: Message) -> tuple[int, int]:
    """Return the bytes of the first model, and of what is coded against it or anything else, in a message."""
    record = message.content.array_records["arrays"]
    return tuple(len(record[key].data) if key in record else 0 for key in (FIRST, KEY))  # type: ignore[return-value]


def moved(model: ArrayRecord, by: float) -> ArrayRecord:
    return record_of({key: (x + by).astype(x.dtype) for key, x in values_of(model).items()})


def bits_of(record: ArrayRecord) -> dict[str, bytes]:
    return {key: x.tobytes() for key, x in values_of(record).items()}  # type: ignore[union-attr]


@pytest.mark.parametrize("codec", ["zstd", "intdelta | zstd", "raw", LOSSY, "small"])
def test_nodes_start_from_what_the_codec_leaves(codec: str, tmp_path: Path) -> None:
    inner = nodes(tmp_path)
    grid = PressGrid(inner, codec)
    model = grid.define(initial())
    assert list(model) == list(initial())
    assert 0.001 < np.abs(model["w"].numpy() - initial()["w"].numpy()).max() < 0.5
    assert np.array_equal(model["count"].numpy(), initial()["count"].numpy())
    for reply in ask(grid, model):
        assert bits_of(reply.content["arrays"]) == bits_of(model)
    assert {grid.held(node) for node in NODES} == {digest_of(values_of(model))}
    assert_in_step(grid, inner, NODES)
    for message in inner.sent:
        first, difference = parts(message)
        assert (first < 4 * 1230 / 8 + 100, difference) == (True, 0)
    assert [n["down-distortion"] for n in grid.exchanges[0].row()["nodes"]] == [0] * len(NODES)


@pytest.mark.parametrize("codec", [LOSSY, "intdelta | zstd", "small"])
def test_nodes_that_come_later_get_it_and_the_difference_in_one_message(codec: str, tmp_path: Path) -> None:
    inner = nodes(tmp_path)
    grid = PressGrid(inner, codec)
    model = grid.define(initial())
    early, late = NODES[:2], NODES[2]
    for number in range(4):
        ask(grid, moved(model, number / 100), early, "train")
        assert_in_step(grid, inner, early)
    inner.sent.clear()
    now = moved(model, 0.04)
    ask(grid, now, NODES, "train")
    assert_in_step(grid, inner, NODES)
    sizes = {m.metadata.dst_node_id: parts(m) for m in inner.sent}
    assert len(inner.sent) == len(NODES)
    assert [sizes[node][0] for node in early] == [0, 0]
    assert sizes[late][0] > 500
    if codec == LOSSY:
        assert sum(sizes[late]) < sum(x.nbytes for x in values_of(now).values()) / 4  # type: ignore[union-attr]
    inner.sent.clear()
    ask(grid, moved(model, 0.05), NODES, "train")
    assert [parts(m)[0] for m in inner.sent] == [0, 0, 0]
    assert_in_step(grid, inner, NODES)


@pytest.mark.parametrize("codec", ["zstd", "raw"])
def test_codecs_without_references_do_not_send_it_with_another_model(codec: str, tmp_path: Path) -> None:
    inner = nodes(tmp_path)
    grid = PressGrid(inner, codec)
    model = grid.define(initial())
    ask(grid, moved(model, 1.0))
    assert all(parts(m)[0] == 0 < parts(m)[1] for m in inner.sent)
    assert_in_step(grid, inner, NODES)


@pytest.mark.parametrize("codec", [LOSSY, "intdelta | zstd"])
def test_nodes_that_lost_their_cache_get_it_in_the_same_round(codec: str, tmp_path: Path) -> None:
    inner = nodes(tmp_path)
    grid = PressGrid(inner, codec)
    model = grid.define(initial())
    ask(grid, model)
    ask(grid, moved(model, 0.5))
    shutil.rmtree(tmp_path / str(NODES[0]))
    inner.sent.clear()
    ask(grid, moved(model, 0.6))
    assert [m.metadata.dst_node_id for m in inner.sent] == [*NODES, NODES[0]]
    assert [parts(m)[0] > 0 for m in inner.sent] == [False, False, False, True]
    assert_in_step(grid, inner, NODES)


def test_the_server_keeps_it_when_its_own_cache_is_lost(tmp_path: Path) -> None:
    from flowerpress.federation.store import Store

    inner = nodes(tmp_path)
    grid = PressGrid(inner, LOSSY)
    model = grid.define(initial())
    ask(grid, model)
    Store().clear()
    inner.sent.clear()
    ask(grid, moved(model, 0.5))
    assert_in_step(grid, inner, NODES)
    assert all(parts(m)[0] > 0 for m in inner.sent)


def test_seeded_and_defined_at_once(tmp_path: Path) -> None:
    """What clients make comes first, and the difference to it; one that cannot make it gets the defined one."""
    making = client(mod=partial(press_mod, initial=lambda context: initial()))
    inner = LocalGrid({**dict.fromkeys(NODES[:2], making), NODES[2]: client()}, caches=tmp_path)
    grid = PressGrid(inner, "intdelta | zstd")
    grid.seed(initial())
    model = grid.define(initial())
    ask(grid, model)
    assert_in_step(grid, inner, NODES)
    assert {grid.held(node) for node in NODES} == {digest_of(values_of(model))}
    assert [(m.metadata.dst_node_id, parts(m)[0] > 0) for m in inner.sent] == [
        *((n, False) for n in NODES),
        (951, True),
    ]


def test_a_model_of_another_kind_is_sent_whole(tmp_path: Path) -> None:
    inner = nodes(tmp_path)
    grid = PressGrid(inner, "intdelta | zstd")
    model = grid.define(initial())
    for other in (record_of({"w": np.ones((40, 31), np.float32)}), record_of(dict(reversed(values_of(model).items())))):
        inner.sent.clear()
        ask(grid, other)
        assert all(parts(m)[0] == 0 < parts(m)[1] for m in inner.sent)
        assert_in_step(grid, inner, NODES)
    inner.sent.clear()


def test_true_dtypes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    arrays = {
        "w": rng.standard_normal((60, 50)).astype(np.float32),
        "brain": rng.standard_normal((40, 40)).astype(ml_dtypes.bfloat16),
        "half": rng.standard_normal(90).astype(np.float16),
        "double": rng.standard_normal(90),
        "n": np.arange(7),
        "mask": np.array([True, False]),
        "scalar": np.float32(2.5),
        "none": np.zeros((0, 3), np.float32),
    }
    inner = nodes(tmp_path)
    grid = PressGrid(inner, LOSSY)
    model = grid.define(record_of(arrays))
    found = values_of(model)
    assert [(k, x.dtype, x.shape) for k, x in found.items()] == [(k, x.dtype, x.shape) for k, x in arrays.items()]
    for key in ("n", "mask", "scalar", "none"):
        assert np.asarray(found[key]).tobytes() == arrays[key].tobytes()
    for by in (0, 1):
        ask(grid, moved(model, 0) if not by else record_of({**found, "w": arrays["w"] + 1}))
        assert_in_step(grid, inner, NODES)


def test_positive_arrays_stay_positive(tmp_path: Path) -> None:
    """With a variance of 0 a channel would blow up, and later differences could make it negative."""
    arrays = {"w": np.random.default_rng(1).standard_normal((60, 50)), "var": np.linspace(1e-4, 1e-3, 50)}
    arrays = {key: x.astype(np.float32) for key, x in arrays.items()}
    grid = PressGrid(nodes(tmp_path), LOSSY)
    found = values_of(grid.define(record_of(arrays)))
    assert found["var"].tobytes() == arrays["var"].tobytes()  # type: ignore[union-attr]
    assert found["w"].tobytes() != arrays["w"].tobytes()  # type: ignore[union-attr]


def test_arrays_of_other_kinds_travel_beside_it(tmp_path: Path) -> None:
    record = initial()
    record["odd"] = Array("text", (3,), "theirs", b"abc")
    model = PressGrid(nodes(tmp_path), LOSSY).define(record)
    assert model["odd"].data == b"abc"
    assert set(model) == set(record)


def damaging(inner: LocalGrid, change: Callable[[bytes], bytes]) -> list[int]:
    """Have the first models that nodes get be changed on their way; return the nodes that were sent one."""
    answer, asked = inner._answer, list[int]()

    def changed(message: Message) -> None:
        content = unfold(message.content)
        record = content.array_records["arrays"]
        if FIRST in record:
            asked.append(message.metadata.dst_node_id)
            record[FIRST] = bundle_array(change(record[FIRST].data))
            ours = content.pop(RECORD)
            message.content = fold(RecordDict({**dict(content.items()), RECORD: ours}))
        answer(message)

    inner._answer = changed  # type: ignore[method-assign]
    return asked


def other(data: bytes) -> bytes:
    from flowerpress import pack

    return pack({"w": np.ones(3)})


@pytest.mark.parametrize("change", [lambda d: b"", lambda d: d[:-1], lambda d: d[:60] + b"\1" + d[61:], other])
@pytest.mark.parametrize("by", [0, 1])
def test_a_damaged_first_model_is_one_error(change: Callable[[bytes], bytes], by: int, tmp_path: Path) -> None:
    inner = nodes(tmp_path)
    asked, grid = damaging(inner, change), PressGrid(inner, LOSSY)
    model = grid.define(initial())
    content = RecordDict({"arrays": moved(model, by), "config": ConfigRecord()})
    replies = list(grid.send_and_receive([Message(content, node, "query") for node in NODES], timeout=20))
    assert asked == list(NODES), "nobody is asked again and again"
    assert all("ChunkError: " in r.error.reason for r in replies)
    inner._answer = LocalGrid._answer.__get__(inner)  # type: ignore[method-assign]
    ask(grid, moved(model, by))
    assert_in_step(grid, inner, NODES)


def test_a_node_that_always_asks_for_it_is_not_served_for_ever(tmp_path: Path) -> None:
    from flowerpress.federation.protocol import NEED_WHOLE, error_reply

    inner = nodes(tmp_path, damage=lambda node, reply: error_reply(reply, NEED_WHOLE) if node == 4 else reply)
    grid = PressGrid(inner, LOSSY)
    model = grid.define(initial())
    content = RecordDict({"arrays": moved(model, 1), "config": ConfigRecord()})
    replies = list(grid.send_and_receive([Message(content, node, "query") for node in NODES], timeout=20))
    assert sum(r.has_error() for r in replies) == 1
    assert len(inner.sent) == len(NODES)


@pytest.mark.parametrize("strategy", [FedAvg, StreamingFedAvg])
def test_strategies(strategy: type[Any], tmp_path: Path) -> None:
    inner = nodes(tmp_path)
    grid = PressGrid(inner, LOSSY, down="intdelta | zstd")
    model = grid.define(initial())
    strategy(fraction_evaluate=1.0).start(grid=grid, initial_arrays=model, num_rounds=3)
    assert_in_step(grid, inner, NODES)
    assert not any(exchange.row()["failures"] for exchange in grid.exchanges)
    assert [parts(m)[0] > 0 for m in inner.sent] == [True] * 3 + [False] * 15


def test_large_models_are_not_folded(tmp_path: Path) -> None:
    large = record_of({"w": np.random.default_rng(2).standard_normal((1000, 900)).astype(np.float32)})
    app = ClientApp(mods=[press_mod])

    @app.query()
    def query(message: Message, context: Any) -> Message:
        return Message(RecordDict(dict(message.content.items())), reply_to=message)

    inner = nodes(tmp_path, app)
    grid = PressGrid(inner, LOSSY)
    model = grid.define(large, "quantize(bits=12) | bitpack")
    for by in (0, 1):
        (reply, *_) = ask(grid, moved(model, by) if by else model, NODES[: by + 1])
        assert list(reply.content["arrays"]) == ["w"]
        assert_in_step(grid, inner, NODES[: by + 1])
    assert [len(m.content) for m in inner.pushed] == [3, 1, 3]
    assert min(parts(inner.sent[-1])) > 0


def test_plain_nodes_get_the_model_itself(tmp_path: Path) -> None:
    inner = LocalGrid({**dict.fromkeys(NODES[:2], client()), NODES[2]: client(pressed=False)}, caches=tmp_path)
    grid = PressGrid(inner, LOSSY)
    model = grid.define(initial())
    replies = ask(grid, model)
    assert all(bits_of(r.content["arrays"]) == bits_of(model) for r in replies)
    assert [KEY in m.content["arrays"] or FIRST in m.content["arrays"] for m in inner.sent] == [True] * 3 + [False]


def test_defined_twice_the_last_one_is_sent(tmp_path: Path) -> None:
    inner = nodes(tmp_path)
    grid = PressGrid(inner, LOSSY)
    once, again = grid.define(initial()), grid.define(moved(initial(), 3), "budget(bits=6)")
    ask(grid, once, NODES[:1])
    ask(grid, again, NODES[1:2])
    ask(grid, moved(again, 0.01), NODES[2:])
    assert_in_step(grid, inner, NODES)
    one, two, three = map(parts, inner.sent)
    assert two[0] == three[0] > one[0] > 0
    assert (one[1], two[1]) == (0, 0) != three[1]


def test_the_model_that_was_given_is_a_difference_to_it(tmp_path: Path) -> None:
    inner = nodes(tmp_path)
    grid = PressGrid(inner, "intdelta | zstd")
    grid.define(initial())
    for reply in ask(grid, initial()):
        assert bits_of(reply.content["arrays"]) == bits_of(initial())
    assert all(min(parts(m)) > 0 for m in inner.sent)


def test_lossless_definitions_change_nothing(tmp_path: Path) -> None:
    grid = PressGrid(nodes(tmp_path), LOSSY)
    assert bits_of(grid.define(initial(), "zstd")) == bits_of(initial())
    assert bits_of(grid.define(initial(), "safe")) == bits_of(initial())


def test_mistakes(tmp_path: Path) -> None:
    grid = PressGrid(nodes(tmp_path), LOSSY)
    with pytest.raises(ConfigError, match="expected a record with arrays"):
        grid.define(ArrayRecord())
    with pytest.raises(ConfigError, match="no codec is called"):
        grid.define(initial(), "nothing")
    with pytest.raises(ConfigError, match="is the record pressed already"):
        grid.define(ArrayRecord({KEY: Array("uint8", (1,), PRESSED, b"a")}))


def test_references_that_a_codec_takes_no_notice_of_are_told_from_those_it_does(tmp_path: Path) -> None:
    """Nodes that hold nothing, nodes whose reference the server lost, and nodes that hold one: the last get less."""
    from flowerpress.federation.store import Store

    inner = nodes(tmp_path)
    grid, model = PressGrid(inner, LOSSY), initial()
    for node, by in ((NODES[0], 1), (NODES[2], 2)):
        ask(grid, moved(model, by), [node])
    shutil.rmtree(Store().folder / grid.held(NODES[0]))
    held = holds(inner, NODES[2])
    inner.sent.clear()
    ask(grid, moved(model, 2.01))
    sizes = {m.metadata.dst_node_id: parts(m)[1] for m in inner.sent}
    assert sizes[NODES[2]] < sizes[NODES[1]] / 4
    assert held != holds(inner, NODES[2])
    assert_in_step(grid, inner, NODES)
