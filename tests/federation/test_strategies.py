"""Every strategy and every client mod of Flower over PressGrid: the model and the metrics that stock Flower gives."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp, mod
from flwr.serverapp import Grid, strategy
from flwr.serverapp.strategy import Result, Strategy

from flowerpress import PressGrid, press_mod
from tests.federation.apps import initial
from tests.federation.local_grid import LocalGrid

NODES = (71, 5, 930, 44)
SEVEN = (*NODES, 8, 600, 13)
ROUNDS = 3  # what a strategy promotes in the first is sent in the second; momentum adds up from the second on
DTYPES = {key: array.dtype for key, array in initial().items()}


def floats() -> ArrayRecord:
    """Return a model without integers.

    QFedAvg raises on those. Clients that clip are sent them narrowed by PressGrid, but promoted to float64 by stock
    Flower: the norms of their updates differ, and with them all that is clipped.
    """
    return ArrayRecord({key: array for key, array in initial().items() if array.dtype == "float32"})


def in_record(data: bytes = b"") -> ArrayRecord:
    """Return what the XGBoost strategies call a model: bytes, and at first none."""
    return ArrayRecord([np.frombuffer(data, np.uint8)])


def received(message: Message) -> dict[str, np.ndarray]:
    """Return the model in its true dtypes: what a strategy promoted, torch's load_state_dict casts back just so."""
    record = message.content.array_records["arrays"]
    return {key: array.numpy().astype(DTYPES.get(key, array.dtype)) for key, array in record.items()}


def answer(message: Message, context: Context, arrays: ArrayRecord | None = None) -> Message:
    """Reply with metrics that depend on the node, and on every value that it was sent."""
    partition = int(context.node_config["partition-id"])
    seen = sum(float(np.sum(np.square(x, dtype=np.float64))) for x in received(message).values())
    metrics = {"train_loss": 1.0 + seen / (partition + 1), "list": [0.5, seen], "num-examples": 10 * (partition + 1)}
    records = RecordDict({"metrics": MetricRecord(metrics)})
    if arrays is not None:
        records["arrays"] = arrays
    return Message(records, reply_to=message)


def learn(message: Message, context: Context) -> Message:
    """Move the model by a step of this node's own; integers count."""
    factor = int(context.node_config["partition-id"]) + 1
    size = 0.1 * (1 - float(message.content.config_records["config"].get("proximal-mu", 0.0)))
    arrays = ArrayRecord()
    for key, x in received(message).items():
        moved = x + factor if x.dtype.kind == "i" else x - size * np.sin(factor * x)
        arrays[key] = Array(np.asarray(moved, x.dtype))
    return answer(message, context, arrays)


def grow_tree(message: Message, context: Context) -> Message:
    """Reply with the tree of this round alone: the parts of a saved XGBoost model that FedXgbBagging reads."""
    tree = {"id": 0, "leaf": int(context.node_config["partition-id"]), "seen": received(message)["0"].size}
    model = {
        "gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"},
        "iteration_indptr": [0, 1],
        "tree_info": [0],
        "trees": [tree],
    }
    saved = json.dumps({"learner": {"gradient_booster": {"model": model}}}).encode()
    return answer(message, context, in_record(saved))


def append(message: Message, context: Context) -> Message:
    """Go on with the model of the node before, as FedXgbCyclic has it; any bytes will do."""
    partition = int(context.node_config["partition-id"])
    return answer(message, context, in_record(received(message)["0"].tobytes() + bytes([partition] * (partition + 1))))


@dataclass(frozen=True)
class Case:
    """A strategy, and the model and the clients that it needs."""

    make: Callable[[], Strategy]
    model: Callable[[], ArrayRecord] = initial
    train: Callable[[Message, Context], Message] = learn
    mods: tuple[Any, ...] = ()
    nodes: tuple[int, ...] = NODES

    def client(self, *, pressed: bool) -> ClientApp:
        app = ClientApp(mods=[press_mod] if pressed else [])
        app.train(mods=list(self.mods))(self.train)
        app.evaluate()(answer)
        return app

    def grid(self, *, pressed: bool) -> LocalGrid:
        return LocalGrid({node: self.client(pressed=pressed) for node in self.nodes})

    def run(self, grid: Grid) -> Result:
        """Run the strategy; Flower samples nodes with ``random`` and draws noise with numpy's global generator."""
        random.seed(1)
        np.random.seed(2)
        return self.make().start(grid=grid, initial_arrays=self.model(), num_rounds=ROUNDS)


