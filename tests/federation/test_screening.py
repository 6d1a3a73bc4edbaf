"""Screen by itself: what it lets through, what it refuses and why, with each of its parameters."""

import math
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from msgspec.structs import replace

from flowerpress import Bundle, ChunkError, ConfigError, LatentRecord, pack
from flowerpress.chunks.manifest import ArrayEntry, Manifest
from flowerpress.chunks.pack import HEAD, tail
from flowerpress.federation.screening import Findings, Screen
from flowerpress.npy import STYPE

W = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
N = {"num-examples": 10}


@pytest.fixture(autouse=True)
def task() -> None:
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # a Message asks for them


def record(arrays: Mapping[str, Any]) -> ArrayRecord:
    found = ArrayRecord()
    for key, x in arrays.items():
        found[key] = x if isinstance(x, Array) else Array(np.asarray(x))
    return found


def content(arrays: Mapping[str, Any] | ArrayRecord | None = None, **metrics: Any) -> RecordDict:
    arrays = {"w": W, "count": np.int64(3)} if arrays is None else arrays
    both = {"arrays": arrays if isinstance(arrays, ArrayRecord) else record(arrays)}
    return RecordDict({**both, "metrics": MetricRecord(metrics or dict(N))})


SENT = content()


def examine(reply: RecordDict, screen: Screen | None = None, sent: RecordDict = SENT, kind: str = "train") -> Findings:
    return (screen or Screen()).examine(Message(reply, 7, kind), sent)


def odd(*replies: RecordDict, screen: Screen | None = None, sent: RecordDict | None = SENT) -> dict[int, str]:
    screen, kind = screen or Screen(), "train" if sent else "evaluate"
    found = {i: examine(reply, screen, sent or RecordDict(), kind) for i, reply in enumerate(replies)}
    return screen.odd_ones(found)


def test_defaults() -> None:
    assert {field.name: field.default for field in fields(Screen)} == {
        "max_weight": 1e6,
        "weight_key": "num-examples",
        "max_norm": 10.0,
        "finite": True,
        "min_replies": 1,
        "keys": "*",
        "max_bytes": 1 << 30,
        "same_metrics": True,
    }
    assert Screen() == Screen(keys=["*"])
    assert hash(Screen(keys=["a", "b"])) == hash(Screen(keys=("a", "b")))
    with pytest.raises(FrozenInstanceError):
        Screen().finite = False  # type: ignore[misc]
    with pytest.raises(TypeError):
        Screen(5.0)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_weight": 0}, "expected a finite max_weight above 0, found 0"),
        ({"max_weight": -1.0}, "max_weight above 0, found -1.0"),
        ({"max_weight": math.nan}, "max_weight above 0, found nan"),
        ({"max_weight": math.inf}, "max_weight above 0, found inf"),
        ({"max_norm": 0.5}, "expected a max_norm of 1 or more, or None, found 0.5"),
        ({"max_norm": math.nan}, "max_norm of 1 or more, or None, found nan"),
        ({"min_replies": 0}, "expected min_replies of 1 or more, found 0"),
    ],
)
def test_mistakes_show_when_it_is_made(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=f"^Screen: .*{match}$"):
        Screen(**options)


def test_findings() -> None:
    found = examine(content({"w": W + np.float32(0.5), "count": np.int64(900)}, **N, losses=[1.0, 2.0]))
    assert found.arrays == (("arrays", "w", "float32", (3, 4)), ("arrays", "count", "int64", ()))
    assert found.metrics == (("metrics", "losses", "", (2,)), ("metrics", "num-examples", "", ()))
    assert found.norm == pytest.approx(0.5 * math.sqrt(12), rel=1e-6)  # floats only
    assert examine(SENT).norm == 0
    assert examine(SENT, sent=RecordDict()).norm == pytest.approx(np.linalg.norm(W))


@pytest.mark.parametrize("weight", [1e-9, 1, 0.5, 1e6])
def test_weights_in_range(weight: float) -> None:
    examine(content(**{"num-examples": weight}))


