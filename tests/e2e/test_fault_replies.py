"""Rows 7 to 12 of the fault matrix, on a SuperLink: what clients may send costs them the round, and nobody else."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, Error, Message
from flwr.serverapp.strategy import FedAvg

from flowerpress import Bundle
from flowerpress.apps.runconfig import as_text
from flowerpress.deployment.local import Federation
from tests.e2e.conftest import Outcome
from tests.e2e.deployment import log_of, run, wait
from tests.e2e.faulty.faulty.client import app as client
from tests.e2e.faulty.faulty.model import initial
from tests.federation.local_grid import LocalGrid

APP, NODES, BAD = Path(__file__).parent / "faulty", 3, 1
STORY = [  # row, fault, and what the reason has, of the clients 1 and 2 in each round from the second on
    [(7, "huge", "L2 norm")],  # beside the norms of two others
    [(7, "nan", "NaN"), (9, "weight-zero", "num-examples")],
    [(7, "infinity", "infinities"), (9, "weight-negative", "num-examples")],
    [(8, "shape", r"found float32\[30, 40\]"), (9, "weight-nan", "num-examples")],
    [(8, "broadcast", r"found float32\[1\]"), (9, "weight-huge", "num-examples")],
    [(8, "dtype", "found float16"), (1, "flip", "digest")],
    [(8, "missing", "'b'.*found none"), (6, "garbage", "expected b'FPB'")],
    [(8, "extra", "'more'"), (6, "pickle", "'w'.*found none")],
    [(11, "replay", "expected a reply to the message")],
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(NODES, folder=tmp_path_factory.mktemp("federation")) as running:
        yield running


def ran(federation: Federation, folder: Path, **config: Any) -> list[dict[str, Any]]:
    """Run the app, and return what each exchange cost."""
    folder.mkdir(exist_ok=True)
    values = {"log": str(folder / "log.jsonl"), "output": str(folder / "model.fpb"), **config}
    run(federation.superlink, APP, as_text(values), 600)
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def expected(rounds: int, failing: set[tuple[int, int]]) -> ArrayRecord:
    """Return the model of stock Flower, where replies are lost: of these rounds and clients."""
    count = dict.fromkeys(range(NODES), 0)

    def fail(node: int, reply: Message) -> Message:
        count[node] += 1
        return Message(Error(2, "bad"), reply_to=reply) if (count[node], node) in failing else reply

    grid = LocalGrid(dict.fromkeys(range(NODES), client), damage=fail, run_config={"faults": ""})
    return FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=initial(), num_rounds=rounds).arrays


def assert_same(found: Path, model: ArrayRecord, *, tolerance: float = 0.0) -> None:
    """Compare floats by bits, or within a tolerance, and integers by value."""
    bundle = Bundle.open(found)
    assert list(bundle) == list(model)
    for key, array in model.items():
        x, y = bundle[key], array.numpy()
        if key == "count":
            assert int(x) == int(y)
        else:
            assert np.abs(x - y).max() <= tolerance if tolerance else x.tobytes() == y.tobytes(), key


def errors_of(exchange: dict[str, Any]) -> list[str]:
    return [node["error"] for node in exchange["nodes"] if node["error"]]


def test_bad_replies_cost_their_node_the_round(federation: Federation, tmp_path: Path, outcome: Outcome) -> None:
    """One after the other in one run; before, and at the end, all are good."""
    rounds = len(STORY) + 2
    faults = {
        (number, client): kind for number, both in enumerate(STORY, 2) for client, (_, kind, _) in enumerate(both, 1)
    }
    texts = [f"1:{BAD}:keep", *(f"{number}:{client}:{kind}" for (number, client), kind in faults.items())]
    exchanges = ran(federation, tmp_path, faults=",".join(texts), rounds=rounds)
    assert len(exchanges) == rounds
    assert errors_of(exchanges[0]) == errors_of(exchanges[-1]) == []
    for both, exchange in zip(STORY, exchanges[1:-1], strict=True):
        errors = errors_of(exchange)
        assert len(errors) == len(both), (both, errors)
        for row, kind, reason in both:
            (why,) = [error for error in errors if re.search(reason, error)]
            outcome(row, kind, why)
    assert not list(federation.folder.rglob("pickle-was-loaded"))
    # a client that has answered without a mark is sorted before the others: sums differ in their last bits
    assert_same(tmp_path / "model.fpb", expected(rounds, set(faults)), tolerance=1e-6)


def test_a_reply_of_another_run(federation: Federation, tmp_path: Path, outcome: Outcome) -> None:
    ran(federation, tmp_path / "one", faults=f"1:{BAD}:keep", rounds=1)
    exchanges = ran(federation, tmp_path / "two", faults=f"2:{BAD}:replay", rounds=3)
    assert [len(errors_of(exchange)) for exchange in exchanges] == [0, 1, 0]
    assert_same(tmp_path / "two" / "model.fpb", expected(3, {(2, BAD)}))
    outcome(11, "reply of another run", f"refused: {errors_of(exchanges[1])[0]}")


def test_a_cache_is_lost(federation: Federation, tmp_path: Path, outcome: Outcome) -> None:
    exchanges = ran(federation, tmp_path, faults=f"3:{BAD}:lost-cache", rounds=4)
    assert all(errors_of(exchange) == [] for exchange in exchanges)
    down = [{node["partition"]: node["down-bytes"] for node in exchange["nodes"]} for exchange in exchanges]
    assert down[2][BAD] > 1.2 * down[2][0]  # a difference, and then the whole
    assert down[3][BAD] == pytest.approx(down[3][0], rel=0.05)
    assert_same(tmp_path / "model.fpb", expected(4, set()))
    outcome(12, "reference lost", "sent whole in the same round; no reply lost, model equal by bits")


def test_all_clients_are_bad_in_a_round(federation: Federation, tmp_path: Path, outcome: Outcome) -> None:
    faults = ",".join(f"2:{node}:nan" for node in range(NODES))
    exchanges = ran(federation, tmp_path, faults=faults, rounds=3)
    assert [bool(exchange["failed"]) for exchange in exchanges] == [False, True, False]
    outcome(10, "all bad in one round", "round failed, model kept, the next round counts")


def test_all_clients_stay_bad(federation: Federation, tmp_path: Path, outcome: Outcome) -> None:
    faults = ",".join(f"{i}:{node}:nan" for node in range(NODES) for i in range(2, 9))
    superlink, log = federation.superlink, tmp_path / "log.jsonl"
    run_id = superlink.submit(APP, f"faults='{faults}' rounds=8 log='{log}'")
    wait(superlink, run_id, 300)
    status, _ = superlink.status(run_id)
    assert status == "finished:failed"
    assert len(log.read_text().splitlines()) == 4
    assert re.search(r"training fails: 0 valid replies.*NaN", log_of(superlink, run_id))
    outcome(10, "all bad from round 2 on", "run ends behind three failed rounds, with the reasons")
