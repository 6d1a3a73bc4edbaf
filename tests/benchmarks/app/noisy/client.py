"""A client of numpy alone: it returns the model with noise of its own, so that no two replies are equal."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flowerpress import press_mod

app = ClientApp(mods=[press_mod])  # it does nothing where the server is stock Flower


@app.train()
def train(message: Message, context: Context) -> Message:
    rng = np.random.default_rng([context.node_config["partition-id"], message.content["config"]["server-round"]])
    reply = ArrayRecord()
    for key, array in message.content["arrays"].items():
        x = array.numpy()
        reply[key] = Array((x + 0.001 * rng.standard_normal(x.shape, np.float32)).astype(np.float32))
    return Message(RecordDict({"arrays": reply, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)