@pytest.mark.parametrize("weight", [0, -1, 0.0, 1e6 + 1, 10**18, 1e30, math.nan, math.inf, -math.inf, [10], []])
@pytest.mark.parametrize("finite", [True, False])
@pytest.mark.parametrize("kind", ["train", "train.variant", "evaluate"])
def test_weights_out_of_range(weight: Any, finite: bool, kind: str) -> None:
    with pytest.raises(ChunkError, match="'num-examples': expected"):
        examine(content(**{"num-examples": weight}), Screen(finite=finite), kind=kind)


def test_another_weight_and_limit() -> None:
    screen = Screen(weight_key="batches", max_weight=7)
    examine(content(batches=7, **{"num-examples": -1}), screen)
    with pytest.raises(ChunkError, match="weight 'batches': expected above 0, up to 7, found 8"):
        examine(content(batches=8), screen)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(bad: float) -> None:
    array, metric, nested = content({"w": W * np.float32(bad)}), content(loss=bad, **N), content(x=[1.0, bad], **N)
    for reply in (array, metric, nested):
        with pytest.raises(ChunkError, match="expected finite values"):
            examine(reply)
        examine(reply, kind="evaluate")
        examine(reply, Screen(finite=False))
    assert examine(array, Screen(finite=False)).norm == math.inf
    narrow = content({"w": np.array([bad, 1]).astype(ml_dtypes.bfloat16).astype(np.float16)})
    with pytest.raises(ChunkError, match="found NaN or infinities"):
        examine(narrow)


def test_an_update_that_is_not_finite_is_too_large_unless_any_is_allowed() -> None:
    replies = updates(1, 1, 1, math.inf)
    assert "found inf" in odd(*replies, screen=Screen(finite=False))[3]
    assert odd(*replies, screen=Screen(finite=False, max_norm=None)) == {}


def updates(*sizes: float) -> list[RecordDict]:
    return [content({"w": W + np.float32(size), "count": 3}) for size in sizes]


@pytest.mark.parametrize(
    ("sizes", "max_norm", "refused"),
    [
        ((1, 1, 11), 10.0, {2}),
        ((1, 1, 9), 10.0, set()),
        ((1, 1, 11), None, set()),
        ((1, 1, 1.5), 1, {2}),
        ((1, 1e3), 10.0, set()),  # of two nobody knows which is the odd one
        ((1e9,), 10.0, set()),
        ((1, 1, 1e3, 1e3), 10.0, set()),  # the median is between them
        ((0, 0, 0), 10.0, set()),
        ((0, 0, 1e3), 10.0, set()),  # as of clients that had nothing to learn
        ((1, 0, 0.5), 10.0, set()),
        ((1e19, 1e19, 1e25), 10.0, {2}),  # squares are float64
    ],
)
def test_large_updates(sizes: tuple[float, ...], max_norm: float | None, refused: set[int]) -> None:
    found = odd(*updates(*sizes), screen=Screen(max_norm=max_norm))
    assert set(found) == refused
    assert all("its update is too large: expected an L2 norm of at most" in reason for reason in found.values())


def test_updates_of_earlier_replies_count() -> None:
    screen = Screen()
    small, large = (examine(reply) for reply in updates(1, 50))
    assert screen.odd_ones({0: large}) == {}
    assert screen.odd_ones({0: large}, [small], [small.norm]) == {
        0: "its update is too large: expected an L2 norm of at most 34.64, 10 medians, found 173.2"
    }
    assert screen.odd_ones({0: small}, [large, large]) == {}


def test_an_update_as_large_as_those_of_earlier_rounds_is_not_too_large() -> None:
    """Where most nodes have converged, one that has not learns as much as all did at first."""
    found = dict(enumerate(map(examine, updates(0.001, 0.001, 0.001, 1.0))))
    assert Screen().odd_ones(found).keys() == {3}
    assert Screen().odd_ones(found, largest=found[3].norm / 9) == {}
    assert Screen().odd_ones(found, largest=found[3].norm / 11).keys() == {3}


def test_odd_arrays_have_no_say_in_the_median() -> None:
    wrong = [content({"w": np.full((4, 3), 1e9, np.float32), "count": 3})] * 2
    assert set(odd(*updates(1, 1, 1, 50), *wrong)) == {3, 4, 5}


