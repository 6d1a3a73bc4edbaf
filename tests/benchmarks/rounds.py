"""An app whose rounds are timed: its client is numpy only, so that what takes the time is the exchange.

`bench_network` copies this file beside a pyproject.toml and submits it; configuration keys stand there.
"""

import json
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from flowerpress import PressGrid, press_mod

TENSORS, SHAPE = 300, (96, 87)  # 10 MB of float32
ROUNDS = 3  # after one that warms up

client = ClientApp(mods=[press_mod])
server = ServerApp()


def model(*, empty: bool = False) -> ArrayRecord:
    """Return what looks like trained weights; or one value."""
    rng = np.random.default_rng(0)
    record = ArrayRecord()
    for i in range(1 if empty else TENSORS):
        shape = (1, 1) if empty else SHAPE
        record[f"layer.{i}.weight"] = Array((rng.standard_normal(shape) * 0.05).astype(np.float32))
    return record


@client.train()
def train(message: Message, context: Context) -> Message:
    """Move each value by about a hundredth, on each node in a way of its own: Flower sends equal objects once."""
    server_round = int(message.content.config_records["config"]["server-round"])
    rng = np.random.default_rng([server_round, int(context.node_config["partition-id"])])
    reply = ArrayRecord()
    for key, array in message.content.array_records["arrays"].items():
        step = rng.standard_normal(array.shape, np.float32) * np.float32(0.0005)
        reply[key] = Array(array.numpy().astype(np.float32) + step)
    return Message(RecordDict({"arrays": reply, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Write seconds per round, and what PressGrid says of each exchange."""
    config = context.run_config
    pressed = PressGrid(grid, str(config["codec"])) if config["codec"] else None
    times: list[float] = []  # at the start, and after each round
    FedAvg(fraction_evaluate=0.0).start(
        grid=pressed or grid,
        initial_arrays=model(empty=bool(config["empty"])),
        num_rounds=ROUNDS + 1,
        evaluate_fn=lambda server_round, arrays: times.append(time.monotonic()),
    )
    seconds = [after - before for before, after in pairwise(times[1:])]
    exchanges = [exchange.row() for exchange in pressed.exchanges] if pressed else []
    Path(str(config["output"])).write_text(json.dumps({"seconds": seconds, "exchanges": exchanges}))
