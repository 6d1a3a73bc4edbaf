"""A small numpy client, with the mod or without, and a model with floats, integers and an odd shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import Mod

from flowerpress import LatentArray, LatentRecord, press_mod


def initial() -> ArrayRecord:
    rng = np.random.default_rng(0)
    record = ArrayRecord()
    record["w"] = Array(rng.standard_normal((40, 30)).astype(np.float32))
    record["b"] = Array(rng.standard_normal(30).astype(np.float32))
    record["count"] = Array(np.array(3, np.int64))
    return record


def record_of(arrays: Mapping[str, Any]) -> ArrayRecord:
    """Return a record of arrays of any dtype and shape, bfloat16 and scalars included."""
    record = LatentRecord()
    for key, x in arrays.items():
        record[key] = LatentArray(np.asarray(x))
    return record


def trained(arrays: list[np.ndarray], partition: int) -> list[np.ndarray]:
    """Return what a client makes of the model: it moves by a different, odd step on each partition."""
    w, b, count = arrays
    step = np.float32(0.1) * np.sin(w * (partition + 1))
    return [
        (w - step).astype(np.float32),
        (b * np.float32(0.9) + partition).astype(np.float32),
        np.asarray(count + partition + 1),
    ]


def client(*, pressed: bool = True, mod: Any = press_mod, mods: Sequence[Mod] = ()) -> ClientApp:
    app = ClientApp(mods=[*([mod] if pressed else []), *mods])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        record = message.content.array_records["arrays"]
        dtypes = (np.float32, np.float32, np.int64)
        arrays = [a.numpy().astype(d) for a, d in zip(record.values(), dtypes, strict=True)]
        reply = ArrayRecord()
        for key, x in zip(record, trained(arrays, partition), strict=True):
            reply[key] = Array(x)
        metrics = MetricRecord({"loss": 1.0 / (partition + 1), "num-examples": 10 * (partition + 1)})
        return Message(RecordDict({"arrays": reply, "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        total = float(message.content.array_records["arrays"]["w"].numpy().astype(np.float32).sum())
        metrics = MetricRecord({"sum": total, "num-examples": 1})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict(dict(message.content.items())), reply_to=message)

    return app
