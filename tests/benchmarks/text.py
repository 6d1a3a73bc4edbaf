"""A federation on text: a pretrained transformer is fine-tuned to tell which section of a docstring a piece is from.

All 22.7 M parameters of all-MiniLM-L6-v2 and a linear head are trained, by stock FedAvg, on a few texts per client and
round. The head is fitted beforehand, to all texts to train with: what rises from there is owed to the fine-tuning.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional

from tests.benchmarks.bert import embed
from tests.benchmarks.docs import Texts, shared, texts
from tests.benchmarks.timing import minilm

CLIENTS, ALPHA, ROUNDS, LAST = 8, 0.5, 10, 4  # the model is tested after the last rounds
EACH, BATCH = 32, 8  # texts of a client in a round, and in a step


@dataclass(frozen=True)
class Tuning:
    """How weights are trained: the head sees vectors of length ``scale``; gradients are no longer than ``clip``.

    Adam moves each value that has a gradient by about as much as any other. With SGD the head moves most.
    """

    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer]
    scale: float
    clip: float = math.inf

    def start(self, texts: Texts) -> dict[str, Tensor]:
        """Return the pretrained weights, and a head that is fitted to the vectors which they give to some texts."""
        weights = {key: torch.from_numpy(x) for key, x in minilm().items()}
        with torch.no_grad():
            vectors = torch.cat([embed(weights, some.ids, some.ids != 0, dropout=0) for some in texts.batches(64)])
        head = LogisticRegression(max_iter=1000).fit(vectors.numpy(), texts.labels.numpy())
        weights["head.weight"] = torch.tensor(head.coef_ / self.scale, dtype=torch.float32)
        weights["head.bias"] = torch.tensor(head.intercept_, dtype=torch.float32)
        return weights

    def logits(self, weights: Mapping[str, Tensor], texts: Texts) -> Tensor:
        vectors = self.scale * embed(weights, texts.ids, texts.ids != 0, dropout=0)
        return functional.linear(vectors, weights["head.weight"], weights["head.bias"])

    def tuned(self, weights: Mapping[str, Tensor], texts: Texts) -> dict[str, Tensor]:
        """Return the weights after one pass over the texts."""
        tuned = {key: x.clone().requires_grad_() for key, x in weights.items()}
        optimizer = self.optimizer(list(tuned.values()))
        for some in texts.batches(BATCH):
            optimizer.zero_grad()
            functional.cross_entropy(self.logits(tuned, some), some.labels).backward()
            nn.utils.clip_grad_norm_(tuned.values(), self.clip)
            optimizer.step()
        return {key: x.detach() for key, x in tuned.items()}

    @torch.no_grad()
    def accuracy(self, weights: Mapping[str, Tensor], texts: Texts) -> float:
        right = [self.logits(weights, some).argmax(1) == some.labels for some in texts.batches(64)]
        return float(torch.cat(right).float().mean())


TUNINGS = {
    "adam": Tuning(lambda weights: torch.optim.Adam(weights, lr=1e-4, fused=True), scale=50),
    "sgd": Tuning(lambda weights: torch.optim.SGD(weights, lr=0.03, momentum=0.9), scale=10, clip=1),
}


@dataclass(frozen=True)
class Task:
    """The model to start from, the texts of each client, and those that the server tests with."""

    tuning: Tuning
    start: dict[str, Tensor]
    clients: list[Texts]
    test: Texts
    seed: int

    @classmethod
    def of(cls, optimizer: str, seed: int) -> Self:
        """Return the task of a seed, for ``"adam"`` or ``"sgd"``."""
        train, test = texts(seed)
        tuning = TUNINGS[optimizer]
        return cls(tuning, tuning.start(train), shared(train, CLIENTS, ALPHA, seed), test, seed)

    def some(self, client: int, server_round: int) -> Texts:
        """Return what a client trains on in a round: texts of its own, in an order of chance."""
        mine = self.clients[client]
        return mine.at(np.random.default_rng([self.seed, client, server_round]).permutation(len(mine))[:EACH])


def client(task: Task, mods: Sequence[Mod] = ()) -> ClientApp:
    """Return the app of all clients: who it is stands in its context."""
    app = ClientApp(mods=[*mods])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        server_round = message.content["config"]["server-round"]
        some = task.some(int(context.node_config["partition-id"]), server_round)
        weights = task.tuning.tuned(message.content["arrays"].to_torch_state_dict(), some)
        reply = {"arrays": ArrayRecord(weights), "metrics": MetricRecord({"num-examples": len(some)})}
        return Message(RecordDict(reply), reply_to=message)

    return app


def serve(grid: Grid, task: Task, arrays: ArrayRecord) -> list[float]:
    """Train with stock FedAvg, all clients in each round; return the accuracy after each of the last rounds."""
    found = []

    def test(server_round: int, arrays: ArrayRecord) -> None:
        if server_round > ROUNDS - LAST:
            found.append(task.tuning.accuracy(arrays.to_torch_state_dict(), task.test))

    FedAvg(fraction_evaluate=0.0, min_train_nodes=CLIENTS, min_available_nodes=CLIENTS).start(
        grid=grid, initial_arrays=arrays, num_rounds=ROUNDS, evaluate_fn=test
    )
    return found
