"""The client: train the adapters, and send nothing else."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from loraapp.task import load_data, load_record, make_model, to_record
from loraapp.task import train as train_with

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    model = make_model(context.run_config["rank"])
    load_record(model, msg.content["arrays"])
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    loss = train_with(model, data, context.run_config["local-epochs"], context.run_config["learning-rate"])

    metrics = MetricRecord({"train-loss": loss, "num-examples": len(data[1])})
    arrays = to_record(model, context.run_config["exchange-dtype"])
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)
