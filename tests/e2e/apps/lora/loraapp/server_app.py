"""The server: FedAvg of the adapters."""

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from loraapp.task import accuracy, load_record, load_test_data, make_model, to_record

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    model = make_model(context.run_config["rank"])

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        load_record(model, arrays)
        return MetricRecord({"accuracy": accuracy(model, load_test_data())})

    result = FedAvg(fraction_evaluate=context.run_config["fraction-evaluate"]).start(
        grid=grid,
        initial_arrays=to_record(model, context.run_config["exchange-dtype"]),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=evaluate,
    )
    torch.save(result.arrays.to_torch_state_dict(), "adapters.pt")
