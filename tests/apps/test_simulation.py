"""The app in Flower's real simulation engine: exact, as in one process, reported, and failing loudly."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowerpress import Bundle
from flowerpress.apps import inprocess, launch, report
from flowerpress.apps.outcome import Outcome
from flowerpress.apps.runconfig import as_text
from flowerpress.chunks.content import FOLDER
from flowerpress.deployment.programs import environment, program
from tests.apps.test_config import DEFAULTS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.simulation

CLIENT = '''
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent))
from flwr.clientapp import ClientApp
from flowerpress.apps import client_app
from flowerpress.federation.mod import press_mod

def add_partition(message, context, call_next):
    """Let the server sort replies, which stock Flower hands on in the order of a set."""
    reply = call_next(message, context)
    reply.content["metrics"]["partition"] = float(context.node_config["partition-id"])
    return reply

app = ClientApp(mods=[*HOOKS, add_partition])
app.train()(client_app.train)
app.evaluate()(client_app.evaluate)
'''
SERVER = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(__file__).resolve().parent))
from flwr.serverapp import strategy

class Ordered(strategy.FedAvg):
    def aggregate_train(self, server_round, replies):
        return super().aggregate_train(server_round, sorted(replies, key=lambda r: r.content["metrics"]["partition"]))

strategy.Ordered = Ordered
from flowerpress.apps.server_app import app as _app
app = _app
"""


def app_in(folder: Path, *, hooks: str) -> Path:
    """Write the project's own app with the same order of replies everywhere, with the hooks or without them."""
    shutil.copytree(ROOT / "app", folder / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "app/client.py").write_text(CLIENT.replace("HOOKS", hooks))
    (folder / "app/server.py").write_text(SERVER)
    return folder


CONFIG = "strategy='Ordered' num-server-rounds=2 torch-threads=1 fraction-evaluate=1.0"


def test_the_lossless_default_gives_the_model_of_stock_flower(tmp_path: Path) -> None:
    models, rows = [], list[dict[str, Any]]()
    for name, hooks, codec in (("stock", "[]", ""), ("pressed", "[press_mod]", "zstd")):
        folder = tmp_path / name / "results"
        app = app_in(tmp_path / name, hooks=hooks)
        launch.simulate(app, folder, clients=4, run_config=f"{CONFIG} codec='{codec}'", on_round=rows.append)
        models.append(Bundle.open(folder / "model.fpb").read_all())
    stock, pressed = models
    assert list(stock) == list(pressed)
    for key, x in stock.items():
        assert pressed[key].dtype == x.dtype
        assert pressed[key].tobytes() == x.tobytes(), key
    assert stock["norm1.num_batches_tracked"].dtype == np.int64
    assert stock["norm1.num_batches_tracked"] > 0
    by_stock, by_press = rows[:3], rows[3:]
    assert [row["accuracy"] for row in by_stock] == [row["accuracy"] for row in by_press]
    assert by_stock[-1]["down-raw-bytes"] == by_press[-1]["down-raw-bytes"]
    assert by_stock[-1]["down-bytes"] > by_stock[-1]["down-raw-bytes"] > by_press[-1]["down-bytes"]
    assert 0 < by_press[-1]["up-bytes"] < by_press[-1]["up-raw-bytes"]
    assert {e["type"] for e in by_press[-1]["exchanges"]} == {"train", "evaluate"}


PROGRAM = """
from flwr.serverapp import ServerApp, strategy
from flwr.simulation import run_simulation
from flowerpress import PressGrid
from tests.federation.apps import client, initial

server = ServerApp()

@server.main()
def main(grid, context):
    assert not context.run_config
    grid = PressGrid(grid, "intdelta | zstd")
    result = strategy.FedAvg().start(grid=grid, initial_arrays=initial(), num_rounds=3)
    rows = [exchange.row() for exchange in grid.exchanges]
    assert [row["replies"] for row in rows] == [2] * 6, rows
    assert max(row["failures"] for row in rows) == 0
    assert rows[2]["down-bytes"] < rows[1]["down-bytes"] / 5  # names: both had evaluated the model
    assert len(result.arrays) == 3
    print("all is well")

resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
run_simulation(server, client(), num_supernodes=2, backend_config=resources)
"""


def test_run_simulation_which_has_no_run_config(tmp_path: Path) -> None:
    env = environment(tmp_path, PYTHONPATH=str(ROOT))
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "all is well" in done.stdout, done.stderr[-3000:]


def flowerpress(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([program("flowerpress"), *arguments], cwd=cwd, capture_output=True, text=True, check=False)


SAMPLED = {  # two of four clients in each round
    **{"dataset": "wine", "model": "mlp", "num-server-rounds": 2, "learning-rate": 0.02, "torch-threads": 1},
    **{"codec": "delta | budget(bits=1.0)", "fraction-train": 0.5, "fraction-evaluate": 0.5},
}


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the command line says of a run."""
    folder = tmp_path_factory.mktemp("a folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder / "cache"))
        done = flowerpress(
            *("run", str(ROOT), "--clients", "4", "--format", "json", "-c", as_text(SAMPLED)), cwd=folder
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert Path(found["folder"]).parent == folder / "runs"
    return found


def test_the_command_line_runs_and_reports(said: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(said["folder"])
    for name in ("metrics.jsonl", "summary.json", "model.fpb", "plot.png", "app.log", "superlink.log"):
        assert (folder / name).stat().st_size > 0, name
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert said["codec"] == SAMPLED["codec"]
    assert said["up-raw-bytes"] > 1.5 * said["up-bytes"]
    assert report.summary_of(folder)["rounds"] == 2
    shown = flowerpress("plot", str(folder), cwd=tmp_path)
    assert shown.returncode == 0
    assert "accuracy" in shown.stdout
    listed = flowerpress("inspect", str(folder / "model.fpb"), "--format", "json", cwd=tmp_path)
    assert [a["key"] for a in json.loads(listed.stdout)["arrays"]] == list(Bundle.open(folder / "model.fpb"))


def test_the_engine_and_one_process_give_the_same(said: dict[str, Any]) -> None:
    """The same clients are sampled, of the same partitions."""
    engine, alone = Outcome.of(Path(said["folder"])), inprocess.run({**DEFAULTS, **SAMPLED}, clients=4)
    assert alone.accuracy == engine.accuracy
    assert alone.loss == pytest.approx(engine.loss, rel=1e-6)
    assert alone.raw == engine.raw
    messages = 2 * 2 * 2
    for mine, other in ((alone.down[-1], engine.down[-1]), (alone.up[-1], engine.up[-1])):
        assert abs(mine - other) <= 12 * messages


def test_a_failed_run_exits_with_1_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARTED_BY", str(tmp_path))
    done = flowerpress("run", str(ROOT), "--clients", "2", "-c", "strategy='Nothing'", cwd=tmp_path)
    assert done.returncode == 1
    assert "expected a strategy among" in done.stderr
    assert "finished:failed" in done.stderr
    assert left_by(tmp_path) == []


def test_what_is_left_is_found(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(["cat"], env={"STARTED_BY": str(tmp_path)}, stdin=pipe, stdout=pipe, bufsize=0) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"!")
        assert child.stdout.read(1) == b"!"  # it has begun, and so has its environment
        assert left_by(tmp_path) == [child.pid]


def left_by(mark: Path) -> list[int]:
    """Return the processes that have the mark in their environment, as all do that inherit it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if f"STARTED_BY={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found
