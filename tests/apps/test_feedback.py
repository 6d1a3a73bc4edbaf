"""What error feedback is for: at a low rate, a real model learns with it, and hardly without."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flowerpress import PressGrid, press_mod
from flowerpress.apps.classify import evaluate, model_for, train
from flowerpress.apps.data import Partitioning, client_images
from flowerpress.apps.data import test_images as held_out
from tests.federation.local_grid import LocalGrid

CLIENTS, ROUNDS = 4, 6
LOW = "*running*:* = zstd; * = delta | quantize(step=0.4) | entropy"  # a variance may not become negative


def client() -> ClientApp:
    app = ClientApp(mods=[press_mod])

    @app.train()
    def learn(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        images = client_images(Partitioning("digits", "dirichlet", 0.5, 1, CLIENTS), partition)
        model = model_for(images, 1)
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        seed = message.content["config"]["server-round"]
        loss = train(model, images, epochs=1, batch_size=32, learning_rate=0.05, seed=seed)
        metrics = MetricRecord({"loss": loss, "num-examples": len(images)})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    return app


def accuracy(folder: Path, *, error_feedback: bool) -> float:
    """Return what a model has learnt in a run."""
    inner = LocalGrid({node: client() for node in range(1, CLIENTS + 1)}, caches=folder)
    grid = PressGrid(inner, LOW, down="zstd", error_feedback=error_feedback)
    images = held_out("digits", 1)
    model = model_for(images, 1)
    result = FedAvg(fraction_evaluate=0.0).start(
        grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=ROUNDS
    )
    model.load_state_dict(result.arrays.to_torch_state_dict())
    return evaluate(model, images)[1]


def test_a_model_learns_at_a_low_rate_with_feedback(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = {on: accuracy(tmp_path / str(on), error_feedback=on) for on in (True, False)}
    finally:
        torch.set_num_threads(threads)
    assert found[True] > 0.7
    assert found[False] < 0.3, "hardly better than chance: updates are below half a step"
