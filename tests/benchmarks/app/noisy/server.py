"""A server app that runs a strategy, with `PressGrid` or without, and measures itself round by round."""

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message
from flwr.serverapp import Grid, ServerApp

from flowerpress import PressGrid

from .rss import Peak

ARRAYS = 20
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    found = measure(grid, context.run_config)
    Path(context.run_config["output"]).write_text(json.dumps(found))


def measure(grid: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Run what ``config`` says, by the keys of the app; return bytes of memory and, for each round, what it cost.

    ``floor`` is the memory before there was a model, ``peak`` the most of all that follows.
    """
    wire, rounds, times = Wire(grid), list[dict[str, Any]](), [time.monotonic()]
    nodes, codec = config["nodes"], config["codec"]
    with Peak() as peak:

        def mark(server_round: int, arrays: ArrayRecord) -> None:
            times.append(time.monotonic())
            rounds.append({"peak": peak.take(), "seconds": times[-1] - times[-2], **wire.take()})

        floor = peak.take()
        resolve_name(config["strategy"])(
            fraction_train=config["fraction"], min_train_nodes=nodes, min_available_nodes=nodes, fraction_evaluate=0.0
        ).start(
            grid=PressGrid(wire, codec) if codec else wire,
            initial_arrays=model(config["megabytes"]),
            num_rounds=config["rounds"],
            evaluate_fn=mark,
        )
        most = max(peak.take(), *(found["peak"] for found in rounds))
    return {"floor": floor, "peak": most, "rounds": rounds[1:]}


def model(megabytes: float) -> ArrayRecord:
    """Return arrays that look like weights: normal, of deviation 0.05."""
    rng, record = np.random.default_rng(0), ArrayRecord()
    for i in range(ARRAYS):
        values = rng.standard_normal(int(megabytes * 1e6 / 4 / ARRAYS), np.float32)
        record[f"layer.{i}.weight"] = Array(values * np.float32(0.05))
    return record


class Wire:
    """A grid around another that counts what passes: replies, and the bytes of arrays down and up.

    It reads no ``content.array_records``: each of these is a reference cycle, and keeps a reply until the garbage
    collector comes by.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._counts = Counter()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(self._counted("down", messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._counted("up", self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self._counted("up", self._grid.send_and_receive(self._counted("down", messages), timeout=timeout))

    def take(self) -> dict[str, int]:
        """Return the counts since this was last called."""
        counts, self._counts = self._counts, Counter(replies=0, down=0, up=0)
        return dict(counts)

    def _counted(self, way: str, messages: Iterable[Message]) -> list[Message]:
        messages = list(messages)
        for content in (message.content for message in messages if message.has_content()):
            records = (record for record in content.values() if isinstance(record, ArrayRecord))
            self._counts[way] += sum(len(array.data) for record in records for array in record.values())
            self._counts["replies"] += way == "up"
        return messages
