"""The server: it asks the nodes for their data, runs the strategy, and keeps the best model."""

import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from customapp.strategy import DecayingFedAvg
from customapp.task import Net

app = ServerApp()


def images_in(grid: Grid) -> int:
    """Ask all nodes how many images they have."""
    questions = [Message(RecordDict(), node, "query.data") for node in grid.get_node_ids()]
    answers = grid.send_and_receive(questions, timeout=60)
    return sum(answer.content["data"]["images"] for answer in answers if answer.has_content())


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    print(f"{images_in(grid)} images")
    torch.manual_seed(11)
    strategy = DecayingFedAvg(
        lr=config["learning-rate"],
        decay=config["learning-rate-decay"],
        server_lr=config["server-learning-rate"],
        fraction_train=config["fraction-train"],
        weighted_by_key="num-examples",
    )
    result = strategy.start(
        grid,
        ArrayRecord(Net().state_dict()),
        num_rounds=config["num-server-rounds"],
        timeout=600,
    )
    print(f"best accuracy: {strategy.best:.4f}")
    torch.save(result.arrays.to_torch_state_dict(), "last_model.pt")
