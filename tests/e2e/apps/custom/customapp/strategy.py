"""FedAvg with a rate that decays at the clients, steps of the server's own, and the best model on disk."""

from collections.abc import Iterable

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg


def loss_curve(replies: list[RecordDict], weight: str) -> MetricRecord:
    """Return the mean loss at the beginning and at the end of an epoch, which has more batches at some nodes."""
    records = [next(iter(reply.metric_records.values())) for reply in replies]
    ends = np.average(
        [[r["losses"][0], r["losses"][-1]] for r in records], axis=0, weights=[r[weight] for r in records]
    )
    return MetricRecord({"first-loss": float(ends[0]), "last-loss": float(ends[1])})


class DecayingFedAvg(FedAvg):
    """FedAvg, and what its module says."""

    def __init__(self, lr: float, decay: float, server_lr: float, **kwargs):
        super().__init__(train_metrics_aggr_fn=loss_curve, **kwargs)
        self.lr, self.decay, self.server_lr = lr, decay, server_lr
        self.model = ArrayRecord()
        self.best = 0.0

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Set the rate of this round; remember the model."""
        self.model = arrays
        config["lr"] = self.lr * self.decay ** (server_round - 1)
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Go a part of the way to the mean; note who took part."""
        replies = list(replies)
        mean, metrics = super().aggregate_train(server_round, replies)
        if mean is None:
            return None, None
        moved = ArrayRecord()
        for key, array in self.model.items():
            before = array.numpy()
            moved[key] = Array(np.asarray(before + self.server_lr * (mean[key].numpy() - before), before.dtype))
        self.model = moved
        valid = [reply.content for reply in replies if reply.has_content()]
        print(f"round {server_round}: {', '.join(content['about']['name'] for content in valid)}")
        metrics["most-batches"] = max(len(content["metrics"]["losses"]) for content in valid)
        return moved, metrics

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Save the model whenever it is the best so far."""
        metrics = super().aggregate_evaluate(server_round, replies)
        if metrics is not None and metrics["accuracy"] > self.best:
            self.best = metrics["accuracy"]
            torch.save(self.model.to_torch_state_dict(), "best_model.pt")
        return metrics
