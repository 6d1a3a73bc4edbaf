"""The same partitions in the same rounds, whatever ids nodes have."""

import random

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flowerpress.apps.inprocess import InProcessGrid
from flowerpress.apps.ordered import PLACE, OrderedGrid


def client(place: object) -> ClientApp:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        if place is None:
            raise ValueError("not me")
        return Message(RecordDict({PLACE: ConfigRecord({"partition-id": place})}), reply_to=message)  # type: ignore[dict-item]

    @app.train()
    def train(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"partition": int(context.node_config["partition-id"])})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


class Shuffled(InProcessGrid):
    """Lists nodes in any order, counts its questions."""

    asked = 0

    def get_node_ids(self) -> list[int]:
        nodes = list(super().get_node_ids())
        return random.sample(nodes, len(nodes))

    def send_and_receive(self, messages: object, *, timeout: float | None = None) -> list[Message]:
        replies = list(super().send_and_receive(messages))  # type: ignore[arg-type]
        self.asked += len(replies)
        return random.sample(replies, len(replies))


@pytest.mark.filterwarnings("ignore")
def test_nodes_and_replies_come_in_the_order_of_partitions() -> None:
    inner = Shuffled([client(place) for place in (3, 1, None, 2, "x", 0)], {})
    grid = OrderedGrid(inner, 7)
    first, *_ = nodes = sorted(inner.contexts)
    for _ in range(3):
        assert [node - first for node in grid.get_node_ids()] == [5, 1, 3, 0, 2, 4]
    assert inner.asked == 6
    replies = grid.send_and_receive([Message(RecordDict(), node, "train") for node in nodes])
    assert [reply.content["metrics"]["partition"] for reply in replies] == [5, 1, 3, 0, 2, 4]
    replies = grid.pull_messages(grid.push_messages([Message(RecordDict(), node, "train") for node in nodes]))
    assert [reply.content["metrics"]["partition"] for reply in replies] == [5, 1, 3, 0, 2, 4]


def drawn(seed: int, *, disturb: bool) -> list[list[int]]:
    """Return the samples of three rounds, from nodes listed once or thrice, with messages sent once or twice."""
    grid, samples = OrderedGrid(InProcessGrid([client(i) for i in range(20)], {}), seed), []
    for _ in range(3):
        for _ in range(1 + 2 * disturb):
            nodes = list(grid.get_node_ids())
        samples.append(random.sample(nodes, 4))
        for _ in range(1 + disturb):
            list(grid.send_and_receive([Message(RecordDict(), node, "train") for node in samples[-1]]))
            random.seed()
    return samples


def test_samples_are_the_same_whatever_else_draws() -> None:
    plain = drawn(1, disturb=False)
    assert len({tuple(sample) for sample in plain}) == 3
    assert drawn(1, disturb=True) == plain
    assert drawn(2, disturb=False) != plain
