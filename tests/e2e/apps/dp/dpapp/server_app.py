"""The server: FedAvg in Flower's wrapper for differential privacy with clipping at the clients."""

import torch
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg

from dpapp.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    nodes = int(config["num-sampled-clients"])
    dp_strategy = DifferentialPrivacyClientSideFixedClipping(
        FedAvg(min_train_nodes=nodes, min_available_nodes=nodes),
        noise_multiplier=float(config["noise-multiplier"]),
        clipping_norm=float(config["clipping-norm"]),
        num_sampled_clients=nodes,
    )
    torch.manual_seed(3)
    initial_arrays = ArrayRecord(Net().state_dict())
    result = dp_strategy.start(
        grid=grid,
        initial_arrays=initial_arrays,
        num_rounds=int(config["num-server-rounds"]),
    )

    net = Net()
    net.load_state_dict(result.arrays.to_torch_state_dict())
    torch.save(net.state_dict(), "private_model.pt")
