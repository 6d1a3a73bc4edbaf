"""The client: some iterations of the solver on the images of this node."""

import warnings

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss

from sklearnapp.task import create_model, get_params, load_data, set_params

app = ClientApp()


def received_model(msg: Message, context: Context):
    """Return the model with the parameters of the server."""
    model = create_model(context.run_config["local-iterations"], context.run_config["regularisation"])
    set_params(model, msg.content["arrays"].to_numpy_ndarrays())
    return model


@app.train()
def train(msg: Message, context: Context) -> Message:
    model = received_model(msg, context)
    x, _, y, _ = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # few iterations are the idea
        model.fit(x, y)

    metrics = {"num-examples": len(x), "train_logloss": log_loss(y, model.predict_proba(x))}
    content = RecordDict({"arrays": ArrayRecord(get_params(model)), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    model = received_model(msg, context)
    _, x, _, y = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    metrics = {"num-examples": len(x), "test_accuracy": model.score(x, y)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
