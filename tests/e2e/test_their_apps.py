"""The apps of others, stock and pressed, in Flower's engines: the same model, the same metrics, fewer bytes.

The simulation engine counts no bytes, so that `pinned` does; SuperNodes' are those that ``flwr ls`` reports.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from flowerpress.chunks.content import FOLDER
from flowerpress.deployment.connection import Connection
from flowerpress.deployment.local import Federation
from flowerpress.deployment.superlink import SuperLink
from tests.e2e.conftest import Outcome
from tests.e2e.deployment import log_of, run
from tests.e2e.their_apps import (
    APPS,
    NAMES,
    NODES,
    PRESSED,
    STOCK,
    accuracy,
    assert_equal,
    copied,
    counted,
    metrics,
    pin,
    saved,
)

SIMULATED = f"num-supernodes={NODES} client-resources-num-cpus=1 client-resources-num-gpus=0.0"


@dataclass(frozen=True)
class Ran:
    """What came of a run: arrays that were saved, metrics of all rounds, and bytes, counted here and by Flower."""

    model: dict[str, np.ndarray]
    metrics: list[str]
    accuracy: float
    counted: int
    reported: int

    def __str__(self) -> str:
        return f"{self.reported or self.counted:,} bytes ({self.accuracy:.2%})"


@pytest.fixture(scope="module", autouse=True)
def one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """BLAS and torch have one thread in all programs, and the references of simulated nodes a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv(FOLDER, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    with SuperLink(simulation=True, log=tmp_path_factory.mktemp("simulation") / "log") as superlink:
        yield superlink


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with Federation(NODES, folder=tmp_path_factory.mktemp("federation")) as running:
        yield running


def ran(
    on: Connection, name: str, folder: Path, *, pressed: bool, codec: str = "", config: str = "", resources: str = ""
) -> Ran:
    """Run a copy of an app."""
    app, results = copied(name, folder / "app", pressed=pressed), folder / "results"
    pin(app, results, codec)
    run_id = run(on, app, config if pressed else f"{config} {STOCK.get(name, '')}", 900, resources)
    said = log_of(on, run_id)
    traffic = on.flwr("ls", on.name, "--run-id", str(run_id))["runs"][0]["network-traffic"]
    reported = sum(traffic[f"{way}-bytes"] for way in ("inbound", "outbound"))
    assert not re.search(r"and [1-9]\d* failures", said), said[-3000:]
    return Ran(saved(results), metrics(said), accuracy(said), counted(results), reported)


def same(stock: Ran, pressed: Ran) -> None:
    assert_equal(stock.model, pressed.model)
    assert stock.metrics == pressed.metrics
    assert len(stock.metrics) > 3


@pytest.mark.parametrize("name", NAMES)
def test_in_the_simulation_engine(simulation: SuperLink, name: str, tmp_path: Path, outcome: Outcome) -> None:
    print(f"\n{(APPS / name / PRESSED).read_text()}")
    stock = ran(simulation, name, tmp_path / "stock", pressed=False, resources=SIMULATED)
    pressed = ran(simulation, name, tmp_path / "pressed", pressed=True, resources=SIMULATED)
    same(stock, pressed)
    assert pressed.counted < stock.counted
    outcome(0, f"their app, simulated: {name}", f"stock {stock}, pressed {pressed}; equal by bits")


@pytest.mark.parametrize("name", NAMES)
def test_on_supernodes(federation: Federation, name: str, tmp_path: Path, outcome: Outcome) -> None:
    config, messages = "num-server-rounds=2", 2 * 2 * 2 * NODES  # of training and evaluation, both ways
    stock = ran(federation.superlink, name, tmp_path / "stock", pressed=False, config=config)
    pressed = ran(federation.superlink, name, tmp_path / "pressed", pressed=True, config=config)
    same(stock, pressed)
    assert pressed.reported < stock.reported
    assert 0 < pressed.reported - pressed.counted < 1024 * messages  # Flower's envelopes
    outcome(0, f"their app, flwr ls: {name}", f"stock {stock}, pressed {pressed}; equal by bits")


def test_small(simulation: SuperLink, tmp_path: Path, outcome: Outcome) -> None:
    """Not the same model, but about as good a one."""
    config = "num-server-rounds=10 fraction-train=1.0 local-epochs=1"
    stock, small = (
        ran(
            simulation, "pytorch", tmp_path / name, pressed=bool(codec), codec=codec, config=config, resources=SIMULATED
        )
        for name, codec in (("stock", ""), ("small", "small"))
    )
    assert small.counted < stock.counted / 15
    assert small.accuracy > stock.accuracy - 0.05
    outcome(0, "their app, small: pytorch", f"stock {stock}, small {small}: {stock.counted / small.counted:.1f}x")
