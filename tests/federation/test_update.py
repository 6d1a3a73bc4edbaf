"""What a strategy sees of a reply: the server's model and the node's update, or exactly the node's model."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from flowerpress import Bundle, PressGrid, pack
from flowerpress.chunks.bundle import Memory
from flowerpress.federation.store import Store
from flowerpress.federation.update import Update
from flowerpress.wire import KEY
from tests.federation.apps import initial, trained
from tests.federation.faults import LOSSLESS, LOSSY, NODES, assert_in_step, grid_of

NODE, PARTITION = NODES[1], 1


class Wire:
    """A server and nodes; the bundles of NODE's replies are kept as they travel."""

    def __init__(self, folder: Path, up: str, down: str) -> None:
        self.inner = grid_of(folder, damage=self.keep)
        self.grid, self.bundles = PressGrid(self.inner, up, down=down), list[bytes]()

    def keep(self, node: int, reply: Message) -> Message:
        if node == NODE:
            self.bundles.append(reply.content.array_records["arrays"][KEY].data)
        return reply

    def ask(self, model: ArrayRecord, kind: str) -> tuple[Any, Bundle, dict[str, np.ndarray]]:
        """Send a model; return what the strategy sees of NODE's reply, its reference, and what it says by itself."""
        content = RecordDict({"arrays": model, "config": ConfigRecord({"server-round": 1})})
        replies = self.grid.send_and_receive([Message(content, node, kind) for node in NODES])
        (reply,) = [r for r in replies if r.metadata.src_node_id == NODE]
        assert_in_step(self.grid, self.inner)
        reference = Store().get(self.grid.held(NODE))
        assert reference is not None
        return reply.content["arrays"], reference, Bundle(self.bundles[-1], bases=reference).read_all()


def models() -> list[ArrayRecord]:
    """Return models of four rounds: the second is whole or a difference, the third is the second again."""
    found = [initial()]
    for node in (0, 2):
        record = ArrayRecord()
        for key, x in zip(found[-1], trained([a.numpy() for a in found[-1].values()], node), strict=True):
            record[key] = Array(np.asarray(x))
        found.append(record)
    return [found[0], found[1], found[1], found[2]]


@pytest.mark.parametrize("kind", ["train", "query"])
def test_a_lossy_reply_over_a_lossy_downlink_is_the_model_and_the_update(kind: str, tmp_path: Path) -> None:
    wire, differ, residual = Wire(tmp_path, LOSSY, LOSSY), 0, np.zeros((40, 30), np.float32)
    for model in models():
        seen, reference, decoded = wire.ask(model, kind)
        for key in ("w", "b"):
            w, r = model[key].numpy(), reference[key]
            assert seen[key].numpy().tobytes() == (w + (decoded[key] - r)).tobytes()
            differ += w.tobytes() != r.tobytes()
        learnt = trained([reference[key] for key in model], PARTITION) if kind == "train" else list(reference.values())
        assert np.array_equal(seen["count"].numpy(), learnt[2])
        meant = learnt[0] + residual
        assert np.abs(decoded["w"] - meant).max() <= 0.0051
        residual = meant - decoded["w"] if kind == "train" else residual
    assert differ == 6, "what was sent whole, without a difference to take, is exact"


def test_what_the_downlink_dropped_does_not_come_back(tmp_path: Path) -> None:
    """A node that learns nothing answers with what it was sent; the strategy sees the model that it meant."""
    wire = Wire(tmp_path, LOSSY, LOSSY)
    for number, model in enumerate(models()):
        seen, reference, _ = wire.ask(model, "query")
        assert seen["w"].numpy().tobytes() == model["w"].numpy().tobytes()
        assert (reference["w"].tobytes() != model["w"].numpy().tobytes()) == (number > 0)


@pytest.mark.parametrize("up", LOSSLESS)
@pytest.mark.parametrize("down", [*LOSSLESS, LOSSY])
def test_an_exact_reply_is_the_model_of_the_node(up: str, down: str, tmp_path: Path) -> None:
    wire = Wire(tmp_path, up, down)
    for model in models():
        seen, reference, _ = wire.ask(model, "train")
        for array, x in zip(seen.values(), trained([reference[key] for key in model], PARTITION), strict=True):
            assert array.numpy().tobytes() == x.tobytes()


