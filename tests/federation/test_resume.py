"""Runs that go on: every strategy of Flower's ends where the run would have ended that nobody stopped."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import strategy
from flwr.serverapp.strategy import Result

from flowerpress import ChunkError, ConfigError, PressGrid
from flowerpress.arrays.store import Checkpoints
from flowerpress.federation.resume import Checkpointed
from flowerpress.federation.streaming import StreamingFedAvg
from tests.federation.apps import client, initial
from tests.federation.killing import end_is_the_same, kill
from tests.federation.local_grid import LocalGrid
from tests.federation.test_strategies import CASES, NODES, ROUNDS, Case, stock


def part(case: Case, folder: Path, rounds: int, *, resume: bool, codec: str = "zstd", **options: Any) -> Result:
    """Run a case up to a round, in objects of its own; what a process has of random numbers is not what it had."""
    random.seed(1 if not resume else 77)
    np.random.seed(2 if not resume else 78)
    grid = PressGrid(case.grid(pressed=True), codec)
    return Checkpointed(case.make(), folder, resume=resume).start(
        grid=grid, initial_arrays=case.model(), num_rounds=rounds, **options
    )


def same(ours: Result, theirs: Result) -> None:
    assert list(ours.arrays) == list(theirs.arrays)
    for key in theirs.arrays:
        x, y = ours.arrays[key].numpy(), theirs.arrays[key].numpy()
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes()), key
    assert ours.train_metrics_clientapp == theirs.train_metrics_clientapp
    assert ours.evaluate_metrics_clientapp == theirs.evaluate_metrics_clientapp
    assert ours.evaluate_metrics_serverapp == theirs.evaluate_metrics_serverapp


@pytest.mark.parametrize(("name", "stop"), [*((name, 1) for name in CASES), ("FedAdam", 0), ("FedAdam", 2)])
def test_a_strategy_goes_on_as_if_nobody_had_stopped_it(name: str, stop: int, tmp_path: Path) -> None:
    whole = part(CASES[name], tmp_path / "whole", ROUNDS, resume=False)
    for key, array in stock(name).arrays.items():
        assert np.array_equal(whole.arrays[key].numpy(), array.numpy())
    if stop:
        part(CASES[name], tmp_path / "parts", stop, resume=False)
    else:  # the process ended when the first round had begun
        part(CASES[name], tmp_path / "parts", 1, resume=False)
        (tmp_path / "parts" / "rounds" / "000001.json").unlink()
    same(part(CASES[name], tmp_path / "parts", ROUNDS, resume=True), whole)


def test_rounds_and_metrics_count_on(tmp_path: Path) -> None:
    seen = list[tuple[int, float]]()

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        seen.append((server_round, float(arrays["w"].numpy().sum())))
        return MetricRecord({"sum": seen[-1][1]})

    case = Case(strategy.FedAvg)
    whole = part(case, tmp_path / "a", 5, resume=False, evaluate_fn=evaluate)
    assert [number for number, _ in seen] == [0, 1, 2, 3, 4, 5]
    first, seen[:] = list(seen), []
    part(case, tmp_path / "b", 2, resume=False, evaluate_fn=evaluate)
    assert seen == first[:3]
    seen.clear()
    for _ in range(2):  # the second time all rounds are done
        same(part(case, tmp_path / "b", 5, resume=True, evaluate_fn=evaluate), whole)
    assert seen == first[3:]
    grid = LocalGrid({node: client() for node in NODES})
    Checkpointed(strategy.FedAvg(), tmp_path / "b", resume=True).start(PressGrid(grid), initial(), num_rounds=6)
    rounds = {message.content.config_records["config"]["server-round"] for message in grid.sent}
    assert rounds == {6}


def test_a_run_without_a_press_grid(tmp_path: Path) -> None:
    def run(folder: str, rounds: int, *, resume: bool) -> Result:
        grid = LocalGrid({node: client(pressed=False) for node in NODES})
        return Checkpointed(strategy.FedAdam(), tmp_path / folder, resume=resume).start(grid, initial(), rounds)

    whole = run("a", 4, resume=False)
    run("b", 2, resume=False)
    same(run("b", 4, resume=True), whole)


def test_a_strategy_that_has_a_start_of_its_own(tmp_path: Path) -> None:
    whole = part(Case(StreamingFedAvg), tmp_path / "a", 4, resume=False)
    part(Case(StreamingFedAvg), tmp_path / "b", 2, resume=False)
    found = part(Case(StreamingFedAvg), tmp_path / "b", 4, resume=True)
    for key in whole.arrays:  # it sums in the order in which replies come
        assert np.allclose(found.arrays[key].numpy(), whole.arrays[key].numpy(), rtol=1e-6)


def test_nothing_to_resume_begins(tmp_path: Path) -> None:
    begun = Checkpointed(strategy.FedAvg(), tmp_path, resume=True)
    assert begun.done == 0
    same(part(CASES["FedAvg"], tmp_path, 2, resume=True), part(CASES["FedAvg"], tmp_path / "b", 2, resume=False))


def test_rounds_of_another_run_are_not_mixed_in(tmp_path: Path) -> None:
    part(CASES["FedAvg"], tmp_path, 1, resume=False)
    with pytest.raises(ConfigError, match="has rounds of another run; resume it, or choose another place"):
        Checkpointed(strategy.FedAvg(), tmp_path)


def test_a_damaged_round_is_run_again(tmp_path: Path) -> None:
    case = CASES["FedAdam"]
    whole = part(case, tmp_path / "a", 3, resume=False)
    part(case, tmp_path / "b", 2, resume=False)
    chunk = next((tmp_path / "b" / "rounds").glob("000002.*/strategy/v_t%2Fw/c/0/0"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    assert Checkpointed(case.make(), tmp_path / "b", resume=True).done == 1
    same(part(case, tmp_path / "b", 3, resume=True), whole)
    assert Checkpoints(tmp_path / "b").rounds() == [1, 2, 3]
    for manifest in (tmp_path / "b" / "rounds").glob("*.json"):
        manifest.write_bytes(b"{}")
    with pytest.raises(ChunkError, match="no round is good"):
        Checkpointed(case.make(), tmp_path / "b", resume=True)


def test_nodes_that_still_have_the_reference_are_sent_the_difference(tmp_path: Path) -> None:
    apps = {node: client() for node in NODES}

    def run(rounds: int, caches: Path, *, resume: bool) -> list[int]:
        """Return the bytes that went down in each train round."""
        grid = PressGrid(LocalGrid(apps, caches=caches), "delta | quantize(bits=2) | entropy")
        Checkpointed(strategy.FedAvg(fraction_evaluate=0), tmp_path / "rounds", resume=resume).start(
            grid, initial(), rounds
        )
        return [sum(n.down_bytes for n in e.nodes) for e in grid.exchanges if e.message_type == "train"]

    whole, difference = run(2, tmp_path / "caches", resume=False)
    assert difference < whole / 2
    (resumed,) = run(3, tmp_path / "caches", resume=True)
    assert resumed < whole / 2
    (healed,) = run(4, tmp_path / "others", resume=True)  # nodes that have nothing say so, and are sent it whole
    assert healed > whole


@pytest.mark.parametrize("codec", ["delta | quantize(bits=4) | entropy", "small"])
def test_lossy_runs_go_on(codec: str, tmp_path: Path) -> None:
    case = replace(CASES["FedAvg"], nodes=NODES)
    whole = part(case, tmp_path / "a", 6, resume=False, codec=codec)
    part(case, tmp_path / "b", 3, resume=False, codec=codec)
    found = part(case, tmp_path / "b", 6, resume=True, codec=codec)
    moved = np.linalg.norm(whole.arrays["w"].numpy() - initial()["w"].numpy())
    assert np.linalg.norm(found.arrays["w"].numpy() - whole.arrays["w"].numpy()) < 0.5 * moved
    assert np.array_equal(found.arrays["count"].numpy(), whole.arrays["count"].numpy())


def test_a_model_that_was_put_there_is_gone_on_with(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(7, {key: array.numpy() + 1 for key, array in initial().items()})
    found = part(CASES["FedAvg"], tmp_path, 8, resume=True)
    assert list(found.train_metrics_clientapp) == [8]
    assert abs(float(found.arrays["w"].numpy().mean() - initial()["w"].numpy().mean()) - 1) < 0.2


def test_a_full_disk_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    part(CASES["FedAvg"], tmp_path, 1, resume=False)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("flowerpress.arrays.store.write", full)
        done = part(CASES["FedAvg"], tmp_path, 3, resume=True)
    assert len(done.train_metrics_clientapp) == 3
    assert "round 3 could not be written" in caplog.text
    assert "the run goes on" in caplog.text
    assert Checkpoints(tmp_path).rounds() == [0, 1]
    same(part(CASES["FedAvg"], tmp_path, 3, resume=True), done)


def test_kill_9(tmp_path: Path) -> None:
    """Five times here, a hundred times in ``make e2e``."""
    assert end_is_the_same(tmp_path, kill(tmp_path, 5, seed=10))


def test_the_strategy_is_as_it_was_afterwards(tmp_path: Path) -> None:
    made = strategy.FedAvg()
    before = dict(vars(made))
    Checkpointed(made, tmp_path).start(PressGrid(CASES["FedAvg"].grid(pressed=True)), initial(), 1)
    assert vars(made) == before
