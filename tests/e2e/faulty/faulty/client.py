"""A client of numpy alone."""

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flowerpress import press_mod

from .faults import inside, outside
from .model import trained

app = ClientApp(mods=[outside, press_mod, inside])


@app.train()
def train(message: Message, context: Context) -> Message:
    partition = int(context.node_config["partition-id"])
    arrays = trained(message.content.array_records["arrays"], partition)
    metrics = MetricRecord({"num-examples": 10 * (partition + 1)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
