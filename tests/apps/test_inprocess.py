"""The app in this process: the same code, really deflated messages, and nothing left behind."""

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flowerpress import Bundle, ConfigError, RunError
from flowerpress.apps import inprocess
from flowerpress.apps.counting import CountingGrid
from flowerpress.apps.inprocess import InProcessGrid
from flowerpress.apps.results import read_rounds
from flowerpress.chunks.content import FOLDER
from flowerpress.federation.metrics import object_bytes
from tests.apps.test_config import DEFAULTS

QUICK = {**DEFAULTS, "dataset": "wine", "model": "mlp", "num-server-rounds": 2, "learning-rate": 0.02}


def client() -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        drawn = [random.random(), float(np.random.random()), torch.rand(()).item()]
        torch.set_num_threads(torch.get_num_threads() + 1)
        seen = context.state.config_records.setdefault("seen", ConfigRecord({"times": 0}))
        seen["times"] = int(str(seen["times"])) + 1
        if context.node_config["partition-id"] == 2:
            raise ValueError("no memory")
        record = ArrayRecord()
        record["x"] = Array(message.content.array_records["arrays"]["x"].numpy() * 2)
        metrics = MetricRecord({"drawn": drawn, "times": seen["times"]})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)

    return app


def messages(grid: InProcessGrid) -> list[Message]:
    record = ArrayRecord()
    record["x"] = Array(np.arange(1000, dtype=np.float32))
    return [Message(RecordDict({"arrays": record}), node, "train") for node in grid.get_node_ids()]


def test_messages_reach_their_nodes_and_come_back() -> None:
    grid = InProcessGrid([client()] * 3, {"key": "value"})
    counting = CountingGrid(grid)
    for times in (1, 2):
        first, second, failed = counting.send_and_receive(messages(grid))
        for reply in (first, second):
            assert np.array_equal(reply.content["arrays"]["x"].numpy(), 2 * np.arange(1000))  # type: ignore[index]
            assert reply.content["metrics"]["times"] == times
        assert failed.error.code == 2
        assert "no memory" in failed.error.reason
    assert [context.node_config for context in grid.contexts.values()] == [
        {"partition-id": i, "num-partitions": 3} for i in range(3)
    ]
    assert all(context.run_config == {"key": "value"} for context in grid.contexts.values())


def test_what_one_client_draws_changes_nothing_for_others() -> None:
    grid = InProcessGrid([client()] * 2, {})
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), torch.get_num_threads()
    first, second = grid.send_and_receive(messages(grid))
    assert first.content["metrics"]["drawn"] == second.content["metrics"]["drawn"]
    assert (random.getstate(), torch.get_num_threads()) == (states[0], states[3])
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_message_arrives_as_what_was_sent_and_shares_nothing_with_it() -> None:
    grid = InProcessGrid([client()], {})
    (message,) = messages(grid)
    other = inprocess.arrived(message)
    assert other.object_id == message.object_id
    assert other.content is not message.content
    assert other.metadata.message_id == message.metadata.message_id


def test_objects_are_counted_per_node() -> None:
    grid = InProcessGrid([client()] * 3, {})
    counting = CountingGrid(grid)
    sent = messages(grid)
    size = object_bytes(sent[0])
    assert size > 4128
    ids = list(counting.push_messages(sent))
    assert counting.counts["down-bytes"] == 3 * size
    assert counting.counts["down-raw-bytes"] == 3 * 4000
    for i, ups in zip(ids, (1, 2, 2), strict=True):
        (_,) = counting.pull_messages([i])
        assert counting.counts["up-raw-bytes"] == 4000 * ups
    assert not list(counting.pull_messages(ids))
    assert list(counting.get_node_ids()) == list(grid.get_node_ids())