def test_what_was_sent_beats_what_most_have() -> None:
    others = [content({"w": W.T, "count": np.int64(3)})] * 5
    assert set(odd(*others, SENT)) == set(range(5))


def test_without_a_reply_like_it_most_decide() -> None:
    part, other = content({"w": W}), content({"w": W.astype(float)})
    assert odd(part, part, other) == {2: "arrays 'w': expected float32[3, 4], found float64[3, 4]"}
    assert odd(part) == odd(part, part) == odd() == {}


def test_in_later_rounds_the_one_before_decides() -> None:
    part, other = content({"w": W}), content({"w": W.astype(float)})
    usual, screen = examine(part), Screen()
    found = {0: examine(other), 1: examine(other), 2: examine(part)}
    reason = "arrays 'w': expected float32[3, 4], found float64[3, 4]"
    assert screen.odd_ones(found, usual=usual) == {0: reason, 1: reason}
    assert screen.odd_ones({0: found[0]}, usual=usual) == {0: reason}
    assert screen.odd_ones({0: examine(SENT)}, usual=usual) == {}
    evaluated = {0: examine(other, kind="evaluate"), 1: examine(other, kind="evaluate")}
    assert screen.odd_ones(evaluated, usual=usual) == {}, "replies to evaluate may carry what they like"


def test_replies_that_had_weights_must_have_them() -> None:
    screen, bare, weighted = Screen(), examine(content(loss=1.0)), examine(content(accuracy=1.0, **N))
    usual = examine(content(loss=1.0, **N))
    reason = "metrics 'num-examples': expected a number, found none"
    assert screen.odd_ones({0: bare, 1: bare}, usual=usual) == {0: reason, 1: reason}
    assert screen.odd_ones({0: weighted}, usual=usual) == {}, "other metrics may come and go"
    assert screen.odd_ones({0: bare}, usual=bare) == {}


def test_keys() -> None:
    model = {"base.w": W, "head.w": W, "head.b": W[0]}
    part, whole = content({k: model[k] for k in ("head.w", "head.b")}), content(model)
    for keys in ("head.*", ["head.w", "*.b"]):
        found = odd(part, whole, whole, screen=Screen(keys=keys), sent=whole)
        assert found == dict.fromkeys((1, 2), "arrays 'base.w': expected none, found float32[3, 4]")
    declared = Screen(keys="head.?")
    assert odd(whole, screen=declared, sent=whole).keys() == {0}, "most have no say when keys are declared"
    assert odd(content({}), screen=declared, sent=whole) == {0: "arrays 'head.w': expected float32[3, 4], found none"}
    assert odd(content({}), screen=Screen(keys="nothing"), sent=whole) == {}


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"w": W}, "arrays 'count': expected int64[], found none"),
        ({"w": W, "count": np.int64(1), "x": W}, "arrays 'x': expected none, found float32[3, 4]"),
        ({"w": W.T, "count": np.int64(1)}, "arrays 'w': expected float32[3, 4], found float32[4, 3]"),
        ({"w": W[0, 0], "count": np.int64(1)}, "arrays 'w': expected float32[3, 4], found float32[]"),
        ({"w": W[:1, :1], "count": np.int64(1)}, "arrays 'w': expected float32[3, 4], found float32[1, 1]"),
        ({"w": W, "count": np.int32(1)}, "arrays 'count': expected int64[], found int32[]"),
        ({"count": np.int64(1), "w": W}, "its keys are not in the order in which they were sent"),
        ({}, "arrays 'w': expected float32[3, 4], found none"),
    ],
)
def test_odd_arrays(arrays: dict[str, Any], reason: str) -> None:
    assert odd(content(arrays), SENT) == odd(content(arrays), SENT, SENT) == {0: reason}


def test_records_of_other_names() -> None:
    renamed = RecordDict({"model": SENT["arrays"], "metrics": SENT["metrics"]})
    more = RecordDict({**SENT, "more": record({"x": W})})
    assert odd(renamed, SENT) == {0: "arrays 'w': expected float32[3, 4], found none"}
    assert odd(more, SENT) == {0: "more 'x': expected none, found float32[3, 4]"}


