"""Error feedback over real client apps: what a codec drops, or a reply takes with it, arrives later, and only once.

A story is what happens to one node, a letter for each round or event::

    A  its reply is accepted        .  it is not sampled             n  it restarts, with nothing in its state
    L  its reply is lost            E  it evaluates                  c  its cache is emptied
    R  its reply is refused         X  its app raises                d  its residuals are damaged
    F  the round fails as a whole   N  its update is not finite      s  the server restarts

`Story` tells it beside an exact model, in float64, of what the node has to send.
"""

import random
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from flowerpress import Bundle, PressGrid, Screen, press_mod
from flowerpress.federation.protocol import Offer
from flowerpress.federation.residuals import Residuals
from flowerpress.federation.streaming import StreamingFedAvg
from flowerpress.wire import KEY
from tests.federation.apps import record_of
from tests.federation.local_grid import LocalGrid

STEP = 0.5
COARSE = "delta | quantize(step=0.5) | entropy"  # drops up to half a step, which is more than an update
NODE, *OTHERS = NODES = (1, 2, 3)
SHAPE = (6, 7)
Arrays = dict[str, Any]


def updates(seed: int = 0) -> Callable[[], np.ndarray]:
    """Return what makes one update after the other; each is below half a step."""
    rng = np.random.default_rng(seed)
    return lambda: rng.uniform(-0.05, 0.2, SHAPE).astype(np.float32)


def learner(learn: Callable[[RecordDict], RecordDict]) -> ClientApp:
    """Return a client whose answer to a train message are the records that ``learn`` makes of what came."""
    app = ClientApp(mods=[press_mod])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        metrics = MetricRecord({"num-examples": 1.0})
        return Message(RecordDict({**learn(message.content), "metrics": metrics}), reply_to=message)

    @app.train("variant")
    def variant(message: Message, context: Context) -> Message:
        return train(message, context)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1.0})}), reply_to=message)

    return app


def moved(content: RecordDict, by: dict[str, Any]) -> RecordDict:
    """Return the arrays that came, moved by an update of the same dtype."""
    arrays = {key: array.decode() for key, array in content["arrays"].items()}
    return RecordDict({"arrays": record_of({k: (x + by[k]).astype(x.dtype) for k, x in arrays.items()})})


def messages(model: ArrayRecord, nodes: Iterable[int] = NODES, kind: str = "train") -> list[Message]:
    return [Message(RecordDict({"arrays": model, "config": ConfigRecord()}), node, kind) for node in nodes]


