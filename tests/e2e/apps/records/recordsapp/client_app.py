"""The client of SCAFFOLD: it keeps a control variate of its own from round to round."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from recordsapp.task import accuracy, load_data, make_model
from recordsapp.task import train as train_with

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    model, start = make_model(), msg.content["arrays"].to_torch_state_dict()
    model.load_state_dict(start)
    everybody = msg.content["control"].to_torch_state_dict()
    if "control" in context.state:
        own = context.state["control"].to_torch_state_dict()
    else:
        own = {name: torch.zeros_like(x) for name, x in everybody.items()}

    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    lr = msg.content["config"]["lr"]
    correction = {name: everybody[name] - own[name] for name in own}
    steps, loss = train_with(model, data, correction, context.run_config["local-epochs"], lr)

    end = model.state_dict()
    new = {name: own[name] - everybody[name] + (start[name] - end[name]) / (steps * lr) for name in own}
    context.state["control"] = ArrayRecord(new)

    content = RecordDict(
        {
            "arrays": ArrayRecord(end),
            "control-change": ArrayRecord({name: new[name] - own[name] for name in own}),
            "metrics": MetricRecord({"train-loss": loss, "num-examples": len(data[1])}),
        }
    )
    return Message(content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    model = make_model()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    metrics = MetricRecord({"accuracy": accuracy(model, data), "num-examples": len(data[1])})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