def test_bfloat16_is_float32_from_nodes_without_the_mod() -> None:
    for dtype in (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
        narrow = LatentRecord.of(Bundle(pack({"w": W.astype(dtype)})))
        plain = content({"w": W.astype(dtype).astype(np.float32)})
        assert odd(content(narrow), plain, content(narrow), sent=content(narrow)) == {}
        assert examine(plain, sent=content(narrow)).norm == 0
        assert set(odd(content({"w": W.astype(np.float16)}), plain, sent=content(narrow))) == {0}


def test_byte_strings_have_any_length_in_records_of_nothing_else() -> None:
    trees = [content({"0": np.zeros(n, np.uint8)}) for n in (0, 7, 900)]
    assert odd(*trees, sent=trees[0]) == {}
    assert set(odd(*trees, content({"0": np.zeros((2, 3), np.uint8)}), sent=trees[0])) == {3}
    models = [content({"w": W, "bits": np.zeros(n, np.uint8)}) for n in (8, 9)]
    assert odd(*models, sent=models[0]) == {1: "arrays 'bits': expected uint8[8], found uint8[9]"}


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"loss": 1.0}, "metrics 'num-examples': expected a number, found none"),
        ({"accuracy": 1.0, **N}, "metrics 'loss': expected a number, found none"),
        ({"loss": [1.0], **N}, "metrics 'loss': expected a number, found a number[1]"),
        ({"loss": 1.0, "more": [], **N}, "metrics 'more': expected none, found a number[0]"),
    ],
)
@pytest.mark.parametrize("sent", [SENT, None], ids=["train", "evaluate"])
def test_odd_metrics(metrics: dict[str, Any], reason: str, sent: RecordDict | None) -> None:
    good = content(loss=2, **N)
    assert odd(content(**metrics), good, good, sent=sent) == {0: reason}


def test_lists_of_metrics_have_one_length() -> None:
    replies = [content(losses=[0.5] * n, **N) for n in (2, 3, 3)]
    assert odd(*replies) == {0: "metrics 'losses': expected a number[3], found a number[2]"}


@pytest.mark.parametrize("sent", [SENT, None], ids=["train", "evaluate"])
def test_metrics_may_differ_where_that_is_said(sent: RecordDict | None) -> None:
    screen = Screen(same_metrics=False)
    replies = [content(losses=[0.5] * n, **N) for n in (2, 3, 3)] + [content(**{f"site-{n}": 1.0}, **N) for n in (1, 2)]
    assert odd(*replies, screen=screen, sent=sent) == {}
    reason = "metrics 'num-examples': expected a number, found none"
    assert odd(*replies, content(loss=1.0), screen=screen, sent=sent) == {5: reason}
    assert screen.regular(examine(replies[0], screen), [examine(replies[1], screen)])
    with pytest.raises(ChunkError, match="metric 'losses': expected finite values"):
        examine(content(losses=[math.nan], **N), screen)


def test_of_two_the_one_with_a_weight_is_right() -> None:
    bare, weighted = content(loss=1.0), content(loss=1.0, **N)
    twice = RecordDict({**weighted, "more": MetricRecord(dict(N))})
    assert odd(twice, weighted) == {0: "more 'num-examples': expected none, found a number"}
    assert odd(bare, weighted) == {0: "metrics 'num-examples': expected a number, found none"}
    assert odd(weighted, bare).keys() == {1}
    assert odd(weighted, bare, screen=Screen(weight_key="loss")).keys() == {1}
    assert odd(bare, bare) == {}, "a strategy of one's own may not need any"
    assert odd(RecordDict({"arrays": SENT["arrays"]}), SENT).keys() == {0}


def test_replies_to_evaluate_have_only_each_other() -> None:
    bare = RecordDict({"metrics": MetricRecord(dict(N))})
    assert odd(bare, bare, SENT, sent=None) == {2: "arrays 'w': expected none, found float32[3, 4]"}