class Story:
    """A server that sends the same model in each round, and a node that moves it by one update after the other."""

    def __init__(self, folder: Path, codec: str = COARSE, *, error_feedback: bool = True) -> None:
        self.folder, self.codec, self.feedback = folder, codec, error_feedback
        self.model = np.random.default_rng(9).standard_normal(SHAPE).astype(np.float32)
        self.inner = LocalGrid({node: learner(self.learn) for node in NODES}, damage=self.damage, caches=folder)
        self.next, self.letter, self.node = updates(), "A", 0
        self.update, self.bundle = np.zeros(SHAPE), b""
        self.updates: dict[str, list[np.ndarray]] = {}  # by the letter of their round
        self.arrived = np.zeros(SHAPE)
        self.dropped, self.meant, self.fate = np.zeros(SHAPE), np.zeros(SHAPE), "A"
        self.restart_server()

    def restart_server(self) -> None:
        screen = Screen(max_norm=None, min_replies=2)
        self.grid = PressGrid(self.inner, self.codec, down="zstd", error_feedback=self.feedback, screen=screen)
        self.fate = "A"  # it cannot know

    def learn(self, content: RecordDict) -> RecordDict:
        if content["config"].get("node") != NODE:
            return moved(content, {"w": np.float32(0)})
        if self.letter == "X":
            raise RuntimeError("out of memory")
        return moved(content, {"w": self.update})

    def damage(self, node: int, reply: Message) -> Message | None:
        if reply.has_error() or "arrays" not in reply.content:
            return reply
        if node == NODE:
            self.bundle = reply.content["arrays"][KEY].data
        lost = (self.letter == "L" and node == NODE) or (self.letter == "F" and node != NODE)
        if self.letter == "R" and node == NODE:
            reply.content["metrics"]["num-examples"] = -1.0
        return None if lost else reply

    @property
    def residual(self) -> np.ndarray:
        """What the node has to add to its next update."""
        return {"A": self.dropped, "L": self.meant, "R": np.zeros(SHAPE)}[self.fate]

    def forget(self) -> None:
        self.dropped = self.meant = np.zeros(SHAPE)

    def tell(self, letters: str) -> "Story":
        for letter in letters:
            self.letter = letter
            {"n": self.restart_node, "c": self.empty_cache, "d": self.harm, "s": self.restart_server}.get(
                letter, self.round
            )()
        return self

    def restart_node(self) -> None:
        self.inner.contexts[NODE] = Context(1, NODE, self.inner.contexts[NODE].node_config, RecordDict(), {})
        self.forget()

    def empty_cache(self) -> None:
        shutil.rmtree(self.folder / str(NODE))
        self.forget()

    def harm(self) -> None:
        for path in self.files():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data[:-1])
        self.forget()

    def files(self) -> list[Path]:
        with self.inner.machine(NODE):
            return sorted(Residuals().folder.glob("*"))

    def round(self) -> None:
        """Send the model and have it trained; check what is sent by NODE, and what the strategy sees of it."""
        kind, letter = ("evaluate" if self.letter == "E" else "train"), self.letter
        nodes = OTHERS if letter == "." else NODES
        contents = {
            node: RecordDict({"arrays": record_of({"w": self.model}), "config": ConfigRecord({"node": node})})
            for node in nodes
        }
        self.update = self.next()
        if letter == "N":
            self.update[0, 0] = np.nan
        residual, wait = self.residual, 0 if letter in "LF" else 60
        replies = self.grid.send_and_receive([Message(c, node, kind) for node, c in contents.items()], timeout=wait)
        found = {r.metadata.src_node_id: r for r in replies if not r.has_error()}
        assert (NODE in found) == (letter in "AE")
        assert bool(self.grid.exchanges[-1].failed) == (letter == "F")
        if letter in ".EX":
            return
        self.updates.setdefault(letter, []).append(self.update.astype(float))
        self.fate = {"F": "L", "N": "R"}.get(letter, letter)
        if letter == "N":
            self.forget()
            return
        said = Bundle(self.bundle, bases={"w": self.model})["w"].astype(float) - self.model
        self.meant = self.update.astype(float) + (residual if self.feedback else 0)
        self.dropped = self.meant - said
        assert np.abs(self.dropped).max() <= STEP / 2 + 1e-5
        if letter == "A":
            seen = found[NODE].content["arrays"]["w"].numpy().astype(float) - self.model
            assert np.abs(seen - said).max() < 1e-6
            self.arrived += seen

    def learnt(self, letters: str) -> Any:
        """Return the sum of the updates of rounds with these letters."""
        return sum((update for letter in letters for update in self.updates.get(letter, [])), np.zeros(SHAPE))


@pytest.mark.parametrize(
    "story",
    [
        "A" * 12,
        "AALAA",
        "AALLAA",
        "AALLLAA",
        "AL...A",
        "AAFA",
        "AFLFA",
        "ALFEA",
        "A.A..A...A",
        "AAXAAXXA",
        "ALXA",
        "AEAELEA",
        "AAsAA",
        "A..sA.sA",
    ],
)
def test_all_that_was_learnt_arrives(story: str, tmp_path: Path) -> None:
    told = Story(tmp_path).tell(story)
    assert np.abs(told.arrived - told.learnt("ALF")).max() <= STEP / 2 + 1e-4
    assert np.abs(told.arrived).max() >= STEP


@pytest.mark.parametrize("story", ["AARAA", "AARRA", "ARLA", "A.R.A", "AARAFA", "AXRXA", "AANA", "ANLA", "ALEREA"])
def test_what_was_refused_never_arrives(story: str, tmp_path: Path) -> None:
    """Nor does what it had of the updates before: a lost one, too."""
    told = Story(tmp_path).tell(story)
    before = [letter for letter in story[: max(map(story.rfind, "RN"))] if letter == "L"]
    lost = told.updates["L"][: len(before)] if before else []
    expected = told.learnt("ALF") - sum(lost, np.zeros(SHAPE))
    assert np.abs(told.arrived - expected).max() <= STEP + 1e-4


@pytest.mark.parametrize("event", ["n", "c", "d", "nc"])
@pytest.mark.parametrize(("story", "arriving"), [("AAA{}AA", "A"), ("AAL{}AA", "A"), ("AA.{}LA", "AL")])
def test_a_node_that_has_lost_its_residual_begins_with_nothing(
    story: str, arriving: str, event: str, tmp_path: Path
) -> None:
    told = Story(tmp_path).tell(story.format(event))
    assert np.abs(told.arrived - told.learnt(arriving)).max() <= STEP + 1e-4


