"""What error feedback is for: at a low rate, a real model learns with it, and hardly without.

Variances of batch normalisation stay positive meanwhile, if differences are taken in octaves.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flowerpress import PressGrid, press_mod
from flowerpress.apps.classify import evaluate, train
from flowerpress.apps.data import Partitioning, client_images
from flowerpress.apps.data import test_images as held_out
from flowerpress.apps.models import model_for
from tests.federation.local_grid import LocalGrid

CLIENTS, ROUNDS = 4, 6
LOW = "delta(positive=true) | quantize(step=0.4) | entropy"


def least_variance(record: ArrayRecord) -> float:
    return min(float(record[key].numpy().min()) for key in record if key.endswith("running_var"))


class Watched(FedAvg):
    """FedAvg that notes the least variance that it was told, and that of its model, each round."""

    def __init__(self) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.least: list[float] = []

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        replies = list(replies)
        self.least += [least_variance(reply.content["arrays"]) for reply in replies]
        found = super().aggregate_train(server_round, replies)
        self.least.append(least_variance(found[0]))
        return found


def client(least: list[float]) -> ClientApp:
    app = ClientApp(mods=[press_mod])

    @app.train()
    def learn(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        images = client_images(Partitioning("digits", "dirichlet", 0.5, 1, CLIENTS, 0), partition)
        model = model_for("cnn", images, 1)
        least.append(least_variance(message.content["arrays"]))
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        seed = message.content["config"]["server-round"]
        loss = train(model, images, epochs=1, batch_size=32, learning_rate=0.05, seed=seed)
        metrics = MetricRecord({"loss": loss, "num-examples": len(images)})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    return app


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def run(folder: Path, codec: str, down: str, *, error_feedback: bool = True) -> tuple[float, list[float]]:
    """Return what a model has learnt in a run, and the least variance of every model on the way."""
    found, strategy = list[float](), Watched()
    inner = LocalGrid({node: client(found) for node in range(1, CLIENTS + 1)}, caches=folder)
    grid = PressGrid(inner, codec, down=down, error_feedback=error_feedback)
    images = held_out("digits", 1, 0)
    model = model_for("cnn", images, 1)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord(model.state_dict()), num_rounds=ROUNDS)
    model.load_state_dict(result.arrays.to_torch_state_dict())
    return evaluate(model, images)[1], found + strategy.least


def test_a_model_learns_at_a_low_rate_with_feedback(tmp_path: Path) -> None:
    found = {on: run(tmp_path / str(on), LOW, "zstd", error_feedback=on) for on in (True, False)}
    assert found[True][0] > 0.7
    assert found[False][0] < 0.3, "hardly better than chance: updates are below half a step"
    for _, least in found.values():
        assert len(least) == ROUNDS * (2 * CLIENTS + 1)
        assert min(least) > 0


def test_variances_stay_positive_in_both_directions(tmp_path: Path) -> None:
    accuracy, least = run(tmp_path, LOW, LOW)
    assert min(least) > 0
    assert accuracy > 0.4


def test_differences_that_are_not_in_octaves_lose_them(tmp_path: Path) -> None:
    accuracy, least = run(tmp_path, LOW.replace("(positive=true)", ""), "zstd")
    assert min(least) < 0
    assert accuracy < 0.3