def test_equal_objects_of_one_message_are_sent_once() -> None:
    record = ArrayRecord()
    record["x"], record["y"] = (Array(np.ones(1000, np.float32)) for _ in "xy")
    InProcessGrid([], {})
    message = Message(RecordDict({"arrays": record}), 1, "train")
    assert 4128 < object_bytes(message) < 2 * 4128


def test_mistakes() -> None:
    grid = InProcessGrid([client()], {})
    (message,) = messages(grid)
    message.metadata.dst_node_id = 7
    with pytest.raises(ConfigError, match="expected a known node, found 7"):
        grid.push_messages([message])
    with pytest.raises(ConfigError, match="expected set_run first"):
        _ = grid.run


def ran(folder: Path, clients: int = 3, **changes: Any) -> dict[str, Any]:
    inprocess.run({**QUICK, **changes}, clients=clients, folder=folder)
    return dict(json.loads((folder / "summary.json").read_text()))


def test_runs_are_repeatable_and_clean_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    before = os.environ[FOLDER], torch.get_num_threads()
    one = ran(tmp_path / "one", codec="delta | budget(bits=1.0)")
    two = ran(tmp_path / "two", codec="delta | budget(bits=1.0)")
    assert (os.environ[FOLDER], torch.get_num_threads()) == before
    assert not list((tmp_path / "temporary").glob("flowerpress*"))
    assert not list(Path(os.environ[FOLDER]).iterdir())
    for name in ("accuracy", "loss", "down-bytes", "up-bytes"):
        assert one[name] == two[name], name
    assert one["down-raw-bytes"] == 3 * 2 * 4 * 1_229_803
    assert (tmp_path / "one/model.fpb").read_bytes() == (tmp_path / "two/model.fpb").read_bytes()
    monkeypatch.setattr("tempfile.tempdir", None)


def test_the_lossless_run_is_the_stock_run(tmp_path: Path) -> None:
    stock, pressed = ran(tmp_path / "stock", codec=""), ran(tmp_path / "pressed", codec="zstd")
    models = [Bundle.open(tmp_path / name / "model.fpb").read_all() for name in ("stock", "pressed")]
    for key, x in models[0].items():
        assert x.tobytes() == models[1][key].tobytes(), key
    for way in ("down", "up"):
        assert stock[f"{way}-raw-bytes"] == pressed[f"{way}-raw-bytes"]
        assert pressed[f"{way}-bytes"] < stock[f"{way}-raw-bytes"] < stock[f"{way}-bytes"]


def test_one_pipeline_down_and_another_up(tmp_path: Path) -> None:
    run = ran(tmp_path / "run", **{"codec": "raw", "codec-down": "delta | budget(bits=1.0)", "first": "whole"})
    first, second = read_rounds(tmp_path / "run")[1:]
    assert run["up-bytes"] > run["up-raw-bytes"]
    assert second["down-bytes"] < first["down-bytes"] / 8


@pytest.mark.parametrize("strategy", ["FedAdam", "FedAvgM"])
def test_the_learning_rate_of_the_server(tmp_path: Path, strategy: str) -> None:
    losses = [
        ran(tmp_path / str(rate), strategy=strategy, **{"server-learning-rate": rate})["loss"] for rate in (0.0, 1e-5)
    ]
    start = read_rounds(tmp_path / "0.0")[0]["loss"]
    assert abs(losses[1] - start) < 0.2 < abs(losses[0] - start)
    with pytest.raises(ConfigError, match="FedAvg has none"):
        ran(tmp_path / "none", **{"server-learning-rate": 0.1})


def test_runs_fail_as_they_do_in_an_engine(tmp_path: Path) -> None:
    before = os.environ[FOLDER]
    with pytest.raises(RunError, match="training fails"):
        ran(tmp_path / "run", clients=3, **{"batch-size": 1, "model": "mlp", "image-size": 0, "partitioner": "none"})
    with pytest.raises(ConfigError, match="tables of features need"):
        ran(tmp_path / "other", model="cnn")
    assert os.environ[FOLDER] == before
