"""Records that apps and strategies keep, which stock Flower lets them copy, pickle and put into ``Context.state``."""

import copy
import pickle
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import context_from_proto, context_to_proto
from flwr.serverapp.strategy import FedAvg

from flowerpress import LatentRecord, PressGrid, press_mod
from flowerpress.federation.spill import LARGE
from tests.federation.local_grid import LocalGrid


def keeping() -> ClientApp:
    """Return an app that keeps the model it was sent, and moves it by what it kept the time before."""
    app = ClientApp(mods=[press_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        received = message.content.array_records["arrays"]
        before = context.state.array_records.get("last", received)
        context.state["last"] = received
        moved = ArrayRecord()
        for key, array in received.items():
            moved[key] = Array(np.cos(array.numpy() + before[key].numpy()))
        content = RecordDict({"arrays": moved, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    return app


def model() -> ArrayRecord:
    """Return one that is large enough for replies to wait on disk."""
    x = np.random.default_rng(6).standard_normal((LARGE // 4, 2)).astype(np.float32)
    return ArrayRecord({"x": Array(x), "y": Array(x[:9])})


class Copying(FedAvg):
    """A strategy that aggregates copies, and keeps the replies."""

    def aggregate_train(self, server_round, replies):
        self.kept = list(replies)
        copied = copy.deepcopy([reply.content for reply in self.kept])
        assert all(isinstance(content["arrays"], LatentRecord) for content in copied)
        for reply, content in zip(self.kept, copied, strict=True):
            reply.content = content
        return super().aggregate_train(server_round, self.kept)


def test_what_an_app_keeps_in_its_context_survives_flowers_engines(tmp_path: Path) -> None:
    """The simulation engine pickles contexts, SuperNodes make protobufs of them."""
    grids = {mod: LocalGrid(dict.fromkeys((3, 8), keeping()), caches=tmp_path / mod) for mod in ("pickle", "proto")}
    found = []
    for way, grid in grids.items():
        pressed = PressGrid(grid, "lossless")
        arrays, strategy = model(), Copying(fraction_evaluate=0.0)
        for number in (1, 2, 3):
            result = strategy.start(grid=pressed, initial_arrays=arrays, num_rounds=1)
            arrays = result.arrays
            for node, context in grid.contexts.items():
                kept = context.state["last"]
                if way == "pickle":
                    grid.contexts[node] = pickle.loads(pickle.dumps(context))
                else:
                    grid.contexts[node] = context_from_proto(context_to_proto(context))
                after = grid.contexts[node].state["last"]
                assert [array.numpy().tobytes() for array in after.values()] == [
                    array.numpy().tobytes() for array in kept.values()
                ], (way, number)
        found.append(arrays)
    assert [a.data for a in found[0].values()] == [a.data for a in found[1].values()]