def test_a_server_that_restarts_takes_a_reply_for_accepted(tmp_path: Path) -> None:
    """It cannot know; what was said in a reply that was lost is lost, and nothing arrives twice."""
    told = Story(tmp_path).tell("AALL")
    said = told.meant - told.dropped
    told.tell("sAAA")
    assert said.any()
    assert np.abs(told.arrived + said - told.learnt("AL")).max() <= STEP / 2 + 1e-4


@pytest.mark.parametrize("seed", range(8))
def test_random_stories(seed: int, tmp_path: Path) -> None:
    """Each round is checked against the model: see `Story.round`."""
    rng = random.Random(seed)
    letters = rng.choices("ALRFX.ENncds", (8, 4, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1), k=40)
    Story(tmp_path).tell("A" + "".join(letters).replace("FF", "FA"))


def test_without_feedback_nothing_arrives(tmp_path: Path) -> None:
    told = Story(tmp_path, error_feedback=False).tell("A" * 12)
    assert not told.arrived.any()
    assert np.abs(told.learnt("A")).max() > STEP
    assert told.files() == []
    assert "flowerpress.feedback" not in told.inner.contexts[NODE].state


def test_residuals_do_not_pile_up(tmp_path: Path) -> None:
    told = Story(tmp_path).tell("A")
    sizes = set()
    for letter in "AALAR.FAXAEAnAAcAdAsA":
        told.tell(letter)
        assert len(told.files()) <= 2 or letter in "nd", letter
        sizes.add(sum(len(record.deflate()) for record in told.inner.contexts[NODE].state.values()))
    assert len(told.files()) == 2
    assert max(sizes) < 600
    assert sum(path.stat().st_size for path in told.files()) < 2 * (4 * 42 + 300)


class Learning:
    """A node whose answers are made by a function, one after the other; what it learnt, and what of it arrived."""

    def __init__(self, folder: Path, answer: Callable[[int, Arrays], dict[str, Arrays]], codec: str = COARSE) -> None:
        self.answer, self.count, self.bytes = answer, 0, list[bytes]()
        self.learnt: dict[str, Any] = {}
        self.arrived: dict[str, Any] = {}
        self.inner = LocalGrid({NODE: learner(self.learn)}, caches=folder, damage=self.watch)
        self.grid = PressGrid(self.inner, codec, down="zstd")

    def learn(self, content: RecordDict) -> RecordDict:
        came = {key: array.decode() for key, array in content["arrays"].items()}
        made = self.answer(self.count, came)
        add(self.learnt, made["arrays"], came)
        self.count += 1
        return RecordDict({name: record_of(arrays) for name, arrays in made.items()})

    def watch(self, node: int, reply: Message) -> Message:
        if not reply.has_error() and "arrays" in reply.content:
            self.bytes.append(reply.content["arrays"][KEY].data)
        return reply

    def ask(self, model: Arrays, kind: str = "train") -> RecordDict:
        (reply,) = self.grid.send_and_receive(messages(record_of(model), [NODE], kind))
        assert not reply.has_error(), reply.error.reason
        if "arrays" in reply.content:
            add(self.arrived, {key: array.decode() for key, array in reply.content["arrays"].items()}, model)
        return reply.content

    def check(self, *keys: str, within: float = STEP / 2 + 1e-3) -> None:
        """Check that all that was learnt arrived, up to half a step, and was more than that."""
        for key in keys:
            assert np.abs(self.arrived[key] - self.learnt[key]).max() <= within
            assert np.abs(self.arrived[key]).max() >= STEP


def add(total: dict[str, Any], arrays: Arrays, model: Arrays) -> None:
    """Add updates to sums, which begin anew where shapes change."""
    for key, x in arrays.items():
        before = total.get(key, np.zeros(()))
        if np.shape(x) == np.shape(model[key]):
            update = np.asarray(x, np.float64) - np.asarray(model[key], np.float64)
            total[key] = update + (before if before.shape in ((), update.shape) else 0)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_floats_of_any_width(dtype: Any, tmp_path: Path) -> None:
    """What rounding to a narrow dtype drops comes back, too."""
    node = Learning(tmp_path, lambda _, came: {"arrays": {k: (x + dtype(0.1)).astype(dtype) for k, x in came.items()}})
    for _ in range(20):
        node.ask({"w": np.linspace(0.25, 1, 42).astype(dtype)})
    node.check("w", within=STEP / 2 + 1e-2)


