"""The client: Flower clips what it learnt, and logs how much it sends."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import arrays_size_mod, fixedclipping_mod

from dpapp.task import Net, load_data
from dpapp.task import test as test_with
from dpapp.task import train as train_with

app = ClientApp(mods=[arrays_size_mod])


def setup(msg: Message, context: Context):
    """Return the server's model, and this node's batches."""
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict(), strict=True)
    return net, *load_data(context.node_config["partition-id"], context.node_config["num-partitions"])


@app.train(mods=[fixedclipping_mod])
def train(msg: Message, context: Context) -> Message:
    net, batches, _ = setup(msg, context)
    train_with(net, batches, context.run_config["local-epochs"])
    metrics = MetricRecord({"num-examples": len(batches.dataset)})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    net, _, batches = setup(msg, context)
    metrics = MetricRecord({"accuracy": test_with(net, batches), "num-examples": len(batches.dataset)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
