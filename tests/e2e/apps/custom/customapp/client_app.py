"""A client with a memory: how often it took part, and the model that it was sent the last time."""

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from customapp.task import Net, accuracy_by_class, load_data
from customapp.task import train as train_with

app = ClientApp()


def data_of(context: Context):
    return load_data(context.node_config["partition-id"], context.node_config["num-partitions"])


@app.query("data")
def count(msg: Message, context: Context) -> Message:
    """Say how many images there are, before the first round."""
    labels = data_of(context)[1]
    reply = ConfigRecord({"images": len(labels), "classes": sorted(set(labels.tolist()))})
    return Message(RecordDict({"data": reply}), reply_to=msg)


@app.train()
def train(msg: Message, context: Context) -> Message:
    net, received = Net(), msg.content["arrays"]
    net.load_state_dict(received.to_torch_state_dict())
    anchors = [received.to_torch_state_dict()]
    if "last" in context.state.array_records:
        anchors.append(context.state.array_records["last"].to_torch_state_dict())
    context.state["last"] = received
    memory = context.state.config_records.setdefault("memory", ConfigRecord({"times": 0}))
    memory["times"] += 1

    images, labels, *_ = data_of(context)
    config = msg.content["config"]
    losses = train_with(net, images, labels, config["lr"], anchors, context.run_config["proximal"])

    metrics = MetricRecord({"losses": losses, "times": memory["times"], "num-examples": len(labels)})
    about = ConfigRecord({"name": f"site-{context.node_config['partition-id']}", "round": config["server-round"]})
    content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics, "about": about})
    return Message(content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    net = Net()
    net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    _, _, images, labels = data_of(context)
    by_class = accuracy_by_class(net, images, labels)
    metrics = MetricRecord({"accuracy": sum(by_class) / 10, "by-class": by_class, "num-examples": len(labels)})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