@pytest.mark.parametrize("down", LOSSLESS)
def test_a_lossy_reply_over_an_exact_downlink_is_what_it_decodes_to(down: str, tmp_path: Path) -> None:
    wire = Wire(tmp_path, LOSSY, down)
    for model in models():
        seen, reference, decoded = wire.ask(model, "train")
        assert all(reference[key].tobytes() == array.numpy().tobytes() for key, array in model.items())
        assert all(seen[key].numpy().tobytes() == decoded[key].tobytes() for key in model)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_arithmetic_and_slices(dtype: Any) -> None:
    rng = np.random.default_rng(3)
    model, reference, learnt = (
        {"x": rng.standard_normal((30, 7)).astype(dtype), "n": rng.integers(0, 9, 5)} for _ in range(3)
    )
    data = pack(dict(learnt), LOSSY, bases=reference)
    update, decoded = Update(Memory(data), reference, model), Bundle(data, bases=reference)["x"]
    wide = np.float64 if dtype is np.float64 else np.float32
    x = (model["x"].astype(wide) + (decoded.astype(wide) - reference["x"].astype(wide))).astype(dtype)
    assert update["x"].tobytes() == update.read_all()["x"].tobytes() == x.tobytes()
    assert update.read("x", 10, 57).tobytes() == x.reshape(-1)[10:57].tobytes()
    assert update.read("x", 210).size == 0
    assert np.array_equal(update["n"], learnt["n"]), "integers are exact"


@pytest.mark.parametrize("model", [{}, {"x": np.ones((7, 30), np.float32)}, {"x": np.ones((30, 7))}])
def test_a_model_of_another_kind_is_left_aside(model: dict[str, np.ndarray]) -> None:
    reference = {"x": np.ones((30, 7), np.float32)}
    data = pack({"x": np.full((30, 7), 1.3, np.float32)}, LOSSY, bases=reference)
    assert np.array_equal(Update(Memory(data), reference, model)["x"], Bundle(data, bases=reference)["x"])
    other = pack({"x": np.full((30, 7), 1.3, np.float32)}, "quantize(step=0.01) | entropy")
    assert np.array_equal(Update(Memory(other), {}, reference)["x"], Bundle(other)["x"])


def update_of(
    model: np.ndarray, reference: np.ndarray, learnt: np.ndarray, codec: str = "delta | quantize(step=0.01) | entropy"
) -> tuple[Update, np.ndarray]:
    """Return an update, and what the node itself has, as it was decoded."""
    data = pack({"x": learnt}, codec, bases={"x": reference})
    return Update(Memory(data), {"x": reference}, {"x": model}), Bundle(data, bases={"x": reference})["x"]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_what_is_positive_at_both_ends_stays_so(dtype: Any) -> None:
    reference, model = np.full(40, 4.0).astype(dtype), np.full(40, 2.0).astype(dtype)
    update, decoded = update_of(model, reference, np.linspace(0.25, 5, 40).astype(dtype))
    found, moved = update["x"].astype(float), decoded.astype(float) - 2
    assert (found > 0).all()
    assert np.array_equal(found[moved > 0], moved[moved > 0])
    assert np.allclose(found[moved <= 0], decoded.astype(float)[moved <= 0] / 2, rtol=0.01)
    assert (moved < 0).any()


def test_variances_that_nearly_vanish() -> None:
    for dtype in (np.float16, np.float32):
        reference, model, learnt = (np.full(9, x, dtype) for x in (1.0, 1e-6, 2e-4))
        update, decoded = update_of(model, reference, learnt, "delta(positive=true) | quantize(step=0.01) | entropy")
        assert (decoded > 0).all()
        assert (update["x"] > 0).all()


def test_what_may_be_negative_is_the_sum() -> None:
    """In slices, too, in which all happen to be positive: what a value is does not depend on how it is read."""
    model, reference = np.full(40, 2.0, np.float32), np.full(40, 4.0, np.float32)
    learnt = np.linspace(0.25, 5, 40).astype(np.float32)
    for end in (model, reference):
        ends = model.copy(), reference.copy()
        (ends[0] if end is model else ends[1])[-1] = -1
        update, decoded = update_of(*ends, learnt)
        assert np.array_equal(update["x"], decoded - ends[1] + ends[0])
        assert np.array_equal(update.read("x", 0, 20), update["x"][:20])
        assert (update["x"] < 0).any()


def test_what_a_node_itself_has_below_zero_stays_there() -> None:
    model, reference, learnt = np.full(9, 2.0, np.float32), np.full(9, 4.0, np.float32), np.full(9, -1.0, np.float32)
    update, decoded = update_of(model, reference, learnt)
    assert np.allclose(decoded, -1, atol=0.01)
    assert np.allclose(update["x"], -3, atol=0.01)
