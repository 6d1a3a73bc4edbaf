"""The server of SCAFFOLD."""

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp

from recordsapp.scaffold import Scaffold
from recordsapp.task import accuracy, load_test_data, make_model

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    torch.manual_seed(7)
    model = make_model()
    zeros = ArrayRecord({name: torch.zeros_like(x) for name, x in model.state_dict().items()})
    strategy = Scaffold(
        zeros,
        fraction_train=0.0001,
        min_train_nodes=context.run_config["num-clients-per-round"],
        min_available_nodes=4,
    )

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        model.load_state_dict(arrays.to_torch_state_dict())
        return MetricRecord({"accuracy": accuracy(model, load_test_data())})

    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=context.run_config["num-server-rounds"],
        train_config=ConfigRecord({"lr": context.run_config["learning-rate"]}),
        evaluate_fn=evaluate,
    )
    checkpoint = {"model": result.arrays.to_torch_state_dict(), "control": strategy.control.to_torch_state_dict()}
    torch.save(checkpoint, "scaffold.pt")
