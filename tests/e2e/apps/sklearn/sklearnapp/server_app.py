"""The server: FedAvg with the metrics put together by functions of our own."""

import joblib
from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from sklearnapp.task import create_model, get_params, set_params

app = ServerApp()


def loss_of_all(replies: list[RecordDict], weight: str) -> MetricRecord:
    """Return the mean loss over all images."""
    records = [next(iter(reply.metric_records.values())) for reply in replies]
    images = sum(record[weight] for record in records)
    return MetricRecord({"train_logloss": sum(r[weight] * r["train_logloss"] for r in records) / images})


def accuracies(replies: list[RecordDict], weight: str) -> MetricRecord:
    """Return the accuracy over all images, and the worst of a client."""
    found = [(reply["metrics"][weight], reply["metrics"]["test_accuracy"]) for reply in replies]
    mean = sum(images * accuracy for images, accuracy in found) / sum(images for images, _ in found)
    return MetricRecord({"accuracy": mean, "worst": min(accuracy for _, accuracy in found)})


@app.main()
def main(grid: Grid, context: Context) -> None:
    model = create_model(context.run_config["local-iterations"], context.run_config["regularisation"])
    strategy = FedAvg(train_metrics_aggr_fn=loss_of_all, evaluate_metrics_aggr_fn=accuracies)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(get_params(model)),
        num_rounds=context.run_config["num-server-rounds"],
    )

    set_params(model, result.arrays.to_numpy_ndarrays())
    joblib.dump(model, "logreg_model.pkl")