def test_integers_are_exact_and_have_no_residual(tmp_path: Path) -> None:
    node = Learning(tmp_path, lambda _, came: {"arrays": {"w": came["w"] + np.float32(0.1), "n": came["n"] + 3}})
    for _ in range(9):
        content = node.ask({"w": np.ones(SHAPE, np.float32), "n": np.arange(5)})
        assert np.array_equal(content["arrays"]["n"].numpy(), np.arange(5) + 3)
    node.check("w")
    with node.inner.machine(NODE):
        assert all(list(Bundle.open(path)) == ["w"] for path in Residuals().folder.glob("*"))


def test_several_records(tmp_path: Path) -> None:
    def answer(count: int, came: Arrays) -> dict[str, Arrays]:
        w = came["w"]
        return {"more": {"w": w + np.float32(0.2)}, "arrays": {"w": w + np.float32(0.1)}, "other": {"v": np.ones(9)}}

    node, more = Learning(tmp_path, answer), np.zeros(SHAPE)
    model = {"w": np.ones(SHAPE, np.float32)}
    for _ in range(9):
        content = node.ask(model)
        more += content["more"]["w"].numpy() - model["w"]
        assert np.abs(content["other"]["v"].numpy() - 1).max() <= STEP / 2
    node.check("w")
    assert np.abs(more - 9 * 0.2).max() <= STEP / 2 + 1e-3


def test_shapes_that_change_begin_with_nothing(tmp_path: Path) -> None:
    node = Learning(tmp_path, lambda _, came: {"arrays": {key: x + np.float32(0.2) for key, x in came.items()}})
    for shape in ((2, 3), (3, 2), (6,), (6,), (7,)):
        content = node.ask({"w": np.ones(shape, np.float32)})
        arrived = content["arrays"]["w"].numpy()
        assert arrived.shape == shape
        assert np.abs(arrived - 1).max() == (STEP if node.count == 4 else 0)


@pytest.mark.parametrize(
    "odd",
    [
        lambda x: x.astype(np.int32),
        lambda x: x.astype(np.float64),
        lambda x: x[:1],
        lambda x: np.ones(5, np.float32),
        lambda x: np.full_like(x, np.nan),
        None,
    ],
    ids=["integers", "doubles", "a slice", "another shape", "not finite", "left out"],
)
def test_an_answer_of_another_kind_in_between(odd: Callable[[Any], Any] | None, tmp_path: Path) -> None:
    """It is what the app said, and what comes after it is right again."""

    def answer(count: int, came: Arrays) -> dict[str, Arrays]:
        moved = {key: x + np.float32(0.1) for key, x in came.items()}
        if count == 3:
            moved = {"w": moved["w"]} | ({"b": odd(came["b"])} if odd else {})
        return {"arrays": moved}

    node = Learning(tmp_path, answer)
    node.grid._screen = Screen(max_norm=None, finite=False)
    model = {"w": np.ones(SHAPE, np.float32), "b": np.ones(SHAPE, np.float32)}
    for number in range(8):
        (reply,) = node.grid.send_and_receive(messages(record_of(model), [NODE]))
        if reply.has_error():
            assert number == 3
            assert "refused: arrays 'b'" in reply.error.reason
        elif number != 3:
            assert np.abs(reply.content["arrays"]["b"].numpy() - 1).max() <= STEP
            add(node.arrived, {"b": reply.content["arrays"]["b"].numpy()}, model)
    assert node.count == 8
    assert np.abs(node.arrived["b"] - 0.7).max() <= STEP + 1e-3


@pytest.mark.parametrize("codec", ["zstd", "intdelta | zstd"])
def test_lossless_codecs_leave_nothing_and_send_the_same_bytes(codec: str, tmp_path: Path) -> None:
    told = [Story(tmp_path / str(on), codec, error_feedback=on) for on in (True, False)]
    for letter in "AALA":
        bundles = []
        for story in told:
            _train(story, letter)
            bundles.append(story.bundle)
            assert story.files() == []
            assert "flowerpress.feedback" not in story.inner.contexts[NODE].state
        assert bundles[0] == bundles[1]


def _train(story: Story, letter: str) -> None:
    story.letter, story.update = letter, story.next()
    contents = {
        n: RecordDict({"arrays": record_of({"w": story.model}), "config": ConfigRecord({"node": n})}) for n in NODES
    }
    story.grid.send_and_receive([Message(c, n, "train") for n, c in contents.items()], timeout=0)


