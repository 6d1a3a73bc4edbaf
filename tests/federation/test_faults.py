"""Bad replies as apps make them: each costs one node one round, with a reason, and the run ends with a right model."""

import io
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable

from flowerpress import PressGrid, RunError
from flowerpress.federation.screening import Screen
from flowerpress.npy import STYPE
from tests.federation.apps import client, initial
from tests.federation.faults import (
    BAD,
    GOOD,
    LOSSY,
    NODES,
    Spoil,
    Watched,
    assert_in_step,
    assert_same_model,
    check_one_bad_round,
    grid_of,
    spoiled,
    stock,
)
from tests.federation.local_grid import LocalGrid

RAN = "FLOWERPRESS_TEST_RAN"  # set in the environment by a pickle that was loaded


class Canary:
    def __reduce__(self) -> Any:
        return exec, (f"import os; os.environ[{RAN!r}] = '1'",)


def arrays(change: Callable[[ArrayRecord], object]) -> Spoil:
    return lambda content: change(content.array_records["arrays"])


def metrics(**values: Any) -> Spoil:
    return lambda content: content.metric_records["metrics"].update(values)


def put(key: str, x: Any) -> Spoil:
    return arrays(lambda record: record.update({key: Array(np.asarray(x))}))


def changed(function: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    return arrays(lambda record: record.update(w=Array(np.asarray(function(record["w"].numpy())))))


def poked(value: float) -> Spoil:
    return changed(lambda w: np.where(np.arange(w.size).reshape(w.shape) == 7, np.float32(value), w))


def saved(function: Callable[..., None], *args: Any, **options: Any) -> bytes:
    function(file := io.BytesIO(), *args, **options)
    return file.getvalue()


def holding(data: bytes, stype: str = STYPE) -> Spoil:
    return arrays(lambda record: record.update(w=Array("float32", (40, 30), stype, data)))


def permuted(record: ArrayRecord) -> None:
    record.update({key: record.pop(key) for key in reversed(list(record))})


def another(name: str, record: Any) -> Spoil:
    return lambda content: content.update({name: record})


FLOATS = np.ones((40, 30), np.float32)
SPOILERS: dict[str, tuple[Spoil, str]] = {
    "wrong shape": (changed(np.transpose), r"arrays 'w': expected float32\[40, 30\], found float32\[30, 40\]"),
    "a shape that broadcasts": (put("w", np.ones(1, np.float32)), r"expected float32\[40, 30\], found float32\[1\]"),
    "a scalar": (put("w", np.float32(1)), r"expected float32\[40, 30\], found float32"),
    "extra key": (put("more", np.ones(2)), r"arrays 'more': expected none, found float64\[2\]"),
    "missing key": (arrays(lambda record: record.pop("b")), r"arrays 'b': expected float32\[30\], found none"),
    "extra record": (another("more", ArrayRecord([np.ones(2)])), "more '0': expected none, found float64"),
    "missing record": (lambda content: content.pop("arrays"), r"arrays 'w': expected float32\[40, 30\], found none"),
    "empty record": (another("arrays", ArrayRecord()), r"arrays 'w': expected float32\[40, 30\], found none"),
    "wrong dtype": (changed(lambda w: w.astype(np.float64)), r"expected float32\[40, 30\], found float64"),
    "integers": (changed(lambda w: w.astype(np.int32)), r"expected float32\[40, 30\], found int32"),
    "permuted keys": (arrays(permuted), "its keys are not in the order in which they were sent"),
    "NaN": (poked(math.nan), "arrays 'w': expected finite values, found NaN"),
    "infinity": (poked(-math.inf), "arrays 'w': expected finite values, found NaN"),
    "huge norm": (changed(lambda w: w * np.float32(1e6)), "its update is too large: expected an L2 norm of at most"),
    "the largest float": (changed(lambda w: np.full_like(w, 3e38)), "its update is too large"),
    "no weight": (lambda c: c["metrics"].pop("num-examples"), "'num-examples': expected a number, found none"),
    "weight 0": (metrics(**{"num-examples": 0}), "weight 'num-examples': expected above 0, up to 1e.06, found 0"),
    "negative weight": (metrics(**{"num-examples": -10}), "weight .* found -10"),
    "weight NaN": (metrics(**{"num-examples": math.nan}), "metric 'num-examples': expected finite values, found nan"),
    "huge weight": (metrics(**{"num-examples": 1e30}), "weight .* found 1e.30"),
    "a list of weights": (metrics(**{"num-examples": [10]}), r"weight .* found \[10\]"),
    "NaN in a metric": (metrics(loss=math.nan), "metric 'loss': expected finite values"),
    "another metric": (metrics(accuracy=1.0), "metrics 'accuracy': expected none, found a number"),
    "a list for a number": (metrics(loss=[1.0, 2.0]), r"metrics 'loss': expected a number, found a number\[2\]"),
    "extra metrics": (another("more", MetricRecord({"num-examples": 10})), "more 'num-examples': expected none"),
    "no metrics": (lambda content: content.pop("metrics"), "metrics 'loss': expected a number, found none"),
    # what is inside is not what it says outside
    "another stype": (holding(b"?", "somebody.elses"), r"found float32 as 'somebody.elses' \[40, 30\]"),
    "another shape inside": (holding(Array(FLOATS.T).data), r"shape \[40, 30\] in its data, found \[30, 40\]"),
    "another dtype inside": (holding(Array(FLOATS.astype(float)).data), r"expected float32\[40, 30\], found float64"),
    "nothing inside": (holding(b""), "expected a .npy array of plain numbers"),
    "cut short": (holding(Array(FLOATS).data[:-1]), "expected 4928 bytes for float32"),
    "petabytes inside": (
        holding(Array(FLOATS).data.replace(b"(40, 30), }" + b" " * 11, b"(9999999, 99999999), }")),
        r"expected \d{16} bytes for float32\[9999999, 99999999\], found 4928",
    ),
    "a pickle": (holding(saved(np.save, np.array([Canary()]), allow_pickle=True)), "of plain numbers: .*object"),
    "an archive": (holding(saved(np.savez, FLOATS)), "expected a .npy array of plain numbers"),
}
SOME = ["wrong shape", "missing key", "missing record", "NaN", "huge norm", "huge weight", "another metric"]


@pytest.mark.parametrize(("spoil", "reason"), SPOILERS.values(), ids=SPOILERS)
def test_a_bad_reply_costs_its_node_that_round(spoil: Spoil, reason: str, tmp_path: Path) -> None:
    inner = grid_of(tmp_path, {BAD: spoiled(spoil)})
    grid = PressGrid(inner, "intdelta | zstd")
    check_one_bad_round(grid, reason)
    assert_in_step(grid, inner)
    assert RAN not in os.environ


@pytest.mark.parametrize(("spoil", "reason"), SPOILERS.values(), ids=SPOILERS)
def test_so_does_that_of_a_node_without_the_mod(spoil: Spoil, reason: str, tmp_path: Path) -> None:
    inner = grid_of(tmp_path, {BAD: spoiled(spoil, pressed=False)})
    grid = PressGrid(inner)
    check_one_bad_round(grid, reason)
    assert_in_step(grid, inner, GOOD)
    assert RAN not in os.environ


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("codec", ["zstd", LOSSY])
def test_with_other_codecs(name: str, codec: str, tmp_path: Path) -> None:
    spoil, reason = SPOILERS[name]
    inner = grid_of(tmp_path, {BAD: spoiled(spoil)})
    grid = PressGrid(inner, codec)
    check_one_bad_round(grid, reason, codec)
    assert_in_step(grid, inner)


def everybody(folder: Path, spoil: Spoil, *rounds: int) -> LocalGrid:
    return grid_of(folder, {node: spoiled(spoil, rounds=rounds) for node in NODES})


@pytest.mark.parametrize("name", ["NaN", "weight 0", "nothing inside"])
def test_a_round_of_bad_replies_keeps_the_model(name: str, tmp_path: Path) -> None:
    spoil, _ = SPOILERS[name]
    inner, strategy = everybody(tmp_path, spoil, 2), Watched()
    grid = PressGrid(inner)
    result = strategy.run(grid)
    assert set(strategy.errors[2]) == set(NODES)
    failed = [exchange.failed for exchange in grid.exchanges]
    assert failed[0] == failed[2] == ""
    assert failed[1].startswith("0 valid replies of 1 that are needed; node 5: [flowerpress] ")
    assert 2 not in result.train_metrics_clientapp
    assert_same_model(result.arrays, stock((2, ())))
    assert_in_step(grid, inner)


def test_a_round_with_too_few_valid_replies_fails(tmp_path: Path) -> None:
    inner, strategy = grid_of(tmp_path, {BAD: spoiled(poked(math.nan))}), Watched()
    grid = PressGrid(inner, screen=Screen(min_replies=3))
    result = strategy.run(grid)
    why = grid.exchanges[1].failed
    assert why.startswith("2 valid replies of 3 that are needed; node 5: [flowerpress] refused: arrays 'w': expected f")
    assert strategy.errors[2].keys() == set(NODES)
    assert all(strategy.errors[2][node] == f"[flowerpress] refused: the round failed: {why}" for node in GOOD)
    assert "found NaN" in strategy.errors[2][BAD]
    assert_same_model(result.arrays, stock((2, ())))
    assert_in_step(grid, inner)


def test_a_run_in_which_all_fail_at_first_ends_with_the_reasons(tmp_path: Path) -> None:
    grid = PressGrid(everybody(tmp_path, poked(math.nan), 1))
    with pytest.raises(RunError, match=r"round 1: training fails: 0 valid replies of 1 .*node 5: .*; node 71: .*NaN"):
        Watched().run(grid)
    assert grid.exchanges[-1].failed


def test_one_node_that_fails_at_first_is_no_reason_to_end_a_run(tmp_path: Path) -> None:
    grid = PressGrid(everybody(tmp_path, poked(math.nan), 1))
    content = RecordDict({"arrays": initial(), "config": ConfigRecord({"server-round": 1})})
    for _ in range(2):
        (reply,) = grid.send_and_receive([Message(content, BAD, "train")])
        assert reply.has_error()
    with pytest.raises(RunError, match="node 71"):
        grid.send_and_receive([Message(content, GOOD[0], "train")])


def test_the_third_failed_round_in_a_row_ends_a_run(tmp_path: Path) -> None:
    inner, strategy = everybody(tmp_path, poked(math.nan), 2, 3, 5, 6, 7), Watched()
    grid = PressGrid(inner)
    with pytest.raises(RunError, match="round 7: training fails: 0 valid replies"):
        strategy.run(grid, 9)
    assert [bool(exchange.failed) for exchange in grid.exchanges] == [False, True, True, False, True, True, True]
    assert set(strategy.errors) == set(range(1, 7))


@pytest.mark.parametrize("name", ["a shape that broadcasts", "extra key", "missing key", "wrong dtype", "no weight"])
def test_a_single_bad_reply_is_no_majority(name: str, tmp_path: Path) -> None:
    """When all others are lost, it is beside what was sent, and the replies of the round before."""
    spoil, reason = SPOILERS[name]
    count = dict.fromkeys(NODES, 0)

    def lose(node: int, reply: Message) -> Message | None:
        count[node] += 1
        return None if node in GOOD and count[node] == 2 else reply

    inner, strategy = grid_of(tmp_path, {BAD: spoiled(spoil)}, damage=lose), Watched()
    grid = PressGrid(inner)
    result = strategy.run(grid, timeout=0.1)
    assert list(strategy.errors[2]) == [BAD]
    assert re.search(reason, strategy.errors[2][BAD])
    assert grid.exchanges[1].failed
    assert_same_model(result.arrays, stock((2, ())))
    assert_in_step(grid, inner)


def test_a_reply_to_evaluate_is_screened_too(tmp_path: Path) -> None:
    inner, strategy = grid_of(tmp_path, {BAD: client(mods=[without_weight])}), Watched(fraction_evaluate=1.0)
    grid = PressGrid(inner)
    result = strategy.run(grid)
    assert set(result.evaluate_metrics_clientapp) == {1, 2, 3}
    evaluated = [exchange for exchange in grid.exchanges if exchange.message_type == "evaluate"]
    for exchange in evaluated:
        assert {n.node: n.error for n in exchange.nodes if n.error} == {
            BAD: "[flowerpress] refused: metrics 'num-examples': expected a number, found none"
        }
        assert not exchange.failed
    assert_same_model(result.arrays, stock())


def without_weight(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    reply = call_next(message, context)
    if message.metadata.message_type == "evaluate":
        del reply.content.metric_records["metrics"]["num-examples"]
    return reply
