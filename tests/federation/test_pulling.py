"""Replies whose nodes stop sending in the middle: Flower waits for the rest, and nobody else should."""

import threading
import time
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.app import Message

from flowerpress import PressGrid
from flowerpress.federation import pulling
from tests.federation.apps import client
from tests.federation.faults import BAD, GOOD, NODES, Watched
from tests.federation.local_grid import LocalGrid


class Half(LocalGrid):
    """The second reply of BAD is never whole: who pulls it waits, as with Flower's own grid."""

    def __init__(self) -> None:
        super().__init__({node: client() for node in NODES})
        self.release, self.offline, self.waiting = threading.Event(), set[int](), 0
        self._of_bad = 0

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = list(super().pull_messages(message_ids))
        if found and found[0].metadata.src_node_id == BAD:
            self._of_bad += 1
            if self._of_bad == 2:
                self.waiting += 1
                self.release.wait(30)
        return found

    def get_nodes(self) -> Any:
        return [SimpleNamespace(node_id=node) for node in NODES if node not in self.offline]


@pytest.fixture
def inner(monkeypatch: pytest.MonkeyPatch) -> Iterator[Half]:
    monkeypatch.setattr(pulling, "_PATIENCE", 0.1)
    monkeypatch.setattr(pulling, "_LEAST", 0.1)
    monkeypatch.setattr(pulling, "_LOOK", 0.2)
    grid = Half()
    yield grid
    grid.release.set()


def test_a_round_ends_at_its_limit(inner: Half) -> None:
    grid, strategy = PressGrid(inner, "lossless"), Watched()
    started = time.monotonic()
    strategy.run(grid, timeout=1.5)
    assert time.monotonic() - started < 6
    assert strategy.valid == {1: list(NODES), 2: list(GOOD), 3: list(NODES)}
    assert [node.error for node in grid.exchanges[1].nodes if node.error] == ["no reply in time"]
    assert inner.waiting == 1


def test_a_node_that_went_offline_is_not_waited_for(inner: Half) -> None:
    grid, strategy = PressGrid(inner, "lossless"), Watched()
    inner.offline = {BAD}
    started = time.monotonic()
    strategy.run(grid, timeout=60)
    assert time.monotonic() - started < 10
    assert strategy.valid == {1: list(NODES), 2: list(GOOD), 3: list(NODES)}
    (error,) = [node.error for node in grid.exchanges[1].nodes if node.error]
    assert "offline" in error


def test_a_busy_superlink_may_not_know_who_is_online(inner: Half, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy() -> Any:
        request = httpx.Request("POST", "http://127.0.0.1/v1/runtime/get-nodes")
        return httpx.Response(500, request=request).raise_for_status()

    monkeypatch.setattr(inner, "get_nodes", busy)
    strategy = Watched()
    strategy.run(PressGrid(inner, "lossless"), timeout=1.5)
    assert strategy.valid == {1: list(NODES), 2: list(GOOD), 3: list(NODES)}


def test_a_reply_that_is_slow_is_one(inner: Half) -> None:
    threading.Timer(1.0, inner.release.set).start()
    grid, strategy = PressGrid(inner, "lossless"), Watched()
    strategy.run(grid, timeout=60)
    assert strategy.valid == {number: list(NODES) for number in (1, 2, 3)}


class Slow(LocalGrid):
    """Every reply takes longer than one waits for it; those of ``stuck`` never come."""

    def __init__(self, stuck: Iterable[int] = ()) -> None:
        super().__init__({node: client() for node in NODES})
        self.stuck, self.release = set(stuck), threading.Event()
        self.on_their_way, self.most, self._lock = 0, 0, threading.Lock()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        with self._lock:
            found = list(super().pull_messages(message_ids))
            self.on_their_way += 1
            self.most = max(self.most, self.on_their_way)
        self.release.wait(30 if found and found[0].metadata.src_node_id in self.stuck else 0.2)
        with self._lock:
            self.on_their_way -= 1
        return found


@pytest.mark.usefixtures("inner")
def test_one_reply_is_on_its_way_at_a_time() -> None:
    grid, strategy = Slow(), Watched()
    strategy.run(PressGrid(grid, "lossless"), timeout=60)
    assert strategy.valid == {number: list(NODES) for number in (1, 2, 3)}
    assert grid.most == 1


@pytest.mark.usefixtures("inner")
def test_replies_that_never_come_do_not_count_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "_STUCK", 0.3)
    grid, strategy = Slow(stuck := NODES[:2]), Watched()
    strategy.run(PressGrid(grid, "lossless"), timeout=1.5)
    grid.release.set()
    assert strategy.valid[1] == [node for node in NODES if node not in stuck]


class Busy(LocalGrid):
    """A SuperLink that answers every other question with this status."""

    status = 500

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        self.asked = getattr(self, "asked", 0) + 1
        if self.asked % 2:
            request = httpx.Request("POST", "http://127.0.0.1/v1/runtime/pull-messages")
            httpx.Response(self.status, request=request).raise_for_status()
        return super().pull_messages(message_ids)


def test_a_superlink_whose_database_is_busy_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    grid, strategy = PressGrid(Busy({node: client() for node in NODES}), "lossless"), Watched()
    strategy.run(grid, timeout=60)
    assert strategy.valid == {number: list(NODES) for number in (1, 2, 3)}
    assert "500" in caplog.text


def test_a_superlink_that_refuses_is_not() -> None:
    busy = Busy({node: client() for node in NODES})
    busy.status = 403
    with pytest.raises(httpx.HTTPStatusError):
        Watched().run(PressGrid(busy, "lossless"))


def test_what_the_grid_raises_is_raised() -> None:
    class Broken(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            raise TimeoutError("the SuperLink does not answer")

    grid = PressGrid(Broken({node: client() for node in NODES}), "lossless")
    with pytest.raises(TimeoutError, match="does not answer"):
        Watched().run(grid)
