"""Nodes that restart, come, go, and lose what they hold: the right model all the same, in the same round."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from flowerpress import PressGrid, pack, press_mod
from flowerpress.federation.store import Store
from tests.federation.apps import client
from tests.federation.faults import (
    BAD,
    CODECS,
    GOOD,
    LOSSY,
    NODES,
    Watched,
    assert_in_step,
    assert_same_model,
    grid_of,
    holds,
    starts,
    stock,
    store_of,
)
from tests.federation.local_grid import LocalGrid

NEW = 6  # an id that a node comes back with


def check(grid: PressGrid, inner: LocalGrid, event: Callable[[], object], codec: str, kinds: list[str]) -> None:
    """Have something happen before the third of three rounds; ``kinds`` are the messages to BAD after that."""
    strategy = Watched({3: event})
    result = strategy.run(grid)
    assert strategy.errors == {1: {}, 2: {}, 3: {}}
    assert_same_model(result.arrays, stock(), codec)
    assert ["difference" if start else "whole" for start in starts(inner, BAD)] == ["whole", "difference", *kinds]
    assert_in_step(grid, inner)


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)


def flipped(folder: Path) -> None:
    for path in folder.glob("*/record"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        rewrite(path, bytes(data))


def cut(folder: Path) -> None:
    for path in folder.glob("*/record"):
        rewrite(path, path.read_bytes()[:-9])


def zeroed(folder: Path) -> None:
    for path in folder.glob("*/record"):
        rewrite(path, b"")


def exchanged(folder: Path) -> None:
    """Put a sound record in the place of each: it is not the one that its name says."""
    for path in folder.glob("*/record"):
        rewrite(path, pack({"w": np.ones((40, 30), np.float32)}, "raw"))


def removed(folder: Path) -> None:
    for path in folder.glob("*/record"):
        path.unlink()


def made_a_folder(folder: Path) -> None:
    for path in folder.glob("*/record"):
        path.unlink()
        path.mkdir()


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()  # whoever has mapped the old file keeps it
    path.write_bytes(data)


BREAK = [emptied, flipped, cut, zeroed, exchanged, removed, made_a_folder]


@pytest.mark.parametrize("lose", BREAK)
def test_a_node_whose_cache_is_broken_asks_for_the_whole_model(lose: Callable[[Path], None], tmp_path: Path) -> None:
    inner = grid_of(tmp_path)
    check(PressGrid(inner), inner, lambda: lose(tmp_path / str(BAD)), "zstd", ["difference", "whole"])


@pytest.mark.parametrize("lose", BREAK)
def test_a_server_whose_cache_is_broken_sends_whole_models(lose: Callable[[Path], None], tmp_path: Path) -> None:
    inner = grid_of(tmp_path)
    check(PressGrid(inner), inner, lambda: lose(Store().folder), "zstd", ["whole"])


@pytest.mark.parametrize("codec", CODECS)
def test_both_caches_at_once(codec: str, tmp_path: Path) -> None:
    def lose() -> None:
        flipped(Store().folder)
        emptied(tmp_path / str(BAD))

    inner = grid_of(tmp_path)
    check(PressGrid(inner, codec), inner, lose, codec, ["whole"])


def restart(inner: LocalGrid, node: int, new: int) -> None:
    """Start a node again, with nothing in its state, and with another id if it has lost that, too."""
    inner.apps[new] = inner.apps.pop(node)
    inner.apps = {new: inner.apps.pop(new), **inner.apps}
    inner.contexts[new] = Context(1, new, inner.contexts.pop(node).node_config, RecordDict(), {})


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("cache", [True, False], ids=["cache kept", "cache lost"])
def test_a_node_that_restarts(cache: bool, codec: str, tmp_path: Path) -> None:
    def event() -> None:
        restart(inner, BAD, BAD)
        if not cache:
            emptied(tmp_path / str(BAD))

    inner = grid_of(tmp_path)
    check(PressGrid(inner, codec), inner, event, codec, ["difference"] if cache else ["difference", "whole"])


@pytest.mark.parametrize("codec", CODECS)
def test_a_node_that_restarts_under_another_id(codec: str, tmp_path: Path) -> None:
    inner = grid_of(tmp_path)
    grid, strategy = PressGrid(inner, codec), Watched({3: lambda: restart(inner, BAD, NEW)})
    result = strategy.run(grid)
    assert strategy.errors == {1: {}, 2: {}, 3: {}}
    assert_same_model(result.arrays, stock(), codec)
    assert starts(inner, NEW) == [""]
    assert_in_step(grid, inner, (NEW, *GOOD))


@pytest.mark.parametrize("codec", CODECS)
def test_a_state_that_goes_back_a_round(codec: str, tmp_path: Path) -> None:
    """Simulation drops what an app that raised has put into its state; what it put on disk is there."""
    inner = grid_of(tmp_path)
    context = inner.contexts[BAD]
    before: list[RecordDict] = []

    def event() -> None:
        context.state = before[0]

    strategy = Watched({2: lambda: before.append(copy.deepcopy(context.state)), 3: event})
    grid = PressGrid(inner, codec)
    assert_same_model(strategy.run(grid, 4).arrays, stock(rounds=4), codec)
    assert [bool(start) for start in starts(inner, BAD)] == [False, True, True, True]
    assert_in_step(grid, inner)


def raising(*, outside: bool) -> ClientApp:
    """Return a client that raises in its second round, when it has changed its state."""
    count = 0

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        nonlocal count
        count += 1
        context.state[f"mine-{count}"] = ConfigRecord({"seen": count})
        reply = call_next(message, context)
        if count == 2:
            raise RuntimeError("out of memory")
        return reply

    app = client(mods=[mod])
    return client(pressed=False, mods=[mod, press_mod]) if outside else app


@pytest.mark.parametrize("outside", [False, True], ids=["in the app", "outside of press_mod"])
@pytest.mark.parametrize("codec", CODECS)
def test_an_app_that_raises_when_its_state_has_changed(outside: bool, codec: str, tmp_path: Path) -> None:
    inner = grid_of(tmp_path, {BAD: raising(outside=outside)})
    grid, strategy = PressGrid(inner, codec), Watched()
    result = strategy.run(grid)
    assert strategy.errors[1] == strategy.errors[3] == {}
    assert list(strategy.errors[2]) == [BAD]
    assert "RuntimeError" in strategy.errors[2][BAD]
    assert "out of memory" in strategy.errors[2][BAD]
    assert_same_model(result.arrays, stock((2, (BAD,))), codec)
    assert {"mine-1", "mine-2", "mine-3"} < set(inner.contexts[BAD].state)
    assert [bool(start) for start in starts(inner, BAD)] == [False, True, True]
    assert_in_step(grid, inner)


def away(inner: LocalGrid, first: int, rounds: int) -> dict[int, Callable[[], object]]:
    """Return the events of a node that is away for some rounds, and comes back as it was."""
    app = inner.apps[BAD]

    def back() -> None:
        inner.apps = {BAD: app, **inner.apps}

    return {first: lambda: inner.apps.pop(BAD), first + rounds: back}


@pytest.mark.parametrize(("rounds", "codec"), [(1, "zstd"), (1, LOSSY), (5, CODECS[1]), (5, LOSSY), (50, CODECS[1])])
def test_a_node_that_was_away_gets_one_difference(rounds: int, codec: str, tmp_path: Path) -> None:
    inner, plain = grid_of(tmp_path), LocalGrid({node: client(pressed=False) for node in NODES})
    grid, strategy = PressGrid(inner, codec), Watched(away(inner, 3, rounds))
    result = strategy.run(grid, 3 + rounds)
    first, second, third = starts(inner, BAD)
    assert first == ""
    assert "" not in (second, third)
    assert strategy.valid[2 + rounds] == GOOD
    assert strategy.valid[3 + rounds] == list(NODES)
    assert not any(strategy.errors.values())
    assert_same_model(result.arrays, Watched(away(plain, 3, rounds)).run(plain, 3 + rounds).arrays, codec)
    assert_in_step(grid, inner)
    assert len(set(Store())) <= 2, "the server keeps what nodes hold, and no more"
    assert all(len(set(store_of(inner, node))) <= 2 for node in NODES)


def test_a_node_that_joins_late_gets_the_whole_model_once(tmp_path: Path) -> None:
    def joining(inner: LocalGrid) -> dict[int, Callable[[], object]]:
        app = inner.apps.pop(BAD)
        return {50: lambda: setattr(inner, "apps", {BAD: app, **inner.apps})}

    inner, plain = grid_of(tmp_path), LocalGrid({node: client(pressed=False) for node in NODES})
    grid, strategy = PressGrid(inner, "intdelta | zstd"), Watched(joining(inner))
    result = strategy.run(grid, 51)
    assert [bool(start) for start in starts(inner, BAD)] == [False, True]
    assert_same_model(result.arrays, Watched(joining(plain)).run(plain, 51).arrays)
    assert_in_step(grid, inner)


def test_a_server_that_starts_again_finds_what_nodes_hold_in_their_caches(tmp_path: Path) -> None:
    """A new grid knows nothing of them: it sends whole models, which they have on disk already."""
    inner = grid_of(tmp_path)
    Watched().run(PressGrid(inner))
    held = holds(inner, BAD)
    grid = PressGrid(inner)
    assert_same_model(Watched().run(grid).arrays, stock())
    assert [bool(start) for start in starts(inner, BAD)] == [False, True, True] * 2
    assert holds(inner, BAD) == held
    assert_in_step(grid, inner)