def test_variants_of_messages(tmp_path: Path) -> None:
    node = Learning(tmp_path, lambda _, came: {"arrays": {key: x + np.float32(0.1) for key, x in came.items()}})
    for number in range(12):
        node.ask({"w": np.ones(SHAPE, np.float32)}, ("train", "train.variant", "evaluate")[number % 3])
    assert node.count == 8
    node.check("w")


class Fixed:
    """A strategy's rounds, in which the model stays as it is; what each reply says is summed."""

    arrived = 0.0

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
        for reply in replies:
            if not reply.has_error():
                self.arrived += float(reply.content["arrays"]["w"].numpy()[0]) - 1
        return None, None


class FixedAvg(Fixed, FedAvg):
    pass


class FixedStreaming(Fixed, StreamingFedAvg):
    pass


@pytest.mark.parametrize("strategy", [FixedAvg, FixedStreaming])
@pytest.mark.parametrize("lost", [(), (3,), (3, 4)])
def test_strategies(strategy: type[Any], lost: tuple[int, ...], tmp_path: Path) -> None:
    count = 0

    def damage(node: int, reply: Message) -> Message | None:
        nonlocal count
        count += node == NODE
        return None if node == NODE and count in lost else reply

    app = learner(lambda content: moved(content, {"w": np.float32(0.1)}))
    inner = LocalGrid(dict.fromkeys(NODES, app), caches=tmp_path, damage=damage)
    fixed = strategy(fraction_evaluate=0.0)
    model = ArrayRecord({"w": Array(np.ones(3, np.float32))})
    fixed.start(grid=PressGrid(inner, COARSE), initial_arrays=model, num_rounds=10, timeout=0.2)
    assert fixed.arrived == pytest.approx(3 * 10 * 0.1, abs=3 * STEP / 2)


class Asynchronous:
    """A server that pushes and pulls as it likes; ``arrived`` is the sum of what it has pulled."""

    def __init__(self, folder: Path, *, lost: tuple[int, ...] = ()) -> None:
        self.count, self.arrived, self.lost = 0, 0.0, lost
        app = learner(lambda content: moved(content, {"w": np.float32(0.1)}))
        self.inner = LocalGrid({NODE: app}, caches=folder, damage=self.damage)
        self.grid = PressGrid(self.inner, COARSE)
        self.content = RecordDict({"arrays": ArrayRecord({"w": Array(np.ones(3, np.float32))})})

    def damage(self, node: int, reply: Message) -> Message | None:
        self.count += 1
        return None if self.count in self.lost else reply

    def push(self, number: int = 1) -> list[str]:
        return list(self.grid.push_messages([Message(self.content, NODE, "train") for _ in range(number)]))

    def pull(self, ids: Iterable[str]) -> None:
        for reply in self.grid.pull_messages(ids):
            self.arrived += float(reply.content["arrays"]["w"].numpy()[0]) - 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_several_messages_in_one_push(number: int, tmp_path: Path) -> None:
    server = Asynchronous(tmp_path)
    for _ in range(12):
        server.pull(server.push(number))
    assert server.arrived == pytest.approx(12 * number * 0.1, abs=STEP / 2 + 1e-3)


@pytest.mark.parametrize("behind", [1, 3])
@pytest.mark.parametrize("backwards", [False, True])
def test_messages_that_are_pushed_before_the_last_replies_are_pulled(
    behind: int, backwards: bool, tmp_path: Path
) -> None:
    """What is still awaited counts as accepted: nothing arrives twice."""
    server, waiting = Asynchronous(tmp_path), list[str]()
    for number in range(24):
        waiting += server.push()
        if len(waiting) > behind:
            server.pull([waiting.pop() if backwards and number % 2 else waiting.pop(0)])
    server.pull(waiting)
    for _ in range(4):
        server.pull(server.push())
    assert server.arrived == pytest.approx(28 * 0.1, abs=STEP / 2 + 1e-3)


def test_offers_name_what_was_accepted(tmp_path: Path) -> None:
    told = Story(tmp_path).tell("ALARA")
    offers = [Offer.find(m.content) or Offer("") for m in told.inner.sent if m.metadata.dst_node_id == NODE]
    first, _, third, fourth, _ = [offer.ticket for offer in offers]
    assert [offer.accepted for offer in offers] == [(), (first,), (first,), (third,), (third,)]
    assert [offer.refused for offer in offers] == ["", "", "", "", fourth]
