"""Figures of real exchanges, written with the real tools and read back."""

import itertools
import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from flwr.serverapp.strategy import FedAvg

from flowerpress import ConfigError, PressGrid
from flowerpress.federation.metrics import Exchange
from flowerpress.federation.track import Tracker, figures, track
from tests.federation.apps import client, initial
from tests.federation.local_grid import LocalGrid

Points = dict[str, list[tuple[int, float]]]  # rounds and values by name


@pytest.fixture(scope="module")
def exchanges() -> list[Exchange]:
    grid = PressGrid(LocalGrid({node: client() for node in (4, 7)}), "delta | quantize(step=0.01) | entropy")
    FedAvg().start(grid=grid, initial_arrays=initial(), num_rounds=3)
    return grid.exchanges


def points(exchanges: list[Exchange]) -> Points:
    result: Points = {}
    for exchange in exchanges:
        for name, value in figures(exchange).items():
            result.setdefault(name, []).append((exchange.server_round, value))
    return result


def test_figures(exchanges: list[Exchange]) -> None:
    row, found = exchanges[0].row(), figures(exchanges[0])
    assert set(row) - {name.removeprefix("train/") for name in found} == {"type", "round", "nodes", "failed"}
    assert found["train/up-bytes"] == row["up-bytes"]
    assert found["train/ratio"] == (row["down-raw-bytes"] + row["up-raw-bytes"]) / (row["down-bytes"] + row["up-bytes"])
    assert found["train/ratio"] > 1
    assert figures(Exchange("query", 0))["query/replies"] == 0


def test_any_writer(exchanges: list[Exchange]) -> None:
    written: list[tuple[str, float, int]] = []
    tracker = Tracker(lambda *figure: written.append(figure))
    for exchange in exchanges:
        tracker(exchange)
    assert [(name, step) for name, _, step in written if name.endswith("/seconds")] == [
        (f"{kind}/seconds", step) for step in (1, 2, 3) for kind in ("train", "evaluate")
    ]
    assert all(type(value) is float for _, value, _ in written)


def test_tensorboard(tmp_path: Path, exchanges: list[Exchange]) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = track("tensorboard", folder=tmp_path / "events")
    for exchange in exchanges:
        tracker(exchange)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    found = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert_same(found, points(exchanges))


def test_wandb(tmp_path: Path, exchanges: list[Exchange], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    wandb = pytest.importorskip("wandb")
    trackers = itertools.cycle([track("wandb", project="flowerpress") for _ in range(2)])  # the second joins the run
    for tracker, exchange in zip(trackers, exchanges, strict=False):
        tracker(exchange)
    wandb.teardown()
    assert_same(offline_history(tmp_path), points(exchanges))


def offline_history(folder: Path) -> Points:
    """Read the one run in ``folder``: a log as LevelDB has it, of protobufs, behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    data, at, result = path.read_bytes(), 7, dict[str, list[Any]]()
    assert len(data) < 32768  # of larger files the records are split into blocks
    while at < len(data):
        _, size, _ = struct.unpack_from("<IHB", data, at)
        at += 7 + size
        items = Record.FromString(data[at - size : at]).history.item
        row = {"".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
        for name in row:
            if "/" in name:
                result.setdefault(name, []).append((row["round"], row[name]))
    return result


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow with SQLAlchemy 2.1
def test_mlflow(tmp_path: Path, exchanges: list[Exchange], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # MLflow sets it, and it shall not stay
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    trackers = itertools.cycle([track("mlflow", uri=uri) for _ in range(2)])  # the second joins the run
    for tracker, exchange in zip(trackers, exchanges, strict=False):
        tracker(exchange)
    mlflow.end_run()
    reader = mlflow.MlflowClient(uri)
    (run,) = reader.search_runs(["0"])
    histories = {name: reader.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    assert_same({name: [(m.step, m.value) for m in history] for name, history in histories.items()}, points(exchanges))


def assert_same(found: Points, expected: Points) -> None:
    """Compare as float32, which is what TensorBoard keeps."""
    assert set(found) == set(expected)
    for name, series in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in series]
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in series], rel=1e-6)


@pytest.mark.parametrize(
    ("tool", "options", "match"),
    [
        ("excel", {"folder": "x"}, "a tool among tensorboard, wandb, mlflow, found 'excel'"),
        ("tensorboard", {}, "tensorboard takes folder=… and nothing else, found nothing"),
        ("wandb", {"project": "p", "uri": "u"}, "wandb takes project=… and nothing else, found"),
        ("mlflow", {"folder": Path("x")}, "mlflow takes uri=… and nothing else, found"),
    ],
)
def test_mistakes(tool: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        track(tool, **options)


@pytest.mark.parametrize(("tool", "option"), [("tensorboard", "folder"), ("wandb", "project"), ("mlflow", "uri")])
def test_a_tool_that_is_not_installed(tool: str, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, tool, None)  # as if it were not there
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ConfigError, match=rf"{tool} is not installed; pip install 'flowerpress\[track\]'"):
        track(tool, **{option: "somewhere"})
