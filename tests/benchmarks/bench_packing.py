"""Seconds per round of a 200-tensor, 10 MB model on a loopback SuperLink with 2 SuperNodes, ours against stock.

The client is numpy only, so that what is timed is the exchange. One warm-up round and five counted ones each.
"""

import json
import tempfile
from pathlib import Path
from statistics import median

from flowerpress.deployment.local import Federation
from tests.benchmarks.timing import claim, console, table
from tests.e2e.deployment import run

TENSORS, VALUES, ROUNDS = 200, 12_500, 5

PYPROJECT = """
[project]
name = "packing"
version = "1.0.0"
[tool.flwr.app]
publisher = "flowerpress"
[tool.flwr.app.components]
serverapp = "packing.server:app"
clientapp = "packing.client:app"
[tool.flwr.app.config]
pressed = true
output = ""
"""
CLIENT = """
import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flowerpress import press_mod

app = ClientApp(mods=[press_mod])

@app.train()
def train(message, context):
    reply = ArrayRecord()
    for key, array in message.content["arrays"].items():
        reply[key] = Array(array.numpy() * np.float32(1.001))
    return Message(RecordDict({"arrays": reply, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
"""
SERVER = f"""
import json, time
import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flowerpress import PressGrid

app = ServerApp()

@app.main()
def main(grid, context):
    rng = np.random.default_rng(0)
    arrays = ArrayRecord()
    for i in range({TENSORS}):
        arrays[f"layer.{{i}}.weight"] = Array((rng.standard_normal({VALUES}) * 0.05).astype(np.float32))
    times = [time.monotonic()]
    FedAvg(fraction_evaluate=0.0).start(
        grid=PressGrid(grid) if context.run_config["pressed"] else grid,
        initial_arrays=arrays,
        num_rounds={ROUNDS + 1},
        evaluate_fn=lambda server_round, arrays: times.append(time.monotonic()),
    )
    seconds = [b - a for a, b in zip(times[2:], times[3:])]
    with open(context.run_config["output"], "w") as file:
        json.dump(seconds, file)
"""


def main() -> None:
    seconds = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        app = folder / "app"
        (app / "packing").mkdir(parents=True)
        (app / "pyproject.toml").write_text(PYPROJECT)
        for part, text in (("__init__", ""), ("client", CLIENT), ("server", SERVER)):
            (app / "packing" / f"{part}.py").write_text(text)
        with Federation(2, folder=folder) as federation:
            for pressed in ("true", "false"):
                output = folder / f"{pressed}.json"
                run(federation.superlink, app, f"pressed={pressed} output='{output}'", 1200)
                seconds[pressed] = json.loads(output.read_text())
    shown = table("10 MB in 200 tensors, 2 SuperNodes: seconds per round", "", "median", "least", "most")
    for label, key in (("stock Flower", "false"), ("flowerpress, lossless", "true")):
        found = seconds[key]
        shown.add_row(label, *(f"{value:.1f}" for value in (median(found), min(found), max(found))))
    console.print(shown)
    claim("times faster per round", median(seconds["false"]) / median(seconds["true"]), least=2.0)


if __name__ == "__main__":
    main()