def private(name: str, **norm: float) -> Callable[[], Strategy]:
    """Return what makes FedAvg differentially private, with norms that do clip these clients' updates."""
    cls = getattr(strategy, f"DifferentialPrivacy{name}Clipping")
    return lambda: cls(strategy.FedAvg(), noise_multiplier=0.1, num_sampled_clients=len(NODES), **norm)


CASES = {
    "FedAvg": Case(strategy.FedAvg),
    "FedAvg, some clients": Case(lambda: strategy.FedAvg(fraction_train=0.75, fraction_evaluate=0.5)),
    "FedAvg, sizes": Case(strategy.FedAvg, mods=(mod.message_size_mod, mod.arrays_size_mod)),
    "FedAvg, local DP": Case(strategy.FedAvg, floats, mods=(mod.LocalDpMod(1.0, 0.01, 1.0, 1e-5),)),
    "FedAvgM": Case(lambda: strategy.FedAvgM(server_learning_rate=0.5, server_momentum=0.9)),
    "FedProx": Case(lambda: strategy.FedProx(proximal_mu=0.3)),
    "FedAdam": Case(strategy.FedAdam),
    "FedYogi": Case(strategy.FedYogi),
    "FedAdagrad": Case(strategy.FedAdagrad),
    "FedMedian": Case(strategy.FedMedian),
    "FedTrimmedAvg": Case(lambda: strategy.FedTrimmedAvg(beta=0.3)),
    "Krum": Case(lambda: strategy.Krum(num_malicious_nodes=1)),
    "MultiKrum": Case(lambda: strategy.MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3)),
    "Bulyan": Case(lambda: strategy.Bulyan(num_malicious_nodes=1), nodes=SEVEN),
    "QFedAvg": Case(lambda: strategy.QFedAvg(client_learning_rate=0.1), floats),
    "FedXgbBagging": Case(strategy.FedXgbBagging, in_record, grow_tree),
    "FedXgbCyclic": Case(strategy.FedXgbCyclic, in_record, append),
    "DP, server, fixed": Case(private("ServerSideFixed", clipping_norm=1.0)),
    "DP, server, adaptive": Case(private("ServerSideAdaptive", initial_clipping_norm=2.4)),
    "DP, client, fixed": Case(private("ClientSideFixed", clipping_norm=1.0), floats, mods=(mod.fixedclipping_mod,)),
    "DP, client, adaptive": Case(
        private("ClientSideAdaptive", initial_clipping_norm=2.4), floats, mods=(mod.adaptiveclipping_mod,)
    ),
}


@cache
def stock(name: str) -> Result:
    return CASES[name].run(CASES[name].grid(pressed=False))


def compare_with_stock(name: str, codec: str) -> None:
    """Compare floats by bits, integers by value: the dtypes of those differ where a strategy promotes them."""
    case, theirs = CASES[name], stock(name)
    grid = PressGrid(case.grid(pressed=True), codec)
    ours = case.run(grid)
    assert list(ours.arrays) == list(theirs.arrays)
    for key, first in case.model().items():
        x, y = ours.arrays[key].numpy(), theirs.arrays[key].numpy()
        if first.dtype == "float32":
            assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), key
        else:
            assert np.array_equal(x, y), key
    assert ours.train_metrics_clientapp == theirs.train_metrics_clientapp
    assert ours.evaluate_metrics_clientapp == theirs.evaluate_metrics_clientapp
    assert len(ours.train_metrics_clientapp) == len(ours.evaluate_metrics_clientapp) == ROUNDS
    assert all(not node.error for exchange in grid.exchanges for node in exchange.nodes)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("codec", ["zstd", "raw"])
def test_a_strategy_gives_what_it_gives_on_stock_flower(name: str, codec: str) -> None:
    compare_with_stock(name, codec)


@pytest.mark.parametrize("name", ["FedXgbBagging", "FedXgbCyclic"])
def test_lossy_codecs_leave_the_bytes_of_trees_alone(name: str) -> None:
    compare_with_stock(name, "quantize(bits=4) | entropy")


def test_trees_are_collected() -> None:
    saved = json.loads(stock("FedXgbBagging").arrays["0"].numpy().tobytes())
    assert len(saved["learner"]["gradient_booster"]["model"]["trees"]) == ROUNDS * len(NODES)
    assert len(set(stock("FedXgbCyclic").arrays["0"].numpy().tolist())) == ROUNDS


def test_no_strategy_and_no_mod_of_flower_is_left_out() -> None:
    made = {type(case.make()).__name__ for case in CASES.values()}
    assert made == set(strategy.__all__) - {"Result", "Strategy"}
    used = {getattr(used, "__name__", type(used).__name__) for case in CASES.values() for used in case.mods}
    assert used == set(mod.__all__)
