"""Models that both ends hold before a run: files that were added on both, and models that clients make themselves."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg, Result

from flowerpress import ChunkError, ConfigError, FlowerpressError, PressGrid, pack, press_mod
from flowerpress.arrays.files import arrays_of_file
from flowerpress.chunks.content import digest_of
from flowerpress.federation.protocol import Offer
from flowerpress.federation.store import SEED, Store
from flowerpress.wire import KEY, values_of
from tests.federation.apps import client, initial
from tests.federation.local_grid import LocalGrid

NODES = (71, 5, 930)
ROUNDS = 3
NONE, ALL = ([(node, bundle) for node in sorted(NODES)] for bundle in (False, True))  # as `sent` has them
DIGEST = digest_of(values_of(initial()))


def saved(folder: Path, suffix: str, record: ArrayRecord | None = None) -> Path:
    """Save a model, by default the one that runs start from, as users do."""
    path = folder / f"model{suffix}"
    arrays: Any = values_of(record or initial())
    if suffix == ".fpb":
        path.write_bytes(pack(arrays))
    elif suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        import torch
        from safetensors.torch import save_file

        save_file({key: torch.tensor(x) for key, x in arrays.items()}, path)
    return path


def near(by: float) -> ArrayRecord:
    """Return a model a little way from the one that runs start from."""
    record = ArrayRecord()
    for key, array in initial().items():
        x = array.numpy()
        record[key] = Array(np.asarray(x + by, x.dtype))
    return record


def nodes(caches: Path, mod: Any = press_mod) -> LocalGrid:
    return LocalGrid({node: client(mod=mod) for node in NODES}, caches=caches)


def run(grid: PressGrid) -> Result:
    return FedAvg(fraction_evaluate=0).start(grid=grid, initial_arrays=initial(), num_rounds=ROUNDS)


def bits(result: Result) -> dict[str, bytes]:
    return {key: array.numpy().tobytes() for key, array in result.arrays.items()}


@pytest.fixture
def unseeded(tmp_path: Path) -> Callable[[str], dict[str, bytes]]:
    return lambda codec="zstd": bits(run(PressGrid(nodes(tmp_path / "unseeded"), codec)))


def first() -> RecordDict:
    return RecordDict({"arrays": initial(), "config": ConfigRecord()})


def sent(messages: list[Message]) -> list[tuple[int, bool]]:
    """Return which nodes were sent a message, and whether there was a bundle in it, sorted."""
    return sorted((m.metadata.dst_node_id, KEY in m.content.array_records["arrays"]) for m in messages)


def sent_first(inner: LocalGrid) -> list[tuple[int, bool]]:
    """Return what was sent in the first round of a run, whose other rounds must be as ever: one bundle to each node."""
    later = len(NODES) * (ROUNDS - 1)
    assert sent(inner.sent[-later:]) == sorted(ALL * (ROUNDS - 1))
    return sent(inner.sent[:-later])


# ---- files on both sides


@pytest.mark.parametrize("suffix", [".fpb", ".npz"])
@pytest.mark.parametrize("codec", ["zstd", "intdelta | zstd"])
def test_a_model_that_both_ends_added_is_not_sent(
    tmp_path: Path, suffix: str, codec: str, unseeded: Callable[[str], dict[str, bytes]]
) -> None:
    expected, inner, path = unseeded(codec), nodes(tmp_path / "caches"), saved(tmp_path, suffix)
    assert Store().seed(arrays_of_file(path)) == DIGEST
    for node in NODES:
        with inner.machine(node):
            Store().seed(arrays_of_file(path))
    grid = PressGrid(inner, codec)
    result = run(grid)
    assert bits(result) == expected
    assert sent_first(inner) == NONE
    assert len(grid.exchanges) == ROUNDS
    assert not any(exchange.row()["failures"] for exchange in grid.exchanges)
    assert grid.exchanges[0].row()["down-bytes"] < len(NODES) * 600  # names, digests and the offer
    del grid, result
    assert SEED in Store().holders(DIGEST)
    for node in NODES:
        with inner.machine(node):
            assert SEED in Store().holders(DIGEST)


def test_a_lossy_codec_leaves_a_seed_as_it_is(tmp_path: Path) -> None:
    inner = nodes(tmp_path / "caches")
    Store().seed(values_of(initial()))
    for node in NODES:
        with inner.machine(node):
            Store().seed(values_of(initial()))
    grid = PressGrid(inner, "delta | quantize(bits=4) | entropy")
    grid.send_and_receive([Message(first(), node, "query") for node in NODES])
    assert sent(inner.sent) == NONE
    assert {grid.held(node) for node in NODES} == {DIGEST}
    assert [node["down-distortion"] for node in grid.exchanges[0].row()["nodes"]] == [0] * len(NODES)


@pytest.mark.parametrize("having", [(), NODES[:1], NODES[1:]])
def test_nodes_that_did_not_add_it_get_it_whole_in_the_same_round(
    tmp_path: Path, having: tuple[int, ...], unseeded: Callable[[], dict[str, bytes]]
) -> None:
    expected, inner = unseeded(), nodes(tmp_path / "caches")
    Store().seed(arrays_of_file(saved(tmp_path, ".fpb")))
    for node in having:
        with inner.machine(node):
            Store().seed(arrays_of_file(saved(tmp_path, ".fpb")))
    grid = PressGrid(inner)
    assert bits(run(grid)) == expected
    assert sent_first(inner) == sorted(NONE + [(node, True) for node in NODES if node not in having])
    assert [len(exchange.nodes) for exchange in grid.exchanges] == [len(NODES)] * ROUNDS
    assert not any(exchange.row()["failures"] for exchange in grid.exchanges)


def test_nodes_that_added_what_the_server_did_not(tmp_path: Path, unseeded: Callable[[], dict[str, bytes]]) -> None:
    expected, inner = unseeded(), nodes(tmp_path / "caches")
    for node in NODES:
        with inner.machine(node):
            Store().seed(arrays_of_file(saved(tmp_path, ".fpb")))
    assert bits(run(PressGrid(inner))) == expected
    assert sent_first(inner) == ALL


@pytest.mark.parametrize("end", ["server", "client"])
def test_a_seed_that_was_damaged_costs_a_whole_send(
    tmp_path: Path, end: str, unseeded: Callable[[], dict[str, bytes]]
) -> None:
    expected, inner = unseeded(), nodes(tmp_path / "caches")
    store = Store()
    store.seed(values_of(initial()))
    for node in NODES:
        with inner.machine(node):
            Store().seed(values_of(initial()))
    damaged = store.folder if end == "server" else tmp_path / "caches" / str(NODES[0])
    record = damaged / DIGEST / "record"
    record.write_bytes(record.read_bytes()[:-20] + bytes(20))
    assert bits(run(PressGrid(inner))) == expected
    assert sent_first(inner) == (ALL if end == "server" else sorted([*NONE, (NODES[0], True)]))


def test_a_file_that_sorts_its_arrays_is_nearly_as_good(
    tmp_path: Path, unseeded: Callable[[], dict[str, bytes]]
) -> None:
    """safetensors does; the client of these tests insists on the order of the model."""
    expected, inner, path = unseeded(), nodes(tmp_path / "caches"), saved(tmp_path, ".safetensors")
    assert list(arrays_of_file(path)) == ["count", "b", "w"]
    assert Store().seed(arrays_of_file(path)) != DIGEST
    for node in NODES:
        with inner.machine(node):
            Store().seed(arrays_of_file(path))
    grid = PressGrid(inner, "zstd")
    assert bits(run(grid)) == expected
    assert sent_first(inner) == ALL
    raw = grid.exchanges[0].row()["down-raw-bytes"] / len(NODES)
    first_round, second_round = inner.sent[: len(NODES)], inner.sent[len(NODES) : 2 * len(NODES)]
    assert all(len(m.content.array_records["arrays"][KEY].data) < raw / 20 for m in first_round)
    assert all(len(m.content.array_records["arrays"][KEY].data) > raw / 2 for m in second_round)


def step(inner: LocalGrid, grid: PressGrid) -> tuple[str, str]:
    """Return between which references a node was led at first."""
    grid.send_and_receive([Message(first(), NODES[0], "query")])
    offer = Offer.find(inner.sent[0].content)
    assert offer is not None
    return offer.steps["arrays"]


def test_of_several_seeds_the_model_itself_is_best_then_the_one_used_last(tmp_path: Path) -> None:
    inner = nodes(tmp_path / "caches")
    with inner.machine(NODES[0]):
        for record in (initial(), near(0.25), near(0.5)):
            Store().seed(values_of(record))
    one, other = (Store().seed(values_of(near(by))) for by in (0.25, 0.5))
    Store().seed({"another model": np.ones(3)})
    assert Store().get(one)
    assert step(inner, PressGrid(inner, "intdelta | zstd")) == (one, DIGEST)
    assert Store().get(other)
    inner.sent.clear()
    assert step(inner, PressGrid(inner, "intdelta | zstd")) == (other, DIGEST)
    Store().seed(values_of(initial()))
    Store().get(one)
    inner.sent.clear()
    assert step(inner, PressGrid(inner, "intdelta | zstd")) == (DIGEST, DIGEST)


def test_seeds_of_the_grid_come_before_those_of_the_store(tmp_path: Path) -> None:
    inner = nodes(tmp_path / "caches")
    grid = PressGrid(inner, "intdelta | zstd")
    mine = grid.seed(near(0.25))
    Store().seed(values_of(near(0.5)))
    assert step(inner, grid)[0] == mine


# ---- models that clients make


@pytest.mark.parametrize("codec", ["zstd", "intdelta | zstd"])
def test_a_model_that_clients_make_is_not_sent(
    tmp_path: Path, codec: str, unseeded: Callable[[str], dict[str, bytes]]
) -> None:
    made = []

    def make(context: Context) -> ArrayRecord:
        made.append(context.node_id)
        return initial()

    expected, inner = unseeded(codec), nodes(tmp_path / "caches", partial(press_mod, initial=make))
    grid = PressGrid(inner, codec)
    assert grid.seed(initial()) == DIGEST
    assert bits(run(grid)) == expected
    assert sent_first(inner) == NONE
    assert sorted(made) == sorted(NODES)


@pytest.mark.parametrize("wrong", [near(0.25), ArrayRecord(), ArrayRecord([np.ones(3)])])
def test_a_wrong_model_that_clients_make_is_not_used(
    tmp_path: Path, wrong: ArrayRecord, unseeded: Callable[[], dict[str, bytes]]
) -> None:
    expected, inner = unseeded(), nodes(tmp_path / "caches", partial(press_mod, initial=lambda context: wrong))
    grid = PressGrid(inner)
    grid.seed(initial())
    assert bits(run(grid)) == expected
    assert sent_first(inner) == sorted(NONE + ALL)


def test_a_server_that_was_seeded_with_another_model(tmp_path: Path, unseeded: Callable[[], dict[str, bytes]]) -> None:
    expected = unseeded()
    inner = nodes(tmp_path / "caches", partial(press_mod, initial=lambda context: initial()))
    grid = PressGrid(inner)
    grid.seed(near(0.25))
    assert bits(run(grid)) == expected
    assert sent_first(inner) == sorted(ALL + ALL)


# ---- files


@pytest.mark.parametrize("suffix", [".fpb", ".npz", ".safetensors"])
def test_files_are_read_in_true_dtypes(tmp_path: Path, suffix: str) -> None:
    arrays = {
        "w": np.arange(12, dtype=np.float32).reshape(3, 4),
        "double": np.array([1.5, np.nan]),
        "half": np.ones(2, np.float16),
        "n": np.array(7),
        "mask": np.array([True, False]),
        "none": np.zeros((0, 3), np.float32),
        "byte": np.arange(3, dtype=np.uint8),
    }
    path = tmp_path / f"model{suffix}"
    if suffix == ".fpb":
        arrays |= {"b": np.ones(3, ml_dtypes.bfloat16), "e": np.ones(3, ml_dtypes.float8_e5m2)}
        path.write_bytes(pack(arrays, "zstd"))
    elif suffix == ".npz":
        np.savez(path, **arrays)
    else:
        import torch
        from safetensors.torch import save_file

        save_file({key: torch.tensor(x) for key, x in arrays.items()}, path)
    found = arrays_of_file(path)
    assert digest_of({key: found[key] for key in arrays}) == digest_of(arrays)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_safetensors_of_narrow_floats(tmp_path: Path, dtype: str) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {"w": torch.randn(30, 4).to(getattr(torch, dtype)), "a": torch.tensor(2.5).to(getattr(torch, dtype))}
    save_file(tensors, tmp_path / "model.safetensors")
    found = arrays_of_file(tmp_path / "model.safetensors")
    digest = Store().seed(found)
    assert digest == digest_of({key: tensors[key] for key in found})
    bundle = Store().get(digest)
    assert bundle is not None
    assert {bundle.spec(key).dtype for key in bundle} == {dtype}


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("pytorch_model.bin", "expected a file that ends in"),
        ("model.onnx", r"expected a file that ends in .fpb, .safetensors, .npz, .pt, .pth"),
        ("model", "expected a file that ends in"),
        ("nothing.fpb", "there is no such file"),
        ("nothing.safetensors", "there is no such file"),
        ("folder.npz", "there is no such file"),
    ],
)
def test_files_that_are_not_read(tmp_path: Path, name: str, match: str) -> None:
    (tmp_path / "folder.npz").mkdir()
    if not name.startswith(("nothing", "folder")):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(ConfigError, match=match):
        arrays_of_file(tmp_path / name)


@pytest.mark.parametrize("suffix", [".fpb", ".npz", ".safetensors"])
def test_damaged_files_raise_our_own_errors_only(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path, suffix, ArrayRecord([np.arange(40, dtype=np.float32)]))
    data = path.read_bytes()
    for bad in (b"", b"PK\x03\x04", b"\x80\x04.", data[: len(data) // 2], data[:-1], data[1:], bytes(len(data))):
        path.write_bytes(bad)
        with pytest.raises(FlowerpressError, match=r"model|bundle"):
            digest_of(arrays_of_file(path))
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1 << i % 8]) + data[i + 1 :])
        with suppress(FlowerpressError):
            digest_of(arrays_of_file(path))


def test_no_pickles_in_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", w=np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(ChunkError, match="allow_pickle=False"):
        arrays_of_file(tmp_path / "model.npz")


def test_arrays_that_are_no_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", w=np.array(["text"]))
    with pytest.raises(ConfigError, match="cannot be coded"):
        Store().seed(arrays_of_file(tmp_path / "model.npz"))
