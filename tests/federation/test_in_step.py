"""Whatever is lost, broken or restarted, in any order: both ends hold the same references after every round."""

import itertools
import shutil
import tempfile
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from flowerpress import PressGrid
from flowerpress.federation.protocol import RECORD
from flowerpress.federation.store import Store
from flowerpress.wire import KEY, values_of
from tests.federation.apps import client, initial, trained
from tests.federation.local_grid import LocalGrid

SERVER = "server"
CODECS = ["zstd", "intdelta | zstd", "delta | quantize(step=0.01) | entropy", "raw"]
PARTITIONS = range(4)
SOME = st.sets(st.sampled_from(PARTITIONS))


class InStep(RuleBasedStateMachine):
    """Nodes are known by partition; a node that restarts without its identity comes back with another id."""

    @initialize(up=st.sampled_from(CODECS), down=st.sampled_from(CODECS))
    def start(self, up: str, down: str) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.ids = itertools.count(100)
        self.server = self.folder / SERVER
        self.inner = LocalGrid({i: client() for i in PARTITIONS}, damage=self.damage, caches=self.folder)
        self.nodes = dict(zip(PARTITIONS, PARTITIONS, strict=True))
        self.exact = "quantize" not in up + down
        self.lost: set[int] = set()
        self.broken: set[int] = set()
        self.raising: set[int] = set()
        self.round = 0
        with self.inner.machine(SERVER):
            self.grid = PressGrid(self.inner, up, down=down)
        self.model = initial()

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def damage(self, node: int, reply: Message) -> Message:
        partition = next(p for p, n in self.nodes.items() if n == node)
        if partition in self.lost:
            return Message(Error(5, "Node Unavailable"), reply_to=reply)  # as Flower says it of what never came
        if partition in self.raising:
            return Message(Error(2, "[flowerpress] it raised after it had received"), reply_to=reply)
        if partition in self.broken and reply.has_content() and "arrays" in reply.content:
            data = bytearray(reply.content["arrays"][KEY].data)
            data[len(data) // 2] ^= 1
            reply.content["arrays"][KEY] = Array("uint8", (len(data),), KEY, bytes(data))
        return reply

    @rule(some=SOME)
    def lose_replies(self, some: set[int]) -> None:
        self.lost = some

    @rule(some=SOME)
    def break_replies(self, some: set[int]) -> None:
        self.broken = some

    @rule(some=SOME)
    def raise_in_apps(self, some: set[int]) -> None:
        self.raising = some

    @rule(partition=st.sampled_from(PARTITIONS), cache=st.booleans(), identity=st.booleans())
    def restart(self, partition: int, cache: bool, identity: bool) -> None:
        """Lose the state; with ``cache`` the store too, with ``identity`` the node id."""
        node = self.nodes[partition]
        if cache:
            shutil.rmtree(self.folder / str(node), ignore_errors=True)
        if identity:
            new = next(self.ids)
            self.inner.apps[new] = self.inner.apps.pop(node)
            self.nodes[partition] = new
            node = new
        config = {"partition-id": partition, "num-partitions": len(PARTITIONS)}
        self.inner.contexts[node] = Context(1, node, config, RecordDict(), {})

    @rule(where=st.sampled_from([*PARTITIONS, None]), share=st.floats(0, 1), value=st.integers(1, 255))
    def corrupt_a_cache(self, where: int | None, share: float, value: int) -> None:
        folder = self.server if where is None else self.folder / str(self.nodes[where])
        for path in sorted(folder.glob("*/record")):
            data = bytearray(path.read_bytes())
            data[int(share * (len(data) - 1))] ^= value
            path.write_bytes(data)

    @rule(where=st.sampled_from([*PARTITIONS, None]))
    def clear_a_cache(self, where: int | None) -> None:
        shutil.rmtree(self.server if where is None else self.folder / str(self.nodes[where]), ignore_errors=True)

    @precondition(lambda self: len(self.lost | self.broken | self.raising) < len(PARTITIONS))
    @rule(
        some=st.sets(st.sampled_from(PARTITIONS), min_size=1),
        kind=st.sampled_from(["train", "evaluate", "query"]),
        new=st.booleans(),
    )
    def exchange(self, some: set[int], kind: str, new: bool) -> None:
        """Send a model, new or the same, to some of the nodes; check what the strategy sees, and what nodes hold."""
        bad = self.lost | self.raising | (self.broken if kind != "evaluate" else set())
        if kind == "train" and some <= bad:
            return  # a round that fails; three in a row end the run, which test_faults has
        self.round += 1
        if new:
            self.model = self.moved()
        content = RecordDict({"arrays": self.model, "config": ConfigRecord({"server-round": self.round})})
        with self.inner.machine(SERVER):
            replies = self.grid.send_and_receive([Message(content, self.nodes[p], kind) for p in sorted(some)])
        answered = {r.metadata.src_node_id: r for r in replies if r.has_content()}
        assert set(answered) == {self.nodes[p] for p in some - bad}
        for partition in PARTITIONS:
            if self.nodes[partition] in answered:
                self.check_reply(partition, answered[self.nodes[partition]], kind)
                self.check_node(self.nodes[partition])

    def moved(self) -> ArrayRecord:
        w, b, count = (array.numpy() for array in self.model.values())
        rng = np.random.default_rng(self.round)
        record = ArrayRecord()
        for key, x in zip(self.model, (w + 0.1 * rng.standard_normal(w.shape), b - 0.05, count + 1), strict=True):
            record[key] = Array(np.asarray(x).astype(self.model[key].dtype))
        return record

    def check_reply(self, partition: int, reply: Message, kind: str) -> None:
        if kind == "evaluate":
            return
        sent = [array.numpy() for array in self.model.values()]
        wanted = trained(sent, partition) if kind == "train" else sent
        for x, array in zip(wanted, reply.content["arrays"].values(), strict=True):
            y = array.numpy()
            if self.exact or x.dtype.kind == "i":
                assert np.array_equal(x, y)
            else:
                assert np.abs(x - y).max() < 0.05

    def check_node(self, node: int) -> None:
        """The node holds, bit by bit, what the server believes that it holds."""
        state = self.inner.contexts[node].state.config_records[RECORD]
        held = dict(zip(state["records"], state["holds"], strict=True))["arrays"]
        assert self.grid.held(node) == held != ""
        with self.inner.machine(node):
            theirs = Store().get(held)
        ours = Store(self.server).get(held)
        assert theirs is not None
        assert ours is not None
        assert list(theirs) == list(ours)
        assert all(theirs[key].tobytes() == ours[key].tobytes() for key in theirs)
        if self.exact:
            values = values_of(self.model)
            assert all(theirs[key].tobytes() == values[key].tobytes() for key in values)


def test_in_step() -> None:
    run_state_machine_as_test(
        InStep,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
