"""StreamingFedAvg gives what FedAvg gives, with one reply at a time, whoever comes first."""

import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result

from flowerpress import ConfigError, PressGrid, RunError, press_mod
from flowerpress.federation.chunkwise import ChunkwiseFedAvg
from flowerpress.federation.screening import Screen
from flowerpress.federation.streaming import StreamingFedAvg
from tests.federation.apps import client, initial
from tests.federation.faults import (
    BAD,
    CODECS,
    GOOD,
    LOSSY,
    NODES,
    ROUNDS,
    Spoil,
    assert_in_step,
    grid_of,
    spoiled,
    stock,
)
from tests.federation.local_grid import LocalGrid

ALWAYS = range(1, 99)


class Streaming(StreamingFedAvg):
    """Remembers the errors, and how many replies there are in memory whenever one is folded."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.errors: dict[int, set[int]] = {}
        self.replies: list[weakref.ref[Message]] = []
        self.alive: list[int] = []

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        self.errors[server_round] = set()
        return super().aggregate_train(server_round, self._watched(server_round, replies))

    def _watched(self, server_round: int, replies: Iterable[Message]) -> Iterator[Message]:
        for reply in replies:
            self.replies.append(weakref.ref(reply))
            self.errors[server_round] |= {reply.metadata.src_node_id} if reply.has_error() else set()
            yield reply

    def _fold(self, *args: Any) -> None:
        self.alive.append(sum(reply() is not None for reply in self.replies))
        super()._fold(*args)


def test_one_record_of_arrays_is_averaged() -> None:
    """FedAvg ends the run on replies with several, whose keys may be the same."""
    app = ClientApp(mods=[press_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = {"arrays": ArrayRecord([np.ones(3)]), "control": ArrayRecord([np.full(3, 100.0)])}
        return Message(RecordDict({**arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    grid = PressGrid(LocalGrid(dict.fromkeys(NODES, app)))
    with pytest.raises(RunError, match=r"expected one ArrayRecord in each reply, found \['arrays', 'control'\]"):
        StreamingFedAvg(fraction_evaluate=0).start(grid, ArrayRecord([np.ones(3)]), 1)


@pytest.mark.parametrize("made", [StreamingFedAvg, ChunkwiseFedAvg])
def test_complex_arrays_are_averaged_as_by_fedavg(made: type[FedAvg]) -> None:
    app = ClientApp(mods=[press_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = context.node_config["partition-id"]
        arrays = ArrayRecord([np.array([1 + 2j, 3 - 1j], np.complex64) * (partition + 1)])
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    found = [
        strategy(fraction_evaluate=0).start(
            PressGrid(LocalGrid(dict.fromkeys(NODES, app))), ArrayRecord([np.zeros(2, np.complex64)]), 1
        )
        for strategy in (FedAvg, made)
    ]
    x, y = (result.arrays["0"].numpy() for result in found)
    assert x.dtype == y.dtype == np.complex64
    assert np.allclose(x, y)


def test_replies_to_evaluate_are_not_compared_with_updates() -> None:
    app = ClientApp(mods=[press_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content["arrays"]
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        confusion = ArrayRecord([np.full((3, 3), 50.0)])
        metrics = MetricRecord({"num-examples": 1, "accuracy": 0.5})
        return Message(RecordDict({"confusion": confusion, "metrics": metrics}), reply_to=message)

    made = StreamingFedAvg(fraction_evaluate=0.5, min_evaluate_nodes=2)
    result = made.start(PressGrid(LocalGrid(dict.fromkeys(NODES, app))), initial(), 2)
    assert {number: m["accuracy"] for number, m in result.evaluate_metrics_clientapp.items()} == {1: 0.5, 2: 0.5}


class InOrder(LocalGrid):
    """A grid on which the reply of BAD comes before all others."""

    waiting = False

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        messages = list(messages)
        self.waiting = BAD in [message.metadata.dst_node_id for message in messages]
        return super().push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (i,) = message_ids
        if self.waiting and (i not in self._replies or self._replies[i].metadata.src_node_id != BAD):
            return []
        self.waiting = False
        return super().pull_messages([i])


def first_of(folder: Path, apps: Mapping[int, ClientApp]) -> InOrder:
    return InOrder({node: client() for node in NODES} | dict(apps), caches=folder)


def run(strategy: FedAvg, grid: Grid, rounds: int = ROUNDS) -> Result:
    return strategy.start(grid=grid, initial_arrays=initial(), num_rounds=rounds)


def assert_close(found: ArrayRecord, expected: ArrayRecord) -> None:
    assert list(found) == list(expected)
    for key, array in expected.items():
        x, y = found[key].numpy(), array.numpy()
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert np.allclose(x, y, rtol=1e-6, atol=1e-6 * np.abs(y).max())


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("options", [{}, {"fraction_evaluate": 0.0}], ids=["with evaluate", "without"])
def test_it_is_fed_avg(codec: str, options: dict[str, Any], tmp_path: Path) -> None:
    rounds = 1 if codec == LOSSY else ROUNDS  # in the next one, the last bit of a sum decides between two steps
    inner, grid = grid_of(tmp_path / "stream"), PressGrid(grid_of(tmp_path / "stock"), codec)
    expected, streaming = run(FedAvg(**options), grid, rounds), PressGrid(inner, codec)
    found = run(StreamingFedAvg(**options), streaming, rounds)
    assert_close(found.arrays, expected.arrays)
    for metrics in ("train_metrics_clientapp", "evaluate_metrics_clientapp"):
        ours, theirs = getattr(found, metrics), getattr(expected, metrics)
        assert set(ours) == set(theirs)
        tolerance = 0.5 if codec == LOSSY else 1e-5  # steps, of a sum over all weights
        assert all(ours[n] == pytest.approx(dict(theirs[n]), abs=tolerance) for n in theirs)
    assert [e.message_type for e in streaming.exchanges] == [e.message_type for e in grid.exchanges]
    assert all(node.row()["server-decode-seconds"] > 0 for node in streaming.exchanges[0].nodes)
    assert_in_step(streaming, inner)


def test_integers_are_averaged_as_fed_avg_does(tmp_path: Path) -> None:
    (found,) = [run(StreamingFedAvg(), PressGrid(grid_of(tmp_path)), 1).arrays["count"].numpy()]
    assert found.dtype == np.float64
    assert found == pytest.approx(3 + (10 * 1 + 20 * 2 + 30 * 3) / 60)


def test_at_no_time_there_are_two_replies(tmp_path: Path) -> None:
    strategy = Streaming()
    run(strategy, PressGrid(grid_of(tmp_path, {node: client() for node in range(8)})))
    assert len(strategy.alive) == ROUNDS * (8 + len(GOOD))
    assert set(strategy.alive) == {1}
    assert not any(reply() for reply in strategy.replies)


def test_what_is_odd_waits_for_the_others(tmp_path: Path) -> None:
    """It is in memory for longer, compressed; if all are odd, as in apps that answer with other dtypes, all wait."""

    def widen(content: Any) -> None:
        content["arrays"] = ArrayRecord([array.numpy().astype(float) for array in content["arrays"].values()])

    apps = {node: spoiled(widen, rounds=ALWAYS) for node in NODES}
    strategy = Streaming()
    found = run(strategy, PressGrid(first_of(tmp_path / "stream", apps)))
    assert_close(found.arrays, run(FedAvg(), PressGrid(grid_of(tmp_path / "stock", apps))).arrays)
    assert not any(strategy.errors.values())
    assert max(strategy.alive) == len(NODES)


def arrays(**values: Any) -> Spoil:
    return lambda content: content["arrays"].update({key: Array(np.asarray(x)) for key, x in values.items()})


def metrics(**values: Any) -> Spoil:
    return lambda content: content["metrics"].update(values)


REFUSED: dict[str, Spoil] = {
    "a shape that broadcasts": arrays(w=np.ones(1, np.float32)),
    "extra key": arrays(more=np.ones(3)),
    "missing key": lambda content: content["arrays"].pop("b"),
    "NaN": arrays(b=np.full(30, np.nan, np.float32)),
    "no weight": lambda content: content["metrics"].pop("num-examples"),
    "no metrics": lambda content: content.pop("metrics"),
    "weights in two records": lambda content: content.update(more=MetricRecord({"num-examples": 10})),
}


@pytest.mark.parametrize("spoil", REFUSED.values(), ids=REFUSED)
def test_a_bad_reply_that_comes_first(spoil: Spoil, tmp_path: Path) -> None:
    """It decides nothing for those that come after it."""
    inner, strategy = first_of(tmp_path, {BAD: spoiled(spoil, rounds=ALWAYS)}), Streaming()
    found = run(strategy, PressGrid(inner))
    assert strategy.errors == {1: {BAD}, 2: {BAD}, 3: {BAD}}
    assert_close(found.arrays, stock(*((number, (BAD,)) for number in (1, 2, 3))))


@pytest.mark.parametrize("spoil", [metrics(accuracy=1.0), metrics(loss=[1.0, 2.0])], ids=["another", "a list"])
def test_odd_metrics_that_come_first_are_left_out_of_their_average(spoil: Spoil, tmp_path: Path) -> None:
    inner, strategy = first_of(tmp_path, {BAD: spoiled(spoil, rounds=ALWAYS)}), Streaming()
    found = run(strategy, PressGrid(inner))
    assert strategy.errors == {1: set(), 2: set(), 3: set()}
    assert_close(found.arrays, stock())
    assert found.train_metrics_clientapp[3] == pytest.approx({"loss": (20 / 2 + 30 / 3) / 50})


def test_a_huge_update_that_comes_first_is_beside_those_of_the_round_before(tmp_path: Path) -> None:
    huge = spoiled(lambda content: arrays(w=content["arrays"]["w"].numpy() * np.float32(1e6))(content))
    inner, strategy = first_of(tmp_path, {BAD: huge}), Streaming()
    found = run(strategy, PressGrid(inner))
    assert strategy.errors == {1: set(), 2: {BAD}, 3: set()}
    assert_close(found.arrays, stock((2, (BAD,))))


@pytest.mark.parametrize(("bad", "needed"), [(NODES, 1), ((BAD,), 3)], ids=["none is valid", "too few are"])
def test_a_failed_round_keeps_the_model(bad: tuple[int, ...], needed: int, tmp_path: Path) -> None:
    inner, strategy = grid_of(tmp_path, {node: spoiled(REFUSED["NaN"]) for node in bad}), Streaming()
    grid = PressGrid(inner, screen=Screen(min_replies=needed))
    found = run(strategy, grid)
    assert strategy.errors[2] == set(bad)
    assert [bool(e.failed) for e in grid.exchanges if e.message_type == "train"] == [False, True, False]
    assert_close(found.arrays, stock((2, ())))
    assert 2 not in found.train_metrics_clientapp
    assert_in_step(grid, inner)


def test_a_run_without_hope_ends(tmp_path: Path) -> None:
    apps = {node: spoiled(REFUSED["NaN"], rounds=ALWAYS) for node in NODES}
    with pytest.raises(RunError, match="round 1: training fails: 0 valid replies"):
        run(StreamingFedAvg(), PressGrid(grid_of(tmp_path, apps)))


def test_replies_without_weights_end_a_run(tmp_path: Path) -> None:
    apps = {node: spoiled(REFUSED["no weight"], rounds=ALWAYS) for node in NODES}
    with pytest.raises(RunError, match="expected one number 'num-examples', the weight, in each reply, found"):
        run(StreamingFedAvg(), PressGrid(grid_of(tmp_path, apps)))


def test_another_weight(tmp_path: Path) -> None:
    apps = {node: spoiled(metrics(size=node), rounds=ALWAYS) for node in NODES}
    found, expected = (
        run(cls(weighted_by_key="size"), PressGrid(grid_of(tmp_path / cls.__name__, apps))).arrays
        for cls in (StreamingFedAvg, FedAvg)
    )
    assert_close(found, expected)


def test_it_needs_a_press_grid(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a PressGrid, found LocalGrid"):
        run(StreamingFedAvg(), grid_of(tmp_path))
