"""FedAvg over a PressGrid, with checkpoints if asked for; what each round cost goes to a file."""

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from flowerpress import PressGrid, press
from flowerpress.chunks.pack import save
from flowerpress.federation.resume import Checkpointed
from flowerpress.wire import KEY

from .dying import die_in
from .model import initial

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
    if config["die"]:
        phase, number = str(config["die"]).split(":")
        die_in(phase, int(number), strategy, Path(str(config["log"])).with_name("died"))
    started = strategy
    if config["checkpoints"]:
        started = Checkpointed(strategy, str(config["checkpoints"]), resume=bool(config["resume"]))
    result = started.start(
        grid=PressGrid(grid, str(config["codec"]), log=str(config["log"]) or None),
        initial_arrays=initial(float(config["megabytes"])),
        num_rounds=int(config["rounds"]),
        timeout=float(config["timeout"]),
    )
    if config["output"]:
        save(Path(str(config["output"])), press(result.arrays)[KEY].data)