FOREIGN = Array("float32", (3, 4), "somebody.elses", b"\0" * 48)


def test_arrays_of_a_stype_that_nobody_here_reads() -> None:
    foreign = content({"w": FOREIGN, "count": np.int64(1)})
    assert odd(foreign, foreign, sent=foreign) == {}
    assert odd(foreign, foreign) == {}, "all answer so: their strategy will know"
    assert odd(foreign, SENT) == {0: "arrays 'w': expected float32[3, 4], found float32 as 'somebody.elses' [3, 4]"}
    other = content({"w": Array("float32", (3, 4), "elses", b""), "count": np.int64(1)})
    assert odd(other, foreign, sent=foreign).keys() == {0}
    assert examine(foreign).norm == 0


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (Array("float32", (4, 3), STYPE, Array(W).data), r"expected the shape \[4, 3\] in its data, found \[3, 4\]"),
        (Array("float32", (-3, -4), STYPE, Array(W).data), "expected the shape"),
        (Array("float32", (3, 4), STYPE, b""), "expected a .npy array"),
        (Array("float32", (3, 4), STYPE, Array(W).data + b"\0"), "expected 176 bytes for float32"),
        (Array("<U3", (1,), STYPE, Array(np.array(["abc"])).data), "of plain numbers: dtype"),
        (Array("V4", (2,), STYPE, Array(np.zeros(2, "V4")).data), "of plain numbers: dtype"),
    ],
)
def test_arrays_that_lie_about_what_is_inside(array: Array, match: str) -> None:
    with pytest.raises(ChunkError, match=match):
        examine(content({"w": array, "count": np.int64(1)}))


def test_a_dtype_is_what_is_inside() -> None:
    claims = content({"w": Array("float32", (3, 4), STYPE, Array(W.astype(float)).data), "count": np.int64(1)})
    modest = content({"w": Array("int8", (3, 4), STYPE, Array(W).data), "count": np.int64(1)})
    assert odd(claims, modest, SENT) == {0: "arrays 'w': expected float32[3, 4], found float64[3, 4]"}


def bomb(nbytes: int) -> bytes:
    """Return a bundle of zeros, of which all chunks are the same, with all digests right."""
    part = pack({"w": np.zeros(1 << 22, np.float32)}, "zstd")
    chunk = Bundle(part).layout.chunks[0]
    count = nbytes // 4 // chunk.stop
    chunks = [replace(chunk, start=i * chunk.stop, stop=(i + 1) * chunk.stop) for i in range(count)]
    manifest = Manifest((ArrayEntry("w", "float32", (nbytes // 4,)),), (), ("zstd",), tuple(chunks)).encode()
    return HEAD + part[len(HEAD) : len(HEAD) + chunk.size] * count + manifest + tail(manifest)


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    data = bomb(4 << 30)
    bundle = Bundle(data)
    bundle.verify()
    assert len(data) < 1 << 20
    with pytest.raises(ChunkError, match=r"expected arrays of 1073741824 bytes at most, found 4294967296; see Screen"):
        examine(content(LatentRecord.of(bundle)))
    assert bundle.clock.seconds == 0, "nothing was decoded"


def test_max_bytes() -> None:
    large = content(LatentRecord.of(Bundle(pack({"w": np.zeros(1000, np.float32)}))))
    with pytest.raises(ChunkError, match="expected arrays of 224 bytes at most, found"):
        examine(large, Screen(max_bytes=100))
    examine(large, Screen(max_bytes=5000))
    examine(content({"w": np.zeros(1000, np.float32)}), Screen(max_bytes=100))  # it takes no more than it brought
    examine(large, Screen(max_bytes=100), sent=large)


def test_regular() -> None:
    screen, good, part, bare = Screen(), examine(SENT), examine(content({"w": W})), examine(content(loss=1.0))
    assert screen.regular(good, [])
    assert not screen.regular(part, [])
    assert not screen.regular(bare, [])
    assert screen.regular(part, [part])
    assert not screen.regular(good, [part])
    declared = Screen(keys="w")
    assert declared.regular(examine(content({"w": W}), declared), [])
